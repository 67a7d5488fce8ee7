"""What the probabilities of a test are worth: log-loss and calibration as in `streams.metrics`, and the Brier score."""

from __future__ import annotations

import math

import numpy as np

from streams.metrics import Classification


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Brier 1950: (1/n) sum_i sum_c (p[i, c] - 1[labels[i] = c])^2, from 0 to 2.

    Args:
        probabilities: float [n, K].
        labels: int [n], columns of `probabilities`.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if not len(labels):
        return math.nan
    hits = probabilities[np.arange(len(labels)), labels]
    return float(((probabilities**2).sum(axis=1) - 2 * hits + 1).mean())


def scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """`accuracy`, `log_loss`, `brier` and `calibration_error` of n predictions.

    Args:
        probabilities: float [n, K]; of equals the first is the class predicted.
        labels: int [n].
    """
    probabilities = np.asarray(probabilities, np.float64)
    predicted = probabilities.argmax(axis=1)
    rows = np.arange(len(labels))
    metrics = Classification()
    metrics.update(
        predicted,
        labels,
        np.clip(probabilities[rows, labels], 0, 1),
        classes=range(probabilities.shape[1]),
        confidence=np.clip(probabilities[rows, predicted], 0, 1),
    )
    values = metrics.values()
    kept = {name: values[name] for name in ("accuracy", "log_loss", "calibration_error")}
    return {**kept, "brier": brier_score(probabilities, labels)}
