"""What a Kalman head keeps, and the algebra of its bank of filters (equations: `kernels.cpu.heads.kalman`)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.heads._filter import add_times, log, move, move_rows, product, rank_one, symmetric_product, times
from kernels.cpu.numerics import INLINE, dot, exp

LEAST_SCORE = 1e-6
"""A probability, or a density over that of the best member, counts as at least this much for the bank."""

LARGEST_SLOPE = 1.0
"""Bound on the gradient that moves gamma."""

LARGEST_GAP = 14.0
"""Bound on the gradient of log(alpha), a difference of logits; at this one a probability is 1e-6. The large gradients
are those of confident mistakes: a tighter bound would let alpha run up where labels are noisy."""

ALPHAS = (0.1, 100.0)
"""Bounds of alpha."""

LEAST_NOISE = 1e-12

# Entries of `State.scalar`.
ALPHA, FACTOR = range(2)

# Columns of `Work.member`: a, z' A- z, z' A z - sw z' z with A as stored, sqrt(z' A- z), posterior weight,
# dL/d(sqrt(z' A- z)) or, for a regression, dL/dS.
DECAY, VARIANCE, EXCESS, DEVIATION, POSTERIOR, D_SPREAD = range(6)

# Entries of `Work.said`: value and half-width of the interval, scale, mean and variance of t, dL/dlog(alpha).
VALUE, HALF, SCALE, MEAN, TOTAL, D_ALPHA = range(6)


class State(NamedTuple):
    """What is carried; M are the m features filled up with zeros to whole vectors (`_filter.whole`)."""

    mean: np.ndarray
    """float64 [G, K, M]."""
    cov: np.ndarray
    """float64 [G, n]: tiles of the lower triangle of A [M, M] (`_filter.places`)."""
    gamma: np.ndarray
    """float64 [G]."""
    prior: np.ndarray
    """float64 [G]: sw."""
    weight: np.ndarray
    """float64 [G]: of the bank; sums to 1."""
    noise: np.ndarray
    """float64 [G]: v of a regression."""
    scalar: np.ndarray
    """float64 [2]: alpha, and the factor of the interval."""
    labels: np.ndarray
    """int64 [1]: how many were learned."""


class Work(NamedTuple):
    """Scratch; what `predict` leaves, `weight`, `error` and `step` of the same event use."""

    z: np.ndarray
    """float64 [M]."""
    u: np.ndarray
    """float64 [G, M]: A- z."""
    output: np.ndarray
    """float64 [G, K]: M- z."""
    normal: np.ndarray
    """float64 [K, S] (S rounded up to a multiple of four): eps."""
    lanes: np.ndarray
    """float64 [2, 64]."""
    chance: np.ndarray
    """float64 [G, K, S]: the softmax of each sample."""
    sample: np.ndarray
    """float64 [3, S]."""
    d_output: np.ndarray
    """float64 [G, K]: dL/d(M- z), then the innovation r."""
    d_z: np.ndarray
    """float64 [M]: dL/dz."""
    member: np.ndarray
    """float64 [G, 6]."""
    said: np.ndarray
    """float64 [6]."""


@nb.njit(**INLINE)
def carry(state, work, m, rows, elapsed):
    """The transition of every member as far as a prediction needs it: u, M- z and z' A- z. Fills up the m features."""
    z = work.z
    for i in range(m, len(z)):
        z[i] = 0.0
    length = product(z, z)
    for g in range(len(state.gamma)):
        gamma, u, note = state.gamma[g], work.u[g], work.member[g]
        decay = gamma if elapsed == 1.0 else exp(elapsed * log(gamma))
        square = decay * decay
        ridge = (1.0 - square) * state.prior[g]
        symmetric_product(state.cov[g], z, u)
        before = product(z, u)
        move(u, square, ridge, z)
        times(state.mean[g], rows, z, decay, work.output[g])
        variance = square * before + ridge * length
        note[DECAY] = decay
        note[VARIANCE] = variance
        note[EXCESS] = before - state.prior[g] * length
        note[DEVIATION] = math.sqrt(variance) if variance > 0.0 else 0.0


@nb.njit(**INLINE)
def back(state, work, rows, regression):
    """dL/dz in `work.d_z`: through M- z, and through z' A- z whose gradient is 2 u."""
    d_z = work.d_z
    for i in range(len(d_z)):
        d_z[i] = 0.0
    for g in range(len(state.gamma)):
        note = work.member[g]
        add_times(state.mean[g], rows, work.d_output[g], note[DECAY], d_z)
        factor = 2.0 * note[D_SPREAD]
        if not regression:
            factor = note[D_SPREAD] / note[DEVIATION] if note[DEVIATION] > 0.0 else 0.0
        move(d_z, 1.0, factor, work.u[g])


@nb.njit(**INLINE)
def is_finite(work, rows, hidden):
    """Whether the prediction and its gradient are; features that are not make every variance NaN."""
    total = 0.0
    for g in range(len(work.member)):
        total += abs(work.member[g, VARIANCE]) + abs(work.member[g, POSTERIOR]) + abs(work.member[g, D_SPREAD])
        for k in range(rows):
            total += abs(work.output[g, k])
    for i in range(hidden):
        total += abs(work.d_z[i])
    return math.isfinite(total)


@nb.njit(**INLINE)
def move_weights(state, work, switching):
    """The bank's weights: the posterior, mixed with the uniform distribution."""
    bank = len(state.weight)
    total = 0.0
    for g in range(bank):
        total += work.member[g, POSTERIOR]
    for g in range(bank):
        state.weight[g] = (1.0 - switching) * work.member[g, POSTERIOR] / total + switching / bank


@nb.njit(**INLINE)
def bounded(gradient, bound):
    """The gradient within [-bound, bound]."""
    gradient = bound if gradient > bound else gradient
    return -bound if gradient < -bound else gradient


@nb.njit(**INLINE)
def move_gamma(state, work, rows, noise, level, elapsed, rate):
    """One step up d log N(r; 0, level S) / d delta with gamma = exp(-delta / 2), M and A of the update before."""
    note, r = work.member[0], work.d_output[0]
    innovation = note[VARIANCE] + noise
    squares = dot(r, r, rows, 0.0) / level
    along = dot(r, work.output[0], rows, 0.0) / (note[DECAY] * level * innovation)
    spread = (squares / innovation - rows) / innovation * note[DECAY] * note[EXCESS]
    slope = -0.5 * elapsed * note[DECAY] * (along + spread)
    delta = -2.0 * log(state.gamma[0]) + rate * bounded(slope, LARGEST_SLOPE)
    state.gamma[0] = exp(-0.5 * delta) if delta > 0.0 else 1.0


@nb.njit(**INLINE)
def update(state, work, rows, g, noise):
    """Filters the innovation `work.d_output[g]` with observation noise `noise`."""
    decay = work.member[g, DECAY]
    gain = 1.0 / (work.member[g, VARIANCE] + noise)
    move_rows(state.mean[g], rows, decay, work.d_output[g], gain, work.u[g])
    square = decay * decay
    rank_one(state.cov[g], square, work.u[g], -gain, (1.0 - square) * state.prior[g])
