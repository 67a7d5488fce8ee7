"""The cells of a compiled fold: what a cell is, and how its file adds it.

A cell is an element-wise recurrence: unit i of the state depends on unit i of the state before and on the inputs, so
dh/dh_ is diagonal (a block of 2 x 2 per unit where a unit holds two reals) and a trace has the shape of its parameter:
RTRL is exact at the price of a few multiplications (`kernels.cpu.rtrl`). Each file here holds one cell: a named tuple
of its options, what it is `made` of, and its `forward`. Compiled code finds the functions of
a cell by the type of that tuple, at compile time; a new cell is a new file.

    ORDER      reals per unit of the state: 1 or 2
    MATRICES   weight matrices [J, N], from the inputs x [J] to a pre-activation
    TIED       order 2: every matrix is complex, two matrices [2, J, N] (real, imaginary part) over one trace
    VECTORS    weights per unit [N]
    CONTRACTS  whether traces are bounded by the inputs; where not they are kept within `rtrl.LARGEST_TRACE`
    SHARED     whether one weight reaches several units: a matrix then has `columns` columns, its traces still N

In memory the weights of a layer are one vector: matrices ([MATRICES, J, N], tied [MATRICES, 2, J, N]), vectors
[VECTORS, N], then the weights of the output stage [rows, columns]. Units are contiguous: every inner loop runs over
units and vectorises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from numba.extending import overload

from kernels.cpu.dispatch import form_of
from kernels.cpu.numerics import INLINE

T = TypeVar("T")


def made(
    order: int,
    matrices: int,
    vectors: int = 0,
    *,
    tied: bool = False,
    contracts: bool = False,
    shared: bool = False,
) -> Callable[[type[T]], type[T]]:
    """Decorator: says of a cell what it is made of, as the class attributes ORDER, MATRICES and so on."""

    def note(cell: type[T]) -> type[T]:
        parts = {"ORDER": order, "MATRICES": matrices, "VECTORS": vectors}
        for name, value in {**parts, "TIED": tied, "CONTRACTS": contracts, "SHARED": shared}.items():
            setattr(cell, name, value)
        for method in (output_stage, weights_per_input, room):
            if not hasattr(cell, method.__name__):
                setattr(cell, method.__name__, method)
        return cell

    return note


def output_stage(cell: Any, width: int) -> tuple[int, int]:
    """Rows and columns of the output stage's weights, for `width` inputs; (0, 0) unless the cell says other."""
    return 0, 0


def weights_per_input(cell: Any) -> int:
    """Weights of all matrices for one input; one per unit and matrix unless the cell says other."""
    return (1 + cell.TIED) * cell.MATRICES * cell.units


def room(cell: Any) -> int:
    """Numbers in each row of the cell's working memory (`Scratch.work`); one per unit unless the cell says other."""
    return cell.units


class Sizes(NamedTuple):
    """Sizes of one layer."""

    width: int
    """J, inputs including the constant."""
    weights: int
    """Of the recurrence and the output stage."""
    out: int
    """Where the weights of the output stage begin."""
    out_rows: int
    out_columns: int
    body: int
    """Numbers of state and traces per key."""


def sizes(cell: Any, width: int) -> Sizes:
    """The sizes of a layer of `cell` with `width` inputs."""
    out = cell.weights_per_input() * width + cell.VECTORS * cell.units
    rows, stage_columns = cell.output_stage(width)
    body = cell.ORDER * cell.units * (1 + cell.MATRICES * width + cell.VECTORS)
    return Sizes(width, out + rows * stage_columns, out, rows, stage_columns, body)


class Made(NamedTuple):
    """What a cell is made of, in compiled code: see the module's docstring."""

    order: int
    matrices: int
    tied: int
    vectors: int
    contracts: int
    shared: int


def made_of(cell):
    """What the cell is `made` of, known to the compiler (compiled code only)."""
    raise NotImplementedError("made_of is for compiled code")


@overload(made_of, jit_options=INLINE)  # type: ignore[arg-type]
def _made_of(cell):
    kind = cell.instance_class
    order, matrices, tied = kind.ORDER, kind.MATRICES, int(kind.TIED)
    vectors, contracts, shared = kind.VECTORS, int(kind.CONTRACTS), int(kind.SHARED)
    return lambda cell: Made(order, matrices, tied, vectors, contracts, shared)


def forward(cell, w, x, before, gap, units, width, s):
    """One step from the state `before`, `gap` after the step before, with the inputs `x[:width]` (compiled code only).

    Writes to `s`: the state `h`; `jac` [ORDER^2, N] = dh/dh_ (rows 11, 12, 21, 22); `factor` [MATRICES * ORDER, N] =
    dh/d(pre-activation) and `vec` [VECTORS * ORDER, N] = dh/d(vector), both with h_ held fixed.
    """
    raise NotImplementedError("forward is for compiled code")


@overload(forward, jit_options=INLINE)  # type: ignore[arg-type]
def _forward_of(cell, w, x, before, gap, units, width, s):
    return form_of(forward, cell)


def features(cell, w, x, h, units, width, s):
    """Writes `s.phi`, what read-out and next layer see of the state `h` (compiled code only).

    `w` are the weights of the layer's output stage; what multiplies their rows is left in `s.out_inputs`. Without an
    output stage the features are the state.
    """
    raise NotImplementedError("features is for compiled code")


@overload(features, jit_options=INLINE)  # type: ignore[arg-type]
def _features_of(cell, w, x, h, units, width, s):
    return form_of(features, cell, _state_itself)


def backward(cell, w, h, units, width, s, d_x):
    """From dL/dphi (`s.d_phi`) to dL/dh (`s.error`), after `features` (compiled code only).

    dL/d(pre-activation) of the output stage is left in `s.d_out`; what reaches the inputs through it is added to `d_x`.
    """
    raise NotImplementedError("backward is for compiled code")


@overload(backward, jit_options=INLINE)  # type: ignore[arg-type]
def _backward_of(cell, w, h, units, width, s, d_x):
    return form_of(backward, cell, _error_itself)


def columns(cell, k, units):
    """Columns of the weight matrix `k` (compiled code only): the units, unless the cell is SHARED."""
    raise NotImplementedError("columns is for compiled code")


@overload(columns, jit_options=INLINE)  # type: ignore[arg-type]
def _columns_of(cell, k, units):
    return form_of(columns, cell, lambda cell, k, units: units)


def gather(cell, k, g, units):
    """Sums a row `g` [N] of a gradient by unit into one by column of matrix `k`, in place (compiled code only)."""
    raise NotImplementedError("gather is for compiled code")


@overload(gather, jit_options=INLINE)  # type: ignore[arg-type]
def _gather_of(cell, k, g, units):
    return form_of(gather, cell, _as_it_is)


def _as_it_is(cell, k, g, units):
    pass


def _state_itself(cell, w, x, h, units, width, s):
    for i in range(len(s.phi)):
        s.phi[i] = h[i]


def _error_itself(cell, w, h, units, width, s, d_x):
    for i in range(len(s.phi)):
        s.error[i] = s.d_phi[i]
