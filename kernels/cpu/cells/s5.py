"""Diagonal state-space model with zero-order hold (S5: Smith, Warrington & Linderman, ICLR 2023, arXiv 2208.04933).

    L = -rate(w) + i omega,  d = exp(log_step) gap,  z = L d
    h = exp(z) h_ + ((exp(z) - 1) / L) (B x)                                       (complex: two reals per unit)
    dh/dh_ = exp(z),   dh/dB = ((exp(z) - 1) / L) x
    dh/dL = d exp(z) h_ + d^2 psi(z) B x,   dh/dlog_step = z exp(z) h_ + d exp(z) B x
with phi(z) = (exp(z) - 1) / z and psi(z) = phi'(z) = (z exp(z) - exp(z) + 1) / z^2, by their series near 0. The gap is
that of the event, so traces are exact for irregular steps. At a gap of zero the input would not be heard: gaps have a
floor (`least_gap` of the spec).

How the decay rate follows from its weight, and what multiplies dh/dL (StableSSM, Wang & Li, ICML 2024, 2311.14495):
    exp       rate = exp(w)                 softplus  rate = log(1 + exp(w))
    best      rate = 1 / (w^2 + 0.1)        direct    rate = -w, whose sign nothing guards
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb

from kernels.cpu.cells import forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import INLINE, cos, exp, sigmoid, sin, softplus
from kernels.cpu.products import product

EXP, SOFTPLUS, BEST, DIRECT = range(4)

_PHI = tuple(1.0 / math.factorial(n + 1) for n in range(17))
_PSI = tuple((n + 1.0) / math.factorial(n + 2) for n in range(17))


@made(order=2, matrices=1, vectors=3, tied=True)
class S5(NamedTuple):
    """Matrix: B (complex); vectors: w (decay), omega, log_step."""

    units: int
    rate: int
    """How the decay rate follows from w: EXP, SOFTPLUS, BEST or DIRECT."""


@nb.njit(**INLINE)
def _rate(how, w, one):
    """(rate, d rate / dw); `one` gives the dtype."""
    if how == EXP:
        rate = exp(w)
        return rate, rate
    if how == SOFTPLUS:
        return softplus(w), sigmoid(w)
    if how == BEST:
        rate = one / (w * w + one / (one * 10))
        return rate, -(w + w) * rate * rate
    return -w, -one


@nb.njit(**INLINE)
def _near_zero(x, y, one):
    """(Re phi, Im phi, Re psi, Im psi) of z = x + i y, |z| < 1/2, by Horner's rule.

    phi = sum z^n / (n + 1)!,  psi = sum (n + 1) z^n / (n + 2)!
    """
    a = b = c = d = one - one
    for n in range(16, -1, -1):
        a, b = a * x - b * y, a * y + b * x
        c, d = c * x - d * y, c * y + d * x
        a += one * _PHI[n]
        c += one * _PSI[n]
    return a, b, c, d


@implements(forward, S5)
def _forward(cell, w, x, before, gap, units, width, s):
    kind = w.dtype.type
    one, least = kind(1), kind(0.25)
    product(w, 0, x, units, width, s.work[0])
    product(w, width * units, x, units, width, s.work[1])
    at = 2 * width * units
    for i in range(units):
        re, im = s.work[0, i], s.work[1, i]
        rate, slope = _rate(cell.rate, w[at + i], one)
        omega = w[at + units + i]
        d = exp(w[at + 2 * units + i]) * kind(gap)
        zx, zy = -rate * d, omega * d
        r = exp(zx)
        g, p = r * cos(zy), r * sin(zy)
        size = zx * zx + zy * zy
        if size < least:
            fx, fy, qx, qy = _near_zero(zx, zy, one)
        else:
            # phi = (e^z - 1) / z,  psi = (e^z - phi) / z
            fx, fy = ((g - one) * zx + p * zy) / size, (p * zx - (g - one) * zy) / size
            ax, ay = g - fx, p - fy
            qx, qy = (ax * zx + ay * zy) / size, (ay * zx - ax * zy) / size
        a = g * before[i] - p * before[units + i]
        b = p * before[i] + g * before[units + i]
        cx, cy = d * fx, d * fy
        s.h[i] = a + (cx * re - cy * im)
        s.h[units + i] = b + (cx * im + cy * re)
        s.jac[0, i], s.jac[1, i], s.jac[2, i], s.jac[3, i] = g, -p, p, g
        s.factor[0, i], s.factor[1, i] = cx, cy
        tx = d * (a + d * (qx * re - qy * im))
        ty = d * (b + d * (qx * im + qy * re))
        s.vec[0, i], s.vec[1, i] = -slope * tx, -slope * ty
        s.vec[2, i], s.vec[3, i] = -ty, tx
        ux, uy = g * re - p * im, g * im + p * re
        s.vec[4, i] = (zx * a - zy * b) + d * ux
        s.vec[5, i] = (zx * b + zy * a) + d * uy
