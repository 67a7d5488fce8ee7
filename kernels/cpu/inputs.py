"""From an event's features to the inputs of the cell: standardised or not, and the previous label."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import (
    BINARY,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_SEEN,
    REGRESSION,
    T_CHANGE_SQ,
)
from kernels.cpu.numerics import INLINE

_FLAT = 1e-14
"""A variance below this share of the squared mean is rounding, not variation: the column counts as constant."""


@nb.njit(**INLINE)
def clipped(value, bound):
    """`value` within [-bound, bound]; NaN stays."""
    value = bound if value > bound else value
    return -bound if value < -bound else value


@nb.njit(**INLINE)
def standardise(config, scaler, column, value, commit):
    """(value - mean) / deviation, clipped, with the statistics including `value` itself.

    Including the value bounds the first results by sqrt(n) (the first one is 0), so a scale of nearly zero cannot
    occur. Means and variances run over `window` events (exact up to there, exponential after). NaN is a missing
    value: it leaves the statistics alone and gives 0. `commit=False` changes nothing and returns the same bits.
    """
    if math.isnan(value):
        return 0.0
    count = scaler[column, 0] + 1.0
    weight = 1.0 / count if count < config.window else 1.0 / config.window  # of all columns then one division
    delta = value - scaler[column, 1]
    mean = scaler[column, 1] + weight * delta
    variance = (1.0 - weight) * (scaler[column, 2] + weight * (delta * delta))
    if commit:
        scaler[column, 0] = count
        scaler[column, 1] = mean
        scaler[column, 2] = variance
    if not variance > _FLAT * (mean * mean):
        return 0.0
    return clipped((value - mean) / math.sqrt(variance), config.clip)


@nb.njit(**INLINE)
def entry(config, scaler, column, value, commit):
    """A feature standardised, or as it comes with its running mean where it is missing; the moments run either way."""
    z = standardise(config, scaler, column, value, commit)
    if config.scaled > 0:
        return z
    return scaler[column, 1] if math.isnan(value) else value


@nb.njit(**INLINE)
def prepare(config, shared, head, features, x, commit):
    """Writes the J inputs of one event to `x`: features, previous label, its age, the constant 1."""
    d = config.features
    for j in range(d):
        x[j] = clipped(entry(config, shared.scaler, j, float(features[j]), commit), config.clip)
    at = d
    labelled = head[H_LABELS] > 0
    if config.label_inputs > 0:
        for j in range(config.label_inputs):
            x[at + j] = 0.0
        if labelled and config.task == BINARY:
            x[at] = 2.0 * head[H_LABEL] - 1.0
        elif labelled and config.task == REGRESSION:
            x[at] = standardise(config, shared.scaler, d, head[H_LABEL], commit)
            scale = math.sqrt(shared.target[T_CHANGE_SQ])
            change = head[H_CHANGE] / scale if scale > 0.0 else 0.0
            x[at + 1] = clipped(change, config.clip)
        elif labelled:
            x[at + int(head[H_LABEL]) % config.label_inputs] = 1.0
        at += config.label_inputs
    if config.age_input > 0:
        age = head[H_SEEN] - head[H_LABEL_AT]
        x[at] = age / (age + 10.0) if labelled else 1.0
        at += 1
    x[at] = 1.0
