"""Recurrent trace units (Elelimy et al., NeurIPS 2024, arXiv 2409.01449), linear and non-linear.

r = exp(-exp(nu)),  g = r cos(exp(theta)),  p = r sin(exp(theta)),  n = sqrt(1 - r^2)
s1 = g h1 - p h2 + n (W1 x),   s2 = g h2 + p h1 + n (W2 x)
linear: h = s, features tanh(h);   non-linear: h = tanh(s), features h
ds/dnu:    -exp(nu) (g h1 - p h2) + dn (W1 x),  likewise with (g h2 + p h1) and W2;   dn = exp(nu) r^2 / n
ds/dtheta: exp(theta) (-(p h1 + g h2), g h1 - p h2)                 (with the factor exp(theta) of the chain rule)
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.cells import backward, features, forward, made
from kernels.cpu.dispatch import implements
from kernels.cpu.numerics import INLINE, cos, exp, expm1, sin, tanh
from kernels.cpu.products import product


@made(order=2, matrices=1, vectors=2, tied=True)
class RTU(NamedTuple):
    """Linear. Matrix: (W1, W2) (one complex matrix); vectors: nu, theta."""

    units: int


@made(order=2, matrices=2, vectors=2)
class NonlinearRTU(NamedTuple):
    """Non-linear. Matrices: W1, W2; vectors: nu, theta."""

    units: int


@nb.njit(**INLINE)
def _sums(w, x, before, units, width, s):
    """s1, s2 to `s.h`, g and p to `s.jac[0]` and `[2]`, n to `s.factor[0]`, what nu and theta bring to `s.vec`."""
    kind = w.dtype.type
    first, second, nu, theta = s.work[0], s.work[1], s.work[2], s.work[3]
    product(w, 0, x, units, width, first)
    product(w, width * units, x, units, width, second)
    at = 2 * width * units
    for i in range(units):
        nu[i] = exp(w[at + i])
    at += units
    for i in range(units):
        theta[i] = exp(w[at + i])
    for i in range(units):
        r = exp(-nu[i])
        s.work[4, i] = r
        s.jac[0, i] = r * cos(theta[i])
        s.jac[2, i] = r * sin(theta[i])
    for i in range(units):
        s.factor[0, i] = np.sqrt(-expm1(kind(-2) * nu[i]))  # not 0: `exp` is clamped, so nu is not
    for i in range(units):
        g = s.jac[0, i]
        p = s.jac[2, i]
        n = s.factor[0, i]
        r = s.work[4, i]
        slope = nu[i] * r * r / n
        a = g * before[i] - p * before[units + i]
        b = p * before[i] + g * before[units + i]
        s.h[i] = a + n * first[i]
        s.h[units + i] = b + n * second[i]
        s.vec[0, i] = slope * first[i] - nu[i] * a
        s.vec[1, i] = slope * second[i] - nu[i] * b
        s.vec[2, i] = -theta[i] * b
        s.vec[3, i] = theta[i] * a


@implements(forward, RTU)
def _forward(cell, w, x, before, gap, units, width, s):
    zero = w.dtype.type(0)
    _sums(w, x, before, units, width, s)
    for i in range(units):
        s.jac[1, i] = -s.jac[2, i]
        s.jac[3, i] = s.jac[0, i]
        s.factor[1, i] = zero


@implements(features, RTU)
def _features(cell, w, x, h, units, width, s):
    for i in range(2 * units):
        s.phi[i] = tanh(h[i])


@implements(backward, RTU)
def _backward(cell, w, h, units, width, s, d_x):
    one = w.dtype.type(1)
    for i in range(2 * units):
        s.error[i] = s.d_phi[i] * (one - s.phi[i] * s.phi[i])


@implements(forward, NonlinearRTU)
def _forward_nonlinear(cell, w, x, before, gap, units, width, s):
    zero = w.dtype.type(0)
    one = w.dtype.type(1)
    _sums(w, x, before, units, width, s)
    for i in range(2 * units):
        s.h[i] = tanh(s.h[i])
    for i in range(units):
        k1 = one - s.h[i] * s.h[i]
        k2 = one - s.h[units + i] * s.h[units + i]
        g = s.jac[0, i]
        p = s.jac[2, i]
        n = s.factor[0, i]
        s.jac[0, i] = k1 * g
        s.jac[1, i] = -k1 * p
        s.jac[2, i] = k2 * p
        s.jac[3, i] = k2 * g
        s.factor[0, i] = k1 * n
        s.factor[1, i] = zero
        s.factor[2, i] = zero
        s.factor[3, i] = k2 * n
        s.vec[0, i] *= k1
        s.vec[1, i] *= k2
        s.vec[2, i] *= k1
        s.vec[3, i] *= k2
