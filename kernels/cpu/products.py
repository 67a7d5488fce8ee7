"""Products of a weight matrix with the inputs of an event, units contiguous."""

from __future__ import annotations

import numba as nb

from kernels.cpu.numerics import INLINE


@nb.njit(**INLINE)
def product(w, at, x, units, width, out):
    """out[:units] = sum_j w[at + j units :][:units] x[j], the terms added in the order of j.

    Four rows at a time, so that `out` is read and written a quarter as often; the bits are those of one row at a time.
    """
    zero = w.dtype.type(0)
    for i in range(units):
        out[i] = zero
    whole = width - width % 4
    for j in range(0, whole, 4):
        a = w[at + j * units : at + (j + 1) * units]
        b = w[at + (j + 1) * units : at + (j + 2) * units]
        c = w[at + (j + 2) * units : at + (j + 3) * units]
        d = w[at + (j + 3) * units : at + (j + 4) * units]
        xa, xb, xc, xd = x[j], x[j + 1], x[j + 2], x[j + 3]
        for i in range(units):
            out[i] = (((out[i] + a[i] * xa) + b[i] * xb) + c[i] * xc) + d[i] * xd
    for j in range(whole, width):
        row = w[at + j * units : at + (j + 1) * units]
        xj = x[j]
        for i in range(units):
            out[i] += row[i] * xj
