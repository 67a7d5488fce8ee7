"""Metrics of predictions on the stream itself, beside those of `streams.metrics` (accuracy, log-loss, kappa-temporal).

A learner that repeats the last label looks good where labels come in runs. Near-future accuracy (Hammoud et al. 2023)
asks for events far enough ahead that this no longer helps.
"""

from __future__ import annotations

import math

import numpy as np


def near_future_accuracy(right: np.ndarray) -> float:
    """NFA_S = (1/n) sum_t 1[f_t(x_{t+1+S}) = y_{t+1+S}], over the events of which a prediction so far ahead was made.

    Args:
        right: bool [n], whether the model that had learned the events up to t was right about event t + 1 + S. Read at
            every g-th t it is over blocks: the g events from t + 1 + S on are all predicted by the model at t.
    """
    right = np.asarray(right)
    return float(right.mean()) if len(right) else math.nan


def repeat_rate(labels: np.ndarray, shift: int) -> float:
    """Share of events whose label is that of the event 1 + `shift` before: what repeating old labels scores."""
    labels, lag = np.asarray(labels), shift + 1
    return float((labels[lag:] == labels[:-lag]).mean()) if len(labels) > lag else math.nan


def least_shift(labels: np.ndarray, most: int, tolerance: float = 0.01) -> int | None:
    """The smallest shift at which the past label says no more than the marginal one; None: none up to `most`.

    Repeating the label 1 + S events ago is then right no more often than by chance, sum_c share_c^2, plus `tolerance`.
    """
    labels = np.asarray(labels)
    _, counts = np.unique(labels, return_counts=True)
    chance = float(((counts / len(labels)) ** 2).sum()) if len(labels) else math.nan
    for shift in range(min(most, len(labels) - 2) + 1):
        if repeat_rate(labels, shift) <= chance + tolerance:
            return shift
    return None
