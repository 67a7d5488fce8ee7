"""A batch of sequences through one layer of element-wise units, each from a zero state, with a loss at the end.

RTRL carries the traces through the whole sequence. From step `start` on only, with zero traces there, the same
gradient is that of backpropagation cut before `start`: truncated backpropagation through time with the window
T - `start`, exactly, since the cut leaves out how the state at `start` came to be and nothing else.

Sizes: B sequences of T steps, J inputs (the last is the constant 1), N units, H features, C weights of the layer and
its output stage, as they lie in memory (`kernels.cpu.cells`), P numbers of state and traces. All arrays of weights,
traces and inputs have one dtype, float32 or float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from kernels.cpu import rtrl
from kernels.cpu.cells import Sizes, backward, features, forward, made_of, sizes
from kernels.cpu.layout import SGD, WORK_ROWS
from kernels.cpu.numerics import INLINE, JIT
from kernels.cpu.optimizers import step_row, step_scalars


class Optimizer(NamedTuple):
    """An optimizer and its rates: what `kernels.cpu.optimizers` reads of a `Config`."""

    optimizer: int
    rate: float
    beta1: float
    beta2: float
    epsilon: float


class Work(NamedTuple):
    """Working memory of one layer: what its cell finds in `kernels.cpu.layout.Scratch`, under the same names."""

    sizes: Sizes
    x: np.ndarray
    work: np.ndarray
    h: np.ndarray
    phi: np.ndarray
    jac: np.ndarray
    factor: np.ndarray
    vec: np.ndarray
    error: np.ndarray
    d_phi: np.ndarray
    out_inputs: np.ndarray
    out_gate: np.ndarray
    d_out: np.ndarray
    row: np.ndarray


def work(cell: Any, width: int, hidden: int, dtype: np.dtype) -> Work:
    """Working memory for a `cell` of `kernels.cpu.cells` with `width` inputs and `hidden` features."""
    n, order, layer = cell.units, cell.ORDER, sizes(cell, width)
    rows, columns = layer.out_rows, layer.out_columns
    shapes = {
        "x": (width,),
        "work": (WORK_ROWS, cell.room()),
        "h": (order * n,),
        "phi": (hidden,),
        "jac": (order * order, n),
        "factor": (cell.MATRICES * order, n),
        "vec": (cell.VECTORS * order, n),
        "error": (order * n,),
        "d_phi": (hidden,),
        "out_inputs": (rows,),
        "out_gate": (columns,),
        "d_out": (columns,),
        "row": (max(n, hidden, width, columns),),
    }
    return Work(layer, **{name: np.zeros(shape, dtype) for name, shape in shapes.items()})


@nb.njit(**INLINE)
def _read(cell, w, x, body, s):
    """The features of the state in `body`, after the inputs `x`; state and inputs are left in `s` too."""
    for j in range(s.sizes.width):
        s.x[j] = x[j]
    for i in range(made_of(cell).order * cell.units):
        s.h[i] = body[i]
    features(cell, w[s.sizes.out :], s.x, s.h, cell.units, s.sizes.width, s)


@nb.njit(**JIT)
def read(cell, w, x, body, phi, s):
    """The features [B, H] of states and last inputs, to `phi`: what `run` gives, with states from elsewhere.

    Args:
        cell: a named tuple of `kernels.cpu.cells`.
        w: [C], the weights.
        x: [B, T, J], the inputs; the last step is read.
        body: [B, P], the states first.
        phi: [B, H], written.
        s: a `Work`.
    """
    for b in range(len(x)):
        _read(cell, w, x[b, x.shape[1] - 1], body[b], s)
        for i in range(phi.shape[1]):
            phi[b, i] = s.phi[i]


@nb.njit(**JIT)
def run(cell, w, x, gap, start, body, phi, s):
    """Runs every sequence from a zero state and carries its traces from step `start` on.

    Args:
        cell: a named tuple of `kernels.cpu.cells`.
        w: [C], the weights.
        x: [B, T, J], the inputs, T >= 1.
        gap: time from each step to the next, in the unit of the cell.
        start: the first step whose traces are carried; T: none, the traces stay zero.
        body: [B, P], written: of each sequence the state after the last step, then its traces.
        phi: [B, H], written: the features after the last step.
        s: a `Work`.
    """
    kind = made_of(cell)
    many = kind.order * cell.units
    width = s.sizes.width
    zero, most = w.dtype.type(0), w.dtype.type(rtrl.LARGEST_TRACE)
    for b in range(len(x)):
        row = body[b]
        trace = row[many:]
        for i in range(len(row)):
            row[i] = zero
        for t in range(x.shape[1]):
            for j in range(width):
                s.x[j] = x[b, t, j]
            forward(cell, w, s.x, row, gap, cell.units, width, s)
            for i in range(many):
                row[i] = s.h[i] if kind.contracts else rtrl.bounded(s.h[i], most)
            if t >= start:
                rtrl.carry(cell, trace, trace[:0], cell.units, width, s)
    read(cell, w, x, body, phi, s)


@nb.njit(**JIT)
def gradient(cell, w, x, body, d_phi, g, s):
    """Adds dL/dw, summed over the sequences, to `g`, after `run` with the same arguments.

    Args:
        cell: a named tuple of `kernels.cpu.cells`.
        w: [C], the weights.
        x: [B, T, J], the inputs.
        body: [B, P], as `run` left it.
        d_phi: [B, H], dL/d(features after the last step).
        g: [C], added to.
        s: a `Work`.
    """
    one = w.dtype.type(1)
    width, out, columns = s.sizes.width, s.sizes.out, s.sizes.out_columns
    for b in range(len(x)):
        row = body[b]
        _read(cell, w, x[b, x.shape[1] - 1], row, s)
        for i in range(d_phi.shape[1]):
            s.d_phi[i] = d_phi[b, i]
        backward(cell, w[out:], s.h, cell.units, width, s, s.row[:0])
        trace = row[made_of(cell).order * cell.units :]
        # SGD with the rate -1 adds the gradient to what it is given.
        summing = Optimizer(SGD, -1.0, 0.0, 0.0, 0.0)
        rtrl.step(cell, summing, trace, g, g, g, cell.units, width, s, -one, 0.0)
        for j in range(s.sizes.out_rows):
            for i in range(columns):
                g[out + j * columns + i] += s.d_out[i] * s.out_inputs[j]


@nb.njit(**JIT)
def descend(optimizer, decay, w, m, v, g):
    """One optimizer step on the weights `w` [C] with the gradient `g` [C].

    Args:
        optimizer: an `Optimizer`.
        decay: float64 [2], beta1^t and beta2^t, advanced.
        w: [C], changed.
        m: [C], first moments; unused but by Adam.
        v: [C], second moments; unused but by Adam and RMSprop.
        g: [C].
    """
    r, q = step_scalars(optimizer, decay)
    step_row(optimizer, w, m, v, 0, g, len(w), r, q)
