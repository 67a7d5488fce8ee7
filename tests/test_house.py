"""The rules of the house: who may import whom, how long a module may be, what must be documented."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = {
    "continual": {"continual", "service", "learners", "kernels", "streams"},
    "service": {"service", "learners", "kernels", "streams"},
    "learners": {"learners", "kernels", "streams"},
    "kernels": {"kernels"},
    "streams": {"streams"},
}
BARE = {"torch", "numba", "llvmlite", "numpy", "triton"}
LONGEST_MODULE = 450
SKIPPED_FOLDERS = {"__pycache__", "build", "dist", "reports"}


def is_generated(path: Path) -> bool:
    return "_pb2" in path.name


def written_modules(package: str) -> list[Path]:
    return [path for path in sorted((ROOT / package).rglob("*.py")) if not is_generated(path)]


MODULES = [path for package in FLOORS for path in written_modules(package)]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a tree imports; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")
                up = up[: len(up) - node.level + is_package]
                base = ".".join([*up, base] if base else up)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def at_import_time(tree: ast.Module) -> ast.Module:
    """The tree without what runs later (function bodies) or never (TYPE_CHECKING)."""

    class Prune(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Prune().visit(tree)


def upward(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """The packages of ours that a module imports and may not."""
    ours = {name.split(".")[0] for name in imports(tree, module, is_package)} & set(FLOORS)
    return ours - FLOORS[module.split(".", maxsplit=1)[0]]


def foreign(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """The top-level names outside the standard library that a module imports."""
    return {name.split(".")[0] for name in imports(tree, module, is_package)} - sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downward(path: Path) -> None:
    found = upward(ast.parse(path.read_text()), name_of(path), path.name == "__init__.py")
    assert not found, f"{path.relative_to(ROOT)} imports {sorted(found)}"


def test_an_upward_import_is_seen() -> None:
    tree = ast.parse("def later():\n    from service import shard\n")
    assert upward(tree, "learners.base", False) == {"service"}
    assert upward(ast.parse("from ..learners import spec"), "streams.sub.files", False) == set()
    assert upward(ast.parse("import learners.spec"), "streams.files", False) == {"learners"}


def test_kernels_and_their_tests_need_only_what_a_bare_machine_has() -> None:
    for path in [*written_modules("kernels"), *(ROOT / "tests" / "kernels").rglob("*.py")]:
        found = foreign(ast.parse(path.read_text()), name_of(path), path.name == "__init__.py")
        allowed = BARE | {"kernels"} | ({"pytest", "tests"} if path.is_relative_to(ROOT / "tests") else set())
        assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)}"


def test_no_import_cycles() -> None:
    known = {name_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        tree = at_import_time(ast.parse(path.read_text()))
        names = set(imports(tree, name_of(path), path.name == "__init__.py"))
        # `from package import module` executes the package too, but names the module: only that is a need.
        named = names & known
        named -= {name for name in named if any(other.startswith(name + ".") for other in named)}
        graph[name_of(path)] = named - {name_of(path)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines < LONGEST_MODULE, f"{path.relative_to(ROOT)} has {lines} lines, at most {LONGEST_MODULE - 1}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    bare = [node.name for node in public if not ast.get_docstring(node)]
    if not ast.get_docstring(tree):
        bare.insert(0, "the module")
    assert not bare, f"{path.relative_to(ROOT)}: no docstring on {', '.join(bare)}"


def test_one_module_knows_the_format_of_stored_arrays() -> None:
    """A save elsewhere may be handed views, whose numbers safetensors stores in another order."""
    paths = [path for floor in FLOORS for path in written_modules(floor)]
    known = {path for path in paths if "safetensors" in foreign(ast.parse(path.read_text()), name_of(path), False)}
    assert known == {ROOT / "service" / "store" / "tensors.py"}


def test_every_test_file_has_a_name_of_its_own() -> None:
    """pytest imports a test file by its bare name: of two with one name, only the first that it meets would run."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"two files in tests are called {', '.join(twice)}"


def repository_files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        folders = path.relative_to(ROOT).parts[:-1]
        hidden = any(part.startswith(".") and part != ".ci" for part in folders)
        git = path.name == ".git"  # of a worktree it is a file, with the path of the clone
        if path.is_file() and not (hidden or git) and not SKIPPED_FOLDERS & set(folders):
            yield path


def test_no_file_names_a_path_of_one_machine() -> None:
    machine = re.compile(rb"(?<![\w.~$}])/(work|tmp/" + rb"dev|root|home/\w+)/")
    for path in repository_files():
        found = machine.search(path.read_bytes())
        assert not found, f"{path.relative_to(ROOT)} mentions {found[0].decode()}"
