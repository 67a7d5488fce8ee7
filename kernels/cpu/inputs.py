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
    LAST_LEVEL,
    REGRESSION,
    S_COUNT,
    S_FAR,
    S_FAR_MEAN,
    S_FAR_VARIANCE,
    S_MEAN,
    S_RUN_AT,
    S_RUNS,
    S_SPAN,
    S_VARIANCE,
    U_CENTRE,
    U_DEVIATION,
    U_SCALE,
)
from kernels.cpu.numerics import CALL, INLINE

_FLAT = 1e-14
"""A variance below this share of the squared mean is rounding, not variation: the column counts as constant."""

_LEAST = 1e-280
"""A variance that has faded below this is none: denormal numbers are slow."""

_LARGEST = 1e150
"""Values count as within this, so that no square overflows."""

REACH = 8.0
"""Deviations from the mean beyond which a value is far from the level: it counts as one at this distance."""

ALONE = 4.0
"""Values of a run of far ones that move the moments; those that follow wait until the run has lasted."""

FADES, RECURS = 512.0, 4.0
"""Values after which a run of far ones is forgotten, less and less until then, and how many such runs make a cause that
recurs, once in about a hundred values. Of a target its values count in full, within twice the last one's distance."""

APART = 100.0
"""Deviations between two levels beyond which no scale shows what happens at both."""

LASTS = 32.0
"""By how many the far values have to outnumber the others, since there were any, to be the new level."""


@nb.njit(**INLINE)
def clipped(value, bound):
    """`value` within [-bound, bound]; NaN stays."""
    value = bound if value > bound else value
    return -bound if value < -bound else value


@nb.njit(**INLINE)
def _reach(span):
    """Deviations beyond which a value is far: more where few values have told the deviation, 100 of two, 9 of eight.

    Of normal numbers less than one in a hundred third ones is that far, and less than one in a thousand later ones.
    """
    return REACH * (1.0 + 92.0 / (span * span * span))


@nb.njit(**INLINE)
def _moved(mean, variance, delta, weight):
    """(mean, variance) after a value at mean + delta that counts as the share `weight`."""
    return mean + weight * delta, (1.0 - weight) * (variance + weight * (delta * delta))


@nb.njit(**CALL)
def _returned(far, far_variance, flat):
    """(`S_FAR`, `S_FAR_VARIANCE`) when a value is at the level after others were far: their run loses one.

    In a constant column it ends, and that there was one is kept: should a value differ again, the column is sparse.
    """
    return (0.0, -1.0) if flat else (far - 1.0, far_variance)


@nb.njit(**INLINE)
def _founded(config, row, value):
    """(span, mean, variance) of a constant column in which the second value differs, its own being `value`.

    Of the deviations of the two the smaller one counts, and the larger one where it is within `REACH` of what that
    gives: one value alone sets no scale, however large it is.
    """
    span, mean, other = row[S_SPAN], row[S_MEAN], row[S_FAR_MEAN]
    near, rest = (value, other) if abs(value - mean) < abs(other - mean) else (other, value)
    if span == 1.0 and abs(value - other) < abs(near - mean):
        near, rest, mean = value, mean, other
    mean, variance = _moved(mean, 0.0, near - mean, 1.0 / min(span + 1.0, config.window))
    delta = rest - mean
    if abs(delta) <= _reach(span + 1.0) * math.sqrt(variance):
        mean, variance = _moved(mean, variance, delta, 1.0 / min(span + 2.0, config.window))
        return span + 2.0, mean, variance
    return span + 1.0, mean, variance


@nb.njit(**INLINE)
def _accepted(config, span, mean, variance, far, far_mean, far_variance, replaces):
    """(span, mean, variance, whether the run of far values is accepted) once the run has lasted.

    It joins the values before it by their numbers, as if it had never waited, unless one scale cannot show both
    levels, which lie `APART` deviations of either apart: then it takes their place, or, being of one value only while
    they were not, it waits on, since it has nothing to show. Where it `replaces` it always takes their place, unless it
    is of one value only.
    """
    if replaces and far_variance > 0.0:
        return far, far_mean, far_variance, True
    delta = far_mean - mean
    apart = delta * delta > APART * APART * max(variance, far_variance)
    if apart and far_variance > 0.0:
        return far, far_mean, far_variance, True
    if apart and variance > _FLAT * (mean * mean):
        return span, mean, variance, False
    share = far / (min(span, config.window) + far)
    within = variance + share * (far_variance - variance)
    return span + far, mean + share * delta, within + (1.0 - share) * (share * (delta * delta)), True


