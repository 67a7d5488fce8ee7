"""UORO (Tallec & Ollivier, ICLR 2018, arXiv 1702.05043): an unbiased estimate of dh/dw of rank one.

    a = (dh/dh_) p,   v = nu^T dh/dw,   nu random signs                   dh/dw = E[p q^T],  p [N], q [G I N]
    r0 = sqrt((|q| + eps) / (|a| + eps)),   r1 = sqrt((|v| + eps) / (|nu| + eps))
    p <- r0 a + r1 nu,   q <- q / r0 + v / r1,   gradient = (dL/dh p) q
Its noise grows with N and T.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.cpu.dense.cells import Dense, forward, forward_product, weights_of
from kernels.cpu.numerics import INLINE, JIT, dot

EPSILON = 1e-7


def body_size(cell: Dense) -> int:
    """Numbers per sequence: state, p and q."""
    return 2 * cell.units + weights_of(cell)


@nb.njit(**INLINE)
def _mixed(z):
    """SplitMix64's output function of a uint64 (Steele, Lea & Flood 2014): every bit of z moves every bit of it."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@nb.njit(**JIT)
def draw_signs(seed, at, signs):
    """Fills `signs` [...] (contiguous) with +1 and -1, by `seed` and `at` (uint64) and the place alone."""
    flat = signs.reshape(signs.size)
    one = signs.dtype.type(1)
    step = np.uint64(0x9E3779B97F4A7C15)
    key = _mixed(_mixed(np.uint64(seed) + step) + np.uint64(at) * step)
    for i in range(len(flat)):
        word = _mixed(key + np.uint64(i + 1) * step)
        flat[i] = one if word >> np.uint64(63) else -one


@nb.njit(**INLINE)
def _norm_of_new(cell, s):
    """|nu^T dh/dw|, which does not depend on the signs."""
    n, width = cell.units, cell.width
    zero = s.h.dtype.type(0)
    from_x = dot(s.inputs, s.inputs, width, zero)
    from_state = dot(s.inputs[width:], s.inputs[width:], n, zero)
    total = zero
    for g in range(cell.gates):
        total += dot(s.outer[g], s.outer[g], n, zero) * from_x + dot(s.inner[g], s.inner[g], n, zero) * from_state
    return np.sqrt(total)


@nb.njit(**JIT)
def run(cell, w, x, signs, body, phi, s):
    """Runs every sequence from a zero state with its estimate.

    Args:
        cell: a `Dense`.
        w: [G I N], the weights.
        x: [B, T, J], the inputs.
        signs: [B, T, N], +1 or -1: see `draw_signs`.
        body: [B, body_size], written.
        phi: [B, N], written: the states after the last step.
        s: working memory.
    """
    n, every = cell.units, cell.width + cell.units
    zero, one, eps = w.dtype.type(0), w.dtype.type(1), w.dtype.type(EPSILON)
    signs_norm = np.sqrt(w.dtype.type(n))
    for b in range(len(x)):
        row = body[b]
        for i in range(len(row)):
            row[i] = zero
        p = row[n : 2 * n]
        q = row[2 * n :]
        for t in range(x.shape[1]):
            forward(cell, w, x[b, t], row, s)
            nu, a = signs[b, t], s.rows[1]
            forward_product(cell, w, s, p, s.rows[0], a)
            r0 = np.sqrt((np.sqrt(dot(q, q, len(q), zero)) + eps) / (np.sqrt(dot(a, a, n, zero)) + eps))
            r1 = np.sqrt((_norm_of_new(cell, s) + eps) / (signs_norm + eps))
            for i in range(n):
                p[i] = r0 * a[i] + r1 * nu[i]
                row[i] = s.h[i]
            old, new = one / r0, one / r1
            for k in range(cell.gates * every):
                g, j = k // every, k % every
                part = q[k * n : (k + 1) * n]
                factor = s.outer[g] if j < cell.width else s.inner[g]
                xj = new * s.inputs[j]
                for i in range(n):
                    part[i] = old * part[i] + nu[i] * factor[i] * xj
        for i in range(n):
            phi[b, i] = row[i]


@nb.njit(**JIT)
def gradient(cell, body, d_phi, g):
    """Adds the estimate, summed over sequences, to `g` [G I N]; `d_phi` [B, N] is dL/d(state after the last step)."""
    n = cell.units
    zero = g.dtype.type(0)
    for b in range(len(body)):
        share = dot(d_phi[b], body[b, n : 2 * n], n, zero)
        for i in range(len(g)):
            g[i] += share * body[b, 2 * n + i]
