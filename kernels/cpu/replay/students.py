"""A small network for each class that learns to say what a fixed random network says (see `learners.methods.pec`).

    g(x) = W2' gelu(gamma n + beta) + b2,   n = (z - mean z) / sqrt(var z + 1e-5),   z = W1' x + b1

with J inputs, H units and Q outputs; its weights are one flat row: W1 [J, H], b1 [H], gamma [H], beta [H], W2 [H, Q],
b2 [Q]. gelu in its form by tanh: u (1 + tanh(sqrt(2/pi) (u + 0.044715 u^3))) / 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.numerics import INLINE, JIT, dot, tanh
from kernels.cpu.optimizers import adam_element, least_of
from kernels.cpu.products import product

_EPSILON = 1e-5
_ROOT = math.sqrt(2.0 / math.pi)
BETA1, BETA2, ADAM_EPSILON = 0.9, 0.999, 1e-8


class Work(NamedTuple):
    """Working memory of networks of up to H units and Q outputs."""

    z: np.ndarray
    n: np.ndarray
    a: np.ndarray
    d: np.ndarray
    """[H]."""
    out: np.ndarray
    d_out: np.ndarray
    """[Q]."""
    gradient: np.ndarray
    """[numbers of a student]."""

    @classmethod
    def make(cls, units: int, outputs: int, numbers: int, dtype: np.dtype) -> Work:
        """Zeros."""
        return cls(*(np.zeros(size, dtype) for size in (units, units, units, units, outputs, outputs, numbers)))


def numbers(inputs: int, units: int, outputs: int) -> int:
    """Weights of one network."""
    return inputs * units + 3 * units + units * outputs + outputs


@nb.njit(**INLINE)
def _go_on(w, inputs, units, outputs, s):
    """Writes g(x) to `s.out`, and what the way back needs to `s`, from W1' x in `s.z`; returns 1 / deviation of z."""
    kind = w.dtype.type
    b1 = inputs * units
    gamma, beta, w2 = b1 + units, b1 + 2 * units, b1 + 3 * units
    mean, square = 0.0, 0.0
    for u in range(units):
        s.z[u] += w[b1 + u]
        mean += s.z[u]
    mean /= units
    for u in range(units):
        square += (s.z[u] - mean) * (s.z[u] - mean)
    scale = 1.0 / math.sqrt(square / units + _EPSILON)
    for u in range(units):
        s.n[u] = kind((s.z[u] - mean) * scale)
        y = w[gamma + u] * s.n[u] + w[beta + u]
        inner = tanh(kind(_ROOT) * (y + kind(0.044715) * y * y * y))
        s.a[u] = kind(0.5) * y * (kind(1) + inner)
        s.d[u] = kind(0.5) * (kind(1) + inner) + kind(0.5) * y * (kind(1) - inner * inner) * kind(_ROOT) * (
            kind(1) + kind(3 * 0.044715) * y * y
        )
    product(w, w2, s.a, outputs, units, s.out)
    for q in range(outputs):
        s.out[q] += w[w2 + units * outputs + q]
    return scale


@nb.njit(**INLINE)
def _forward(w, x, units, outputs, s):
    product(w, 0, x, units, len(x), s.z)
    return _go_on(w, len(x), units, outputs, s)


@nb.njit(**JIT)
def says(w, inputs, first, outputs, s, out):
    """Writes g(x) of every row to `out` [n, Q], given W1' x of every row in `first` [n, H]."""
    units = first.shape[1]
    for r in range(len(first)):
        for u in range(units):
            s.z[u] = first[r, u]
        _go_on(w, inputs, units, outputs, s)
        for q in range(outputs):
            out[r, q] = s.out[q]


@nb.njit(**JIT)
def scores(w, x, wanted, units, s, out):
    """Writes -mean_q (g_c(x)_q - h(x)_q)^2 / mean_q h(x)_q^2 of every row and class to `out` [n, classes].

    Args:
        w: [classes, numbers], the students.
        x: [n, J].
        wanted: [n, Q], what the fixed network says.
        units: H.
        s: scratch.
        out: written.
    """
    outputs = wanted.shape[1]
    zero = w.dtype.type(0)
    for r in range(len(x)):
        size = max(dot(wanted[r], wanted[r], outputs, zero), 1e-30)
        for c in range(len(w)):
            _forward(w[c], x[r], units, outputs, s)
            total = zero
            for q in range(outputs):
                apart = s.out[q] - wanted[r, q]
                total += apart * apart
            out[r, c] = -total / size


@nb.njit(**JIT)
def gradient(w, x, wanted, units, s):
    """Writes the gradient of mean_q (g(x)_q - wanted_q)^2 to `s.gradient`; returns whether it is finite."""
    outputs, inputs, kind = len(wanted), len(x), w.dtype.type
    scale = _forward(w, x, units, outputs, s)
    b1 = inputs * units
    gamma, beta, w2 = b1 + units, b1 + 2 * units, b1 + 3 * units
    b2 = w2 + units * outputs
    g = s.gradient
    for q in range(outputs):
        s.d_out[q] = kind(2.0 / outputs) * (s.out[q] - wanted[q])
        g[b2 + q] = s.d_out[q]
    first, second = 0.0, 0.0
    for u in range(units):
        row = w[w2 + u * outputs : w2 + (u + 1) * outputs]
        d_y = dot(row, s.d_out, outputs, kind(0)) * s.d[u]
        for q in range(outputs):
            g[w2 + u * outputs + q] = s.a[u] * s.d_out[q]
        g[gamma + u] = d_y * s.n[u]
        g[beta + u] = d_y
        s.d[u] = d_y * w[gamma + u]
        first += s.d[u]
        second += s.d[u] * s.n[u]
    first /= units
    second /= units
    for u in range(units):
        s.d[u] = kind((s.d[u] - first - s.n[u] * second) * scale)
        g[b1 + u] = s.d[u]
    for j in range(inputs):
        xj = x[j]
        for u in range(units):
            g[j * units + u] = xj * s.d[u]
    bad = False
    for i in range(len(g)):
        bad |= not (abs(g[i]) <= 1e18)
    return not bad


@nb.njit(**JIT)
def learn(w, m, v, x, wanted, units, steps, rate, s):
    """One step of Adam (Kingma & Ba 2015) of one student, its step number `steps`; False: not finite, none taken."""
    if not gradient(w, x, wanted, units, s):
        return False
    kind, g = w.dtype.type, s.gradient
    root = math.sqrt(1.0 - BETA2**steps)
    r, q = kind(rate * root / (1.0 - BETA1**steps)), kind(ADAM_EPSILON * root)
    b1, b2, one = kind(BETA1), kind(BETA2), kind(1)
    scalars = r, q, b1, one - b1, b2, one - b2, kind(least_of(w)), kind(0)
    for i in range(len(w)):
        m[i], v[i], change = adam_element(scalars, m[i], v[i], g[i])
        w[i] -= change
    return True
