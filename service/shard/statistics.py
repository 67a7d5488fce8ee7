"""Counts and prequential metrics of what a partition folded; carried in its snapshots, outside the digest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kernels.cpu import layout
from kernels.cpu.tally import (
    BINS,
    COUNTS,
    COVERED,
    ERROR,
    HITS,
    INTERVALS,
    LABELS,
    LOG_LOSS,
    LOG_SCORED,
    MAJORITY,
    NO_CHANGE_ERROR,
    SUMS,
    UNCHANGED,
    WIDTH,
    tally,
)
from learners.base import SIGNALS, Folded

_FLAGS = {
    "learned": layout.LEARNED,
    "observed": layout.OBSERVED,
    "unknown_id": layout.UNKNOWN_ID,
    "out_of_order": layout.OUT_OF_ORDER,
    "nonfinite_skipped": layout.NONFINITE,
    "class_limit": layout.CLASS_LIMIT,
    "quarantined": layout.QUARANTINED,
    "outlier": layout.OUTLIER,
}
_CARRIED = ("outcomes", "labels", "sums", "seen", "bins", "confidence", "expired", "signals")
_TASKS = {"binary": layout.BINARY, "multiclass": layout.MULTICLASS, "regression": layout.REGRESSION}


@dataclass
class Statistics:
    """Sums over the folded events of a model whose target is of `kind`; see `kernels.cpu.tally`."""

    kind: str
    outcomes: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(COUNTS, np.int64))
    sums: np.ndarray = field(default_factory=lambda: np.zeros(SUMS))
    seen: np.ndarray = field(default_factory=lambda: np.zeros((2, 2), np.int64))
    bins: np.ndarray = field(default_factory=lambda: np.zeros((BINS, 2), np.int64))
    confidence: np.ndarray = field(default_factory=lambda: np.zeros(BINS))
    expired: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    """Observations that left without a label: dropped, and learned with the default one."""
    signals: np.ndarray = field(default_factory=lambda: np.zeros((len(SIGNALS), 2), np.int64))
    """Of each kind of signal how many there were, and the position of the last."""

    def update(self, folded: Folded) -> None:
        """Adds a fold."""
        scored = folded.met()
        if len(folded.expired):
            gone, defaulted = (~np.isnan(folded.expired[:, column]) for column in (1, 3))
            self.expired += [np.count_nonzero(gone & ~defaulted), np.count_nonzero(defaulted)]
        if len(folded.signals):
            np.add.at(self.signals[:, 0], folded.signals[:, 1], 1)
            np.maximum.at(self.signals[:, 1], folded.signals[:, 1], folded.signals[:, 0])
        if self.kind == "multiclass" and len(scored):
            top = np.fmax.reduce(scored[:, 3])  # NaN where no label met its prediction
            if top >= len(self.seen):
                grown = np.zeros((2 * int(top) + 2, 2), np.int64)
                grown[: len(self.seen)] = self.seen
                self.seen = grown
        trust = (self.bins, self.confidence)
        tally(_TASKS[self.kind], folded.outcome, scored, self.outcomes, self.labels, self.sums, self.seen, *trust)

    def quarantined(self, events: int) -> None:
        """Counts events that were taken out of the log's fold."""
        self.outcomes[layout.QUARANTINED] += events

    def counts(self) -> dict[str, int]:
        """Events by outcome, of which one event may count in several, and observations that never got their label.

        Of the signals that there were, how many, and the position after the event of the last of each kind.
        """
        late = np.arange(256) & layout.LATE == layout.LATE
        away = np.arange(256) & layout.AWAY == layout.AWAY
        codes = np.where(late, 0, np.where(away, np.arange(256) & ~layout.UNKNOWN_ID, np.arange(256)))
        by_flag = {name: int(self.outcomes[(codes & flag) > 0].sum()) for name, flag in _FLAGS.items()}
        dropped, defaulted = self.expired.tolist()
        by_flag |= {"late": int(self.outcomes[late].sum()), "wrong_clock": int(self.outcomes[away].sum())}
        by_flag |= {"dropped": dropped, "defaulted": defaulted}
        for name, (count, last) in zip(SIGNALS, self.signals.tolist()):
            if count:
                by_flag |= {name: count, f"{name}_last_position": last}
        return {"events": int(self.outcomes.sum()), "labels": int(self.labels[LABELS]), **by_flag}

    def metrics(self) -> dict[str, float]:
        """Prequential metrics over the labels that met their prediction; empty before the first.

        `calibration_error` (see `streams.metrics.Classification`), `interval_coverage` and `interval_width` (see
        `streams.metrics.Regression`) are over the predictions that came with a confidence or an interval, and left
        out where none did.
        """
        n = int(self.labels[LABELS])
        if not n:
            return {}
        if self.kind == "regression":
            return self._of_numbers(n)
        accuracy, unchanged = self.labels[HITS] / n, self.labels[UNCHANGED] / n
        metrics = {"accuracy": accuracy, "no_change": unchanged, "majority": self.labels[MAJORITY] / n}
        if self.labels[LOG_SCORED]:
            metrics["log_loss"] = self.sums[LOG_LOSS] / self.labels[LOG_SCORED]
        if unchanged < 1:
            metrics["kappa_temporal"] = (accuracy - unchanged) / (1 - unchanged)
        if told := int(self.bins[:, 0].sum()):
            metrics["calibration_error"] = np.abs(self.bins[:, 1] - self.confidence).sum() / told
        return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}

    def _of_numbers(self, n: int) -> dict[str, float]:
        metrics = {"mae": self.sums[ERROR] / n, "no_change_mae": self.sums[NO_CHANGE_ERROR] / n}
        if given := int(self.labels[INTERVALS]):
            metrics["interval_coverage"] = self.labels[COVERED] / given
            metrics["interval_width"] = self.sums[WIDTH] / given
        return {name: float(value) for name, value in metrics.items()}

    @classmethod
    def united(cls, parts: Sequence[Statistics]) -> Statistics:
        """Sums over all that the parts are sums over. The class that came first is that of the first part."""
        whole = cls(parts[0].kind)
        whole.seen = np.zeros((max(len(part.seen) for part in parts), 2), np.int64)
        for part in parts:
            for name in _CARRIED:
                if name not in ("seen", "signals"):
                    setattr(whole, name, getattr(whole, name) + getattr(part, name))
            whole.signals[:, 0] += part.signals[:, 0]
            whole.signals[:, 1] = np.maximum(whole.signals[:, 1], part.signals[:, 1])
            seen = whole.seen[: len(part.seen)]
            seen[:, 0] += part.seen[:, 0]
            firsts = np.stack([seen[:, 1], part.seen[:, 1]])
            seen[:, 1] = np.where(firsts.all(0), firsts.min(0), firsts.max(0))  # 0: never
        return whole

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest of a snapshot."""
        return {name: getattr(self, name).tolist() for name in _CARRIED}

    @classmethod
    def from_dict(cls, kind: str, state: dict[str, Any]) -> Statistics:
        """The inverse of `to_dict`; sums that a snapshot of an older version does not have begin at 0."""
        held = cls(kind)
        for name in _CARRIED:
            fresh = getattr(held, name)
            known = np.array(state.get(name, ()), fresh.dtype)
            if len(known) >= len(fresh):
                setattr(held, name, known)
            else:
                fresh[: len(known)] = known.reshape(-1, *fresh.shape[1:])
        return held
