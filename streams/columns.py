"""From Arrow tables to batches: the step that every columnar source shares.

A table holds rows of a source, typed by `schema`. What Arrow's types cannot say (a number must be finite, a
binary label is one of two) is checked here, on whole columns.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys
from streams.labels import CLASS, MISSING_CELLS, Cells, binary_of, class_in, class_of, number_in, target_of
from streams.mapping import (
    MAX_ABS_TARGET,
    MAX_ID_BYTES,
    MAX_KEY_BYTES,
    MAX_LABEL_BYTES,
    NANOSECONDS,
    BadRow,
    Mapping,
    hash_ids,
    likely_unit,
    warn_of_unit,
)
from streams.times import microseconds, of_values

JSON = pa.binary()
"""Type of a column whose values differ in type: each is the text of a JSON value."""

FINITE = "a finite number within float32"
_CLASSES: dict[Cells, str] = {
    "typed": CLASS,
    "text": f"text of at most {MAX_LABEL_BYTES} bytes",
    "integer": "an integer of 64 bits",
    "canonical": "an integer of 64 bits without leading zeros, as the first rows have",
}


@dataclass(frozen=True)
class Refused:
    """One row of a table that is no event: its index, the column at fault, the value, what is accepted."""

    row: int
    column: str
    value: Any
    accepted: str


def accepted_by(
    mapping: Mapping, column: str, type_: pa.DataType, cells: Cells = "typed", value: Any = None
) -> str:
    """What `column` accepts, in words; and what `value`, which it does not accept, seems to be."""
    if column in mapping.features:
        return FINITE + (", or nothing" if column in mapping.missing else "")
    if column == mapping.label and mapping.target == "binary":
        return f"{mapping.labels[0]!r}, {mapping.labels[1]!r} or nothing"
    if column == mapping.label and mapping.target == "regression":
        return f"a finite number of magnitude at most {MAX_ABS_TARGET:g}, or nothing"
    if column == mapping.label:
        return f"{_CLASSES[cells]}, or nothing"
    if column == mapping.time:
        accepted = f"a time of RFC 3339 or a number in {mapping.time_unit}, from 1970 to 9999"
        number = number_in(value) if isinstance(value, str) else value
        unit = likely_unit(number) if isinstance(number, (int, float)) else None
        looks = f"; this looks like {unit}: set time_unit: {unit}"
        return accepted if unit in (None, mapping.time_unit) else accepted + looks
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


def to_batch(
    table: pa.Table, mapping: Mapping, cells: Cells = "typed"
) -> tuple[Batch, pa.StringArray | None, list[Refused]]:
    """Turns the columns of `table` into a batch of as many rows.

    Args:
        table: features as float32, key and id as text or integers, the target of a regression as float64. A column of
            classes or of times has the type that it came with; one of `JSON` holds values of JSON as text.
        mapping: which column is what.
        cells: how text is read as a class.

    Returns:
        The batch; the ids as text, if there are any; and the rows that are no events, in order, each once (their values
        mean nothing).
    """
    refused: dict[int, Refused] = {}

    def refuse(bad: np.ndarray, column: str) -> None:
        """Notes the rows where `bad` holds, keeping the first reason of each."""
        if not bad.any():
            return
        held = table.column(column)
        for row in np.flatnonzero(bad).tolist():
            value = value_of(held[row])
            accepted = accepted_by(mapping, column, held.type, cells, value)
            refused.setdefault(row, Refused(row, column, value, accepted))

    x = _features(table, mapping)
    y, classes = _labels(table, mapping, cells)
    late = _late(table, mapping, x, y)
    _check_features(x, mapping, refuse)
    if mapping.label is not None:
        refuse(np.abs(y) > MAX_ABS_TARGET, mapping.label)
    key = _keys(table, mapping, refuse)
    time = _times(table, mapping, refuse)
    ids = _ids(table, mapping, refuse)
    hashes = None if ids is None else hash_ids(ids.cast(pa.binary()).to_pylist())
    kind = None if late is None else np.where(late, LABEL, np.where(np.isnan(y), OBSERVATION, LABELLED))
    batch = Batch.of(x, y, kind=kind, key=key, time=time, id=hashes, classes=classes)
    return batch, ids, [refused[row] for row in sorted(refused)]


def value_of(held: pa.Scalar) -> Any:
    """A value for people; a timestamp of nanoseconds has none in Python."""
    try:
        value = held.as_py()
    except ValueError:
        return str(held)
    return json.loads(value) if value is not None and held.type == JSON else value


def _features(table: pa.Table, mapping: Mapping) -> np.ndarray:
    """The column `x`, NaN where a value is missing."""
    x = np.empty((table.num_rows, len(mapping.features)), np.float32)
    for position, name in enumerate(mapping.features):
        x[:, position] = _values(table.column(name).combine_chunks())
    return x


def _late(table: pa.Table, mapping: Mapping, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Which rows bring the label of an earlier observation, bool [n], their `x` set to zero; None where none does."""
    if not mapping.late or mapping.label is None or mapping.id is None:
        return None
    late = ~np.isnan(y) & pc.not_equal(_text(table.column(mapping.id)), "").to_numpy(False)
    if late.any():
        late[late] = np.isnan(x[late]).all(axis=1)
    if not late.any():
        return None
    x[late] = 0
    return late


