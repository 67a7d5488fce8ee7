"""SGD and Adam (Kingma & Ba 2015) inside a fold.

Adam's bias corrections are folded into two scalars of the step:
    W -= r m / (sqrt(v) + q)    with r = rate sqrt(1 - b2^t) / (1 - b1^t),  q = epsilon sqrt(1 - b2^t)
which equals W -= rate m_hat / (sqrt(v_hat) + epsilon).
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from kernels.cpu.layout import ADAM
from kernels.cpu.numerics import INLINE


@nb.njit(**INLINE)
def step_scalars(config, decay):
    """Advances beta^t in `decay` and returns (r, q)."""
    if config.optimizer != ADAM:
        return config.rate, 0.0
    decay[0] *= config.beta1
    decay[1] *= config.beta2
    root = math.sqrt(1.0 - decay[1])
    return config.rate * root / (1.0 - decay[0]), config.epsilon * root


@nb.njit(**INLINE)
def step(config, w, m, v, scale, direction, r, q):
    """One optimizer step on the vectors w, m, v (same length) with the gradient `scale * direction`."""
    one = w.dtype.type(1)
    rate = w.dtype.type(r)
    floor = w.dtype.type(q)
    b1 = w.dtype.type(config.beta1)
    b2 = w.dtype.type(config.beta2)
    c1 = one - b1
    c2 = one - b2
    c = w.dtype.type(scale)
    if config.optimizer == ADAM:
        for i in range(len(w)):
            g = c * direction[i]
            mi = b1 * m[i] + c1 * g
            vi = b2 * v[i] + c2 * (g * g)
            m[i] = mi
            v[i] = vi
            w[i] -= rate * mi / (np.sqrt(vi) + floor)
    else:
        for i in range(len(w)):
            w[i] -= rate * (c * direction[i])


@nb.njit(**INLINE)
def step_by_unit(config, w, m, v, error, trace, units, r, q):
    """One optimizer step on w [A N] with the gradient `error[i] * trace[a N + i]`."""
    one = w.dtype.type(1)
    rate = w.dtype.type(r)
    floor = w.dtype.type(q)
    b1 = w.dtype.type(config.beta1)
    b2 = w.dtype.type(config.beta2)
    c1 = one - b1
    c2 = one - b2
    adam = config.optimizer == ADAM
    for a in range(0, len(w), units):
        for i in range(units):
            k = a + i
            g = error[i] * trace[k]
            if adam:
                mk = b1 * m[k] + c1 * g
                vk = b2 * v[k] + c2 * (g * g)
                m[k] = mk
                v[k] = vk
                w[k] -= rate * mk / (np.sqrt(vk) + floor)
            else:
                w[k] -= rate * g
