"""LRU (Orvieto et al. 2023, arXiv 2303.06349), trained online as in Zucchet et al. (NeurIPS 2023, arXiv 2305.15947).

    lambda = exp(-exp(nu) + i exp(theta)),  h = lambda h_ + exp(gamma) (B x)          (complex: two reals per unit)
    dh/dh_ = lambda,   dh/dB = exp(gamma) x,   dh/dgamma = exp(gamma) B x
    dh/dnu = -exp(nu) lambda h_,   dh/dtheta = i exp(theta) lambda h_
The features are real and imaginary part: a linear read-out of them is Re(C h) for any complex C.
"""

from __future__ import annotations

from typing import NamedTuple

from kernels.cpu.cells import forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import cos, exp, sin
from kernels.cpu.products import product


@made(order=2, matrices=1, vectors=3, tied=True)
class LRU(NamedTuple):
    """Matrix: B (complex); vectors: nu, theta, gamma."""

    units: int


@implements(forward, LRU)
def _forward(cell, w, x, before, gap, units, width, s):
    zero = w.dtype.type(0)
    re, im, nu, theta, gamma = s.work[0], s.work[1], s.work[2], s.work[3], s.work[4]
    product(w, 0, x, units, width, re)
    product(w, width * units, x, units, width, im)
    at = 2 * width * units
    for i in range(units):
        nu[i] = exp(w[at + i])
    at += units
    for i in range(units):
        theta[i] = exp(w[at + i])
    at += units
    for i in range(units):
        gamma[i] = exp(w[at + i])
    for i in range(units):
        r = exp(-nu[i])
        s.jac[0, i] = r * cos(theta[i])
        s.jac[2, i] = r * sin(theta[i])
    for i in range(units):
        g = s.jac[0, i]
        p = s.jac[2, i]
        s.jac[1, i] = -p
        s.jac[3, i] = g
        a = g * before[i] - p * before[units + i]
        b = p * before[i] + g * before[units + i]
        u = gamma[i] * re[i]
        v = gamma[i] * im[i]
        s.h[i] = a + u
        s.h[units + i] = b + v
        s.factor[0, i] = gamma[i]
        s.factor[1, i] = zero
        s.vec[0, i] = -nu[i] * a
        s.vec[1, i] = -nu[i] * b
        s.vec[2, i] = -theta[i] * b
        s.vec[3, i] = theta[i] * a
        s.vec[4, i] = u
        s.vec[5, i] = v
