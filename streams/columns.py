"""From Arrow tables to batches: the step that every columnar source shares.

A table holds rows of a source, typed by `schema`. What Arrow's types cannot say (a number must be finite, a
binary label is one of two) is checked here, on whole columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys
from streams.mapping import (
    MAX_ABS_TARGET,
    MAX_ID_BYTES,
    MAX_KEY_BYTES,
    MAX_LABEL_BYTES,
    MICROSECONDS,
    BadRow,
    Mapping,
    hash_ids,
)

FINITE = "a finite number within float32"


@dataclass(frozen=True)
class Refused:
    """One row of a table that is no event: its index, the column at fault, the value, what is accepted."""

    row: int
    column: str
    value: Any
    accepted: str


def accepted_by(mapping: Mapping, column: str, type_: pa.DataType) -> str:
    """What `column` accepts, in words."""
    if column in mapping.features:
        return FINITE + (", or nothing" if column in mapping.missing else "")
    if column == mapping.label and mapping.target == "binary":
        return f"{mapping.labels[0]!r}, {mapping.labels[1]!r} or nothing"
    if column == mapping.label and mapping.target == "regression":
        return f"a finite number of magnitude at most {MAX_ABS_TARGET:g}, or nothing"
    if column == mapping.label:
        kind = "an integer" if pa.types.is_integer(type_) else f"text of at most {MAX_LABEL_BYTES} bytes"
        return f"{kind}, as the first rows have, or nothing"
    if column == mapping.time:
        kind = "an ISO 8601 time" if pa.types.is_timestamp(type_) else f"a number in {mapping.time_unit}"
        return f"{kind}, not before 1970"
    return f"text of at most {MAX_KEY_BYTES if column == mapping.key else MAX_ID_BYTES} bytes"


@dataclass(frozen=True, slots=True)
class Events:
    """Consecutive good rows of a source.

    Attributes:
        end: the row after them.
        batch: the events.
        ids: their ids as text, "" for none; None where the mapping has no ids.
    """

    end: int
    batch: Batch
    ids: pa.StringArray | None

    def slice(self, start: int, stop: int) -> Events:
        """Events `start:stop` of these."""
        if stop - start == len(self.batch):
            return self
        ids = None if self.ids is None else self.ids.slice(start, stop - start)
        return Events(self.end - len(self.batch) + stop, self.batch.slice(start, stop), ids)

    def cut(self, rows: int) -> Iterator[Events]:
        """The same in pieces of at most `rows` events."""
        for start in range(0, len(self.batch), rows):
            yield self.slice(start, min(start + rows, len(self.batch)))


def to_batch(table: pa.Table, mapping: Mapping) -> tuple[Batch, pa.StringArray | None, list[Refused]]:
    """Turns the columns of `table` into a batch of as many rows.

    Returns:
        The batch; the ids as text, if there are any; and the rows that are no events, in order, each once (their values
        mean nothing).
    """
    refused: dict[int, Refused] = {}

    def refuse(bad: np.ndarray, column: str) -> None:
        """Notes the rows where `bad` holds, keeping the first reason of each."""
        for row in np.flatnonzero(bad).tolist():
            value = table.column(column)[row].as_py()
            accepted = accepted_by(mapping, column, table.schema.field(column).type)
            refused.setdefault(row, Refused(row, column, value, accepted))

    late = _late(table, mapping)
    if late is not None:
        mask, zero = pa.array(late), pa.scalar(0, pa.float32())
        for name in mapping.features:
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, pc.if_else(mask, zero, table.column(name)))
    x = _features(table, mapping, refuse)
    y, classes = _labels(table, mapping, refuse)
    key = _keys(table, mapping, refuse)
    time = _times(table, mapping, refuse)
    ids = _ids(table, mapping, refuse)
    hashes = None if ids is None else hash_ids(ids.cast(pa.binary()).to_pylist())
    kind = None if late is None else np.where(late, LABEL, np.where(np.isnan(y), OBSERVATION, LABELLED))
    batch = Batch.of(x, y, kind=kind, key=key, time=time, id=hashes, classes=classes)
    return batch, ids, [refused[row] for row in sorted(refused)]


def _late(table: pa.Table, mapping: Mapping) -> np.ndarray | None:
    """Which rows bring the label of an earlier observation, bool [n]; None where none does."""
    if not mapping.late or mapping.label is None or mapping.id is None:
        return None
    named = pc.not_equal(_text(table.column(mapping.id)), "")
    late = table.column(mapping.label).is_valid().to_numpy() & named.to_numpy(False)
    for name in mapping.features if late.any() else ():
        late &= table.column(name).is_null().to_numpy()
    return late if late.any() else None


def _features(table: pa.Table, mapping: Mapping, refuse: Any) -> np.ndarray:
    x = np.empty((table.num_rows, len(mapping.features)), np.float32)
    for position, name in enumerate(mapping.features):
        x[:, position] = _values(table.column(name).combine_chunks())
    if not np.isfinite(x).all():
        for position, name in enumerate(mapping.features):
            bad = np.isinf(x[:, position])
            refuse(bad if name in mapping.missing else bad | np.isnan(x[:, position]), name)
    return x


def _values(column: pa.Array) -> np.ndarray:
    """The numbers of a column, NaN where one is missing; `to_numpy` would import pandas, which takes a while."""
    return column.to_numpy(zero_copy_only=False) if column.null_count else np.from_dlpack(column)


def _labels(table: pa.Table, mapping: Mapping, refuse: Any) -> tuple[np.ndarray, tuple[int | str, ...]]:
    """The column `y` and the classes that it indexes; NaN where there is no label."""
    rows = table.num_rows
    if mapping.label is None:
        return np.full(rows, np.nan), ()
    column = table.column(mapping.label).combine_chunks()
    if mapping.target == "regression":
        y = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        refuse(np.abs(y) > MAX_ABS_TARGET, mapping.label)
        return y, ()
    if pa.types.is_string(column.type):
        column = pc.if_else(pc.equal(column, ""), None, column)
        refuse(
            pc.fill_null(pc.greater(pc.binary_length(column), MAX_LABEL_BYTES), False).to_numpy(False),
            mapping.label,
        )
    elif pa.types.is_boolean(column.type):
        column = column.cast(pa.int64())
    encoded = column.dictionary_encode()
    indices = encoded.indices
    codes = _values(pc.fill_null(indices, -1) if indices.null_count else indices)
    seen = encoded.dictionary.to_pylist()
    # The last entry is where code -1, no label, lands.
    if mapping.target == "multiclass":
        return np.append(np.arange(len(seen), dtype=np.float64), np.nan)[codes], tuple(seen)
    as_seen = str if pa.types.is_string(column.type) else lambda label: label
    known = {as_seen(label): float(index) for index, label in enumerate(mapping.labels)}
    values = np.array([*(known.get(label, np.inf) for label in seen), np.nan])
    y = values[codes]
    refuse(np.isinf(y), mapping.label)
    return y, ()


def _text(column: pa.ChunkedArray) -> pa.StringArray:
    return pc.fill_null(column.cast(pa.string()), "").combine_chunks()


def _keys(table: pa.Table, mapping: Mapping, refuse: Any) -> Keys | None:
    if mapping.key is None:
        return None
    text = _text(table.column(mapping.key))
    if not len(text):
        return Keys.empty(0)
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1].astype(np.int64)
    refuse(np.diff(ends) > MAX_KEY_BYTES, mapping.key)
    held = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
    return Keys(ends - ends[0], held)


def _times(table: pa.Table, mapping: Mapping, refuse: Any) -> np.ndarray | None:
    if mapping.time is None:
        return None
    column = table.column(mapping.time).combine_chunks()
    absent = column.is_null().to_numpy(False)
    unit = MICROSECONDS[mapping.time_unit]
    limit = 2**62
    if pa.types.is_floating(column.type):
        scaled = np.nan_to_num(column.to_numpy(zero_copy_only=False) * unit, nan=-1, posinf=-1)
        time = np.where(scaled > limit, -1, np.rint(np.clip(scaled, -1, limit))).astype(np.int64)
    else:
        held = column.cast(pa.int64()).fill_null(-1).to_numpy()
        factor = 1 if pa.types.is_timestamp(column.type) else unit
        time = np.where(held > limit // factor, -1, held * factor)
    refuse(absent | (time < 0), mapping.time)
    return time


def _ids(table: pa.Table, mapping: Mapping, refuse: Any) -> pa.StringArray | None:
    if mapping.id is None:
        return None
    text = _text(table.column(mapping.id))
    refuse(pc.greater(pc.binary_length(text), MAX_ID_BYTES).to_numpy(False), mapping.id)
    return text


class Parser(Protocol):
    """A source's way from a block (some of its consecutive rows, in its own form) to a typed table."""

    name: str
    mapping: Mapping
    schema: pa.Schema

    def table(self, block: Any, schema: pa.Schema) -> pa.Table:
        """The rows of `block` as columns of `schema`; raises `pa.ArrowInvalid` where one does not fit."""

    def split(self, block: Any) -> list[Any]:
        """The rows of `block`, each a block of its own."""

    def join(self, blocks: list[Any]) -> Any:
        """The inverse of `split`."""

    def found(self, row: Any, column: str) -> Any:
        """What a one-row block holds in `column`; with "" the row as a whole."""

    def original(self, row: Any) -> bytes:
        """The bytes of a one-row block, as they came."""


