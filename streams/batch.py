"""Events as columns.

A `Batch` is the only form in which events travel inside the project: sources yield it, the wire format
decodes into it, the log replays into it and learners fold it. Row `i` of every column is one event, and
rows stand in log order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

OBSERVATION, LABELLED, LABEL = 0, 1, 2
"""Values of `Batch.kind`: features only; features with their label; a label for an earlier observation."""

LabelValue = int | str | float
"""What a label may be: a class name (`int` or `str`) or a regression target (`float`)."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A column of byte strings: row `i` is `data[offsets[i]:offsets[i + 1]]`.

    Attributes:
        offsets: int64 [n + 1], non-decreasing, `offsets[0] == 0`.
        data: uint8 [offsets[n]].
    """

    offsets: np.ndarray
    data: np.ndarray

    @classmethod
    def pack(cls, values: Iterable[bytes]) -> Keys:
        """Builds the column from byte strings."""
        values = list(values)
        offsets = np.zeros(len(values) + 1, np.int64)
        np.cumsum([len(value) for value in values], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(values), np.uint8))

    @classmethod
    def empty(cls, rows: int) -> Keys:
        """A column of `rows` empty keys: one entity."""
        return cls(np.zeros(rows + 1, np.int64), np.zeros(0, np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    @classmethod
    def concat(cls, columns: Sequence[Keys]) -> Keys:
        """Several columns in one, in order."""
        offsets = np.zeros(sum(map(len, columns)) + 1, np.int64)
        row = end = 0
        for column in columns:
            rows = len(column)
            np.add(column.offsets[1:], end, out=offsets[row + 1 : row + rows + 1])
            row, end = row + rows, end + column.offsets.item(-1)
        return cls(offsets, np.concatenate([column.data for column in columns]))

    def slice(self, start: int, stop: int) -> Keys:
        """Rows `start:stop` as a column of their own (the bytes are shared)."""
        offsets = self.offsets[start : stop + 1]
        return Keys(offsets - offsets[0], self.data[offsets[0] : offsets[-1]])


@dataclass(frozen=True, slots=True)
class Batch:
    """`n` events as columns, in log order.

    Attributes:
        x: float32 [n, d], features in the order of the spec; NaN is a missing value. Zero where `kind` is LABEL.
        kind: uint8 [n], one of OBSERVATION, LABELLED, LABEL.
        y: float64 [n]; a regression target, 0 or 1 for a binary target, or an index into `classes` for a
            multi-class target. NaN where `kind` is OBSERVATION.
        key: `Keys` of n rows; the entity of each event.
        time: int64 [n], microseconds since the epoch; 0 where the stream has no clock.
        id: uint64 [n, 2], 128-bit hash of the event id; zeros where the event has none.
        classes: the labels that `y` indexes, for a multi-class target; empty otherwise.
    """

    x: np.ndarray
    kind: np.ndarray
    y: np.ndarray
    key: Keys
    time: np.ndarray
    id: np.ndarray
    classes: tuple[int | str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: np.ndarray | None = None,
        *,
        kind: np.ndarray | None = None,
        key: Keys | Sequence[bytes] | None = None,
        time: np.ndarray | None = None,
        id: np.ndarray | None = None,
        classes: tuple[int | str, ...] = (),
    ) -> Batch:
        """Builds a batch, filling the columns that are left out: labelled where `y` is given and not NaN."""
        x = np.ascontiguousarray(x, np.float32)
        rows = len(x)
        y = np.full(rows, np.nan) if y is None else np.ascontiguousarray(y, np.float64)
        if kind is None:
            kind = np.where(np.isnan(y), OBSERVATION, LABELLED)
        if not isinstance(key, Keys):
            key = Keys.empty(rows) if key is None else Keys.pack(key)
        time = np.zeros(rows, np.int64) if time is None else np.ascontiguousarray(time, np.int64)
        id = np.zeros((rows, 2), np.uint64) if id is None else np.ascontiguousarray(id, np.uint64)
        return cls(x, np.ascontiguousarray(kind, np.uint8), y, key, time, id, classes)

    @classmethod
    def concat(cls, batches: Sequence[Batch]) -> Batch:
        """The events of several batches of one model in one, in order; class dictionaries are merged."""
        if len(batches) == 1:
            return batches[0]
        ys = [batch.y for batch in batches]
        classes = batches[0].classes
        if any(batch.classes != classes for batch in batches):
            index: dict[int | str, int] = {}
            for i, batch in enumerate(batches):
                table = np.array([index.setdefault(label, len(index)) for label in batch.classes] + [np.nan])
                ys[i] = table[np.where(np.isnan(batch.y), -1, batch.y).astype(np.int64)]
            classes = tuple(index)
        return cls(
            np.concatenate([batch.x for batch in batches]),
            np.concatenate([batch.kind for batch in batches]),
            np.concatenate(ys),
            Keys.concat([batch.key for batch in batches]),
            np.concatenate([batch.time for batch in batches]),
            np.concatenate([batch.id for batch in batches]),
            classes,
        )

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start:stop` as a batch of their own (views, nothing is copied but key offsets)."""
        rows = slice(start, stop)
        return Batch(
            self.x[rows],
            self.kind[rows],
            self.y[rows],
            self.key.slice(start, min(stop, len(self))),
            self.time[rows],
            self.id[rows],
            self.classes,
        )
