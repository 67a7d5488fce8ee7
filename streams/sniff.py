"""What a file seems to hold: the columns, their types, and the mapping that they suggest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json

from streams.files import cells_of, delimiter_of, format_of, head_of
from streams.labels import are_numbers, number_in, plain
from streams.mapping import Mapping, some
from streams.objects import fields_of
from streams.tables import first_rows

SNIFFED_ROWS = 16_384
MOST_INTEGER_CLASSES = 20


@dataclass(frozen=True)
class Column:
    """A column as its first rows show it.

    Attributes:
        name: as in the header or the objects.
        kind: "integer", "number", "time" or "text" (anything else).
        missing: whether a value was missing.
        distinct: different values seen.
    """

    name: str
    kind: str
    missing: bool
    distinct: int


@dataclass(frozen=True)
class Sniffed:
    """What a file seems to hold.

    Attributes:
        rows: how many rows were looked at.
        columns: in the order of the file.
        mapping: numeric columns as features, the label's type as the target.
        ignored: columns that the mapping leaves out.
    """

    rows: int
    columns: tuple[Column, ...]
    mapping: Mapping
    ignored: tuple[str, ...]


def sniff(
    path: str | Path,
    *,
    label: str | None = None,
    key: str | None = None,
    time: str | None = None,
    id: str | None = None,
    delimiter: str | None = None,
) -> Sniffed:
    """Looks at the first 16,384 rows of a file and proposes how to read it.

    The features are the numeric columns that have no other part. The target is regression where the label has
    numbers that are not whole or more than 20 different whole ones, binary where it has two values (the smaller, or
    the first in the alphabet, is the negative one), multi-class otherwise. Labels are told apart as
    `streams.labels` says: 1, 1.0 and true are one.

    Raises:
        ValueError: the file holds no rows, these do not parse, a named column is not there, or nothing
            numeric is left for the features.
    """
    header: list[str] | None = None
    lines: list[bytes] = []
    if format_of(path) == "parquet":
        table = first_rows(path, SNIFFED_ROWS)
    else:
        header, lines = head_of(path, None, delimiter, SNIFFED_ROWS)
        table = _infer(path, header, lines, delimiter) if lines else pa.table({})
    if not table.num_rows:
        raise ValueError(f"{path}: the file holds no rows")
    named = [name for name in (label, key, time, id) if name is not None]
    absent = [name for name in named if name not in table.column_names]
    if absent:
        raise ValueError(f"{path}: no column named {absent}; columns: {some(table.column_names)}")
    columns = tuple(map(_column, table.column_names, table.columns))
    numeric = [one for one in columns if one.kind in {"integer", "number"} and one.name not in named]
    if not numeric:
        raise ValueError(f"{path}: no numeric columns are left for the features")
    features, missing = tuple(one.name for one in numeric), tuple(one.name for one in numeric if one.missing)
    mapping = Mapping(features, label, key, time, id, missing=missing)
    if label is not None:
        values: set[Any]
        if header is not None:
            cells = cells_of(lines, header, label, delimiter_of(path, delimiter))
            values = set(map(number_in, cells)) if are_numbers(cells) else {cell for cell in cells if cell}
        elif lines:
            values = {_plain(fields_of(line).get(label), label) for line in lines}
        else:
            values = {_plain(value, label) for value in pc.unique(table.column(label)).to_pylist()}
        mapping = _with_target(mapping, values - {None})
    used = frozenset(mapping.columns)
    ignored = tuple(one.name for one in columns if one.name not in used)
    return Sniffed(table.num_rows, columns, mapping, ignored)


def _infer(path: str | Path, header: list[str] | None, lines: list[bytes], delimiter: str | None) -> pa.Table:
    """The rows with the types that Arrow finds for them."""
    data = b"".join(lines)
    try:
        if header is None:
            return pyarrow.json.read_json(
                pa.BufferReader(data), pyarrow.json.ReadOptions(block_size=len(data) + 1)
            )
        return pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=header, block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(delimiter=delimiter_of(path, delimiter)),
            pyarrow.csv.ConvertOptions(strings_can_be_null=True),
        )
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: the first rows do not parse: {error}") from error


def _column(name: str, values: pa.ChunkedArray) -> Column:
    kind = "text"
    if pa.types.is_integer(values.type):
        kind = "integer"
    elif pa.types.is_floating(values.type):
        kind = "number"
    elif pa.types.is_temporal(values.type):
        kind = "time"
    nested = pa.types.is_nested(values.type)
    return Column(name, kind, values.null_count > 0, 0 if nested else pc.count_distinct(values).as_py())


def _plain(value: object, label: str) -> int | float | str | None:
    try:
        return plain(value)
    except TypeError as error:
        raise ValueError(f"label {label!r}: {error}") from error


def _with_target(mapping: Mapping, values: set[Any]) -> Mapping:
    """The mapping with the target that the different labels suggest."""
    numbers = [value for value in values if not isinstance(value, str)]
    if any(isinstance(value, float) for value in numbers) or len(numbers) > MOST_INTEGER_CLASSES:
        return replace(mapping, target="regression")
    if len(values) != 2 or len(numbers) == 1:
        return replace(mapping, target="multiclass")
    negative, positive = sorted(values)
    return replace(mapping, labels=(negative, positive))
