"""SGD, Adam (Kingma & Ba 2015), RMSprop (Tieleman & Hinton 2012) and ObGD (Elsayed et al. 2024) inside a fold.

Adam's bias corrections are folded into two scalars of the step:
    W -= r m / (sqrt(v) + q)    with r = rate sqrt(1 - b2^t) / (1 - b1^t),  q = epsilon sqrt(1 - b2^t)
which equals W -= rate m_hat / (sqrt(v_hat) + epsilon). RMSprop is the same with m = g and without corrections.

ObGD bounds the step so that it does not overshoot: with L1 = sum |g| over all weights it takes the step
    rate / max(1, rate kappa max(1, |delta|) L1 / |delta|) g
where delta is the error of a regression (g = delta dy/dw) and 1 for a classification. Clipping scales the gradient to
the norm `clip_norm` at most. Both need the whole gradient first: `scale_of`.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np
from numba.extending import overload

from kernels.cpu.layout import ADAM, OBGD, REGRESSION, RMSPROP
from kernels.cpu.numerics import INLINE, fma

FADED = 1e-300
"""Where beta^t stays for ever: 1 - beta^t is 1 long before, and of denormal numbers every step would be slow."""


@nb.njit(**INLINE)
def step_scalars(config, decay):
    """Advances beta^t in `decay` and returns (r, q)."""
    if config.optimizer == RMSPROP:
        return config.rate, config.epsilon
    if config.optimizer != ADAM:
        return config.rate, 0.0
    decay[0] = max(FADED, decay[0] * config.beta1)
    decay[1] = max(FADED, decay[1] * config.beta2)
    root = math.sqrt(1.0 - decay[1])
    return config.rate * root / (1.0 - decay[0]), config.epsilon * root


@nb.njit(**INLINE)
def needs_whole_gradient(config):
    """Whether the size of a step depends on the gradient of all weights together."""
    return config.optimizer == OBGD or config.clip_norm > 0.0


@nb.njit(**INLINE)
def scale_of(config, largest_error, absolute, squares):
    """By what the gradient is multiplied, given sum |g| and sum g^2 over all weights and |dL/do|."""
    scale = 1.0
    if config.clip_norm > 0.0 and squares > config.clip_norm * config.clip_norm:
        scale = config.clip_norm / math.sqrt(squares)
    if config.optimizer == OBGD:
        delta = largest_error if config.task == REGRESSION else 1.0
        sensitivity = scale * absolute / delta if delta > 0.0 else 0.0
        scale /= max(1.0, config.rate * config.kappa * max(1.0, scale * delta) * sensitivity)
    return scale


@nb.njit(**INLINE)
def shrink_row(config, w, at, size):
    """Weight decay, decoupled from the gradient (Loshchilov & Hutter 2019); never on the recurrence."""
    if config.decay > 0.0:
        keep = w.dtype.type(1.0 - config.rate * config.decay)
        for i in range(at, at + size):
            w[i] *= keep


def least_of(w):
    """The least |g| that Adam and RMSprop tell from 0, by the dtype of the weights (compiled code only)."""
    raise NotImplementedError("least_of is for compiled code")


@overload(least_of, jit_options=INLINE)  # type: ignore[arg-type]
def _least_of(w):
    least = 1e-17 if w.dtype == nb.float32 else 1e-150
    return lambda w: least


@nb.njit(**INLINE)
def adam_scalars(config, w, r, q):
    """What `adam_element` takes of the step, in the dtype of w: (r, q, b1, 1 - b1, b2, 1 - b2, least |g|, 0)."""
    kind = w.dtype.type
    b1 = kind(config.beta1)
    b2 = kind(config.beta2)
    return kind(r), kind(q), b1, kind(1) - b1, b2, kind(1) - b2, kind(least_of(w)), kind(0)


@nb.njit(**INLINE)
def adam_element(scalars, m, v, g):
    """New moments of one weight with the gradient g, and what is taken from the weight.

    The second moment is of |g| + `least`, which is |g| but where that is below the epsilon of any spec: squares there
    would be denormal numbers, on which processors are slow. So would be a first moment that fades where no gradient
    is left: below `least` it is 0.
    """
    r, q, b1, c1, b2, c2, least, zero = scalars
    m = fma(b1, m, c1 * g)
    m = zero if abs(m) < least else m
    size = abs(g) + least
    v = fma(b2, v, c2 * (size * size))
    return m, v, r * m / (np.sqrt(v) + q)


@nb.njit(**INLINE)
def step_row(config, w, m, v, at, g, size, r, q):
    """One optimizer step on the weights `at` to `at + size` of w with the gradient g[:size]."""
    scalars = adam_scalars(config, w, r, q)
    if config.optimizer == ADAM:
        for i in range(size):
            k = np.uintp(at + i)
            m[k], v[k], change = adam_element(scalars, m[k], v[k], g[i])
            w[k] -= change
    elif config.optimizer == RMSPROP:
        rate, floor, _, _, b2, c2, least, _ = scalars
        for i in range(size):
            k = np.uintp(at + i)
            gi = abs(g[i]) + least
            vi = fma(b2, v[k], c2 * (gi * gi))
            v[k] = vi
            w[k] -= rate * g[i] / (np.sqrt(vi) + floor)
    else:
        rate = w.dtype.type(r)
        for i in range(size):
            k = np.uintp(at + i)
            w[k] = fma(-rate, g[i], w[k])
