"""Backpropagation through the last `window` steps of a sequence; with a window of the whole length it is exact."""

from __future__ import annotations

import numba as nb

from kernels.cpu.dense.cells import Dense, backward_product, forward
from kernels.cpu.numerics import JIT


def body_size(cell: Dense, window: int) -> int:
    """Numbers per sequence: state, then of `window` steps inputs, state before and derivatives."""
    return cell.units + window * (cell.width + (2 + 2 * cell.gates) * cell.units)


@nb.njit(**JIT)
def run(cell, w, x, window, body, phi, s):
    """Runs every sequence from a zero state and keeps its last steps.

    Args:
        cell: a `Dense`.
        w: [G I N], the weights.
        x: [B, T, J], the inputs.
        window: steps to keep, at least 1.
        body: [B, body_size], written.
        phi: [B, N], written: the states after the last step.
        s: working memory.
    """
    n, width = cell.units, cell.width
    zero = w.dtype.type(0)
    for b in range(len(x)):
        row = body[b]
        for i in range(n):
            row[i] = zero
        for t in range(x.shape[1]):
            forward(cell, w, x[b, t], row, s)
            at = n + (t % window) * (width + (2 + 2 * cell.gates) * n)
            for j in range(width + n):
                row[at + j] = s.inputs[j]
            at += width + n
            for i in range(n):
                row[at + i] = s.keep[i]
                row[i] = s.h[i]
            for g in range(cell.gates):
                for i in range(n):
                    row[at + (1 + g) * n + i] = s.outer[g, i]
                    row[at + (1 + cell.gates + g) * n + i] = s.inner[g, i]
        for i in range(n):
            phi[b, i] = row[i]


@nb.njit(**JIT)
def gradient(cell, w, steps, window, body, d_phi, g, s):
    """Adds the gradient, summed over the sequences, to `g` [G I N], after `run`.

    Args:
        cell: a `Dense`.
        w: [G I N], the weights.
        steps: T.
        window: as in `run`.
        body: [B, body_size], as `run` left it.
        d_phi: [B, N], dL/d(state after the last step).
        g: [G I N], added to.
        s: working memory.
    """
    n, width = cell.units, cell.width
    every = width + n
    error = s.h
    for b in range(len(body)):
        for i in range(n):
            error[i] = d_phi[b, i]
        for back in range(min(steps, window)):
            at = n + ((steps - 1 - back) % window) * (width + (2 + 2 * cell.gates) * n)
            inputs = body[b, at : at + every]
            keep = body[b, at + every : at + every + n]
            outer = body[b, at + every + n : at + every + (1 + cell.gates) * n]
            inner = body[b, at + every + (1 + cell.gates) * n : at + every + (1 + 2 * cell.gates) * n]
            for k in range(cell.gates * every):
                c, j = k // every, k % every
                factor = outer[c * n : (c + 1) * n] if j < width else inner[c * n : (c + 1) * n]
                for i in range(n):
                    g[k * n + i] += error[i] * factor[i] * inputs[j]
            backward_product(cell, w, keep, inner, error, s.deltas)
