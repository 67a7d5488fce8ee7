"""Metrics of an accuracy matrix R: `R[i, j]` is the accuracy on test set j after experience i, of T of both.

Indices run from 0 here, so "after the last" is row T - 1. A value is NaN where nothing is left to average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def average_accuracy(matrix: np.ndarray) -> float:
    """ACC = (1/T) sum_j R[T-1, j]: after the last experience, over all test sets alike."""
    return float(_square(matrix)[-1].mean())


def average_incremental_accuracy(matrix: np.ndarray) -> float:
    """(1/T) sum_i (1/(i+1)) sum_{j<=i} R[i, j]: the accuracy over what was met, averaged over experiences."""
    return float(np.mean([row[: i + 1].mean() for i, row in enumerate(_square(matrix))]))


def forgetting(matrix: np.ndarray) -> float:
    """Chaudhry et al. 2018: (1/(T-1)) sum_{j<T-1} ( max_{j<=i<T-1} R[i, j] - R[T-1, j] ).

    The best accuracy that a test set had from its own experience on and before the last one, less the final one; it can
    be negative. The last row is not in the maximum, and the last test set not in the sum.
    """
    matrix = _square(matrix)
    last = len(matrix) - 1
    return _mean([matrix[j:last, j].max() - matrix[last, j] for j in range(last)])


def backward_transfer(matrix: np.ndarray) -> float:
    """BWT (Lopez-Paz & Ranzato 2017) = (1/(T-1)) sum_{j<T-1} (R[T-1, j] - R[j, j])."""
    matrix = _square(matrix)
    last = len(matrix) - 1
    return _mean([matrix[last, j] - matrix[j, j] for j in range(last)])


def forward_transfer(matrix: np.ndarray, untrained: Sequence[float] | np.ndarray) -> float:
    """FWT (Lopez-Paz & Ranzato 2017) = (1/(T-1)) sum_{j>0} (R[j-1, j] - b[j]).

    Args:
        matrix: R.
        untrained: b, the accuracy on each test set before the first event. A learner that knows no class yet answers
            nothing, and has 0. Where classes are new in every experience, nothing can be known of them before: FWT then
            says little.
    """
    matrix = _square(matrix)
    if len(untrained) != len(matrix):
        raise ValueError(f"untrained: {len(untrained)} accuracies, the matrix has {len(matrix)} test sets")
    return _mean([matrix[j - 1, j] - untrained[j] for j in range(1, len(matrix))])


def _square(matrix: np.ndarray) -> np.ndarray:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"an accuracy matrix has as many rows as columns, and at least one; got {matrix.shape}")
    return matrix


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else math.nan
