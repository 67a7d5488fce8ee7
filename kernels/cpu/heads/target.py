"""What a regression predicts: the change since the key's last label, in running deviations of the changes."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import (
    H_LABEL,
    H_LABELS,
    REGRESSION,
    T_CHANGE_SQ,
    T_CHANGES,
    T_LABEL_MEAN,
    T_LABELS,
)
from kernels.cpu.numerics import INLINE


@nb.njit(**INLINE)
def base_of(config, shared, head):
    """The key's last label; for a new key NaN, or the running mean of all labels where a regression starts from it."""
    if head[H_LABELS] > 0:
        return head[H_LABEL]
    return shared.target[T_LABEL_MEAN] if config.task == REGRESSION else math.nan


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
