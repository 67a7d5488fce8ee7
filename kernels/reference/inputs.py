"""From an event's features to the inputs of the cell, in float64: standardised or not, and the previous label."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.layout import (
    BINARY,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_SEEN,
    REGRESSION,
    S_MEAN,
    S_SPAN,
    S_VARIANCE,
    T_CHANGE_SQ,
    U_CENTRE,
    U_DEVIATION,
    U_SCALE,
    Config,
    Shared,
)

FLAT = 1e-14
"""A variance below this share of the squared mean counts as none."""

REACH, ALONE, LASTS, APART = 8.0, 4.0, 32.0, 100.0
FADES, RECURS = 512.0, 4.0
"""As in `kernels.cpu.inputs`."""


def clipped(value: float, bound: float) -> float:
    """`value` in [-bound, bound]; NaN stays NaN."""
    return math.copysign(bound, value) if abs(value) > bound else value


def _moved(mean: float, variance: float, delta: float, weight: float) -> tuple[float, float]:
    return mean + weight * delta, (1.0 - weight) * (variance + weight * (delta * delta))


def _reach(span: float) -> float:
    return REACH * (1.0 + 92.0 / (span * span * span))


def _within(value: float, mean: float, variance: float, span: float) -> bool:
    """Whether a value is at the level."""
    square = (value - mean) * (value - mean)
    if square <= REACH * REACH * variance:
        return True
    if not variance > FLAT * (mean * mean):
        return square <= FLAT * (mean * mean)
    return abs(value - mean) <= _reach(span) * math.sqrt(variance)


def _founded(config: Config, span: float, mean: float, other: float, value: float) -> tuple[float, float, float]:
    """Span, mean and variance where `other` and `value` are the first two that differ from the constant `mean`."""
    if span == 1.0 and abs(value - other) < min(abs(value - mean), abs(other - mean)):
        mean, near, rest = other, value, mean
    else:
        near, rest = (value, other) if abs(value - mean) < abs(other - mean) else (other, value)
    variance = 0.0
    for one in (near, rest):
        if one is near or abs(one - mean) <= _reach(span) * math.sqrt(variance):
            mean, variance = _moved(mean, variance, one - mean, 1.0 / min(span + 1.0, config.window))
            span += 1.0
    return span, mean, variance


def moved(  # noqa: PLR0911 - a return for every rule
    config: Config, statistics: np.ndarray, value: float, target: bool, replaces: bool = False
) -> tuple[np.ndarray, bool]:
    """The statistics with `value`, and whether it is at the level; see `kernels.cpu.inputs.standardise`."""
    count, mean, variance, span, far, far_mean, far_variance, *recurrence = statistics.tolist()
    value = clipped(value, 1e150)
    flat = not variance > FLAT * (mean * mean)
    if span == 0.0:
        return np.array([count + 1.0, value, 0.0, 1.0, 0.0, far_mean, far_variance, *recurrence]), True
    if _within(value, mean, variance, span):
        mean, variance = _moved(mean, variance, value - mean, 1.0 / min(span + 1.0, config.window))
        variance = variance if variance > 1e-280 else 0.0
        if far > 0.0 and variance > FLAT * (mean * mean):
            far -= 1.0
        elif far > 0.0:
            far, far_variance = 0.0, -1.0
        return np.array([count + 1.0, mean, variance, span + 1.0, far, far_mean, far_variance, *recurrence]), True
    if flat and (far_variance < 0.0 or (span == 1.0 and far == 1.0)):
        span, mean, variance = _founded(config, span, mean, far_mean, value)
        new = np.array([count + 1.0, mean, variance, span, 0.0, 0.0, 0.0, *recurrence])
        return new, abs(value - mean) <= _reach(span) * math.sqrt(variance)
    most, share = REACH * math.sqrt(variance), 1.0 / min(span + 1.0, config.window)
    if target and far == 0.0:
        before, run_at = recurrence
        recurrence = [before * max(0.0, 1.0 - (count - run_at) / FADES) + 1.0, count]
        if recurrence[0] >= RECURS:
            most = max(most, 2.0 * abs(far_mean - mean))
            share = share if before >= RECURS else share * recurrence[0]
    if far == 0.0:
        far, far_mean, far_variance = 1.0, value, 0.0
    else:
        far += 1.0
        widest = REACH * math.sqrt(far_variance) if far > 2.0 and far_variance > 0.0 else math.inf
        far_mean, far_variance = _moved(far_mean, far_variance, clipped(value - far_mean, widest), 1.0 / far)
    if far >= min(LASTS, span + 1.0):
        delta, constant = far_mean - mean, not far_variance > 0.0
        apart = delta * delta > APART * APART * max(variance, far_variance)
        if (apart or replaces) and not constant:
            return np.array([count + 1.0, far_mean, far_variance, far, 0.0, 0.0, 0.0, *recurrence]), True
        if apart and not flat:
            return np.array([count + 1.0, mean, variance, span, far - 1.0, far_mean, far_variance, *recurrence]), False
        share = far / (min(span, config.window) + far)
        variance = variance + share * (far_variance - variance) + (1.0 - share) * (share * (delta * delta))
        return np.array([count + 1.0, mean + share * delta, variance, span + far, 0.0, 0.0, 0.0, *recurrence]), True
    if far <= ALONE and not flat:
        mean, variance = _moved(mean, variance, clipped(value - mean, most), min(0.5, share))
    return np.array([count + 1.0, mean, variance, span, far, far_mean, far_variance, *recurrence]), False


def standardise(
    config: Config, statistics: np.ndarray, value: float, commit: bool, target: bool = False
) -> float:
    """(value - mean) / deviation over the last `window` events, this one included; 0 for a missing value.

    `statistics` float64 [9] are those of the column; with `commit` it takes the value in.
    """
    if math.isnan(value):
        return 0.0
    new, at_level = moved(config, statistics, value, target)
    value, mean, variance = clipped(value, 1e150), new[S_MEAN], new[S_VARIANCE]
    above = value - statistics[S_MEAN]
    if commit:
        statistics[:] = new
    if not at_level:
        return math.copysign(min(math.sqrt(new[S_SPAN]), config.clip), above)
    if not variance > FLAT * (mean * mean):
        return 0.0
    return clipped((value - mean) / math.sqrt(variance), config.clip)


def entry(config: Config, statistics: np.ndarray, value: float, commit: bool) -> float:
    """A feature as the cell sees it: standardised, or clipped as it comes, the running mean where it is missing."""
    z = standardise(config, statistics, value, commit)
    return z if config.scaled else clipped(float(statistics[S_MEAN]) if math.isnan(value) else value, config.clip)


def prepare(
    config: Config, shared: Shared, head: np.ndarray, unit: np.ndarray, features: np.ndarray, commit: bool
) -> list[float]:
    """The J inputs of one event: features, the key's previous label, its age, the constant 1."""
    x = [entry(config, shared.scaler[j], float(features[j]), commit) for j in range(config.features)]
    labelled = head[H_LABELS] > 0
    if config.label_inputs:
        previous = [0.0] * config.label_inputs
        if labelled and config.task == BINARY:
            previous[0] = 2.0 * head[H_LABEL] - 1.0
        elif labelled and config.task == REGRESSION:
            scale = math.sqrt(shared.target[T_CHANGE_SQ])
            previous[0] = standardise(config, shared.scaler[config.features], float(head[H_LABEL]), commit, True)
            if unit[U_SCALE] > 0:
                scale = unit[U_SCALE]
                previous[0] = clipped((head[H_LABEL] - unit[U_CENTRE]) / unit[U_DEVIATION], config.clip)
            previous[1] = clipped(head[H_CHANGE] / scale, config.clip) if scale > 0.0 else 0.0
        elif labelled:
            previous[int(head[H_LABEL]) % config.label_inputs] = 1.0
        x += previous
    if config.age_input:
        age = head[H_SEEN] - head[H_LABEL_AT]
        x.append(age / (age + 10.0) if labelled else 1.0)
    return [*x, 1.0]
