"""A bound that follows what is large: a multiple of the largest magnitude of late, which no value raises by much.

    bound = room M;     M <- max((1 - w) M, min(v, (1 + growth) M)),     at first M <- v

M keeps to the maximum of a stream, and not to its mean or deviation. So what is rare, but not larger than what came
before, is left as it is: a pixel that is mostly 0, the gradient of a new class. A larger level that lasts is reached in
log(ratio) / growth steps.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.numerics import INLINE, JIT, SHORT, magnitude, of_magnitude

ROOM = 2.0
"""An input may be so many times the largest of late."""

GRADIENT_ROOM = 8.0
"""A gradient may be so many times the longest of late: of the first ones each may be three times the one before it."""

YOUNG = 32
"""Inputs within which M may be lowered at once: one that was far too large among the first is forgotten."""

INPUT_GROWTH = 0.01
GRADIENT_GROWTH, GRADIENT_WINDOW = 0.1, 1000.0
"""Shares by which one input and one step's gradient may raise M, and steps over which M of the gradients sinks."""

FURTHEST = 10.0
"""Of a step: so many times the length of the initial weights, however large gradients have become."""

ENDLESS = 1e30
"""Magnitudes above count as this one."""

SEEN, LARGEST = range(2)
"""Entries of a state, float64 [2]: values counted, M (0: none yet)."""


@nb.njit(**INLINE)
def _follow(state, value, weight, growth):
    """M learns from a magnitude; 0 is passed over."""
    if value == 0.0:
        return
    largest = state[LARGEST]
    state[SEEN] += 1.0
    state[LARGEST] = max((1.0 - weight) * largest, min(value, (1.0 + growth) * largest)) if largest > 0.0 else value


@nb.njit(**INLINE)
def _limit(row, bound):
    """Keeps a row within the bound; returns the largest magnitude that it had."""
    kind = row.dtype.type
    top = magnitude(kind(0))
    for j in range(len(row)):
        size = magnitude(row[j])
        top = size if size > top else top
    bad, largest = top > magnitude(kind(ENDLESS)), float(of_magnitude(top))
    if not bad and largest <= bound:
        return largest
    most = kind(min(bound, ENDLESS))
    for j in range(len(row)):
        value = kind(0) if math.isnan(row[j]) else row[j]
        row[j] = min(max(value, -most), most)
    return ENDLESS if bad else largest


@nb.njit(**INLINE)
def input_bound(state):
    """The bound on inputs; infinite before the first."""
    return ROOM * state[LARGEST] if state[LARGEST] > 0.0 else math.inf


@nb.njit(**JIT)
def hold(state, window, commit, x):
    """Keeps the inputs of events within the bound as it stands at each; NaN becomes 0.

    Args:
        state: float64 [2], changed by events that count.
        window: events over which M sinks; at first it sinks and grows faster.
        commit: uint8 [n], whether an event counts; where none does, each is seen as the next one.
        x: T [n, J], changed.
    """
    for t in range(len(x)):
        largest = _limit(x[t], input_bound(state))
        if commit[t] > 0:
            early = 4.0 / (state[SEEN] + 5.0)
            if largest > 0.0 and state[SEEN] < YOUNG:
                state[LARGEST] = min(state[LARGEST], 1e3 * largest)
            _follow(state, largest, max(early, 1.0 / window), max(early, INPUT_GROWTH))


@nb.njit(**SHORT)
def limit(state, x):
    """Keeps x [n, J] within the bound on inputs as it stands; NaN becomes 0."""
    for t in range(len(x)):
        _limit(x[t], input_bound(state))


@nb.njit(**SHORT)
def longest(state, most):
    """The bound on the norm of a gradient: `most` before the first, and never more than `FURTHEST` times that."""
    return min(GRADIENT_ROOM * state[LARGEST], FURTHEST * most) if state[LARGEST] > 0.0 else most


@nb.njit(**SHORT)
def shorten(state, norm, most):
    """The share of a gradient with this norm that is within the bound, from which the bound then learns.

    Args:
        state: float64 [2], changed.
        norm: finite.
        most: see `longest`.

    Returns:
        1, or less.
    """
    bound = longest(state, most)
    _follow(state, min(norm, bound), 1.0 / GRADIENT_WINDOW, GRADIENT_GROWTH)
    return bound / norm if norm > bound else 1.0
