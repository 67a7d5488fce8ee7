"""Events from tables that bring their own types: Parquet files, and Arrow streams as bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from streams.columns import failing
from streams.mapping import Mapping
from streams.opened import opened

SAMPLE_ROWS = 1024
_ISO = (pa.timestamp("us"), pa.timestamp("us", "UTC"))


class TableParser:
    """Turns tables of one schema into tables of the mapping's types; see `streams.columns.Parser`.

    A number may be of any width, a decimal or a truth value; a class may be a whole decimal; a time may be a number in
    the mapping's unit, a date, a timestamp of any unit (cut to microseconds), or ISO 8601 text, with a zone or without
    as the first rows have it. Text is read as a number where a number is wanted. NaN is missing.

    Args:
        name: of the source, for messages.
        mapping: which column is what.
        first: the first rows; their schema is that of all.

    Raises:
        ValueError: a mapped column is not there, or is of a type that nothing can be made of.
    """

    def __init__(self, name: str, mapping: Mapping, first: pa.Table) -> None:
        self.name = name
        self.mapping = mapping
        names = first.schema.names
        absent = [column for column in mapping.columns if names.count(column) != 1]
        if absent:
            there = ", ".join(sorted(set(names)))
            raise ValueError(f"{name}: no column (or more than one) named {absent}; columns: {there}")
        self.schema = pa.schema([])
        sample = self.split(first.slice(0, SAMPLE_ROWS).select(mapping.columns))
        types = {column: first.schema.field(column).type for column in mapping.columns}
        self.schema = pa.schema([self._field(column, held, sample) for column, held in types.items()])

    def _field(self, column: str, held: pa.DataType, sample: list[pa.Table]) -> pa.Field:
        """The type that a column is read as."""
        mapping = self.mapping
        held = held.value_type if pa.types.is_dictionary(held) else held
        if pa.types.is_nested(held):
            raise ValueError(f"{self.name}: column {column!r} is of type {held}; accepted: numbers, text, times")
        if column in mapping.features:
            return pa.field(column, pa.float32())
        if column == mapping.time:
            return pa.field(column, self._time_type(column, held, sample))
        if column != mapping.label:
            return pa.field(column, pa.string())
        if mapping.target == "regression":
            return pa.field(column, pa.float64())
        texts = any(isinstance(label, str) for label in mapping.labels) and mapping.target == "binary"
        if pa.types.is_boolean(held) and not texts:
            return pa.field(column, pa.bool_())
        whole = not texts and (mapping.target == "binary" or not _is_text(held))
        return pa.field(column, pa.int64() if whole else pa.string())

    def _time_type(self, column: str, held: pa.DataType, sample: list[pa.Table]) -> pa.DataType:
        if pa.types.is_temporal(held):
            return pa.timestamp("us")
        if not _is_text(held):
            return pa.int64() if pa.types.is_integer(held) else pa.float64()
        failed = [failing(self, sample, pa.schema([pa.field(column, one)]), len(sample) + 1) for one in _ISO]
        return _ISO[failed[1] < failed[0]]

    def table(self, block: pa.Table, schema: pa.Schema) -> pa.Table:
        """See `streams.columns.Parser`."""
        columns = []
        for field in schema:
            try:
                columns.append(_cast(block.column(field.name), field.type))
            except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
                raise pa.ArrowInvalid(f"{field.name}: {error}") from error
        return pa.table(columns, schema=schema)

    @staticmethod
    def split(block: pa.Table) -> list[pa.Table]:
        """See `streams.columns.Parser`."""
        return [block.slice(row, 1) for row in range(block.num_rows)]

    @staticmethod
    def join(blocks: list[pa.Table]) -> pa.Table:
        """See `streams.columns.Parser`."""
        return pa.concat_tables(blocks)

    @staticmethod
    def found(row: pa.Table, column: str) -> Any:
        """See `streams.columns.Parser`."""
        return _plain(row.column(column)[0]) if column else {name: _plain(row[name][0]) for name in row.schema.names}

    @staticmethod
    def original(row: pa.Table) -> bytes:
        """The mapped columns of a row as a JSON object: a row of a table has no bytes of its own."""
        return json.dumps({name: _plain(row[name][0]) for name in row.schema.names}, default=str).encode()


def parquet_blocks(path: str | Path, columns: list[str], rows: int, start: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of a Parquet file from `start` on.

    Yields:
        `(number of the first row, a table of at most that many rows)`; row groups before `start` are not read.

    Raises:
        ValueError: `start` lies beyond the end of the file.
        OSError: the file is no Parquet file, or damaged.
    """
    with open_parquet(path) as file:
        total = file.metadata.num_rows
        if start > total:
            raise ValueError(f"{path}: offset {start} lies beyond the end of the file, at {total}")
        at, group = 0, 0
        while group < file.num_row_groups and at + file.metadata.row_group(group).num_rows <= start:
            at += file.metadata.row_group(group).num_rows
            group += 1
        left = list(range(group, file.num_row_groups))
        batches = file.iter_batches(rows, row_groups=left, columns=columns, use_threads=False) if left else iter(())
        while (batch := _next(batches, path)) is not None:
            block = pa.table(batch).slice(max(0, start - at))
            at += len(batch)
            if len(block):
                yield at - len(block), block


def first_rows(path: str | Path, rows: int = SAMPLE_ROWS) -> pa.Table:
    """The first rows of a Parquet file, all its columns."""
    with open_parquet(path) as file:
        first = _next(file.iter_batches(rows, use_threads=False), path)
        return file.schema_arrow.empty_table() if first is None else pa.table(first)


def open_parquet(path: str | Path) -> pyarrow.parquet.ParquetFile:
    """A Parquet file.

    Raises:
        OSError: it is none.
    """
    try:
        return pyarrow.parquet.ParquetFile(opened(path), page_checksum_verification=True)
    except pa.ArrowInvalid as error:
        raise OSError(f"{path}: not a Parquet file, or damaged: {error}") from error


def _next(batches: Iterator[pa.RecordBatch], path: str | Path) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (OSError, pa.ArrowInvalid) as error:
        raise OSError(f"{path}: the file is damaged: {error}") from error


def _is_text(held: pa.DataType) -> bool:
    return pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """A column in another type; precision may be lost where numbers become float32 or times microseconds."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    held = column.type
    if pa.types.is_floating(held) and pa.types.is_integer(wanted):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, held), column)
    if pa.types.is_date(held):
        column = column.cast(pa.timestamp("us"))
    if pa.types.is_boolean(held) and pa.types.is_floating(wanted):
        column = column.cast(pa.int8())
    lossy = pa.types.is_floating(wanted) or (pa.types.is_temporal(held) and pa.types.is_temporal(wanted))
    return column.cast(wanted, safe=not lossy)


def _plain(value: pa.Scalar) -> Any:
    """A value for people; a timestamp of nanoseconds has none in Python."""
    try:
        return value.as_py()
    except ValueError:
        return str(value)
