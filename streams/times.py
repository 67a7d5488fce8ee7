"""What a value says as a time: one rule for every source, and for whatever a client sends.

A time is kept in microseconds since the epoch. It may come as

- text of RFC 3339 (or ISO 8601 of the same shape) with 0 to 9 fraction digits, "T", "t" or a space before the hour, and
  "Z", "z", "UTC" or an offset after the seconds; without a zone it is UTC;
- a timestamp or a date of Arrow, numpy, pandas or Python; without a zone it is UTC;
- a number in the unit that the mapping names, also written as text.

Digits beyond the microsecond are cut. A number with a fraction is read as a float64, which tells .24 microseconds apart
at today's times, and goes to the nearest microsecond. What lies before 1970 or after 9999 is refused: it is mostly a
clock of another unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streams.mapping import LATEST_US, NANOSECONDS, TimeUnit

_NAIVE, _UTC = pa.timestamp("us"), pa.timestamp("us", "UTC")
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_WHOLE = r"^[+-]?[0-9]+$"
_ZONED = r"[T ][0-9:.]+(Z|[+-][0-9]{2}(:?[0-9]{2})?)$"
_EXACT = float(2**53)


def inexact(column: pa.Array | pa.ChunkedArray) -> bool:
    """Whether some numbers are too large to be certain that each is the one that was written."""
    if not pa.types.is_float64(column.type):
        return False
    return bool(pc.any(pc.greater_equal(pc.abs(column), _EXACT)).as_py())


def is_time_type(held: pa.DataType) -> bool:
    """Whether times can be made of a column of this type."""
    types = pa.types
    numbers = types.is_integer(held) or types.is_floating(held) or types.is_decimal(held)
    return numbers or types.is_timestamp(held) or types.is_date(held) or is_text(held)


def is_text(held: pa.DataType) -> bool:
    """Whether a column holds text."""
    return pa.types.is_string(held) or pa.types.is_large_string(held) or pa.types.is_string_view(held)


def microseconds(column: pa.Array, unit: TimeUnit) -> np.ndarray:
    """A column as times.

    Args:
        column: n values of a type that `is_time_type` names, or a dictionary of them.
        unit: of numbers.

    Returns:
        int64 [n]; -1 where there is no value, or none that is a time from 1970 to 9999.
    """
    held, types = column.type, pa.types
    if types.is_dictionary(held):
        column, held = column.cast(held.value_type), held.value_type
    if is_text(held):
        return _of_text(column.cast(pa.string()), unit)
    if types.is_boolean(held):
        return np.full(len(column), -1)
    if types.is_date32(held):
        column, unit = pc.multiply(column.cast(pa.int32()).cast(pa.int64()), 86_400), "s"
    elif types.is_timestamp(held) or types.is_date64(held):
        column, unit = column.cast(pa.int64()), getattr(held, "unit", "ms")
    elif not types.is_integer(held):
        return _of_floats(column.cast(pa.float64(), safe=False), unit)
    return _of_integers(column.cast(pa.int64(), safe=False), unit)  # beyond int64 it turns negative, and is refused


def of_values(values: list[Any], unit: TimeUnit) -> np.ndarray:
    """Values of JSON, of any mixture of types, as `microseconds` has them."""
    out = np.full(len(values), -1)
    kinds = [type(value) for value in values]
    for kind, type_ in ((int, pa.int64()), (float, pa.float64()), (str, pa.string())):
        rows = [row for row, one in enumerate(kinds) if one is kind and (kind is not int or values[row] < 2**63)]
        if rows:
            low = (lambda value: max(value, -1)) if kind is int else (lambda value: value)
            out[rows] = microseconds(pa.array([low(values[row]) for row in rows], type_), unit)
    return out


def _of_integers(column: pa.Array, unit: TimeUnit) -> np.ndarray:
    held = np.from_dlpack(column.fill_null(-1) if column.null_count else column)  # `to_numpy` would import pandas
    per = NANOSECONDS[unit]
    if per < 1000:
        return np.where(held < 0, -1, held // (1000 // per))
    factor = per // 1000
    return np.where((held < 0) | (held > LATEST_US // factor), -1, held * factor if factor > 1 else held)


def _of_floats(column: pa.Array, unit: TimeUnit) -> np.ndarray:
    scaled = np.nan_to_num(column.to_numpy(zero_copy_only=False) * (NANOSECONDS[unit] / 1000), nan=-1, posinf=-1)
    return np.where((scaled < 0) | (scaled > LATEST_US), -1, np.rint(np.clip(scaled, -1, LATEST_US))).astype(np.int64)


def _of_text(column: pa.Array, unit: TimeUnit) -> np.ndarray:
    """Tries what fits a whole column first: numbers, or times that all name a zone, or none."""
    first = next((one for one in column if one.is_valid), None)
    if first is None:
        return np.full(len(column), -1)
    if first.as_py().strip().lstrip("+-.").replace(".", "", 1).isdecimal():
        for type_ in (pa.int64(), pa.float64()):
            try:
                numbers = column.cast(type_)
            except pa.ArrowInvalid:
                continue
            if not inexact(numbers):
                return microseconds(numbers, unit)
    else:
        for type_ in (_UTC, _NAIVE):
            try:
                return microseconds(column.cast(type_), unit)
            except pa.ArrowInvalid:
                continue
    return _of_mixed(column, unit)


def _of_mixed(column: pa.Array, unit: TimeUnit) -> np.ndarray:
    """Every text by what it says itself."""
    text = pc.ascii_upper(pc.utf8_trim_whitespace(column))
    text = pc.replace_substring_regex(text, r" ?UTC$", "Z")
    text = pc.replace_substring_regex(text, r"^(\S+ \S+) ([+-][0-9]{2}:?[0-9]{2})$", r"\1\2")
    text = pc.replace_substring_regex(text, r"(:[0-9]{2}\.[0-9]{6})[0-9]{1,3}(Z|[+-]|$)", r"\1\2")
    number, whole, zoned = (
        pc.fill_null(pc.match_substring_regex(text, one), False).to_numpy(zero_copy_only=False)
        for one in (_NUMBER, _WHOLE, _ZONED)
    )
    out = np.full(len(column), -1)
    choices = (
        (whole, pa.int64()),
        (number & ~whole, pa.float64()),
        (~number & zoned, _UTC),
        (~number & ~zoned, _NAIVE),
    )
    for rows, type_ in choices:
        if rows.any():
            out[rows] = microseconds(_or_null(text.filter(pa.array(rows)), type_), unit)
    return out


def _or_null(text: pa.Array, type_: pa.DataType) -> pa.Array:
    """A cast that gives null where a value does not fit; found by halving."""
    try:
        return text.cast(type_)
    except pa.ArrowInvalid:
        if len(text) == 1:
            return pa.nulls(1, type_)
        half = len(text) // 2
        return pa.concat_arrays([_or_null(text.slice(0, half), type_), _or_null(text.slice(half), type_)])
