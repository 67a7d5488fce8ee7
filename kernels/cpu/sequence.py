"""A batch of sequences through one layer of element-wise units, each from a zero state, with a loss at the end.

RTRL carries the traces through the whole sequence. From step `start` on only, with zero traces there, the same
gradient is that of backpropagation cut before `start`: truncated backpropagation through time with the window
T - `start`, exactly, since the cut leaves out how the state at `start` came to be and nothing else.

Sizes: B sequences of T steps, J inputs (the last is the constant 1), N units, H features, C weights of the layer and
its output stage, as they lie in memory (`kernels.cpu.cells`). `s` is the working memory of one layer (`Scratch` with
L = 1). All arrays of weights, traces and inputs have one dtype, float32 or float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb

from kernels.cpu import rtrl
from kernels.cpu.cells import backward, features, forward, made_of
from kernels.cpu.layers import layer
from kernels.cpu.layout import L_OUT, L_OUT_COLUMNS, L_OUT_ROWS, L_WIDTH, SGD
from kernels.cpu.numerics import INLINE, JIT
from kernels.cpu.optimizers import step_row, step_scalars


class Optimizer(NamedTuple):
    """An optimizer and its rates: what `kernels.cpu.optimizers` reads of a `Config`."""

    optimizer: int
    rate: float
    beta1: float
    beta2: float
    epsilon: float


@nb.njit(**INLINE)
def _read(cell, w, x, body, s):
    """The features of the state in `body`, after the inputs `x`; states and inputs are left in `s` too."""
    width = s.plan[0, L_WIDTH]
    t = layer(s, 0)
    for j in range(width):
        s.x[0, j] = x[j]
    for i in range(made_of(cell).order * cell.units):
        s.h[0, i] = body[i]
    features(cell, w[s.plan[0, L_OUT] :], t.x, t.h, cell.units, width, t)


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
        s: working memory.
    """
    kind = made_of(cell)
    many = kind.order * cell.units
    width = s.plan[0, L_WIDTH]
    zero, most = w.dtype.type(0), w.dtype.type(rtrl.LARGEST_TRACE)
    t = layer(s, 0)
    for b in range(len(x)):
        row = body[b]
        trace = row[many:]
        for i in range(len(row)):
            row[i] = zero
        for at in range(x.shape[1]):
            for j in range(width):
                s.x[0, j] = x[b, at, j]
            forward(cell, w, t.x, row, gap, cell.units, width, t)
            for i in range(many):
                row[i] = s.h[0, i] if kind.contracts else rtrl.bounded(s.h[0, i], most)
            if at >= start:
                rtrl.carry(cell, trace, cell.units, width, t)
        _read(cell, w, x[b, x.shape[1] - 1], row, s)
        for i in range(phi.shape[1]):
            phi[b, i] = s.phi[0, i]


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
        s: working memory.
    """
    one = w.dtype.type(1)
    width, out = s.plan[0, L_WIDTH], s.plan[0, L_OUT]
    rows, columns = s.plan[0, L_OUT_ROWS], s.plan[0, L_OUT_COLUMNS]
    t = layer(s, 0)
    for b in range(len(x)):
        row = body[b]
        _read(cell, w, x[b, x.shape[1] - 1], row, s)
        for i in range(d_phi.shape[1]):
            s.d_phi[0, i] = d_phi[b, i]
        backward(cell, w[out:], t.h, cell.units, width, t, s.row[:0])
        trace = row[made_of(cell).order * cell.units :]
        # SGD with the rate -1 adds the gradient to what it is given.
        summing = Optimizer(SGD, -1.0, 0.0, 0.0, 0.0)
        rtrl.step(cell, summing, trace, g, g, g, cell.units, width, t, -one, 0.0)
        for j in range(rows):
            for i in range(columns):
                g[out + j * columns + i] += s.d_out[0, i] * s.out_inputs[0, j]


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
