"""Sums over what a fold said, event by event, so that no cut of the events changes a bit."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import BINARY, REGRESSION
from kernels.cpu.numerics import SHORT

SMALLEST = 1e-6
"""Probabilities are clipped here in the log-loss."""

LABELS, HITS, UNCHANGED, LOG_SCORED = range(4)
"""Entries of `counts`: labels that met their prediction, those predicted, those equal to the key's label before, those
with a log-loss."""

LOG_LOSS, ERROR, NO_CHANGE_ERROR = range(3)
"""Entries of `sums`: log-loss, absolute error, absolute error of the no-change forecast."""


@nb.njit(**SHORT)
def tally(task, outcome, scored, outcomes, counts, sums):
    """Adds a fold to its sums.

    Args:
        task: kind of target, see `kernels.cpu.layout`.
        outcome: uint8 [n].
        scored: float64 [n, 4], see `learners.base.Folded`.
        outcomes: int64 [256], events by sum of outcome flags; changed.
        counts: int64 [4]; changed.
        sums: float64 [3]; changed.
    """
    for t in range(len(outcome)):
        outcomes[outcome[t]] += 1
        value, code, before, label = scored[t, 0], scored[t, 1], scored[t, 2], scored[t, 3]
        if math.isnan(code):
            continue
        counts[LABELS] += 1
        if task == REGRESSION:
            sums[ERROR] += abs(value - label)
            if not math.isnan(before):
                sums[NO_CHANGE_ERROR] += abs(before - label)
            continue
        counts[HITS] += code == label
        counts[UNCHANGED] += before == label
        given = value if task != BINARY or label > 0.0 else 1.0 - value
        if not math.isnan(given):
            counts[LOG_SCORED] += 1
            sums[LOG_LOSS] -= math.log(min(max(given, SMALLEST), 1.0 - SMALLEST))