@nb.njit(**CALL)
def _far(config, row, value, commit, target, replaces):
    """`standardise` of a value further than `REACH` deviations from the mean; the row is the column's.

    It moves the moments as one at that distance would, and nothing where others were far just before it; the values
    that are far become the new level once they have outnumbered the others by `LASTS` (by fewer at the beginning).
    """
    value = clipped(value, _LARGEST)
    span, mean, variance = row[S_SPAN], row[S_MEAN], row[S_VARIANCE]
    far, far_mean, far_variance = row[S_FAR], row[S_FAR_MEAN], row[S_FAR_VARIANCE]
    runs, run_at = row[S_RUNS], row[S_RUN_AT]
    delta, least, share = value - mean, _FLAT * (mean * mean), 1.0 / min(span + 1.0, config.window)
    flat = not variance > least
    at_level = False
    if span == 0.0:
        span, mean, far, at_level = 1.0, value, 0.0, True
    elif delta * delta <= least if flat else abs(delta) <= _reach(span) * math.sqrt(variance):
        mean, variance = _moved(mean, variance, delta, share)
        variance = variance if variance > _LEAST else 0.0
        span, at_level = span + 1.0, True
        if far > 0.0:
            far, far_variance = _returned(far, far_variance, not variance > _FLAT * (mean * mean))
    elif flat and (far_variance < 0.0 or (span == 1.0 and far == 1.0)):
        span, mean, variance = _founded(config, row, value)
        far, far_mean, far_variance = 0.0, 0.0, 0.0
        at_level = abs(value - mean) <= _reach(span) * math.sqrt(variance)
    else:
        most = REACH * math.sqrt(variance)
        if target and far == 0.0:
            before, runs = runs, runs * max(0.0, 1.0 - (row[S_COUNT] - run_at) / FADES) + 1.0
            run_at = row[S_COUNT]
            if runs >= RECURS:
                most = max(most, 2.0 * abs(far_mean - mean))
                share *= 1.0 if before >= RECURS else runs
        far += 1.0
        off = value - far_mean if far > 1.0 else 0.0
        far_mean = far_mean if far > 1.0 else value
        off = clipped(off, REACH * math.sqrt(far_variance)) if far > 2.0 and far_variance > 0.0 else off
        far_mean, far_variance = _moved(far_mean, far_variance if far > 1.0 else 0.0, off, 1.0 / far)
        if far >= min(LASTS, span + 1.0):
            span, mean, variance, at_level = _accepted(
                config, span, mean, variance, far, far_mean, far_variance, replaces
            )
            if at_level:
                far, far_mean, far_variance = 0.0, 0.0, 0.0
            else:
                far -= 1.0
        elif far <= ALONE and not flat:
            mean, variance = _moved(mean, variance, clipped(delta, most), min(0.5, share))
    if commit:
        row[S_COUNT] += 1.0
        row[S_MEAN], row[S_VARIANCE], row[S_SPAN] = mean, variance, span
        row[S_FAR], row[S_FAR_MEAN], row[S_FAR_VARIANCE] = far, far_mean, far_variance
        row[S_RUNS], row[S_RUN_AT] = runs, run_at
    if at_level:
        if not variance > _FLAT * (mean * mean):
            return 0.0
        return clipped((value - mean) / math.sqrt(variance), config.clip)
    return math.copysign(min(math.sqrt(span), config.clip), delta)


@nb.njit(**INLINE)
def standardise(config, scaler, column, value, commit):
    """`standardise_either` of a feature."""
    return standardise_either(config, scaler, column, value, commit, False, False)


@nb.njit(**INLINE)
def standardise_target(config, scaler, column, value, commit):
    """`standardise_either` of what a regression learns, whose scale must show what is rare and recurs."""
    return standardise_either(config, scaler, column, value, commit, True, False)


@nb.njit(**INLINE)
def standardise_own(config, scaler, column, value):
    """`standardise_target` of a key's own moments, in which a level that has lasted takes the place of the old."""
    return standardise_either(config, scaler, column, value, True, True, True)


@nb.njit(**INLINE)
def standardise_either(config, scaler, column, value, commit, target, replaces):
    """(value - mean) / deviation, clipped, with the statistics including `value` itself.

    Including the value bounds the first results by sqrt(n) (the first one is 0), so a scale of nearly zero cannot
    occur. Means and variances run over `window` events (exact up to there, exponential after). NaN is a missing
    value: it leaves the statistics alone and gives 0. `commit=False` changes nothing and returns the same bits.

    One value cannot capture them: it moves the mean by at most `REACH` w deviations and the variance by at most
    1 + `REACH`^2 w times, w its share (1 / n, at least 1 / `window`); of a run of such values only the first `ALONE`
    move anything, until the run has lasted (`LASTS`) and is the new level. The first value is the level at once.
    """
    if math.isnan(value):
        return 0.0
    delta = value - scaler[column, S_MEAN]
    variance = scaler[column, S_VARIANCE]
    if not delta * delta <= REACH * REACH * variance:
        return _far(config, scaler[column], value, commit, target, replaces)
    span = scaler[column, S_SPAN] + 1.0
    weight = 1.0 / span if span < config.window else 1.0 / config.window  # of all columns then one division
    mean = scaler[column, S_MEAN] + weight * delta
    variance = (1.0 - weight) * (variance + weight * (delta * delta))
    variance = variance if variance > _LEAST else 0.0
    if commit:
        scaler[column, S_COUNT] += 1.0
        scaler[column, S_SPAN] = span
        scaler[column, S_MEAN] = mean
        scaler[column, S_VARIANCE] = variance
        if scaler[column, S_FAR] > 0.0:
            row, flat = scaler[column], not variance > _FLAT * (mean * mean)
            row[S_FAR], row[S_FAR_VARIANCE] = _returned(row[S_FAR], row[S_FAR_VARIANCE], flat)
    if not variance > _FLAT * (mean * mean):
        return 0.0
    return clipped((value - mean) / math.sqrt(variance), config.clip)


@nb.njit(**INLINE)
def entry(config, scaler, column, value, commit):
    """A feature standardised, or as it comes with its running mean where it is missing; the moments run either way."""
    z = standardise(config, scaler, column, value, commit)
    if config.scaled > 0:
        return z
    return scaler[column, S_MEAN] if math.isnan(value) else value


@nb.njit(**INLINE)
def prepare(config, shared, head, unit, scale, features, x, commit):
    """Writes the J inputs of one event to `x`: features, previous label, its age, the constant 1.

    The previous label and its change are in deviations of the key's own (`unit`) where it has a scale of its own;
    `scale` is that of changes (`heads.target.take_unit`).
    """
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
            x[at] = standardise_target(config, shared.scaler, d + LAST_LEVEL, head[H_LABEL], commit)
            if unit[U_SCALE] > 0.0:
                x[at] = clipped((head[H_LABEL] - unit[U_CENTRE]) / unit[U_DEVIATION], config.clip)
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
