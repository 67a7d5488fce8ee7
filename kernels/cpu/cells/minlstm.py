"""minLSTM (Feng et al. 2024, arXiv 2410.01201), normalised gates, with a tanh candidate.

f = sigmoid(Wf x),  i = sigmoid(Wi x),  c = tanh(Wh x),  F = f / (f + i),  I = 1 - F,  h = F h_ + I c
dh/dh_ = F,   dh/d(Wf x) = (h_ - c) F I (1 - f),   dh/d(Wi x) = (c - h_) F I (1 - i),   dh/d(Wh x) = I (1 - c^2)
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import sigmoid, tanh
from kernels.cpu.products import product


@made(order=1, matrices=3, contracts=True)
class MinLSTM(NamedTuple):
    """Matrices: forget gate Wf, input gate Wi, candidate Wh."""

    units: int


@implements(forward, MinLSTM)
def _forward(cell, w, x, before, gap, units, width, s):
    one = w.dtype.type(1)
    forget, let_in, candidate = s.work[0], s.work[1], s.work[2]
    product(w, 0, x, units, width, forget)
    product(w, width * units, x, units, width, let_in)
    product(w, 2 * width * units, x, units, width, candidate)
    for i in range(units):
        forget[i] = sigmoid(forget[i])
    for i in range(units):
        let_in[i] = sigmoid(let_in[i])
    for i in range(units):
        candidate[i] = tanh(candidate[i])
    keep, d_forget, d_let_in, d_candidate = s.jac[0], s.factor[0], s.factor[1], s.factor[2]
    for i in range(units):
        f = forget[i]
        g = let_in[i]
        c = candidate[i]
        b = before[i]
        share = f / (f + g)
        rest = g / (f + g)
        s.h[i] = share * b + rest * c
        keep[i] = share
        slope = share * rest
        d_forget[i] = (b - c) * slope * (one - f)
        d_let_in[i] = (c - b) * slope * (one - g)
        d_candidate[i] = rest * (one - c * c)
