"""minGRU (Feng et al. 2024, arXiv 2410.01201) with a tanh candidate.

    z = sigmoid(Wz x),  c = tanh(Wh x),  h = (1 - z) h_ + z c
    dh/dh_ = 1 - z,   dh/d(Wz x) = (c - h_) z (1 - z),   dh/d(Wh x) = z (1 - c^2)

The state is a convex combination of candidates, so |h| <= 1, and traces are bounded by 2 max|x| and max|x|.
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import sigmoid, tanh
from kernels.cpu.products import product


@made(order=1, matrices=2, contracts=True)
class MinGRU(NamedTuple):
    """Matrices: gate Wz, candidate Wh."""

    units: int


@implements(forward, MinGRU)
def _forward(cell, w, x, before, gap, units, width, s):
    one = w.dtype.type(1)
    gate, candidate = s.work[0], s.work[1]
    product(w, 0, x, units, width, gate)
    product(w, width * units, x, units, width, candidate)
    for i in range(units):
        gate[i] = sigmoid(gate[i])
    for i in range(units):
        candidate[i] = tanh(candidate[i])
    keep, d_gate, d_candidate = s.jac[0], s.factor[0], s.factor[1]
    for i in range(units):
        z = gate[i]
        c = candidate[i]
        b = before[i]
        s.h[i] = (one - z) * b + z * c
        keep[i] = one - z
        d_gate[i] = (c - b) * z * (one - z)
        d_candidate[i] = z * (one - c * c)
