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
    T_CHANGE_SQ,
    Config,
    Shared,
)

FLAT = 1e-14
"""A variance below this share of the squared mean counts as none."""


def clipped(value: float, bound: float) -> float:
    """`value` in [-bound, bound]; NaN stays NaN."""
    return math.copysign(bound, value) if abs(value) > bound else value


def standardise(config: Config, statistics: np.ndarray, value: float, commit: bool) -> float:
    """(value - mean) / deviation over the last `window` events, this one included; 0 for a missing value.

    `statistics` float64 [3] is count, mean and variance of the column; with `commit` it takes the value in.
    """
    if math.isnan(value):
        return 0.0
    count, mean, variance = (float(entry) for entry in statistics)
    weight = 1.0 / min(count + 1.0, config.window)
    delta = value - mean
    mean += weight * delta
    variance = (1.0 - weight) * (variance + weight * (delta * delta))
    if commit:
        statistics[:] = count + 1.0, mean, variance
    if not variance > FLAT * (mean * mean):
        return 0.0
    return clipped((value - mean) / math.sqrt(variance), config.clip)


def entry(config: Config, statistics: np.ndarray, value: float, commit: bool) -> float:
    """A feature as the cell sees it: standardised, or clipped as it comes, the running mean where it is missing."""
    z = standardise(config, statistics, value, commit)
    return z if config.scaled else clipped(float(statistics[1]) if math.isnan(value) else value, config.clip)


def prepare(config: Config, shared: Shared, head: np.ndarray, features: np.ndarray, commit: bool) -> list[float]:
    """The J inputs of one event: features, the key's previous label, its age, the constant 1."""
    x = [entry(config, shared.scaler[j], float(features[j]), commit) for j in range(config.features)]
    labelled = head[H_LABELS] > 0
    if config.label_inputs:
        previous = [0.0] * config.label_inputs
        if labelled and config.task == BINARY:
            previous[0] = 2.0 * head[H_LABEL] - 1.0
        elif labelled and config.task == REGRESSION:
            scale = math.sqrt(shared.target[T_CHANGE_SQ])
            previous[0] = standardise(config, shared.scaler[config.features], float(head[H_LABEL]), commit)
            previous[1] = clipped(head[H_CHANGE] / scale, config.clip) if scale > 0.0 else 0.0
        elif labelled:
            previous[int(head[H_LABEL]) % config.label_inputs] = 1.0
        x += previous
    if config.age_input:
        age = head[H_SEEN] - head[H_LABEL_AT]
        x.append(age / (age + 10.0) if labelled else 1.0)
    return [*x, 1.0]
