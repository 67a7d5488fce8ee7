"""Counts and prequential metrics of what a partition folded; carried in its snapshots, outside the digest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernels.cpu import layout
from kernels.cpu.tally import ERROR, HITS, LABELS, LOG_LOSS, LOG_SCORED, MAJORITY, NO_CHANGE_ERROR, UNCHANGED, tally
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
_TASKS = {"binary": layout.BINARY, "multiclass": layout.MULTICLASS, "regression": layout.REGRESSION}


@dataclass
class Statistics:
    """Sums over the folded events of a model whose target is of `kind`; see `kernels.cpu.tally`."""

    kind: str
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(6, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(3))
    seen: np.ndarray = field(default_factory=lambda: np.zeros((2, 2), np.int64))

    def update(self, folded: Folded) -> None:
        """Adds a fold."""
        if self.kind == "multiclass" and len(folded.scored):
            top = np.fmax.reduce(folded.scored[:, 3])  # NaN where no label met its prediction
            if top >= len(self.seen):
                grown = np.zeros((2 * int(top) + 2, 2), np.int64)
                grown[: len(self.seen)] = self.seen
                self.seen = grown
        task = _TASKS[self.kind]
        tally(task, folded.outcome, folded.scored, self.outcomes, self.labels, self.sums, self.seen)

    def quarantined(self, events: int) -> None:
        """Counts events that were taken out of the log's fold."""
        self.outcomes[layout.QUARANTINED] += events

    def counts(self) -> dict[str, int]:
        """Events by outcome; one event may count in several."""
        codes = np.arange(256)
        by_flag = {name: int(self.outcomes[(codes & flag) > 0].sum()) for name, flag in _FLAGS.items()}
        return {"events": int(self.outcomes.sum()), "labels": int(self.labels[LABELS]), **by_flag}

    def metrics(self) -> dict[str, float]:
        """Prequential metrics over the labels that met their prediction; empty before the first."""
        n = int(self.labels[LABELS])
        if not n:
            return {}
        if self.kind == "regression":
            return {"mae": float(self.sums[ERROR] / n), "no_change_mae": float(self.sums[NO_CHANGE_ERROR] / n)}
        accuracy, unchanged = self.labels[HITS] / n, self.labels[UNCHANGED] / n
        metrics = {"accuracy": accuracy, "no_change": unchanged, "majority": self.labels[MAJORITY] / n}
        if self.labels[LOG_SCORED]:
            metrics["log_loss"] = self.sums[LOG_LOSS] / self.labels[LOG_SCORED]
        if unchanged < 1:
            metrics["kappa_temporal"] = (accuracy - unchanged) / (1 - unchanged)
        return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest of a snapshot."""
        return {name: getattr(self, name).tolist() for name in ("outcomes", "labels", "sums", "seen")}

    @classmethod
    def from_dict(cls, kind: str, state: dict[str, Any]) -> Statistics:
        """The inverse of `to_dict`."""
        outcomes, labels, seen = (np.array(state[name], np.int64) for name in ("outcomes", "labels", "seen"))
        return cls(kind, outcomes, labels, np.array(state["sums"], np.float64), seen)
