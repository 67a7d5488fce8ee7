"""Running prequential scores, of a fold in process or of the answers of a service."""

from __future__ import annotations

from typing import Any

import numpy as np

from streams.batch import Batch, Keys
from streams.metrics import Classification, KeyCodes, Regression


class Score:
    """Prequential metrics for one kind of target.

    Args:
        kind: "binary", "multiclass" or "regression".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.metrics: Classification | Regression = Regression() if kind == "regression" else Classification()
        self._codes = KeyCodes()
        self._log_loss = kind == "binary"

    def of_fold(self, folded: Any, batch: Batch, classes: tuple[int | str, ...]) -> None:
        """Counts the labels that met their prediction in a fold.

        Args:
            folded: a `learners.base.Folded`; its `scored` is float64 [n, 4].
            batch: the n events that were folded.
            classes: what the learner knows after the fold.
        """
        value, code, _, label = folded.scored.T
        if self.kind == "multiclass":
            self._log_loss = True
            probability = np.clip(np.nan_to_num(value), 0.0, 1.0)
            self._classes(np.nan_to_num(code, nan=-1), label, probability, classes, batch.key)
        else:
            self._numbers(value, label, batch.key)

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
            self._classes(answer.code, y, np.zeros(len(y)), tuple(known), batch.key)
        else:
            self._numbers(answer.value, batch.y, batch.key)

    def _numbers(self, value: np.ndarray, y: np.ndarray, key: Keys) -> None:
        codes = self._codes(key)
        if isinstance(self.metrics, Regression):
            self.metrics.update(np.where(np.isnan(y), 0.0, value), y, key=codes)
        else:
            self.metrics.update_binary(np.where(np.isnan(y), 0.5, value), y, key=codes)

    def _classes(
        self, code: np.ndarray, y: np.ndarray, probability: np.ndarray, classes: tuple[Any, ...], key: Keys
    ) -> None:
        """`code` -1, nothing known yet, counts as a class of its own, so as an error."""
        assert isinstance(self.metrics, Classification)
        predicted = np.where(np.asarray(code) < 0, len(classes), code).astype(np.int64)
        self.metrics.update(predicted, y, probability, classes=(*classes, None), key=self._codes(key))

    def values(self) -> dict[str, float]:
        """Every metric that is known; empty before the first label."""
        values = self.metrics.values() if self.metrics.events else {}
        return values if self._log_loss else {name: value for name, value in values.items() if name != "log_loss"}

    def line(self) -> str:
        """The score beside its baseline, in a few words."""
        values = self.values()
        if not values:
            return "no labels"
        if self.kind == "regression":
            return f"MAE {values['mae']:.4g} (no change {values['no_change_mae']:.4g})"
        return f"accuracy {values['accuracy']:.2%} (no change {values['no_change']:.2%}, kappa {values['kappa']:.3f})"
