"""Events from River data sets.

River yields a dictionary per event, so this source works per event in Python; files are the fast way in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from streams.batch import Batch
from streams.columns import JSON, events
from streams.labels import Cells, plain, target_of
from streams.mapping import BadRow, Mapping, OnBad
from streams.objects import object_schema

Pair = tuple[dict[Any, Any], Any]
LABEL = "label"
"""The name under which a River target stands in a mapping; River gives it none."""


def river_mapping(dataset: Any) -> Mapping:
    """Proposes a mapping for a River data set: its numeric features in their order, its target as the label.

    Args:
        dataset: a `river.datasets` object, or any iterable of `(features, target)` with River's `task`.

    Raises:
        ValueError: the data set is empty, has several targets, or none of its features is a number.
    """
    head: list[Pair] = list(islice(iter(dataset), 1000))
    if not head:
        raise ValueError(f"{name_of(dataset)}: the data set yields no events")
    names = dict.fromkeys(name for x, _ in head for name in x)
    numeric = tuple(
        str(name) for name in names if all(isinstance(x.get(name, 0.0), (int, float)) for x, _ in head)
    )
    missing = tuple(name for name in numeric if any(name not in {str(held) for held in x} for x, _ in head))
    if any(isinstance(y, dict) for _, y in head):
        raise ValueError(f"{name_of(dataset)}: several targets; accepted: one label or number for each event")
    if not numeric:
        raise ValueError(f"{name_of(dataset)}: no numeric features among {', '.join(map(str, names))}")
    task = str(getattr(dataset, "task", ""))
    if task.startswith("Regression"):
        return Mapping(numeric, LABEL, target="regression", missing=missing)
    if not task.startswith("Binary"):
        return Mapping(numeric, LABEL, target="multiclass", missing=missing)
    labels = sorted({_plain(y) for _, y in head})
    return Mapping(numeric, LABEL, labels=tuple(labels) if len(labels) == 2 else (0, 1), missing=missing)


def read_river(
    dataset: Iterable[Pair],
    mapping: Mapping,
    *,
    rows: int = 4096,
    start: int = 0,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[int, Batch]]:
    """Reads the events of a River data set.

    Args:
        dataset: a `river.datasets` object, or any iterable of `(features, target)`.
        mapping: which feature is what; the target is named `LABEL`. Booleans are 0 and 1.
        rows: the most events in a batch.
        start: events to pass over: the offset that an earlier reading came to.
        on_bad: called with each event that does not fit; without it the first one is raised.

    Yields:
        `(offset, batch)`: the batch holds the consecutive events `offset - len(batch)` to `offset - 1`.

    Raises:
        ValueError: `rows` or `start` out of range, or `start` lies beyond the end.
        BadRow: an event does not fit and there is no `on_bad`.
    """
    if rows < 1 or start < 0:
        raise ValueError(f"rows must be >= 1 and start >= 0, got rows={rows}, start={start}")
    pairs = iter(dataset)
    passed = sum(1 for _ in islice(pairs, start))
    if passed < start:
        raise ValueError(f"{name_of(dataset)}: offset {start} lies beyond the end of the stream, at {passed}")
    parser: _Pairs | None = None
    while block := list(islice(pairs, rows)):
        parser = parser or _Pairs(name_of(dataset), mapping)
        for item in events(parser, block, start):
            if not isinstance(item, BadRow):
                yield from ((part.end, part.batch) for part in item.cut(rows))
            elif on_bad is None:
                raise item
            else:
                on_bad(item)
        start += len(block)


def name_of(dataset: Any) -> str:
    """The name of a data set in messages and producer names."""
    return f"river:{type(dataset).__name__}"


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


@dataclass
class _Pairs:
    """Turns River's pairs into tables."""

    name: str
    mapping: Mapping
    cells: Cells = "typed"

    def __post_init__(self) -> None:
        self.schema = object_schema(self.mapping)

    def table(self, block: list[Pair], schema: pa.Schema) -> pa.Table:
        columns = {}
        for column in schema:
            values = [self.found([pair], column.name) for pair in block]
            try:
                columns[column.name] = self._column(values, column)
            except (TypeError, ValueError, OverflowError, pa.ArrowTypeError) as error:
                raise pa.ArrowInvalid(f"{column.name}: {error}") from error
        return pa.table(columns)

    def _column(self, values: list[Any], column: pa.Field) -> pa.Array:
        mapping = self.mapping
        if column.type != JSON:
            return pa.array([_plain(value) for value in values], column.type)
        if column.name == mapping.label:
            told = [plain(value) for value in values]
            if mapping.target == "regression":
                return pa.array([target_of(value) for value in told], pa.float64())
            return pa.array([None if value is None else json.dumps(value).encode() for value in told], JSON)
        if column.name == mapping.time:
            return pa.array(values)
        return pa.array([None if value is None else str(value) for value in values], pa.string())

    def found(self, row: list[Pair], column: str) -> Any:
        x, y = row[0]
        if not column:
            return row[0]
        if column == self.mapping.label:
            return _plain(y)
        return _plain(x.get(column, x.get(int(column)) if column.isdigit() else None))

    def split(self, block: list[Pair]) -> list[list[Pair]]:
        return [[pair] for pair in block]

    def join(self, blocks: list[list[Pair]]) -> list[Pair]:
        return [pair for block in blocks for pair in block]

    def original(self, row: list[Pair]) -> bytes:
        return repr(row[0]).encode()
