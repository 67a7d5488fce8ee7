"""Every kernel compiled ahead of time for sm_80 and sm_90, without a card, and without registers spilled.

Read: the report of the very `ptxas -v` by which Triton makes the cubin ("N bytes spill stores, N bytes spill loads"),
which it prints when its knob `dump_ptxas_log` is set. The stack frame is not asserted: the slow path of sine and cosine
for large arguments keeps 32 bytes there, which is no spill.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from typing import Any

import pytest

triton = pytest.importorskip("triton")
if os.environ.get("TRITON_INTERPRET"):
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from kernels.cuda import wave  # noqa: E402
from kernels.cuda.forward import forward_kernel, settle_kernel  # noqa: E402
from kernels.cuda.traces import add_up_kernel, traces_kernel  # noqa: E402
from kernels.reference.wave import KINDS  # noqa: E402
from kernels.reference.wave_cells import CELLS  # noqa: E402

TARGETS = (80, 90)
TYPES = {"x": "*bf16", "rows": "*i32", "hyper": "*fp64", "decay": "*fp64", "decay_after": "*fp64", "counts": "*i32"}
TYPES |= {"learned": "*i8", "labelled": "*i8"}
INTEGERS = {"B", "J", "N", "stride", "parameters", "matrix_parameters", "segment_keys", "segments", "size"}


def compiled(kernel, constants: dict, warps: int, capability: int, aligned: bool = True) -> tuple[Any, str]:
    """A kernel compiled for a target, and the report of `ptxas`.

    Args:
        kernel: the jit function.
        constants: its compile-time arguments.
        warps: of a program.
        capability: 80 or 90.
        aligned: whether pointers and sizes are multiples of 16, as for 64 units; otherwise as for 63.
    """
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        number = "i32" if name in INTEGERS else TYPES.get(name, "*fp32")
        signature[name] = "constexpr" if name in constants else number
        fixed = name in INTEGERS and (not aligned or name in ("B", "J", "segment_keys", "segments"))
        if name not in constants and not fixed:
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": warps, **wave.LAUNCH}
    with triton.knobs.nvidia.scope(), triton.knobs.compilation.scope(), redirect_stdout(io.StringIO()) as printed:
        triton.knobs.nvidia.dump_ptxas_log = True
        triton.knobs.compilation.always_compile = True
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.asm["cubin"]
    return made, printed.getvalue()


def spilled(kernel, constants: dict, warps: int, capability: int, aligned: bool = True) -> tuple[int, int]:
    """(bytes spilled, registers per thread) of a kernel; see `compiled`."""
    report = compiled(kernel, constants, warps, capability, aligned)[1]
    assert f"for 'sm_{capability}" in report
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report).groups()
    return int(stores) + int(loads), int(re.search(r"Used (\d+) registers", report)[1])


def sizes(cell):
    """A wave that is cut into segments, and one that is not; the tiles are of full size in both."""
    return {"segments": wave.plan(cell, 4096, 32, 64), "whole": wave.plan(cell, 8, 256, 256)}


@pytest.mark.parametrize("capability", TARGETS)
@pytest.mark.parametrize("name", CELLS)
def test_forward(name: str, capability: int) -> None:
    constants = wave.forward_constants(CELLS[name])
    assert spilled(forward_kernel, constants, 4, capability, aligned=False)[0] == 0


@pytest.mark.parametrize(("size", "capability"), [("whole", 80), ("whole", 90), ("segments", 90)])
@pytest.mark.parametrize("name", CELLS)
def test_traces(name: str, size: str, capability: int) -> None:
    cell = CELLS[name]
    plan = sizes(cell)[size]
    assert (plan.grid[2] > 1) == (size == "segments")
    constants, aligned = wave.traces_constants(cell, plan, "adam", "mean"), size == "segments"
    bytes_spilled, registers = spilled(traces_kernel, constants, plan.warps, capability, aligned)
    assert bytes_spilled == 0
    if aligned:
        assert registers <= 128, "four programs of four warps must fit a multiprocessor"


APPROXIMATE = re.compile(r"\b\w+\.(?:approx|full)[.\w]*")
"""Instructions of PTX whose results are the device's own."""


@pytest.mark.parametrize("name", CELLS)
def test_nothing_is_approximate(name: str) -> None:
    """`kernels.cuda.maths` says so: exponentials and divisions round as IEEE 754 has it, on every device the same."""
    made = compiled(forward_kernel, wave.forward_constants(CELLS[name]), 4, 90, aligned=False)[0]
    assert not APPROXIMATE.findall(made.asm["ptx"])


def test_steps_are_not_approximate_either() -> None:
    cell = CELLS["mingru"]
    for plan in sizes(cell).values():
        constants = wave.traces_constants(cell, plan, "adam", "mean")
        assert not APPROXIMATE.findall(compiled(traces_kernel, constants, plan.warps, 90)[0].asm["ptx"])
    made = compiled(add_up_kernel, wave.add_up_constants("adam", "mean"), 4, 90)[0]
    assert not APPROXIMATE.findall(made.asm["ptx"])


@pytest.mark.parametrize("capability", TARGETS)
def test_the_rest(capability: int) -> None:
    for kind in KINDS:
        assert spilled(add_up_kernel, wave.add_up_constants(kind, "mean"), 4, capability)[0] == 0
    for labelled in (False, True):
        assert spilled(settle_kernel, {"WIDE": wave.SETTLE_WIDE, "ALL": labelled}, 4, capability)[0] == 0


def test_a_spill_would_be_seen() -> None:
    """A tile far too large for its one warp spills: the report is read, and not only found empty."""
    cell = CELLS["lru"]
    plan = wave.plan(cell, 8, 256, 256)
    assert spilled(traces_kernel, wave.traces_constants(cell, plan, "sgd", "sum"), 1, 90)[0] > 0


def test_an_interpreter_is_not_what_was_compiled() -> None:
    assert type(traces_kernel).__name__ == "JITFunction"
