"""Metrics of accuracies that are read again and again while the stream is learned.

A `Curve` has P evaluation points of T test sets. Every metric is over these points alone: how many events lie between
two of them is part of a protocol, and figures of different protocols do not compare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """Accuracies during learning.

    Attributes:
        events: int [P], events learned at each point, increasing.
        during: int [P], the experience that the last of these events belongs to; never decreasing, from 0.
        accuracy: float [P, T], on each test set.
    """

    events: np.ndarray
    during: np.ndarray
    accuracy: np.ndarray

    def __post_init__(self) -> None:
        points = len(self.events)
        if self.accuracy.ndim != 2 or len(self.during) != points or len(self.accuracy) != points:
            shapes = (self.events.shape, self.during.shape, self.accuracy.shape)
            raise ValueError(f"a curve has as many events, experiences and rows of accuracies; got {shapes}")
        if points and (np.diff(self.during) < 0).any():
            raise ValueError("a curve's experiences do not go back")

    def met(self) -> np.ndarray:
        """The accuracy over the test sets of the experiences met so far, the present one among them: float [P]."""
        return np.array([row[: k + 1].mean() for row, k in zip(self.accuracy, self.during)])


def average_anytime_accuracy(curve: Curve) -> float:
    """AAA = (1/P) sum_p (1/(k_p + 1)) sum_{j<=k_p} a_j(p), with k_p the experience under way at point p."""
    return float(curve.met().mean()) if len(curve.events) else math.nan


def min_accuracy(curve: Curve, at: int = -1) -> float:
    """min-ACC (De Lange et al. 2023) = mean over j < k of min over points after j ended and up to `at` of a_j.

    Experience j has ended at its last point, which counts. k is the experience under way at the point `at`.
    """
    at = at % len(curve.events)
    lows = []
    for j in range(int(curve.during[at])):
        own = np.flatnonzero(curve.during == j)
        start = own[-1] if len(own) else int(np.searchsorted(curve.during, j, side="right"))
        lows.append(curve.accuracy[start : at + 1, j].min())
    return float(np.mean(lows)) if lows else math.nan


def worst_case_accuracy(curve: Curve, at: int = -1) -> float:
    """WC-ACC (De Lange et al. 2023) = (1/k) a_k + (1 - 1/k) min-ACC, at a point during the k-th experience (from 1)."""
    at = at % len(curve.events)
    k = int(curve.during[at]) + 1
    own = float(curve.accuracy[at, k - 1])
    return own if k == 1 else own / k + (1 - 1 / k) * min_accuracy(curve, at)


def windowed_forgetting(curve: Curve, window: int = 10) -> float:
    """WF_w (De Lange et al. 2023): mean over test sets of the largest fall of a_j within `window` points in a row."""
    return _largest_fall(curve.accuracy, window)


def windowed_plasticity(curve: Curve, window: int = 10) -> float:
    """WP_w (De Lange et al. 2023): mean over test sets of the largest rise of a_j within `window` points in a row."""
    return _largest_fall(-curve.accuracy, window)


def _largest_fall(accuracy: np.ndarray, window: int) -> float:
    if window < 2:
        raise ValueError(f"window {window}: a fall takes 2 points, accepted: 2 and more")
    if not len(accuracy):
        return math.nan
    falls = np.zeros(accuracy.shape[1])
    for p in range(1, len(accuracy)):
        before = accuracy[max(0, p - window + 1) : p].max(axis=0)
        falls = np.maximum(falls, before - accuracy[p])
    return float(falls.mean())


def learning_curve_area(first: np.ndarray) -> float:
    """LCA_beta (Chaudhry et al. 2019, A-GEM) = (1/(beta+1)) sum_{b=0..beta} mean over j of a_j(b).

    Args:
        first: float [T, beta + 1], the accuracy on the test set of experience j before its first batch and after each
            of the first beta.
    """
    first = np.asarray(first, np.float64)
    return float(first.mean()) if first.size else math.nan
