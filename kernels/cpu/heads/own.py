"""A regression's scale by key: that of all keys is the prior, a key's own comes in as it is earned (empirical Bayes).

    own     running moments of the key's own changes and labels, each robust as those of all (`standardise_own`)
    apart   running mean of l^2 - c / n at the labels of keys with `LEAST_CHANGES` changes n, each with the weight
            1 / min(changes of all keys, `SPREAD_WINDOW`), l = log(own / shared deviation of changes): the variance of
            log-scales between keys, less what sampling alone would show (c / n, `SAMPLING`)
    weight  w = b / (b + c / n), b = apart, faded in between `ALIKE` and twice as much; b = l^2 at once where that is
            larger and beyond `FAR_APART`
    unit    shared deviation x exp(w l); so too the deviation of the key's labels, and their centre
With one key, or while the scales of keys are no further apart than `ALIKE`, all have the shared scale, bit for bit.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads._filter import log
from kernels.cpu.inputs import LASTS, REACH, standardise_own
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
    U_CENTRE,
    U_DEVIATION,
    U_LATEST,
    U_SCALE,
)
from kernels.cpu.numerics import CALL, INLINE, exp

ALIKE = 0.25
"""Variance between the log-scales of keys up to which they share one: they are then within a factor of 1.6 of it."""

SAMPLING = 2.0
"""c: the log of a deviation from n values varies by (kurtosis - 1) / (4 n), 0.5 / n of normal ones; here tails are."""

FAR_APART = math.log(REACH) ** 2
"""Squared log-ratio beyond which a key's own scale counts although those of all keys are still alike."""

LEAST_CHANGES = 4.0
"""Changes of a key that tell a deviation."""

TAUGHT = 2.0
"""Labels of a run of far changes that are learned; those that follow wait until the run has lasted."""

SPREAD_WINDOW = 500.0
"""Changes of all keys over which `apart` runs."""

LATEST = 300.0
"""Changes of a key over which the mean square of the latest runs, which notices that the scale has fallen."""

FALLEN = 1.0 / 16.0
"""Share of the second moment of the key's changes below which that of the latest takes its place."""

_MOST_RATIO = 1e200
"""Bound on the ratio of two second moments, either way."""


@nb.njit(**INLINE)
def _half_log(ratio):
    """log(ratio) / 2 within bounds."""
    ratio = _MOST_RATIO if ratio > _MOST_RATIO else ratio
    return 0.5 * log(ratio if ratio > 1.0 / _MOST_RATIO else 1.0 / _MOST_RATIO)


@nb.njit(**INLINE)
def _observe_moments(config, head, own, unit, y):
    """Moves the key's own moments by a label; those that have become far too large fall to the latest."""
    if head[H_LABELS] > 0:
        row = own[OWN_CHANGE]
        change, before = y - head[H_LABEL], row[S_SPAN]
        standardise_own(config, own, OWN_CHANGE, change)
        span, square = row[S_SPAN], row[S_VARIANCE] + row[S_MEAN] * row[S_MEAN]
        if span < before or span <= LEAST_CHANGES:
            unit[U_LATEST] = square
        else:
            squared = min(change * change, REACH * REACH * square)
            unit[U_LATEST] += (squared - unit[U_LATEST]) / min(span, LATEST)
            if span >= LATEST and unit[U_LATEST] < FALLEN * square:
                row[S_MEAN], row[S_VARIANCE], row[S_SPAN], row[S_FAR] = 0.0, unit[U_LATEST], LATEST, 0.0
                own[OWN_LEVEL, S_SPAN] = min(own[OWN_LEVEL, S_SPAN], LATEST)
    standardise_own(config, own, OWN_LEVEL, y)


@nb.njit(**INLINE)
def _find_unit(config, shared, own, unit):
    """Writes the unit of a key to `unit`, where it has one of its own."""
    t = shared.target
    row, level, all_levels = own[OWN_CHANGE], own[OWN_LEVEL], shared.scaler[config.features + LEVEL]
    square, total = row[S_VARIANCE] + row[S_MEAN] * row[S_MEAN], t[T_CHANGE_SQ]
    if row[S_SPAN] < LEAST_CHANGES or not square > 0.0 or not total > 0.0:
        return
    ratio, sampled = _half_log(square / total), SAMPLING / min(row[S_SPAN], config.window)
    t[T_APART] += (ratio * ratio - sampled - t[T_APART]) / min(t[T_CHANGES], SPREAD_WINDOW)
    apart = t[T_APART]
    if row[S_SPAN] >= LASTS and ratio * ratio > max(apart, FAR_APART):
        apart = ratio * ratio
    beyond = apart - ALIKE
    variance, whole = level[S_VARIANCE], all_levels[S_VARIANCE]
    if not beyond > 0.0 or not variance > 0.0 or not whole > 0.0:
        return
    share = beyond / ALIKE if beyond < ALIKE else 1.0
    between = share * apart
    weight = between / (between + sampled)
    unit[U_SCALE] = math.sqrt(total) * exp(weight * ratio)
    unit[U_DEVIATION] = math.sqrt(whole) * exp(weight * _half_log(variance / whole))
    told = variance / min(level[S_SPAN], config.window)
    rest = 1.0 - share + share * (told / (whole + told))
    unit[U_CENTRE] = level[S_MEAN] + rest * (all_levels[S_MEAN] - level[S_MEAN])


@nb.njit(**CALL)
def observe_own(config, shared, head, own, unit, y):
    """Moves the key's own moments by the label `y`, and the unit of the key; after those of all keys were moved.

    Returns whether no scale shows the label's change: it is one of a run of far ones that has not lasted yet.
    """
    t, far = shared.target, own[OWN_CHANGE, S_FAR]
    if own[OWN_LEVEL, S_SPAN] == 0.0:
        t[T_KEYS] += 1.0
    _observe_moments(config, head, own, unit, y)
    unit[U_SCALE] = unit[U_CENTRE] = unit[U_DEVIATION] = 0.0
    if t[T_KEYS] < 2.0:
        return False
    _find_unit(config, shared, own, unit)
    row = own[OWN_CHANGE]
    if not row[S_FAR] > max(far, TAUGHT) or not row[S_VARIANCE] > 0.0:
        return False
    scale = unit[U_SCALE]
    return abs(y - head[H_LABEL]) > REACH * (scale if scale > 0.0 else math.sqrt(t[T_CHANGE_SQ]))
