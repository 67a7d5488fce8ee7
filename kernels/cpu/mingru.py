"""minGRU (Feng et al. 2024, arXiv 2410.01201) with a tanh candidate, and its exact RTRL traces.

    z = sigmoid(Wz x),  c = tanh(Wh x),  h = (1 - z) h_ + z c                    x ends with the constant 1
    S_Wz = (1 - z) S_Wz + (c - h_) z (1 - z) x^T
    S_Wh = (1 - z) S_Wh + z (1 - c^2) x^T                                        dL/dW = (dL/dh) o S

Gates read x only, so dh/dh_ is the diagonal 1 - z and a trace has the shape of its parameter: RTRL is exact. In
memory a parameter matrix is [J, N] with units contiguous: every inner loop below runs over units and vectorises.
Traces are bounded (|S_Wz| <= 2 max|x|, |S_Wh| <= max|x|), which the divergence guard of the fold relies on.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.cpu.layout import ADAM
from kernels.cpu.numerics import INLINE, sigmoid, tanh


@nb.njit(**INLINE)
def forward(cell, x, h_before, units, width, s):
    """One step of the cell from `h_before[:N]`; writes gate, candidate, h and the two trace factors to `s`."""
    zero = cell.dtype.type(0)
    one = cell.dtype.type(1)
    half = width * units
    gate, candidate = s.gate, s.candidate
    for i in range(units):
        gate[i] = zero
        candidate[i] = zero
    for j in range(width):
        xj = x[j]
        wz = cell[j * units : (j + 1) * units]
        for i in range(units):
            gate[i] += wz[i] * xj
    for j in range(width):
        xj = x[j]
        wh = cell[half + j * units : half + (j + 1) * units]
        for i in range(units):
            candidate[i] += wh[i] * xj
    for i in range(units):
        gate[i] = sigmoid(gate[i])
    for i in range(units):
        candidate[i] = tanh(candidate[i])
    for i in range(units):
        z = gate[i]
        c = candidate[i]
        before = h_before[i]
        s.h[i] = (one - z) * before + z * c
        s.keep[i] = one - z
        s.d_gate[i] = (c - before) * z * (one - z)
        s.d_candidate[i] = z * (one - c * c)


@nb.njit(**INLINE)
def advance(x, trace, units, width, s):
    """Carries the traces [2 J N] one step without learning."""
    for half in range(2):
        factor = s.d_gate if half == 0 else s.d_candidate
        for j in range(width):
            xj = x[j]
            row = trace[(half * width + j) * units : (half * width + j + 1) * units]
            for i in range(units):
                row[i] = s.keep[i] * row[i] + factor[i] * xj


@nb.njit(**INLINE)
def advance_and_step(config, x, trace, cell, m, v, units, width, s, r, q):
    """Carries the traces one step and applies the optimizer with the gradient error o trace.

    One pass: each trace, weight and moment is read and written once.
    """
    one = cell.dtype.type(1)
    rate = cell.dtype.type(r)
    floor = cell.dtype.type(q)
    b1 = cell.dtype.type(config.beta1)
    b2 = cell.dtype.type(config.beta2)
    c1 = one - b1
    c2 = one - b2
    adam = config.optimizer == ADAM
    for half in range(2):
        factor = s.d_gate if half == 0 else s.d_candidate
        for j in range(width):
            xj = x[j]
            a = (half * width + j) * units
            if adam:
                for i in range(units):
                    k = a + i
                    t = s.keep[i] * trace[k] + factor[i] * xj
                    g = s.error[i] * t
                    mk = b1 * m[k] + c1 * g
                    vk = b2 * v[k] + c2 * (g * g)
                    trace[k] = t
                    m[k] = mk
                    v[k] = vk
                    cell[k] -= rate * mk / (np.sqrt(vk) + floor)
            else:
                for i in range(units):
                    k = a + i
                    t = s.keep[i] * trace[k] + factor[i] * xj
                    trace[k] = t
                    cell[k] -= rate * (s.error[i] * t)
