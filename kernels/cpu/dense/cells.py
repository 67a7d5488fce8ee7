"""Dense tanh recurrence and GRU: a step, its derivatives, and products with its Jacobian.

    RNN   h = tanh(W x + R h_)
    GRU   r = sigmoid(Wr x + Rr h_),  z = sigmoid(Wz x + Rz h_),  n = tanh(Wn x + r (Rn h_)),  h = (1 - z) n + z h_
          (Cho et al. 2014, with the reset gate after the product: a weight then reaches one unit in one step)
With a_g = W_g x and c_g = R_g h_ of gate g, everything that learns needs of a step is
    dh/da_g =: outer[g],   dh/dc_g =: inner[g],   dh/dh_ = diag(keep) + sum_g diag(inner[g]) R_g
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.numerics import INLINE, JIT, dot, sigmoid, tanh
from kernels.cpu.products import product

RNN, GRU = 1, 3


class Dense(NamedTuple):
    """A cell."""

    units: int
    gates: int
    """RNN or GRU: which, and how many gates it has."""
    width: int
    """J, inputs including the constant."""


class Work(NamedTuple):
    """Working memory of one step."""

    inputs: np.ndarray
    """[I]: the inputs, then the state before."""
    h: np.ndarray
    """[N]."""
    keep: np.ndarray
    """[N]."""
    outer: np.ndarray
    """[G, N]."""
    inner: np.ndarray
    """[G, N]."""
    rows: np.ndarray
    """[4, N]."""
    deltas: np.ndarray
    """[G N]."""


def work(cell: Dense, dtype: np.dtype) -> Work:
    """Working memory for a cell."""
    n, gates = cell.units, cell.gates
    shapes = ((cell.width + n,), (n,), (n,), (gates, n), (gates, n), (4, n), (gates * n,))
    return Work(*(np.zeros(shape, dtype) for shape in shapes))


def weights_of(cell: Dense) -> int:
    """Number of weights, G I N."""
    return cell.gates * (cell.width + cell.units) * cell.units


@nb.njit(**INLINE)
def forward(cell, w, x, before, s):
    """One step from the state `before` [N] with the inputs `x` [J]; everything is left in `s`."""
    n, width = cell.units, cell.width
    one = w.dtype.type(1)
    for j in range(width):
        s.inputs[j] = x[j]
    for i in range(n):
        s.inputs[width + i] = before[i]
    every = width + n
    if cell.gates == RNN:
        product(w, 0, s.inputs, n, every, s.h)
        for i in range(n):
            s.h[i] = tanh(s.h[i])
        for i in range(n):
            s.outer[0, i] = one - s.h[i] * s.h[i]
            s.inner[0, i] = s.outer[0, i]
            s.keep[i] = w.dtype.type(0)
        return
    r, z, c, q = s.rows[0], s.rows[1], s.rows[2], s.rows[3]
    product(w, 0, s.inputs, n, every, r)
    product(w, every * n, s.inputs, n, every, z)
    product(w, 2 * every * n, s.inputs, n, width, c)
    product(w, (2 * every + width) * n, s.inputs[width:], n, n, q)
    for i in range(n):
        r[i] = sigmoid(r[i])
    for i in range(n):
        z[i] = sigmoid(z[i])
    for i in range(n):
        c[i] = tanh(c[i] + r[i] * q[i])
    for i in range(n):
        b = s.inputs[width + i]
        d = (one - z[i]) * (one - c[i] * c[i])
        s.h[i] = (one - z[i]) * c[i] + z[i] * b
        s.keep[i] = z[i]
        s.outer[0, i] = d * q[i] * r[i] * (one - r[i])
        s.outer[1, i] = (b - c[i]) * z[i] * (one - z[i])
        s.outer[2, i] = d
        s.inner[0, i] = s.outer[0, i]
        s.inner[1, i] = s.outer[1, i]
        s.inner[2, i] = d * r[i]


@nb.njit(**INLINE)
def state_rows(cell, g):
    """Where in the weights R_g begins."""
    return (g * (cell.width + cell.units) + cell.width) * cell.units


@nb.njit(**INLINE)
def diagonal(cell, w, s, out):
    """The diagonal of dh/dh_ to `out` [N]."""
    n = cell.units
    for i in range(n):
        out[i] = s.keep[i]
    for g in range(cell.gates):
        at = state_rows(cell, g)
        for i in range(n):
            out[i] += s.inner[g, i] * w[at + i * n + i]


@nb.njit(**INLINE)
def forward_product(cell, w, s, tangent, row, out):
    """(dh/dh_) `tangent` to `out` [N]; `row` [N] is overwritten."""
    n = cell.units
    for i in range(n):
        out[i] = s.keep[i] * tangent[i]
    for g in range(cell.gates):
        product(w, state_rows(cell, g), tangent, n, n, row)
        for i in range(n):
            out[i] += s.inner[g, i] * row[i]


@nb.njit(**INLINE)
def backward_product(cell, w, keep, inner, error, deltas):
    """`error` [N] <- (dh/dh_)^T `error`, for a step with these `keep` [N] and `inner` [G N].

    `deltas` [G N] is overwritten.
    """
    n = cell.units
    zero = w.dtype.type(0)
    for g in range(cell.gates):
        for i in range(n):
            deltas[g * n + i] = inner[g * n + i] * error[i]
    for j in range(n):
        error[j] *= keep[j]
        for g in range(cell.gates):
            at = state_rows(cell, g) + j * n
            error[j] += dot(w[at : at + n], deltas[g * n : (g + 1) * n], n, zero)


@nb.njit(**JIT)
def run(cell, w, x, phi, s):
    """The states `phi` [B, N] after the last step of `x` [B, T, J], from zero, with nothing kept for learning."""
    zero = w.dtype.type(0)
    for b in range(len(x)):
        for i in range(cell.units):
            phi[b, i] = zero
        for t in range(x.shape[1]):
            forward(cell, w, x[b, t], phi[b], s)
            for i in range(cell.units):
                phi[b, i] = s.h[i]
