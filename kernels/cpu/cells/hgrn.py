"""HGRN (Qin, Yang & Zhong, NeurIPS 2023, arXiv 2311.04823): a gated recurrence that turns in the complex plane.

    mu = sigmoid(Wmu x),  l = bound + (1 - bound) mu,  c = silu(Wre x) + i silu(Wim x)
    h = l exp(i theta) h_ + (1 - l) c                                             (complex: two reals per unit)
    dh/dh_ = l exp(i theta),   dh/d(Wmu x) = (exp(i theta) h_ - c) (1 - bound) mu (1 - mu)
    dh/d(Wre x) = (1 - l) silu'(Wre x),  dh/d(Wim x) = i (1 - l) silu'(Wim x),  dh/dtheta = i l exp(i theta) h_
The lower bound is a constant of the cell. The features are real and imaginary part; the gated, normalised output
projection of the paper's block is left to the read-out.
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import cos, sigmoid, sin
from kernels.cpu.products import product


@made(order=2, matrices=3, vectors=1)
class HGRN(NamedTuple):
    """Matrices: Wmu, Wre, Wim; vector: theta."""

    units: int
    bound: float


@implements(forward, HGRN)
def _forward(cell, w, x, before, gap, units, width, s):
    kind = w.dtype.type
    zero, one, bound = kind(0), kind(1), kind(cell.bound)
    rest = one - bound
    mu, re, im = s.work[0], s.work[1], s.work[2]
    product(w, 0, x, units, width, mu)
    product(w, width * units, x, units, width, re)
    product(w, 2 * width * units, x, units, width, im)
    at = 3 * width * units
    for i in range(units):
        s.work[3, i] = cos(w[at + i])
        s.work[4, i] = sin(w[at + i])
    for i in range(units):
        mu[i] = sigmoid(mu[i])
    for i in range(units):
        q = sigmoid(re[i])
        s.factor[2, i] = q * (one + re[i] * (one - q))
        re[i] *= q
    for i in range(units):
        q = sigmoid(im[i])
        s.factor[5, i] = q * (one + im[i] * (one - q))
        im[i] *= q
    for i in range(units):
        keep = bound + rest * mu[i]
        slope = rest * mu[i] * (one - mu[i])
        a = s.work[3, i] * before[i] - s.work[4, i] * before[units + i]
        b = s.work[4, i] * before[i] + s.work[3, i] * before[units + i]
        s.jac[0, i] = keep * s.work[3, i]
        s.jac[1, i] = -keep * s.work[4, i]
        s.jac[2, i] = keep * s.work[4, i]
        s.jac[3, i] = keep * s.work[3, i]
        s.h[i] = keep * a + (one - keep) * re[i]
        s.h[units + i] = keep * b + (one - keep) * im[i]
        s.factor[0, i] = slope * (a - re[i])
        s.factor[1, i] = slope * (b - im[i])
        s.factor[2, i] *= one - keep
        s.factor[3, i] = zero
        s.factor[4, i] = zero
        s.factor[5, i] *= one - keep
        s.vec[0, i] = -keep * b
        s.vec[1, i] = keep * a
