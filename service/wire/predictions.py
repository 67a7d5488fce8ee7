"""`Predictions` <-> arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.wire.labels import label_from_proto, label_to_proto
from streams.batch import LabelValue


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
    """

    position: int
    value: np.ndarray
    code: np.ndarray
    labels: tuple[LabelValue, ...]
    probabilities: np.ndarray | None
    outcome: np.ndarray
    duplicate: bool = False

    def __len__(self) -> int:
        return len(self.value)

    def predicted(self) -> list[LabelValue | None]:
        """For every row the likeliest class (None while none is known), or the predicted number."""
        if not self.labels and not len(self.code):
            return self.value.tolist()
        return [self.labels[code] if code >= 0 else None for code in self.code.tolist()]


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
) -> pb.Predictions:
    """Arrays as a message; see `PredictionBatch` for what they hold.

    Raises:
        ValueError: an array whose shape contradicts the number of rows or labels.
    """
    rows = len(value)
    for name, array, shape in (
        ("code", code, (rows,)),
        ("probabilities", probabilities, (rows, len(labels))),
        ("outcome", outcome, (rows,)),
    ):
        if array is not None and array.shape not in (shape, (0,)):
            raise ValueError(f"{name}: got shape {array.shape}; accepted: {shape}")
    message = pb.Predictions(
        position=position,
        rows=rows,
        value=_bytes(value, "<f8"),
        code=_bytes(code, "<i4"),
        probabilities=_bytes(probabilities, "<f4"),
        outcome=_bytes(outcome, "u1"),
    )
    if labels:
        message.MergeFromString(_dictionary(tuple(labels)))
    return message


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
    )
    for name, column in (("value", batch.value), ("code", batch.code), ("outcome", batch.outcome)):
        if len(column) not in (message.rows, 0):
            raise ValueError(f"predictions.{name}: got {len(column)} rows; accepted: {message.rows}")
    return batch
