"""A regression's scale by key, in float64; see `kernels.cpu.heads.own`."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.layout import (
    H_LABEL,
    H_LABELS,
    LEVEL,
    OWN_CHANGE,
    OWN_LEVEL,
    S_FAR,
    S_MEAN,
    S_SPAN,
    S_VARIANCE,
    T_APART,
    T_CHANGE_SQ,
    T_CHANGES,
    T_KEYS,
    U_LATEST,
    U_SCALE,
    Config,
    Shared,
)
from kernels.reference.inputs import LASTS, REACH, clipped, moved

ALIKE, SAMPLING, LEAST_CHANGES, SPREAD_WINDOW, LATEST, TAUGHT = 0.25, 2.0, 4.0, 500.0, 300.0, 2.0
"""As in `kernels.cpu.heads.own`."""


def scale(shared: Shared, unit: np.ndarray) -> float:
    """What the changes of a key are divided by: its own deviation of them, or that of all keys."""
    return float(unit[U_SCALE]) if unit[U_SCALE] > 0 else math.sqrt(shared.target[T_CHANGE_SQ])


def observe(config: Config, shared: Shared, head: np.ndarray, own: np.ndarray, unit: np.ndarray, y: float) -> bool:
    """Takes in a label, which those of all keys have; returns whether its change waits in a run of far ones."""
    target, far = shared.target, own[OWN_CHANGE, S_FAR]
    if own[OWN_LEVEL, S_SPAN] == 0:
        target[T_KEYS] += 1
    if head[H_LABELS] > 0:
        _observe_change(config, own, unit, y - head[H_LABEL])
    own[OWN_LEVEL] = moved(config, own[OWN_LEVEL], y, True, replaces=True)[0]
    unit[:U_LATEST] = 0.0
    if target[T_KEYS] < 2:
        return False
    if own[OWN_CHANGE, S_SPAN] >= LEAST_CHANGES and _square(own[OWN_CHANGE]) > 0 and target[T_CHANGE_SQ] > 0:
        unit[:U_LATEST] = _unit(config, shared, own)
    row = own[OWN_CHANGE]
    if row[S_FAR] <= far or row[S_FAR] <= TAUGHT or row[S_VARIANCE] == 0:
        return False
    return abs(y - head[H_LABEL]) > REACH * scale(shared, unit)


def _square(row: np.ndarray) -> float:
    return float(row[S_VARIANCE] + row[S_MEAN] * row[S_MEAN])


def _observe_change(config: Config, own: np.ndarray, unit: np.ndarray, change: float) -> None:
    row, before = own[OWN_CHANGE], own[OWN_CHANGE, S_SPAN]
    row[:] = moved(config, row, change, True, replaces=True)[0]
    square, span = _square(row), row[S_SPAN]
    if span < before or span <= LEAST_CHANGES:
        unit[U_LATEST] = square
        return
    unit[U_LATEST] += (min(change * change, 64.0 * square) - unit[U_LATEST]) / min(span, LATEST)
    if span >= LATEST and 16.0 * unit[U_LATEST] < square:
        row[[S_MEAN, S_VARIANCE, S_SPAN, S_FAR]] = 0.0, unit[U_LATEST], LATEST, 0.0
        own[OWN_LEVEL, S_SPAN] = min(own[OWN_LEVEL, S_SPAN], LATEST)


def _unit(config: Config, shared: Shared, own: np.ndarray) -> tuple[float, float, float]:
    """Scale, centre and deviation of the key, zeros where it has those of all keys; notes how far apart keys are."""
    target, row, level, every = shared.target, own[OWN_CHANGE], own[OWN_LEVEL], shared.scaler[config.features + LEVEL]
    ratio = _log_ratio(_square(row), target[T_CHANGE_SQ])
    error = SAMPLING / min(row[S_SPAN], config.window)
    target[T_APART] += (ratio**2 - error - target[T_APART]) / min(target[T_CHANGES], SPREAD_WINDOW)
    apart = float(target[T_APART])
    if row[S_SPAN] >= LASTS and abs(ratio) > math.log(REACH):
        apart = max(apart, ratio**2)
    if apart <= ALIKE or level[S_VARIANCE] <= 0 or every[S_VARIANCE] <= 0:
        return 0.0, 0.0, 0.0
    faded = min(1.0, apart / ALIKE - 1.0)
    weight = faded * apart / (faded * apart + error)
    own_error = level[S_VARIANCE] / min(level[S_SPAN], config.window)
    to_all = 1.0 - faded + faded * (own_error / (every[S_VARIANCE] + own_error))
    return (
        math.sqrt(target[T_CHANGE_SQ]) * math.exp(weight * ratio),
        level[S_MEAN] + to_all * (every[S_MEAN] - level[S_MEAN]),
        math.sqrt(every[S_VARIANCE]) * math.exp(weight * _log_ratio(level[S_VARIANCE], every[S_VARIANCE])),
    )


def _log_ratio(mine: float, theirs: float) -> float:
    """The logarithm of a ratio of deviations, of their squares."""
    return 0.5 * math.log(max(clipped(mine / theirs, 1e200), 1e-200))
