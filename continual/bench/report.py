"""What a benchmark leaves behind: a table on the terminal, JSON and Markdown in a folder."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

PACKAGES = ("continual", "numpy", "numba", "torch", "ray", "river", "redis", "grpcio", "vowpalwabbit")


WIDE = 160
"""Characters of a line where the output is no terminal."""


def out_option(command: Any) -> Any:
    """The options `--out` and `--json` that every benchmark has."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")(command)
    return click.option(
        "--out", type=click.Path(path_type=Path), help="Folder for NAME.json and NAME.md; nothing is written without."
    )(command)


def machine() -> dict[str, Any]:
    """Processor, cores, system, Python and package versions, commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    try:
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def publish(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    notes: Sequence[str] = (),
    details: Mapping[str, Any] | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Prints the rows and, with `out`, writes `<name>.json` and `<name>.md` there.

    Args:
        name: of the benchmark, a file name.
        title: one line.
        rows: the table; every row has the same columns, in order.
        notes: sentences under the table (what falls short, how it was measured).
        details: whatever else belongs into the JSON (specs, seeds, raw figures).
        out: folder, created when missing.
        as_json: print the JSON document instead of the table.
    """
    document = {
        "benchmark": name,
        "title": title,
        "command": "continual " + " ".join(sys.argv[1:]),
        "machine": machine(),
        "rows": [dict(row) for row in rows],
        "notes": list(notes),
        "details": dict(details or {}),
    }
    if as_json:
        click.echo(json.dumps(document, indent=2, default=str))
    else:
        table = Table(title=title, title_justify="left")
        for column in rows[0] if rows else ():
            numeric = all(isinstance(row[column], int | float) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_text(value) for value in row.values()))
        console = Console(width=None if sys.stdout.isatty() else WIDE)
        console.print(table)
        for note in notes:
            console.print(note, style="dim")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_text(json.dumps(document, indent=2, default=str) + "\n")
        (out / f"{name}.md").write_text(_markdown(document))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _markdown(document: Mapping[str, Any]) -> str:
    rows = document["rows"]
    machine_ = document["machine"]
    lines = [f"# {document['title']}", "", f"`{document['command']}`", ""]
    if rows:
        lines += ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(_text(value).replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    lines += ["", *[f"- {note}" for note in document["notes"]], ""]
    versions = ", ".join(f"{package} {number}" for package, number in machine_["packages"].items())
    lines.append(
        f"{machine_['date']}, {machine_['processor']}, {machine_['cores']} cores, Python {machine_['python']}, "
        f"{versions}, commit {machine_['commit']}."
    )
    return "\n".join(lines) + "\n"
