"""Sums over what a fold said, event by event, so that no cut of the events changes a bit."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import BINARY, REGRESSION
from kernels.cpu.numerics import SHORT

SMALLEST = 1e-6
"""Probabilities are clipped here in the log-loss."""

LABELS, HITS, UNCHANGED, LOG_SCORED, MAJORITY, LEADER = range(6)
"""Entries of `counts`: labels that met their prediction, those predicted, those equal to the key's label before, those
with a log-loss, those equal to the most frequent label before (of equals the one that came first); that label's class
+ 1."""

LOG_LOSS, ERROR, NO_CHANGE_ERROR = range(3)
"""Entries of `sums`: log-loss, absolute error, absolute error of the no-change forecast."""


@nb.njit(**SHORT)
def tally(task, outcome, scored, outcomes, counts, sums, seen):
    """Adds a fold to its sums.

    Args:
        task: kind of target, see `kernels.cpu.layout`.
        outcome: uint8 [n].
        scored: float64 [n, 4], see `learners.base.Folded`.
        outcomes: int64 [256], events by sum of outcome flags; changed.
        counts: int64 [6]; changed.
        sums: float64 [3]; changed.
        seen: int64 [classes, 2], labels of each class and the number of the first, from 1; changed.
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
        k = int(label)
        leader = counts[LEADER] - 1
        counts[MAJORITY] += leader == k
        seen[k, 0] += 1
        if seen[k, 1] == 0:
            seen[k, 1] = counts[LABELS]
        ahead = seen[k, 0] - seen[leader, 0]
        if leader < 0 or ahead > 0 or (ahead == 0 and seen[k, 1] < seen[leader, 1]):
            counts[LEADER] = k + 1
        given = value if task != BINARY or label > 0.0 else 1.0 - value
        if not math.isnan(given):
            counts[LOG_SCORED] += 1
            sums[LOG_LOSS] -= math.log(min(max(given, SMALLEST), 1.0 - SMALLEST))
