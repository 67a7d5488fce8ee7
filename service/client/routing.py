"""Models with several partitions: which rows go where, and their answers back in the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.wire import PredictionBatch, key_hashes, keys_of
from service.wire.predictions import UNCERTAIN
from streams.batch import LabelValue


class Resplit(Exception):  # noqa: N818 (a decision: what was cut by an older map has to be cut anew)
    """The partition map has changed under a request that was made for one partition."""


class Routes:
    """The partitions of one model as a map has them.

    Attributes:
        ids: of the partitions, by range.
        version: of the map of the model.
    """

    def __init__(self, current: pb.PartitionMap | None, model: str) -> None:
        found = [part for part in (current.partitions if current else ()) if part.model == model]
        found.sort(key=lambda part: part.first_hash)
        self.ids = [part.id for part in found]
        self.version = found[0].map_version if found else 0
        self._last = np.array([part.last_hash for part in found], np.uint64)

    @property
    def whole(self) -> bool:
        """Whether the model has the one partition that it began with (or none that is known)."""
        return len(self.ids) == 0 or (len(self.ids) == 1 and self.ids[0] in ("", "0"))

    def rows(self, hashes: np.ndarray) -> list[tuple[str, np.ndarray]]:
        """The rows (int64, rising) of each partition that has any, by the hashes of their keys (uint64 [n])."""
        if len(self.ids) == 1:
            return [(self.ids[0], np.arange(len(hashes)))]
        place = np.searchsorted(self._last, hashes)
        parts = ((id, np.flatnonzero(place == number)) for number, id in enumerate(self.ids))
        return [(id, rows) for id, rows in parts if len(rows)]


def hashes_of(columns: pb.Columns) -> np.ndarray:
    """uint64 [n]: the key hashes of columns.

    Raises:
        ValueError: see `service.wire.keys_of`.
    """
    return key_hashes(keys_of(columns))


def united(parts: Sequence[tuple[np.ndarray, PredictionBatch]], rows: int) -> PredictionBatch:
    """The predictions for some rows each as those for all, in the order of the rows.

    The position is that of the first part. Rows of a part that has none (it was applied before, and its predictions are
    forgotten) are NaN, of class -1. The labels are those of all parts, and codes and probabilities are by them.
    """
    if len(parts) == 1 and len(parts[0][1]) == rows:
        return parts[0][1]
    index: dict[LabelValue, int] = {}
    tables = [np.array([index.setdefault(label, len(index)) for label in part.labels], np.int32) for _, part in parts]
    labels = tuple(index)
    coded = any(len(part.code) for _, part in parts)
    sure = {name: np.full(rows, np.nan) for name in UNCERTAIN if any(_has(part, name) for _, part in parts)}
    value, code = np.full(rows, np.nan), np.full(rows if coded else 0, -1, np.int32)
    outcome = np.zeros(rows if any(len(part.outcome) for _, part in parts) else 0, np.uint8)
    asked = any(part.probabilities is not None for _, part in parts)
    probabilities = np.zeros((rows, len(labels)), np.float32) if asked else None
    for (where, part), table in zip(parts, tables):
        if len(part) != len(where):
            continue
        value[where] = part.value
        if len(part.code):
            code[where] = np.append(table, np.int32(-1))[part.code]  # -1, none, takes the last
        if len(part.outcome):
            outcome[where] = part.outcome
        if probabilities is not None and part.probabilities is not None:
            probabilities[np.ix_(where, table)] = part.probabilities
        for name, column in sure.items():
            if _has(part, name):
                column[where] = getattr(part, name)
    duplicate = all(part.duplicate for _, part in parts)
    position = parts[0][1].position
    return PredictionBatch(position, value, code, labels, probabilities, outcome, duplicate, **sure)


def _has(part: PredictionBatch, name: str) -> bool:
    return getattr(part, name) is not None
