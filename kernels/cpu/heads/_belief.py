"""How far a Kalman head believes the label of a regression (equations: `kernels.cpu.heads.kalman`)."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads._bank import MEAN, SCALE, TOTAL, VARIANCE
from kernels.cpu.heads._filter import product
from kernels.cpu.numerics import INLINE

COLD = 32
"""Labels before which none is taken for an outlier."""

RARE = 0.1
"""Share of the prior variance left along the inputs of an event, beyond which its cause has hardly been seen."""

GROSS = 8.0
"""Deviations beyond which a residual counts linearly in a head that believes every label, or is cold."""

LARGEST_SURPRISE, PLAIN_SURPRISE = 225.0, 16.0
"""Bounds on r^2 / (v S) as the noise v sees it: what a trusted label may have at most, and less in a head that believes
every label, where a burst would widen v, and with it the bound on a residual."""


@nb.njit(**INLINE)
def is_rare(head):
    """Whether hardly anything has been learned along the inputs of the event, in any member."""
    state, work = head.state, head.work
    length, rare = product(work.z, work.z), True
    for g in range(len(state.weight)):
        rare = rare and work.member[g, VARIANCE] > RARE * state.prior[g] * length
    return rare


@nb.njit(**INLINE)
def squared_residual(head, base, y):
    """The squared residual of the mixture in its deviations, as it was predicted; 0 where nothing is known."""
    said = head.work.said
    if head.robust <= 0.0 or head.state.labels[0] < COLD or not said[SCALE] > 0.0:
        return 0.0
    residual = (y - base) / said[SCALE] - said[MEAN]
    return residual * residual / said[TOTAL]


@nb.njit(**INLINE)
def wolf(head, squared):
    """WoLF's squared weight of a squared residual in deviations."""
    bound = head.robust * head.robust
    return bound / (bound + squared) if squared > 0.0 else 1.0


@nb.njit(**INLINE)
def believed(head, squared, rare):
    """By what the observation noise of a member is divided, from its squared residual in deviations."""
    if head.robust > 0.0 and head.state.labels[0] >= COLD:
        weight = wolf(head, squared)
        return math.sqrt(weight) if rare else weight
    return 1.0 if squared <= GROSS * GROSS else GROSS / math.sqrt(squared)


@nb.njit(**INLINE)
def surprise(head, squared):
    """What the noise of a member sees of its squared residual in deviations."""
    plain = head.robust <= 0.0 and head.state.labels[0] >= COLD
    return min(squared, PLAIN_SURPRISE if plain else LARGEST_SURPRISE)
