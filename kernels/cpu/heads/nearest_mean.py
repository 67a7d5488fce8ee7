"""Nearest class mean: the running mean of the features of each class, and how far examples lie from their mean.

    d_k^2 = |z - mean_k|^2,   p_k = softmax(-d_k^2 / (2 T)),   T = (1 + S / m) / (1 + n)

with S the sum over the n examples of their squared distance from the mean of their class, by Welford's recursion and so
exact, and one example's worth of unit distance before the first. That is the posterior of Gaussians of one common
spherical covariance T I and equal priors (methods: nearest mean is streaming LDA with the identity covariance).
Classification only. It gives no gradient: the cell below stays as drawn.
"""

from __future__ import annotations

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
from kernels.cpu.heads._linear_algebra import squared_distance
from kernels.cpu.numerics import INLINE


class State(NamedTuple):
    """What is carried."""

    mean: np.ndarray
    """float64 [K, m]: of each class."""
    examples: np.ndarray
    """float64 [K]: examples of each class."""
    within: np.ndarray
    """float64 [2]: n, and S."""


class Work(NamedTuple):
    """Scratch."""

    z: np.ndarray
    """float64 [m]."""


class NearestMean(NamedTuple):
    """The head."""

    inputs: int
    """1: z = [phi, x]; 0: z = [phi, 1]."""
    state: State
    work: Work

    @classmethod
    def make(cls, features: int, *, inputs: int = 1, classes: int) -> NearestMean:
        """A fresh head for z of `features` numbers, with room for `classes` classes."""
        state = State(np.zeros((classes, features)), np.zeros(classes), np.zeros(2))
        return cls(inputs, state, Work(np.zeros(features)))


NearestMean.PER_CLASS = {"mean": 0, "examples": 0}  # type: ignore[attr-defined]


@implements(predict, NearestMean)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    classes = classes_of(config, shared)
    m = take(head, config, phi, x)
    if classes == 0:
        return say_nothing(s)
    state = head.state
    inside = (1.0 + state.within[1] / m) / (1.0 + state.within[0])
    for k in range(classes):
        s.logits[k] = squared_distance(head.work.z, state.mean[k], m) / (-2.0 * inside)
    share_out(state.examples, classes, s.logits)
    return say_class(config, classes, s)


@implements(error, NearestMean)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    return no_gradient(head, config, base, y, d_phi)


@implements(step, NearestMean)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    m, k, state = features_of(head, config), int(y), head.state
    share = 1.0 / (state.examples[k] + 1.0)
    mean = state.mean[k]
    distance = squared_distance(head.work.z, mean, m)
    _move(mean, head.work.z, share, m)
    state.examples[k] += 1.0
    state.within[0] += 1.0
    if state.examples[k] > 1.0:
        state.within[1] += (1.0 - share) * distance


@nb.njit(**INLINE)
def _move(mean, z, share, m):
    for i in range(m):
        mean[i] += share * (z[i] - mean[i])
