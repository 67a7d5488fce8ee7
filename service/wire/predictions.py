"""`Predictions` <-> arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.wire.labels import label_from_proto, label_to_proto
from streams.batch import LabelValue

UNCERTAIN = ("variance", "epistemic", "interval")
"""The columns of a prediction that say how sure it is."""


@dataclass(frozen=True, slots=True)
class PredictionBatch:
    """The predictions for n events.

    Attributes:
        position: events logged before the first of these rows.
        value: float64 [n]; regression: the target; binary: probability of the second label; multi-class:
            probability of the likeliest class. NaN: no prediction (a LABEL row).
        code: int32 [n], index into `labels` of the likeliest class, -1 while none is known; empty for
            regression.
        labels: the classes known after the last row.
        probabilities: float32 [n, len(labels)] when asked for, else None.
        outcome: uint8 [n], sums of `Outcome` flags; empty for Predict.
        duplicate: whether these events had been applied before, and nothing was done.
        variance: float64 [n], the variance of what is predicted; regression: of the target; classes: p (1 - p), with p
            the probability of the likeliest class.
        epistemic: float64 [n], what more data would remove; regression: the part of `variance`; classes: the variance
            of the logits.
        interval: float64 [n], half the width of the central 90 % interval around the value of a regression.

    The last three are None when not asked for or where the learner cannot tell, NaN in a row of which it cannot.
    """

    position: int
    value: np.ndarray
    code: np.ndarray
    labels: tuple[LabelValue, ...]
    probabilities: np.ndarray | None
    outcome: np.ndarray
    duplicate: bool = False
    variance: np.ndarray | None = None
    epistemic: np.ndarray | None = None
    interval: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.value)

    def predicted(self) -> list[LabelValue | None]:
        """For every row the likeliest class (None while none is known), or the predicted number."""
        if not self.labels and not len(self.code):
            return self.value.tolist()
        return [self.labels[code] if code >= 0 else None for code in self.code.tolist()]

    def columns(self) -> dict[str, Any]:
        """What is known of the rows by name, each [n], as `pandas.DataFrame` takes it.

        `predicted` and `value`; `variance`, `epistemic` and `interval` where they are there; and with probabilities
        one column for each class, named by the pair ("probability", label).
        """
        held: dict[Any, Any] = {"predicted": self.predicted(), "value": self.value}
        held |= {name: getattr(self, name) for name in UNCERTAIN if getattr(self, name) is not None}
        if self.probabilities is not None:
            held |= {("probability", label): self.probabilities[:, k] for k, label in enumerate(self.labels)}
        return held


@lru_cache(maxsize=64)
def _dictionary(labels: tuple[int | str, ...]) -> bytes:
    """The serialized label dictionary, to be merged: it is the same from batch to batch, and may be long."""
    return pb.Predictions(labels=[label_to_proto(value) for value in labels]).SerializeToString()


def predictions_to_proto(
    position: int,
    value: np.ndarray,
    code: np.ndarray | None = None,
    labels: Sequence[int | str] = (),
    probabilities: np.ndarray | None = None,
    outcome: np.ndarray | None = None,
    **uncertainty: np.ndarray | None,
) -> pb.Predictions:
    """Arrays as a message; see `PredictionBatch` for what they hold.

    `uncertainty` is those of `variance`, `epistemic` and `interval` that are asked for, None where they are not known.

    Raises:
        ValueError: an array whose shape contradicts the number of rows or labels.
    """
    rows = len(value)
    _check_shape("code", code, (rows,))
    _check_shape("probabilities", probabilities, (rows, len(labels)))
    _check_shape("outcome", outcome, (rows,))
    message = pb.Predictions(
        position=position,
        rows=rows,
        value=_bytes(value, "<f8"),
        code=_bytes(code, "<i4"),
        probabilities=_bytes(probabilities, "<f4"),
        outcome=_bytes(outcome, "u1"),
    )
    for name, array in uncertainty.items():
        _check_shape(name, array, (rows,))
        setattr(message, name, _bytes(array, "<f8"))
    if labels:
        message.MergeFromString(_dictionary(tuple(labels)))
    return message


def _check_shape(name: str, array: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if array is not None and array.shape not in (shape, (0,)):
        raise ValueError(f"{name}: got shape {array.shape}; accepted: {shape}")


def _bytes(array: np.ndarray | None, dtype: str) -> bytes:
    return b"" if array is None else np.ascontiguousarray(array, dtype).tobytes()


def predictions_from_proto(message: pb.Predictions, duplicate: bool = False) -> PredictionBatch:
    """A message as arrays (views, read-only).

    Raises:
        ValueError: bytes whose length contradicts the number of rows.
    """
    labels = tuple(value for value in map(label_from_proto, message.labels) if value is not None)
    raw = message.probabilities
    probabilities = np.frombuffer(raw, "<f4").reshape(message.rows, len(labels)) if raw else None
    batch = PredictionBatch(
        message.position,
        np.frombuffer(message.value, "<f8"),
        np.frombuffer(message.code, "<i4"),
        labels,
        probabilities,
        np.frombuffer(message.outcome, "u1"),
        duplicate,
        *(np.frombuffer(raw, "<f8") if (raw := getattr(message, name)) else None for name in UNCERTAIN),
    )
    for name in ("value", "code", "outcome", *UNCERTAIN):
        column = getattr(batch, name)
        if column is not None and len(column) not in (message.rows, 0):
            raise ValueError(f"predictions.{name}: got {len(column)} rows; accepted: {message.rows}")
    return batch