def _check_features(x: np.ndarray, mapping: Mapping, refuse: Any) -> None:
    finite = np.isfinite(x)
    if finite.all():
        return
    missing = frozenset(mapping.missing)
    for position in np.flatnonzero(~finite.all(axis=0)).tolist():
        name, column = mapping.features[position], x[:, position]
        refuse(np.isinf(column) if name in missing else ~np.isfinite(column), name)


def _values(column: pa.Array) -> np.ndarray:
    """The numbers of a column, NaN where one is missing; `to_numpy` would import pandas, which takes a while."""
    return column.to_numpy(zero_copy_only=False) if column.null_count else np.from_dlpack(column)


def _labels(table: pa.Table, mapping: Mapping, cells: Cells) -> tuple[np.ndarray, tuple[int | str, ...]]:
    """The column `y` and the classes that it indexes; NaN where there is no label, infinity where it does not fit.

    The rule of `streams.labels` is asked once for each different value.
    """
    if mapping.label is None:
        return np.full(table.num_rows, np.nan), ()
    column = table.column(mapping.label).combine_chunks()
    if mapping.target == "regression" and pa.types.is_floating(column.type):
        return column.to_numpy(zero_copy_only=False), ()
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    indices = encoded.indices
    codes = _values(pc.fill_null(indices, -1) if indices.null_count else indices)
    index: dict[int | str, int] = {}
    values = [_label(value, mapping, cells, index) for value in map(value_of, encoded.dictionary)]
    return np.array([*values, np.nan])[codes], tuple(index)  # the last value is where code -1, no label, lands


def _label(value: Any, mapping: Mapping, cells: Cells, index: dict[int | str, int]) -> float:
    """What `y` is for a value; NaN for no label, infinity for one that does not fit. Enters new classes in `index`."""
    try:
        if mapping.target == "regression":
            number = target_of(value)
        elif mapping.target == "binary":
            untyped = cells != "typed" and isinstance(value, str) and value not in mapping.labels
            number = None if untyped and value.strip() in MISSING_CELLS else binary_of(value, mapping.labels)
        else:
            name = class_in(value, cells) if isinstance(value, str) else class_of(value)
            number = None if name is None else float(index.setdefault(name, len(index)))
    except (TypeError, ValueError):
        return np.inf
    return np.nan if number is None else number


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
    if column.type == JSON:
        time = of_values([None if one is None else json.loads(one) for one in column.to_pylist()], mapping.time_unit)
    else:
        time = microseconds(column, mapping.time_unit)
    refuse(time < 0, mapping.time)
    _check_unit(column, mapping)
    return time


def _check_unit(column: pa.Array, mapping: Mapping) -> None:
    """Warns where the first number is a time of 1970 that would be one of this century in a coarser unit."""
    first = value_of(column[0]) if len(column) else None
    number = number_in(first) if isinstance(first, str) else first
    unit = likely_unit(number) if isinstance(number, (int, float)) else None
    if unit is not None and NANOSECONDS[unit] > NANOSECONDS[mapping.time_unit]:
        warn_of_unit(f"column {mapping.time!r}", unit, mapping.time_unit, f"set time_unit: {unit}")


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
    cells: Cells

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
    batch, ids, refused = to_batch(table, parser.mapping, parser.cells)
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
    """Says which column of a row that does not parse is at fault; the first one is found by halving."""
    fields = list(parser.schema)
    low, high = 0, len(fields)  # the first `low` columns parse, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(parser, row, pa.schema(fields[:middle])) else (low, middle)
    if fields:
        field = fields[low]
        value = parser.found(row, field.name)
        if value is not None and not fits(parser, row, pa.schema([field])):
            accepted = accepted_by(parser.mapping, field.name, field.type, parser.cells, value)
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
