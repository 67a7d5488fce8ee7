"""Sums over what a fold said, event by event, so that no cut of the events changes a bit."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import BINARY, REGRESSION
from kernels.cpu.numerics import SHORT

SMALLEST = 1e-6
"""Probabilities are clipped here in the log-loss."""

LABELS, HITS, UNCHANGED, LOG_SCORED, MAJORITY, LEADER, INTERVALS, COVERED = range(8)
"""Entries of `counts`: labels that met their prediction, those predicted, those equal to the key's label before, those
with a log-loss, those equal to the most frequent label before (of equals the one that came first); that label's class
+ 1; labels that met an interval, those inside it."""
COUNTS = 8

LOG_LOSS, ERROR, NO_CHANGE_ERROR, WIDTH = range(4)
"""Entries of `sums`: log-loss, absolute error, absolute error of the no-change forecast, width of the intervals."""
SUMS = 4

BINS = 15
"""Of equal width over the confidences, the m-th from 1 holds ((m - 1) / 15, m / 15] (Guo et al. 2017, section 2)."""


@nb.njit(**SHORT)
def tally(task, outcome, scored, outcomes, counts, sums, seen, bins, confidence):
    """Adds a fold to its sums.

    Args:
        task: kind of target, see `kernels.cpu.layout`.
        outcome: uint8 [n].
        scored: float64 [m, 5], see `learners.base.Folded`.
        outcomes: int64 [256], events by sum of outcome flags; changed.
        counts: int64 [8]; changed.
        sums: float64 [4]; changed.
        seen: int64 [classes, 2], labels of each class and the number of the first, from 1; changed.
        bins: int64 [15, 2], labels that met a prediction of a confidence in each bin, and those predicted; changed.
        confidence: float64 [15], sum of the confidences in each bin; changed.
    """
    for t in range(len(outcome)):
        outcomes[outcome[t]] += 1
    for t in range(len(scored)):
        value, code, before, label = scored[t, 0], scored[t, 1], scored[t, 2], scored[t, 3]
        if math.isnan(code) or math.isnan(label):
            continue
        counts[LABELS] += 1
        sure = scored[t, 4]
        if task == REGRESSION:
            sums[ERROR] += abs(value - label)
            if math.isfinite(sure):
                counts[INTERVALS] += 1
                counts[COVERED] += abs(value - label) <= sure
                sums[WIDTH] += 2.0 * sure
            if not math.isnan(before):
                sums[NO_CHANGE_ERROR] += abs(before - label)
            continue
        counts[HITS] += code == label
        if code >= 0.0 and 0.0 <= sure <= 1.0:
            b = max(math.ceil(BINS * sure) - 1, 0)
            bins[b, 0] += 1
            bins[b, 1] += code == label
            confidence[b] += sure
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