def events(parser: Parser, block: Any, first: int) -> Iterator[Events | BadRow]:
    """The events of a block and its bad rows, in order.

    The block is parsed in one piece; only one that holds a bad row is cut into smaller ones, until the row
    stands alone.

    Args:
        parser: how the source is read.
        block: consecutive rows of it.
        first: the number of the first.

    Yields:
        `Events` for consecutive good rows; a `BadRow` for each other.
    """
    try:
        table = parser.table(block, parser.schema)
    except pa.ArrowInvalid as error:
        yield from _smaller(parser, block, first, error)
        return
    batch, ids, refused = to_batch(table, parser.mapping)
    whole = Events(first + len(batch), batch, ids)
    start = 0
    rows = parser.split(block) if refused else []
    for bad in refused:
        if bad.row > start:
            yield whole.slice(start, bad.row)
        original = parser.original(rows[bad.row])
        yield BadRow(
            parser.name,
            first + bad.row,
            bad.column,
            value=bad.value,
            accepted=bad.accepted,
            original=original,
        )
        start = bad.row + 1
    if start < len(batch):
        yield whole.slice(start, len(batch))


def _smaller(parser: Parser, block: Any, first: int, error: pa.ArrowInvalid) -> Iterator[Events | BadRow]:
    """The events of a block that does not parse."""
    rows = parser.split(block)
    if len(rows) == 1:
        yield _explain(parser, rows[0], first, error)
        return
    half = len(rows) // 2
    yield from events(parser, parser.join(rows[:half]), first)
    yield from events(parser, parser.join(rows[half:]), first + half)


