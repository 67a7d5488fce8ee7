"""Counts and prequential metrics of what a partition folded; carried in its snapshots, outside the digest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernels.cpu import layout
from learners.base import Folded

_FLAGS = {
    "learned": layout.LEARNED,
    "observed": layout.OBSERVED,
    "unknown_id": layout.UNKNOWN_ID,
    "out_of_order": layout.OUT_OF_ORDER,
    "nonfinite_skipped": layout.NONFINITE,
    "class_limit": layout.CLASS_LIMIT,
    "quarantined": layout.QUARANTINED,
}
_SMALLEST = 1e-6
"""Probabilities are clipped here in the log-loss."""


@dataclass
class Statistics:
    """Sums over the folded events; every one is taken event by event, so that cuts do not change a bit."""

    kind: str
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    labels: int = 0
    hits: int = 0
    unchanged: int = 0
    log_scored: int = 0
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    """log-loss, absolute error, absolute error of the no-change forecast."""

    def update(self, folded: Folded) -> None:
        """Adds a fold."""
        self.outcomes += np.bincount(folded.outcome, minlength=256)
        scored = folded.scored
        scored = scored[~np.isnan(scored[:, 1])]
        value, code, before, label = scored.T
        self.labels += len(scored)
        if self.kind == "regression":
            known = ~np.isnan(before)
            self._add(1, np.abs(value - label))
            self._add(2, np.abs(before - label)[known])
            return
        self.hits += int((code == label).sum())
        self.unchanged += int((before == label).sum())
        given = np.where(label > 0, value, 1.0 - value) if self.kind == "binary" else value
        given = given[~np.isnan(given)]
        self.log_scored += len(given)
        self._add(0, -np.log(np.clip(given, _SMALLEST, 1.0 - _SMALLEST)))

    def _add(self, place: int, values: np.ndarray) -> None:
        """Adds one by one, in order."""
        if len(values):
            self.sums[place] = np.add.accumulate(np.concatenate([self.sums[place : place + 1], values]))[-1]

    def quarantined(self, events: int) -> None:
        """Counts events that were taken out of the log's fold."""
        self.outcomes[layout.QUARANTINED] += events

    def counts(self) -> dict[str, int]:
        """Events by outcome; one event may count in several."""
        codes = np.arange(256)
        by_flag = {name: int(self.outcomes[(codes & flag) > 0].sum()) for name, flag in _FLAGS.items()}
        return {"events": int(self.outcomes.sum()), "labels": self.labels, **by_flag}

    def metrics(self) -> dict[str, float]:
        """Prequential metrics over the labels that met their prediction; empty before the first."""
        if not self.labels:
            return {}
        n = self.labels
        if self.kind == "regression":
            return {"mae": self.sums[1] / n, "no_change_mae": self.sums[2] / n}
        accuracy, unchanged = self.hits / n, self.unchanged / n
        metrics = {"accuracy": accuracy, "no_change": unchanged}
        if self.log_scored:
            metrics["log_loss"] = self.sums[0] / self.log_scored
        if unchanged < 1:
            metrics["kappa_temporal"] = (accuracy - unchanged) / (1 - unchanged)
        return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest of a snapshot."""
        return {
            "outcomes": self.outcomes.tolist(),
            "labels": self.labels,
            "hits": self.hits,
            "unchanged": self.unchanged,
            "log_scored": self.log_scored,
            "sums": self.sums.tolist(),
        }

    @classmethod
    def from_dict(cls, kind: str, state: dict[str, Any]) -> Statistics:
        """The inverse of `to_dict`."""
        arrays = {"outcomes": np.array(state["outcomes"], np.int64), "sums": np.array(state["sums"], float)}
        return cls(kind, **{**state, **arrays})
