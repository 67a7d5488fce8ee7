"""Streaming linear discriminant analysis (Hayes and Kanan 2020) with the exact scatter within classes.

    scatter += (z - mean_y)(z - mean_y')^T       mean_y before, mean_y' after the example: Welford's recursion
    Sigma = scatter / n,   Lambda = ((1 - eps) Sigma + eps tr(Sigma) / m I)^-1
    w_k = Lambda (mean_k - c),   b_k = log prior_k - (mean_k - c)^T w_k / 2,   p = softmax(w_k^T (z - c) + b_k)

with c the mean of all examples, which changes no probability but keeps digits. The recursion of the published code
weights deviations by the count of all examples and takes the first example of a class as a deviation from zero; it is
not a covariance. eps counts in units of the mean variance, so that what is predicted does not depend on the unit of
the features, and no feature that never varies makes the matrix singular; without any scatter Lambda is I.

Weights are rebuilt by Cholesky, m^3 / 3 + 2 K m^2 multiplications, on every `refresh`-th label, before that whenever
the number of labels has doubled, and on the first example of a class; they are state, as they cannot be had again from
the scatter of later. At a rebuild they are those of batch LDA. Classification only. It gives no gradient: the cell
below stays as drawn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import error, predict, step
from kernels.cpu.heads._closed_form import (
    classes_of,
    features_of,
    no_gradient,
    say_class,
    say_nothing,
    share_out,
    take,
)
from kernels.cpu.heads._linear_algebra import cholesky, packed, solve
from kernels.cpu.numerics import CALL, INLINE, dot

EMPIRICAL, UNIFORM = 0, 1
"""Priors: the share of the examples, or equal."""

LEAST_SHRINKAGE = 1e-8
"""Below, the rounding of the scatter could make the matrix indefinite."""


class State(NamedTuple):
    """What is carried."""

    mean: np.ndarray
    """float64 [K, m]: of each class."""
    examples: np.ndarray
    """float64 [K]: examples of each class."""
    scatter: np.ndarray
    """float64 [m (m + 1) / 2]: packed rows of the lower triangle."""
    weights: np.ndarray
    """float64 [K, m]: w, as of the last rebuild."""
    bias: np.ndarray
    """float64 [K]: b."""
    centre: np.ndarray
    """float64 [m]: c."""
    labels: np.ndarray
    """int64 [1]: examples."""


class Work(NamedTuple):
    """Scratch."""

    z: np.ndarray
    """float64 [m]."""
    off: np.ndarray
    """float64 [m]: z minus a mean."""
    factor: np.ndarray
    """float64 [m (m + 1) / 2]."""


class LDA(NamedTuple):
    """The head."""

    inputs: int
    """1: z = [phi, x]; 0: z = [phi, 1]."""
    shrinkage: float
    """eps, in [1e-8, 1]."""
    prior: int
    """EMPIRICAL or UNIFORM."""
    refresh: int
    """Labels between two rebuilds of the weights."""
    state: State
    work: Work

    @classmethod
    def make(
        cls,
        features: int,
        *,
        inputs: int = 1,
        shrinkage: float = 1e-2,
        prior: int = EMPIRICAL,
        refresh: int = 100,
        classes: int,
    ) -> LDA:
        """A fresh head for z of `features` numbers, with room for `classes` classes.

        Raises:
            ValueError: for a setting out of bounds.
        """
        if not LEAST_SHRINKAGE <= shrinkage <= 1.0:
            raise ValueError(f"shrinkage is {shrinkage}; accepted: {LEAST_SHRINKAGE} to 1")
        if refresh < 1:
            raise ValueError(f"refresh is {refresh}; accepted: 1 or more labels")
        if prior not in (EMPIRICAL, UNIFORM):
            raise ValueError(f"prior is {prior}; accepted: {EMPIRICAL} (empirical), {UNIFORM} (uniform)")
        entries = packed(features)
        state = State(
            np.zeros((classes, features)),
            np.zeros(classes),
            np.zeros(entries),
            np.zeros((classes, features)),
            np.zeros(classes),
            np.zeros(features),
            np.zeros(1, np.int64),
        )
        work = Work(np.zeros(features), np.zeros(features), np.zeros(entries))
        return cls(inputs, float(shrinkage), prior, refresh, state, work)


LDA.PER_CLASS = {"mean": 0, "examples": 0, "weights": 0, "bias": 0}  # type: ignore[attr-defined]


@implements(predict, LDA)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    classes = classes_of(config, shared)
    m = take(head, config, phi, x)
    if classes == 0:
        return say_nothing(s)
    state, off = head.state, head.work.off
    for i in range(m):
        off[i] = head.work.z[i] - state.centre[i]
    for k in range(classes):
        s.logits[k] = state.bias[k] + dot(state.weights[k], off, m, 0.0)
    share_out(state.examples, classes, s.logits)
    return say_class(config, classes, s)


@implements(error, LDA)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    return no_gradient(head, config, base, y, d_phi)


@implements(step, LDA)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    state, k = head.state, int(y)
    _learn(head, features_of(head, config), k)
    labels = state.labels[0]
    doubled = labels < head.refresh and labels & (labels - 1) == 0
    if labels % head.refresh == 0 or doubled or state.examples[k] == 1.0:
        rebuild(head, features_of(head, config), classes_of(config, shared))


@nb.njit(**INLINE)
def _learn(head, m, k):
    state, off = head.state, head.work.off
    mean, z = state.mean[k], head.work.z
    state.examples[k] += 1.0
    state.labels[0] += 1
    share = 1.0 / state.examples[k]
    for i in range(m):
        off[i] = z[i] - mean[i]
    for i in range(m):
        mean[i] += share * off[i]
    if state.examples[k] == 1.0:
        return
    for i in range(m):
        row = state.scatter[i * (i + 1) // 2 :]
        scaled = (1.0 - share) * off[i]
        for j in range(i + 1):
            row[j] += scaled * off[j]


@nb.njit(**INLINE)
def _shrunk(head, m):
    """(1 - eps) Sigma + eps tr(Sigma) / m I in `work.factor`, or I."""
    scatter, factor = head.state.scatter, head.work.factor
    trace = 0.0
    for i in range(m):
        trace += scatter[i * (i + 3) // 2]
    examples = float(head.state.labels[0])
    share = (1.0 - head.shrinkage) / examples if trace > 0.0 else 0.0
    ridge = head.shrinkage * trace / (m * examples) if trace > 0.0 else 1.0
    for i in range(m * (m + 1) // 2):
        factor[i] = share * scatter[i]
    for i in range(m):
        factor[i * (i + 3) // 2] += ridge


@nb.njit(**CALL)
def rebuild(head, m, classes):
    """Weights, biases and centre from means, counts and scatter as they are; those before where it is not definite."""
    state = head.state
    _shrunk(head, m)
    if not cholesky(head.work.factor, m):
        return
    examples = float(state.labels[0])
    for i in range(m):
        state.centre[i] = 0.0
    for k in range(classes):
        share = state.examples[k] / examples
        for i in range(m):
            state.centre[i] += share * state.mean[k, i]
    for k in range(classes):
        if state.examples[k] > 0.0:
            off, weights = head.work.off, state.weights[k]
            for i in range(m):
                off[i] = state.mean[k, i] - state.centre[i]
                weights[i] = off[i]
            solve(head.work.factor, weights, m)
            state.bias[k] = -0.5 * dot(off, weights, m, 0.0)
            if head.prior == EMPIRICAL:
                state.bias[k] += math.log(state.examples[k] / examples)
