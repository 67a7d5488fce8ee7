"""Times that a client gives -> microseconds since the epoch, by the rule of `streams.times`."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from streams.labels import is_nothing
from streams.mapping import LATEST_US, likely_unit, warn_of_unit

ACCEPTED = "microseconds since the epoch up to the year 9999, a datetime (UTC without a zone), or text of RFC 3339"

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_LAST_YEAR = np.datetime64("9999", "Y")


def times_of(values: Any) -> np.ndarray:
    """A column of times, int64 [n].

    Args:
        values: [n] of whatever `time_of` takes: a list, an array of numpy, a column of pandas or Arrow.

    Raises:
        ValueError: a row without a time, text that is none, or a time after the year 9999; with its row.
        TypeError: values of an impossible type.
    """
    if getattr(getattr(values, "dtype", None), "tz", None) is not None:  # pandas: times with a zone
        values = np.asarray(values, "datetime64[ns]" if values.dtype.unit == "ns" else "datetime64[us]")
    array = np.asarray(values)
    kind = array.dtype.kind
    if kind == "M":
        bad = np.isnat(array) | (array.astype("datetime64[Y]") > _LAST_YEAR)  # in years: no unit overflows
        time = np.where(bad, 0, array.astype("datetime64[us]").astype(np.int64))
    elif kind in "iu" and len(array) and array.max() <= LATEST_US:
        _warn(array[0].item())
        return array.astype(np.int64, copy=False)
    elif kind in "iuf":
        bad = ~(array <= LATEST_US)
        held = np.where(bad, 0, array)
        time = (np.rint(held) if kind == "f" else held).astype(np.int64)
    elif kind in "OU":
        return np.array([_in_row(row, value) for row, value in enumerate(array.tolist())], np.int64)
    else:
        raise TypeError(f"time: got an array of {array.dtype}; accepted: {ACCEPTED}")
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"time[{row}]: got {array[row]}{_hint(array[row])}; accepted: {ACCEPTED}")
    if kind == "f" and len(array):
        _warn(array[0].item())
    return time


def time_of(value: Any) -> int:
    """One time; 0, which is none, for None.

    Raises:
        ValueError: text that is no time, or a time after the year 9999.
        TypeError: a value of an impossible type.
    """
    if value is None:
        return 0
    if type(value) is int and value <= LATEST_US:
        _warn(value)
        return value
    if isinstance(value, (int, float, np.integer, np.floating)) and value <= LATEST_US:
        _warn(value)
        return round(value)
    if isinstance(value, datetime.datetime) and not is_nothing(value):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return int((aware - _EPOCH) // datetime.timedelta(microseconds=1))
    if isinstance(value, np.datetime64) or (isinstance(value, datetime.date) and not is_nothing(value)):
        return int(times_of(np.array([value], "datetime64"))[0])
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, (int, float, np.integer, np.floating)) or is_nothing(value):
        raise ValueError(f"time: got {value}{_hint(value)}; accepted: {ACCEPTED}")
    raise TypeError(f"time: got {value!r} of type {type(value).__name__}; accepted: {ACCEPTED}")


def _in_row(row: int, value: Any) -> int:
    try:
        return time_of("" if is_nothing(value) else value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"time[{row}]{str(error).removeprefix('time')}") from error


def _of_text(text: str) -> int:
    import pyarrow as pa

    from streams.times import microseconds

    time = int(microseconds(pa.array([text]), "us")[0])
    if time < 0:
        raise ValueError(f"time: got {text!r}; accepted: {ACCEPTED}, not before 1970")
    return time


def _hint(value: Any) -> str:
    unit = likely_unit(float(value)) if isinstance(value, (int, float, np.integer, np.floating)) else None
    return f", which looks like {unit}" if unit else ""


def _warn(number: Any) -> None:
    if not 1e9 <= number < 1e15:  # quickly told: most are microseconds of this century
        return
    unit = likely_unit(number)
    if unit is not None:
        warn_of_unit("time", unit, "us", "give microseconds, or a datetime")
