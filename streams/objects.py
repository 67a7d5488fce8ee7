"""JSON objects, one a line, as columns.

The values of a column may differ in type from line to line (1, 1.0, true, "1"), and keep it. One type for a column is
tried first, that of its first value, since Arrow then reads all lines in one go. Where it does not fit, the columns of
label, key, time and id are read value by value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from streams.columns import JSON
from streams.mapping import Mapping
from streams.times import inexact

LOOKED_AT = 8
"""Lines that are looked at for the type of a column, until one has a value."""

LARGEST_BLOCK = 128 << 20
"""See `block_size`; twice the longest line that is read."""


def block_size(block: Any) -> int:
    """For Arrow, which cuts at this size and refuses a longer line: the whole block where it is not huge."""
    return min(len(block) + 1, LARGEST_BLOCK)


def object_schema(mapping: Mapping) -> pa.Schema:
    """The columns of objects: numbers for features, and `JSON` for what may be of any type."""
    types = dict.fromkeys(mapping.columns, JSON) | dict.fromkeys(mapping.features, pa.float32())
    return pa.schema(list(types.items()))


def read_objects(lines: Any, schema: pa.Schema, mapping: Mapping) -> pa.Table:
    """Lines as columns.

    Args:
        lines: bytes, or a view of them: one object a line, each with its line feed.
        schema: the columns wanted, as `object_schema` has them.
        mapping: which column is what.

    Returns:
        Columns of the types that `streams.columns.to_batch` takes.

    Raises:
        pa.ArrowInvalid: a line is no object, not UTF-8, or a feature no number.
    """
    return read_inside(lines, schema, mapping, "", ())[0]


def read_inside(
    lines: Any, schema: pa.Schema, mapping: Mapping, inside: str, more: Sequence[pa.Field]
) -> tuple[pa.Table, pa.Table]:
    """The same for objects that are the field `inside` of those on the lines ("": that are these themselves).

    Returns:
        The columns; and the fields `more` that stand beside `inside`.

    Raises:
        pa.ArrowInvalid: see `read_objects`, or there is no object inside.
    """
    ends = _check(lines)
    any_type = [one.name for one in schema if one.type == JSON]
    numbers = [one for one in schema if one.type != JSON]
    first = [fields_of(line, inside) for line in _lines(lines, ends[:LOOKED_AT])] if any_type else []
    for unseen in (pa.int64(), pa.string()):  # of columns without a value on the first lines
        guess = [pa.field(name, _type(name, first, mapping, unseen)) for name in any_type]
        try:
            table, beside = _read(lines, [*numbers, *guess], inside, more, len(ends))
        except pa.ArrowInvalid:
            if not any_type:
                raise
            continue
        if not any(inexact(table.column(one.name)) for one in guess):
            return table.select(schema.names), beside
        break
    table, beside = _read(lines, numbers, inside, more, len(ends))
    held = [_values(line, inside, any_type) for line in _lines(lines, ends)]
    columns = {name: table.column(name) for name in table.schema.names}
    columns |= {name: _column([one.get(name) for one in held], name, mapping) for name in any_type}
    return pa.table({name: columns[name] for name in schema.names}), beside


def fields_of(line: Any, inside: str = "") -> dict[str, Any]:
    """The object on a line, or the one inside a field of it; empty where there is none."""
    try:
        held = json.loads(bytes(line))
    except (ValueError, RecursionError):
        return {}
    if inside and isinstance(held, dict):
        held = held.get(inside)
    return held if isinstance(held, dict) else {}


def _check(lines: Any) -> np.ndarray:
    """The place of every line feed; makes sure that every line is one object and no more if as many are read.

    A line that begins with "{" and ends with "}" cannot be finished by the next one, so two lines never make one object
    between them, and none can make up for the objects of another. Arrow takes on trust that they are UTF-8.

    Raises:
        pa.ArrowInvalid: a line is no object, or not UTF-8.
    """
    text = np.frombuffer(lines, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    if (starts == ends).any() or (text[starts] != ord("{")).any() or (text[ends - 1] != ord("}")).any():
        stripped = [line.strip() for line in _lines(lines, ends)]
        if any(line[:1] != b"{" or line[-1:] != b"}" for line in stripped):
            raise pa.ArrowInvalid("no JSON object")
    pa.array([lines], pa.large_binary()).cast(pa.large_string())
    return ends


def _lines(lines: Any, ends: np.ndarray) -> Iterator[bytes]:
    at = 0
    for end in ends.tolist():
        yield bytes(lines[at:end])
        at = end + 1


def _type(name: str, first: list[dict[str, Any]], mapping: Mapping, unseen: pa.DataType) -> pa.DataType:
    """The type of the first value of a column; `unseen` where that is not known."""
    value = next((one[name] for one in first if one.get(name) is not None), None)
    if name == mapping.label and mapping.target == "regression":
        return pa.float64()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, float):
        return pa.float64()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, str) or name in (mapping.key, mapping.id):
        return pa.string()
    texts = mapping.target == "binary" and any(isinstance(label, str) for label in mapping.labels)
    return pa.string() if name == mapping.label and texts else unseen


def _values(line: bytes, inside: str, names: Sequence[str]) -> dict[str, Any]:
    """The values of some fields of the object on a line.

    Raises:
        pa.ArrowInvalid: it cannot be read, or has one of them twice.
    """
    try:
        held = json.loads(line, object_pairs_hook=tuple)  # an object is a tuple here, and an array a list
    except (ValueError, RecursionError) as error:
        raise pa.ArrowInvalid(str(error)) from error
    if inside:
        held = next((value for name, value in held if name == inside), ())
    wanted = [(name, value) for name, value in held if name in names]
    if len(dict(wanted)) < len(wanted):
        raise pa.ArrowInvalid(f"a field is there twice: one of {', '.join(names)}")
    return dict(wanted)


def _column(values: list[Any], name: str, mapping: Mapping) -> pa.Array:
    """Values of any types as a column of `JSON`; of a key or an id as text.

    Raises:
        pa.ArrowInvalid: a key or an id that is neither text nor an integer.
    """
    if name in (mapping.label, mapping.time):
        return pa.array([None if value is None else json.dumps(value).encode() for value in values], JSON)
    if any(type(value) not in (str, int, type(None)) for value in values):
        raise pa.ArrowInvalid(f"{name}: neither text nor an integer")
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _read(
    lines: Any, fields: list[pa.Field], inside: str, more: Sequence[pa.Field], rows: int
) -> tuple[pa.Table, pa.Table]:
    within = [pa.field(inside, pa.struct(fields))] if inside and fields else [] if inside else fields
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=block_size(lines))
    schema = pa.schema([*within, *more])
    parsing = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    table = pyarrow.json.read_json(pa.BufferReader(lines), options, parsing)
    if table.num_rows != rows:
        raise pa.ArrowInvalid(f"{rows} lines hold {table.num_rows} objects; one line must be one object")
    beside = table.select(range(len(within), len(schema)))
    if not (inside and fields):
        return table.select(range(len(within))), beside
    held = table.column(0)
    if held.null_count:
        raise pa.ArrowInvalid(f"{inside} is missing; accepted: a JSON object")
    return pa.table({one.name: pc.struct_field(held, one.name) for one in fields}), beside
