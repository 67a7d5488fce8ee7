"""Read-outs: from features and inputs to a prediction, and from a label to the gradient of the loss.

    o = V phi + U x                     V = `out` [K, H], U = `skip` [K, J] (its last column is the bias)
    binary      p = sigmoid(o),         L = -log p(y),            dL/do = p - y
    multi-class p = softmax(o),         L = -log p_y,             dL/do = p - onehot(y)
    regression  y = base + scale o,     L = Huber((y - base) / scale - o),  dL/do = o - (y - base) / scale, bounded
with base the key's last label and scale the running deviation of its changes.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import (
    BINARY,
    C_CLASSES,
    H_LABEL,
    H_LABELS,
    MULTICLASS,
    REGRESSION,
    T_AGREEMENT,
    T_CHANGE_SQ,
    T_CHANGES,
    T_LABEL_MEAN,
    T_LABELS,
    T_MISSED,
    T_MOVED,
    T_POWER,
)
from kernels.cpu.numerics import INLINE, dot, exp, sigmoid


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
def base_of(config, shared, head):
    """The key's last label; for a new key NaN, or the running mean of all labels where a regression starts from it."""
    if head[H_LABELS] > 0:
        return head[H_LABEL]
    return shared.target[T_LABEL_MEAN] if config.task == REGRESSION else math.nan


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


@nb.njit(**INLINE)
def predict(config, shared, base, phi, x, s):
    """Leaves logits (or class probabilities) in `s.logits` and returns (value, code)."""
    if config.task == MULTICLASS:
        classes = shared.counters[C_CLASSES]
        if classes == 0:
            return 0.0, -1
        logits(shared, phi, x, config.hidden, config.width, classes, s.logits)
        softmax(s.logits, classes)
        best = 0
        for k in range(1, classes):
            if s.logits[k] > s.logits[best]:
                best = k
        return s.logits[best], best
    logits(shared, phi, x, config.hidden, config.width, 1, s.logits)
    if config.task == BINARY:
        p = sigmoid(s.logits[0])
        return p, 1 if p >= 0.5 else 0
    return base + trust(shared.target) * math.sqrt(shared.target[T_CHANGE_SQ]) * s.logits[0], -1


@nb.njit(**INLINE)
def observe_change(config, shared, head, y):
    """Moves the running deviation of the change and the running mean of the label by one label."""
    if config.task != REGRESSION:
        return
    t = shared.target
    if head[H_LABELS] > 0:
        change = y - head[H_LABEL]
        t[T_CHANGES] += 1.0
        t[T_CHANGE_SQ] += (change * change - t[T_CHANGE_SQ]) / min(t[T_CHANGES], config.window)
    t[T_LABELS] += 1.0
    t[T_LABEL_MEAN] += (y - t[T_LABEL_MEAN]) / min(t[T_LABELS], config.window)


@nb.njit(**INLINE)
def gradient(config, shared, base, y, s):
    """Writes dL/do to `s.d_logits` and returns (rows, finite): how many logits there are, and whether all are finite.

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
        scale = math.sqrt(shared.target[T_CHANGE_SQ])
        residual = s.logits[0] - (y - base) / scale if scale > 0.0 else 0.0
        bound = config.residual_clip
        if math.isfinite(residual):
            observe_agreement(config, shared.target, s.logits[0], s.logits[0] - residual)
        residual = bound if residual > bound else residual
        residual = -bound if residual < -bound else residual
        s.d_logits[0] = residual
        return 1, math.isfinite(residual)
    s.d_logits[0] = sigmoid(s.logits[0]) - y
    return 1, math.isfinite(s.d_logits[0])


@nb.njit(**INLINE)
def backward(shared, rows, hidden, s, d_phi):
    """Writes dL/dphi = V^T dL/do to `d_phi`."""
    zero = shared.out.dtype.type(0)
    for i in range(hidden):
        d_phi[i] = zero
    for k in range(rows):
        g = shared.out.dtype.type(s.d_logits[k])
        v = shared.out[k]
        for i in range(hidden):
            d_phi[i] += g * v[i]
