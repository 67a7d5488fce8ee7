"""A linear head, trained by the optimizer of the fold.

    o = V phi + U x                     V = `out` [K, H], U = `skip` [K, J] (its last column is the bias)
    binary      p = sigmoid(o),         L = -log p(y),            dL/do = p - y
    multi-class p = softmax(o),         L = -log p_y,             dL/do = p - onehot(y)
    regression  y = base + a scale o,   L = Huber((y - base) / scale - o),  dL/do = o - (y - base) / scale, bounded
with base and scale as in `kernels.cpu.heads`, and a in [0, 1] how far o has agreed with the changes so far (`trust`).

The gradient that a label of a regression gives is at most `gradient_clip` times as long as those of late, before any
moment of it is taken (`clip_gradient`): one of a hundred times that would hold Adam down for thousands of events.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import error, predict, step
from kernels.cpu.layout import (
    BINARY,
    C_CLASSES,
    EKF,
    MULTICLASS,
    REGRESSION,
    T_AGREEMENT,
    T_GRADIENT,
    T_LABELS,
    T_MISSED,
    T_MOVED,
    T_POWER,
)
from kernels.cpu.numerics import INLINE, dot, exp, sigmoid
from kernels.cpu.optimizers import shrink_row, step_row

CLIP_WINDOW, LEAST_MEAN = 200.0, 0.005
"""Labels over which the mean length of gradients runs, and its least for features of length 1, in deviations."""


class Linear(NamedTuple):
    """A linear head; its weights are `out` and `skip` of `kernels.cpu.layout.Shared`."""


Linear.PER_CLASS = {}  # type: ignore[attr-defined]
Linear.EXCHANGED = {}  # type: ignore[attr-defined]


@nb.njit(**INLINE)
def logits(shared, phi, x, hidden, width, classes, out):
    """Writes o [classes] in float64."""
    zero = shared.out.dtype.type(0)
    for k in range(classes):
        out[k] = dot(shared.out[k], phi, hidden, zero) + dot(shared.skip[k], x, width, zero)


@nb.njit(**INLINE)
def softmax(o, classes):
    """In place; the largest logit is subtracted first."""
    top = o[0]
    for k in range(1, classes):
        top = o[k] if o[k] > top else top
    total = 0.0
    for k in range(classes):
        o[k] = exp(o[k] - top)
        total += o[k]
    for k in range(classes):
        o[k] /= total


@nb.njit(**INLINE)
def likeliest(p, classes):
    """The first of the largest."""
    best = 0
    for k in range(1, classes):
        if p[k] > p[best]:
            best = k
    return best


@nb.njit(**INLINE)
def slope(target):
    """The slope of changes on outputs so far, within [0, 1]."""
    agreement, power = target[T_AGREEMENT], target[T_POWER]
    if not agreement > 0.0:
        return 0.0
    return agreement / power if agreement < power else 1.0


@nb.njit(**INLINE)
def trust(target):
    """How much of the predicted change is said: the slope; nothing while a forecast of no change would miss less."""
    return slope(target) if target[T_MISSED] < target[T_MOVED] else 0.0


@nb.njit(**INLINE)
def observe_agreement(config, target, output, change):
    """Moves the running means behind `trust` by one label: the read-out's output, and the change in deviations."""
    change = config.residual_clip if change > config.residual_clip else change
    change = -config.residual_clip if change < -config.residual_clip else change
    weight = 1.0 / min(target[T_LABELS], config.window)
    target[T_MISSED] += weight * (abs(change - slope(target) * output) - target[T_MISSED])
    target[T_MOVED] += weight * (abs(change) - target[T_MOVED])
    target[T_AGREEMENT] += weight * (output * change - target[T_AGREEMENT])
    target[T_POWER] += weight * (output * output - target[T_POWER])