def _explain(parser: Parser, row: Any, number: int, error: pa.ArrowInvalid) -> BadRow:
    """Says which column of a row that does not parse is at fault."""
    for field in parser.schema:
        if parser.found(row, field.name) is not None and not fits(parser, row, pa.schema([field])):
            accepted = accepted_by(parser.mapping, field.name, field.type)
            return _bad(parser, row, number, field.name, accepted)
    accepted = f"a row that parses ({str(error).splitlines()[0]})"
    return _bad(parser, row, number, "", accepted)


def _bad(parser: Parser, row: Any, number: int, column: str, accepted: str) -> BadRow:
    value = parser.found(row, column)
    return BadRow(parser.name, number, column, value=value, accepted=accepted, original=parser.original(row))


def fits(parser: Parser, block: Any, schema: pa.Schema) -> bool:
    """Whether every row of `block` parses under `schema`."""
    try:
        parser.table(block, schema)
    except pa.ArrowInvalid:
        return False
    return True


def failing(parser: Parser, rows: list[Any], schema: pa.Schema, limit: int) -> int:
    """How many of `rows` do not parse under `schema`; counting stops at `limit`."""
    if limit == 0 or not rows or fits(parser, parser.join(rows), schema):
        return 0
    if len(rows) == 1:
        return 1
    half = len(rows) // 2
    left = failing(parser, rows[:half], schema, limit)
    return left + failing(parser, rows[half:], schema, limit - left)
