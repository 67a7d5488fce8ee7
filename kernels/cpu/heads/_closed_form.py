"""What the heads share that learn in closed form: the features they see, and how they say what they predict.

They give no gradient: the cell below them stays as it was drawn, a random recurrent feature map.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.inputs import REACH, clipped
from kernels.cpu.layout import BINARY, C_CLASSES, MULTICLASS
from kernels.cpu.numerics import INLINE, exp

NORMAL_90 = 1.6448536269514722
"""Half-width of the 90 % interval of the standard normal distribution."""


@nb.njit(**INLINE)
def take(head, config, phi, x):
    """Copies the features of the head, z = [phi, x] or [phi, 1], to `head.work.z` and returns their number m."""
    z, hidden = head.work.z, config.hidden
    for i in range(hidden):
        z[i] = phi[i]
    rest = z[hidden:]
    if head.inputs == 0:
        rest[0] = 1.0
        return hidden + 1
    for j in range(config.width):
        rest[j] = x[j]
    return hidden + config.width


@nb.njit(**INLINE)
def classes_of(config, shared):
    """Number of classes known so far."""
    return shared.counters[C_CLASSES] if config.task == MULTICLASS else 2


@nb.njit(**INLINE)
def scale_of(s):
    """What the target of a regression is divided by: the running deviation of the changes of the event's key."""
    return s.unit[0]


LARGEST_TARGET = 2.0 * REACH
"""Bound on the target of a regression in deviations."""


@nb.njit(**INLINE)
def in_deviations(base, y, s):
    """The target of a regression, t = (y - base) / scale within `LARGEST_TARGET`; 0 while nothing has changed."""
    scale = scale_of(s)
    return clipped((y - base) / scale, LARGEST_TARGET) if scale > 0.0 else 0.0


@nb.njit(**INLINE)
def share_out(count, classes, o):
    """From log-odds to probabilities in `o` [classes], in place; `count` [classes] are the examples of each class.

    A class without an example has no log-odds: it gets 1 / (n + classes), the rule of succession, with n the examples
    of all; the others share the rest by softmax.
    """
    examples, unseen, top = 0.0, 0, -math.inf
    for k in range(classes):
        examples += count[k]
        if count[k] > 0.0:
            top = o[k] if o[k] > top else top
        else:
            unseen += 1
    share, total = 1.0 / (examples + classes), 0.0
    for k in range(classes):
        o[k] = exp(o[k] - top) if count[k] > 0.0 else 0.0
        total += o[k]
    rest = (1.0 - unseen * share) / total if total > 0.0 else 0.0
    for k in range(classes):
        o[k] = o[k] * rest if count[k] > 0.0 else share


@nb.njit(**INLINE)
def say_nothing(s):
    """The prediction without any class, (0, -1)."""
    for i in range(3):
        s.spread[i] = math.nan
    return 0.0, -1


@nb.njit(**INLINE)
def say_class(config, classes, s):
    """(value, code) from the probabilities in `s.logits`, and their spread; the epistemic part is not known."""
    best = 0
    for k in range(1, classes):
        best = k if s.logits[k] > s.logits[best] else best
    if config.task == BINARY:
        best = 1 if s.logits[1] >= 0.5 else 0
    value = s.logits[1] if config.task == BINARY else s.logits[best]
    s.spread[0] = value * (1.0 - value)
    s.spread[1] = s.spread[2] = math.nan
    return value, best


@nb.njit(**INLINE)
def say_number(base, mean, variance, epistemic, s):
    """(value, code) of a regression from mean, variance and epistemic variance of t, and their spread."""
    scale = scale_of(s)
    s.spread[0] = scale * scale * variance
    s.spread[1] = scale * scale * epistemic
    s.spread[2] = NORMAL_90 * scale * math.sqrt(variance)
    return base + scale * mean, -1


@nb.njit(**INLINE)
def is_finite(z, m, y):
    """Whether features and label are finite, so that they may be learned."""
    finite = math.isfinite(y)
    for i in range(m):
        finite = finite and math.isfinite(z[i])
    return finite


@nb.njit(**INLINE)
def features_of(head, config):
    """m, the number of features of the head."""
    return config.hidden + (config.width if head.inputs else 1)


@nb.njit(**INLINE)
def no_gradient(head, config, base, y, d_phi):
    """What `error` of a head without gradient does: zero to `d_phi`; returns (0, whether the label may be learned)."""
    for i in range(config.hidden):
        d_phi[i] = d_phi.dtype.type(0)
    return 0, is_finite(head.work.z, features_of(head, config), y)
