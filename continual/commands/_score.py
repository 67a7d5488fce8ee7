"""Running prequential scores, of a fold in process or of the answers of a service."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.shard.statistics import Statistics
from streams.batch import Batch, Keys
from streams.metrics import Classification, KeyCodes, Regression

_UNKNOWN = {"multiclass": ("log_loss",), "regression": ("interval_coverage", "interval_width")}
"""What the answers do not tell: the probability given to a label among several, and the intervals of numbers."""


class FoldScore:
    """Prequential metrics of a fold in this process: what a service tallies, and Cohen's kappa.

    Args:
        kind: "binary", "multiclass" or "regression".
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._tally = Statistics(kind)
        self._shares = [np.zeros(0, np.int64), np.zeros(0, np.int64)]

    def update(self, folded: Any, classes: int) -> None:
        """Counts the labels that met their prediction.

        Args:
            folded: a `learners.base.Folded`.
            classes: how many the learner knows after the fold.
        """
        self._tally.update(folded)
        if self._kind == "regression":
            return
        scored = folded.met()[:, 1::2]
        if np.isnan(scored).any():
            scored = scored[~np.isnan(scored).any(axis=1)]
        # Class -1, nothing known yet, counts as a class of its own: the first.
        size = max(2, classes) + 1
        for place, column in enumerate((scored[:, 0], scored[:, 1])):
            counts = np.bincount(column.astype(np.int64) + 1, minlength=size)
            counts[: len(self._shares[place])] += self._shares[place]
            self._shares[place] = counts

    def values(self) -> dict[str, float]:
        """Every metric that is known; empty before the first label."""
        values = self._tally.metrics()
        if not values:
            return {}
        n = self._tally.counts()["labels"]
        held: dict[str, float] = {"events": n, **values}
        if self._kind != "regression":
            predicted, occurred = (share.tolist() for share in self._shares)
            chance = sum(one * other for one, other in zip(predicted, occurred)) / n**2
            if chance < 1:
                held["kappa"] = (values["accuracy"] - chance) / (1 - chance)
        return held


class Score:
    """Prequential metrics for one kind of target.

    Args:
        kind: "binary", "multiclass" or "regression".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.metrics: Classification | Regression = Regression() if kind == "regression" else Classification()
        self._codes = KeyCodes()
        self._level: Any = None
        if kind == "regression":
            from learners.river.level import Level  # and numba with it

            self._level = Level()
        self._unknown = _UNKNOWN.get(kind, ())

    def of_answer(self, answer: Any, batch: Batch) -> None:
        """Counts the predictions of a service for labelled events.

        Args:
            answer: a `service.wire.PredictionBatch` of n rows.
            batch: the n events; those without a label are passed over.
        """
        if self.kind == "multiclass":
            place = {label: index for index, label in enumerate(answer.labels)}
            known = [*answer.labels, *(label for label in batch.classes if label not in place)]
            place = {label: index for index, label in enumerate(known)}
            table = np.array([*(place[label] for label in batch.classes), np.nan])
            y = table[np.nan_to_num(batch.y, nan=-1).astype(np.int64)]
            self._classes(answer.code, y, answer.value, tuple(known), batch.key)
        else:
            self._numbers(answer.value, batch.y, batch.key)

    def _numbers(self, value: np.ndarray, y: np.ndarray, key: Keys) -> None:
        codes = self._codes(key)
        if isinstance(self.metrics, Regression):
            start = self._level.means(np.asarray(y, np.float64))  # no change, to the service, of a key without a label
            self.metrics.update(np.where(np.isnan(y), 0.0, value), y, key=codes, start=start)
        else:
            self.metrics.update_binary(np.where(np.isnan(y), 0.5, value), y, key=codes)

    def _classes(
        self, code: np.ndarray, y: np.ndarray, confidence: np.ndarray, classes: tuple[Any, ...], key: Keys
    ) -> None:
        """`code` -1, nothing known yet, counts as a class of its own, so as an error, of no confidence."""
        assert isinstance(self.metrics, Classification)
        none = np.asarray(code) < 0
        predicted, sure = np.where(none, len(classes), code).astype(np.int64), np.where(none, np.nan, confidence)
        columns = (predicted, y, np.zeros(len(y)))
        self.metrics.update(*columns, classes=(*classes, None), key=self._codes(key), confidence=sure)

    def values(self) -> dict[str, float]:
        """Every metric that is known; empty before the first label."""
        values = self.metrics.values() if self.metrics.events else {}
        return {name: value for name, value in values.items() if name not in self._unknown}

    def line(self) -> str:
        """The score beside its baseline, in a few words."""
        values = self.values()
        if not values:
            return "no labels"
        if self.kind == "regression":
            return f"MAE {values['mae']:.4g} (no change {values['no_change_mae']:.4g})"
        return f"accuracy {values['accuracy']:.2%} (no change {values['no_change']:.2%}, kappa {values['kappa']:.3f})"
