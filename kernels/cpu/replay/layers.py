"""Layers of a perceptron on n rows: y = relu(x W + b), forward and back; weights are [inputs, units].

A term whose input is zero is left out: half of what rectified units pass on, most of an image of strokes. All terms
are added in the order of the inputs (gradients of weights: of the rows), each in one rounding, eight at a time so that
sums are read and written an eighth as often; the bits are those of one at a time.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.numerics import INLINE, JIT, fma


@nb.njit(**INLINE)
def _add_rows(w, x, places, count, out):
    """Out += the sum over p < count of x[places[p]] w[places[p]]."""
    size = len(out)
    whole = count - count % 8
    for p in range(0, whole, 8):
        a, b, c, d = w[places[p]], w[places[p + 1]], w[places[p + 2]], w[places[p + 3]]
        e, f, g, h = w[places[p + 4]], w[places[p + 5]], w[places[p + 6]], w[places[p + 7]]
        xa, xb, xc, xd = x[places[p]], x[places[p + 1]], x[places[p + 2]], x[places[p + 3]]
        xe, xf, xg, xh = x[places[p + 4]], x[places[p + 5]], x[places[p + 6]], x[places[p + 7]]
        for u in range(size):
            half = fma(d[u], xd, fma(c[u], xc, fma(b[u], xb, fma(a[u], xa, out[u]))))
            out[u] = fma(h[u], xh, fma(g[u], xg, fma(f[u], xf, fma(e[u], xe, half))))
    if count - whole >= 4:
        p = whole
        a, b, c, d = w[places[p]], w[places[p + 1]], w[places[p + 2]], w[places[p + 3]]
        xa, xb, xc, xd = x[places[p]], x[places[p + 1]], x[places[p + 2]], x[places[p + 3]]
        for u in range(size):
            out[u] = fma(d[u], xd, fma(c[u], xc, fma(b[u], xb, fma(a[u], xa, out[u]))))
        whole += 4
    for p in range(whole, count):
        a, xa = w[places[p]], x[places[p]]
        for u in range(size):
            out[u] = fma(a[u], xa, out[u])


@nb.njit(**JIT)
def forward(x, w, b, rectified, places, out):
    """Writes x W + b, rectified or not, to `out` [n, units].

    Args:
        x: [n, inputs].
        w: [inputs, units].
        b: [units].
        rectified: whether what is negative becomes zero (NaN stays).
        places: int64 [inputs], scratch.
        out: written.
    """
    zero = w.dtype.type(0)
    for r in range(len(x)):
        row, sums, count = x[r], out[r], 0
        for j in range(len(row)):
            if row[j] != zero:
                places[count] = j
                count += 1
        for u in range(len(sums)):
            sums[u] = b[u]
        _add_rows(w, row, places, count, sums)
        if rectified:
            for u in range(len(sums)):
                sums[u] = zero if sums[u] < zero else sums[u]


@nb.njit(**JIT)
def weight_gradient(x, d, places, column, gw, gb):
    """Writes dL/dW = x' d and dL/db = the sum of the rows of d.

    Args:
        x: [n, inputs].
        d: [n, units], dL/d(x W + b).
        places: int64 [n], scratch.
        column: [n], scratch.
        gw: [inputs, units], written.
        gb: [units], written.
    """
    zero, n = d.dtype.type(0), len(x)
    for j in range(x.shape[1]):
        count, g = 0, gw[j]
        for r in range(n):
            column[r] = x[r, j]
            if column[r] != zero:
                places[count] = r
                count += 1
        for u in range(len(g)):
            g[u] = zero
        _add_rows(d, column, places, count, g)
    for u in range(len(gb)):
        gb[u] = zero
    for r in range(n):
        for u in range(len(gb)):
            gb[u] += d[r, u]


@nb.njit(**JIT)
def input_gradient(d, w, turned, places, out):
    """Writes dL/dx = d W'.

    Args:
        d: [n, units].
        w: [inputs, units].
        turned: [units, inputs], scratch: the weights transposed.
        places: int64 [units], scratch.
        out: [n, inputs], written.
    """
    inputs, units = w.shape
    zero = w.dtype.type(0)
    for at in range(0, units, 16):
        for j in range(inputs):
            for u in range(at, min(at + 16, units)):
                turned[u, j] = w[j, u]
    for r in range(len(d)):
        row, sums, count = d[r], out[r], 0
        for u in range(units):
            if row[u] != zero:
                places[count] = u
                count += 1
        for j in range(inputs):
            sums[j] = zero
        _add_rows(turned, row, places, count, sums)


@nb.njit(**JIT)
def rectifier_gradient(x, d):
    """Makes dL/dz of dL/dx: d [n, units] becomes zero where x = relu(z) is."""
    for r in range(len(x)):
        for u in range(x.shape[1]):
            d[r, u] = d[r, u] if x[r, u] > x.dtype.type(0) else d.dtype.type(0)


@nb.njit(**JIT)
def descend(w, g, rate):
    """W -= rate g."""
    step = w.dtype.type(rate)
    for i in range(len(w)):
        w[i] -= step * g[i]
