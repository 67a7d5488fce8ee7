"""SnAp-1 (Menick et al., ICLR 2021, arXiv 2006.07232): RTRL that keeps of dh/dw what is not zero after one step.

A weight of unit i reaches unit i alone in one step, so a trace is as long as its weight; of dh/dh_ it takes the
diagonal:  S <- diag(dh/dh_) S + dh/dw.  It is exact where the recurrence is element-wise, and biased elsewhere.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.dense.cells import Dense, diagonal, forward, weights_of
from kernels.cpu.numerics import JIT
from kernels.cpu.rtrl import LARGEST_TRACE, bounded


def body_size(cell: Dense) -> int:
    """Numbers per sequence: state and traces."""
    return cell.units + weights_of(cell)


@nb.njit(**JIT)
def run(cell, w, x, body, phi, s):
    """Runs every sequence from a zero state with its traces.

    Args:
        cell: a `Dense`.
        w: [G I N], the weights.
        x: [B, T, J], the inputs.
        body: [B, body_size], written.
        phi: [B, N], written: the states after the last step.
        s: working memory.
    """
    n, every = cell.units, cell.width + cell.units
    zero, most = w.dtype.type(0), w.dtype.type(LARGEST_TRACE)
    carry = s.rows[0]
    for b in range(len(x)):
        row = body[b]
        for i in range(len(row)):
            row[i] = zero
        for t in range(x.shape[1]):
            forward(cell, w, x[b, t], row, s)
            diagonal(cell, w, s, carry)
            for k in range(cell.gates * every):
                g, j = k // every, k % every
                trace = row[(k + 1) * n : (k + 2) * n]
                factor = s.outer[g] if j < cell.width else s.inner[g]
                xj = s.inputs[j]
                for i in range(n):
                    trace[i] = bounded(carry[i] * trace[i] + factor[i] * xj, most)
            for i in range(n):
                row[i] = s.h[i]
        for i in range(n):
            phi[b, i] = row[i]


@nb.njit(**JIT)
def gradient(cell, body, d_phi, g):
    """Adds the gradient, summed over sequences, to `g` [G I N]; `d_phi` [B, N] is dL/d(state after the last step)."""
    n = cell.units
    for b in range(len(body)):
        for at in range(0, len(g), n):
            for i in range(n):
                g[at + i] += d_phi[b, i] * body[b, n + at + i]