@implements(predict, Linear)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    s.spread[0] = math.nan
    s.spread[1] = math.nan
    s.spread[2] = math.nan
    if config.task == MULTICLASS:
        classes = shared.counters[C_CLASSES]
        if classes == 0:
            return 0.0, -1
        logits(shared, phi, x, config.hidden, config.width, classes, s.logits)
        softmax(s.logits, classes)
        best = likeliest(s.logits, classes)
        s.spread[0] = s.logits[best] * (1.0 - s.logits[best])
        return s.logits[best], best
    logits(shared, phi, x, config.hidden, config.width, 1, s.logits)
    if config.task == BINARY:
        p = sigmoid(s.logits[0])
        s.logits[0] = 1.0 - p
        s.logits[1] = p
        s.spread[0] = p * (1.0 - p)
        return p, 1 if p >= 0.5 else 0
    return base + trust(shared.target) * s.unit[0] * s.logits[0], -1


@nb.njit(**INLINE)
def clip_gradient(config, target, phi, x, s):
    """Bounds dL/do so that the gradient of the read-out is at most `gradient_clip` times as long as those of late."""
    zero = phi.dtype.type(0)
    squares = float(dot(phi, phi, config.hidden, zero)) + float(dot(x, x, config.width, zero))
    length, d, usual = math.sqrt(squares), s.d_logits[0], target[T_GRADIENT]
    size = abs(d) * length
    if not math.isfinite(size):
        return
    most = config.gradient_clip * max(usual, LEAST_MEAN * length)
    if usual > 0.0 and size > most:
        s.d_logits[0] = d * (most / size)
        size = most
    target[T_GRADIENT] = usual + (size - usual) / min(target[T_LABELS], CLIP_WINDOW) if usual > 0.0 else size


@implements(error, Linear)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    rows, finite = gradient(config, shared, base, y, s)
    if config.task == REGRESSION and config.gradient_clip > 0.0 and config.optimizer != EKF and finite:
        clip_gradient(config, shared.target, phi, x, s)
    zero = shared.out.dtype.type(0)
    for i in range(config.hidden):
        d_phi[i] = zero
    for k in range(rows):
        g = shared.out.dtype.type(s.d_logits[k])
        v = shared.out[k]
        for i in range(config.hidden):
            d_phi[i] += g * v[i]
    return rows, finite


@nb.njit(**INLINE)
def gradient(config, shared, base, y, s):
    """Writes dL/do to `s.d_logits` and returns (rows, finite).

    For regression the deviation already includes this label, so the first residuals are bounded by sqrt(n).
    """
    if config.task == MULTICLASS:
        classes = shared.counters[C_CLASSES]
        finite = True
        for k in range(classes):
            s.d_logits[k] = s.logits[k] - (1.0 if k == int(y) else 0.0)
            finite = finite and math.isfinite(s.d_logits[k])
        return classes, finite
    if config.task == REGRESSION:
        scale = s.unit[0]
        residual = s.logits[0] - (y - base) / scale if scale > 0.0 else 0.0
        bound = config.residual_clip
        if math.isfinite(residual):
            observe_agreement(config, shared.target, s.logits[0], s.logits[0] - residual)
        residual = bound if residual > bound else residual
        residual = -bound if residual < -bound else residual
        s.d_logits[0] = residual
        return 1, math.isfinite(residual)
    s.d_logits[0] = s.logits[1] - y
    return 1, math.isfinite(s.d_logits[0])


@implements(step, Linear)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    for k in range(rows):
        g = shared.out.dtype.type(s.d_logits[k])
        for i in range(config.hidden):
            s.row[i] = g * phi[i]
        shrink_row(config, shared.out[k], 0, config.hidden)
        step_row(config, shared.out[k], shared.m_out[k], shared.v_out[k], 0, s.row, config.hidden, r, q)
        for j in range(config.width):
            s.row[j] = g * x[j]
        shrink_row(config, shared.skip[k], 0, config.width - 1)
        step_row(config, shared.skip[k], shared.m_skip[k], shared.v_skip[k], 0, s.row, config.width, r, q)
