"""What a regression predicts: the change since the key's last label, in running deviations of the changes.

The deviation is that of all keys, or the key's own where keys differ in scale (`kernels.cpu.heads.own`).
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads.own import observe_own
from kernels.cpu.inputs import REACH, standardise_target
from kernels.cpu.layout import (
    CHANGE,
    H_AWAY,
    H_AWAY_LABEL,
    H_LABEL,
    H_LABELS,
    H_REFUSED,
    LEVEL,
    REGRESSION,
    S_MEAN,
    S_SPAN,
    S_VARIANCE,
    T_CHANGE_SQ,
    T_CHANGES,
    T_LABEL_MEAN,
    T_LABELS,
    U_CENTRE,
    U_DEVIATION,
    U_SCALE,
)
from kernels.cpu.numerics import INLINE

PATIENCE = 3
"""Outliers of a key in a row that are refused: the next one is a new level, and is learned."""

KNOWN = 16.0
"""Labels from which on their level is known."""


@nb.njit(**INLINE)
def base_of(config, shared, head):
    """The key's last label; for a new key NaN, or the running mean of all labels where a regression starts from it."""
    if head[H_LABELS] > 0:
        return head[H_LABEL]
    return shared.target[T_LABEL_MEAN] if config.task == REGRESSION else math.nan


@nb.njit(**INLINE)
def take_unit(config, shared, unit, s):
    """Writes to `s.unit` what the changes of a key are divided by."""
    if config.task == REGRESSION:
        own = unit[U_SCALE]
        s.unit[0] = own if own > 0.0 else math.sqrt(shared.target[T_CHANGE_SQ])


@nb.njit(**INLINE)
def observe_change(config, shared, head, own, unit, y, s):
    """Moves the running moments of the change and of the label by one label, within the bounds of `standardise`.

    Those of all keys and the key's own; then `s.unit` includes the label. Returns whether no scale shows the change
    (`observe_own`), so that nothing may be learned from it.
    """
    if config.task != REGRESSION:
        return False
    t, scaler, first = shared.target, shared.scaler, config.features
    if head[H_LABELS] > 0:
        standardise_target(config, scaler, first + CHANGE, y - head[H_LABEL], True)
        mean = scaler[first + CHANGE, S_MEAN]
        t[T_CHANGES] += 1.0
        t[T_CHANGE_SQ] = scaler[first + CHANGE, S_VARIANCE] + mean * mean
    standardise_target(config, scaler, first + LEVEL, y, True)
    t[T_LABELS] += 1.0
    t[T_LABEL_MEAN] = scaler[first + LEVEL, S_MEAN]
    waits = observe_own(config, shared, head, own, unit, y)
    take_unit(config, shared, unit, s)
    return waits


@nb.njit(**INLINE)
def becomes_base(config, shared, head, unit, y):
    """Whether the next change of the key is measured from the label `y`; before `observe_change`.

    Not from one that is far from the level of all labels (of a key with a scale of its own, of its labels), `REACH` of
    their deviations, unless the key's label before it was far too and lies nearer to it than the last base, or
    `PATIENCE` outliers came before it: such a level has lasted.
    """
    if config.task != REGRESSION or head[H_LABELS] == 0:
        return True
    row = shared.scaler[config.features + LEVEL]
    delta, variance, span = y - row[S_MEAN], row[S_VARIANCE], row[S_SPAN]
    if unit[U_SCALE] > 0.0:
        delta, variance = y - unit[U_CENTRE], unit[U_DEVIATION] * unit[U_DEVIATION]
    if span < KNOWN or not variance > 0.0 or delta * delta <= REACH * REACH * variance:
        return True
    again = head[H_AWAY] > 0.0 and abs(y - head[H_AWAY_LABEL]) <= abs(y - head[H_LABEL])
    head[H_AWAY] = 1.0
    head[H_AWAY_LABEL] = y
    return again or head[H_REFUSED] >= PATIENCE
