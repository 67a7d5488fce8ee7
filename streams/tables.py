"""Events from tables that bring their own types: Parquet files, and Arrow streams as bytes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from streams.columns import value_of
from streams.labels import Cells
from streams.mapping import Mapping, some
from streams.opened import opened
from streams.times import is_text, is_time_type


class TableParser:
    """Turns tables of one schema into tables of the mapping's types; see `streams.columns.Parser`.

    A number may be of any width, a decimal or a truth value; text is read as a number where a number is wanted; NaN is
    missing. See `streams.labels` for labels and `streams.times` for times.

    Args:
        name: of the source, for messages.
        mapping: which column is what.
        first: some rows, or none; their schema is that of all.

    Raises:
        ValueError: a mapped column is not there, or is of a type that nothing can be made of.
    """

    cells: Cells = "typed"

    def __init__(self, name: str, mapping: Mapping, first: pa.Table) -> None:
        self.name = name
        self.mapping = mapping
        times = Counter(first.schema.names)
        absent = [column for column in mapping.columns if times[column] != 1]
        if absent:
            there = some(sorted(times))
            raise ValueError(f"{name}: no column (or more than one) named {absent[:10]}; columns: {there}")
        features = frozenset(mapping.features)
        types = dict(zip(first.schema.names, first.schema.types))
        self.schema = pa.schema([self._field(one, types[one], one in features) for one in mapping.columns])

    def _field(self, column: str, held: pa.DataType, is_feature: bool) -> pa.Field:
        """The type that a column is read as; a time and a class are as they come."""
        mapping = self.mapping
        held = held.value_type if pa.types.is_dictionary(held) else pa.string() if pa.types.is_null(held) else held
        accepted = "numbers, text, truth values"
        if column == mapping.time:
            fits, accepted = is_time_type(held), "timestamps, dates, numbers, text"
        elif is_feature or column == mapping.label:
            fits = _is_number(held) or is_text(held)
        else:
            fits, accepted = not pa.types.is_nested(held), "text, numbers"
        if not fits:
            raise ValueError(f"{self.name}: column {column!r} is of type {held}; accepted: {accepted}")
        if is_feature:
            return pa.field(column, pa.float32())
        if column == mapping.time:
            return pa.field(column, held)
        if column == mapping.label:
            return pa.field(column, pa.float64() if mapping.target == "regression" else held)
        return pa.field(column, pa.string())

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
        return value_of(row.column(column)[0]) if column else _content(row)

    @staticmethod
    def original(row: pa.Table) -> bytes:
        """The mapped columns of a row as a JSON object: a row of a table has no bytes of its own."""
        return json.dumps(_content(row), default=str).encode()


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


def no_rows(path: str | Path) -> pa.Table:
    """A table with the columns of a Parquet file."""
    with open_parquet(path) as file:
        return file.schema_arrow.empty_table()


def first_rows(path: str | Path, rows: int) -> pa.Table:
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


def _content(row: pa.Table) -> dict[str, Any]:
    return {name: value_of(row[name][0]) for name in row.schema.names}


def _is_number(held: pa.DataType) -> bool:
    types = pa.types
    return types.is_integer(held) or types.is_floating(held) or types.is_decimal(held) or types.is_boolean(held)


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """A column in another type; precision may be lost where numbers become float32."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.type == wanted:
        return column
    if pa.types.is_boolean(column.type) and pa.types.is_floating(wanted):
        column = column.cast(pa.int8())
    return column.cast(wanted, safe=not pa.types.is_floating(wanted))
