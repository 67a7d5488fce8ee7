"""What a value says as a label: one rule for every source, and for whatever a client sends.

A label may be written as an integer, a whole number with a decimal point (1.0), a truth value or text. None, NaN and
the empty text are no label. Where a source has types, text stays text: the classes "01", "1" and 1 are three. A cell
without a type (of a CSV file, a field of a Redis entry) is text; `Cells` says when it is read as an integer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import numpy as np

from streams.mapping import MAX_ABS_TARGET, MAX_LABEL_BYTES

INT64 = range(-(2**63), 2**63)

Cells = Literal["typed", "text", "integer", "canonical"]
"""What a multi-class label is: as its value says ("typed"); or, in a cell without a type, text, an integer however it
is written, or an integer in the way in which it is usually written, so that "01" is refused and never becomes 1."""

MISSING_CELLS = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "N/A", "NA", "NULL", "NaN", "-NaN", "nan", "-nan", "n/a", "null"}
    | {"-1.#IND", "-1.#QNAN", "1.#IND", "1.#QNAN"}
)
"""How a cell that is read as a number says that there is none: those that Arrow takes for it."""

CLASS = f"a whole number of 64 bits, a truth value or text of at most {MAX_LABEL_BYTES} bytes"
TARGET = f"a finite number of magnitude at most {MAX_ABS_TARGET:g}"

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_CANONICAL = re.compile(r"-?(0|[1-9][0-9]*)(\.0+)?|true|false", re.IGNORECASE)
_ZEROS = re.compile(r"[+-]?0[0-9]")
_TRUTH = {"true": 1, "false": 0}
_NOTHING = ("NAType", "NaTType")
"""Pandas' own values for nothing, told by name: pandas need not be there."""


def plain(value: Any) -> int | float | str | None:
    """A value without the type of the library that it comes from.

    Returns:
        An int for a whole number of any size and for a truth value, a float for any other number, text as it is; None
        for None, NaN and the empty text.

    Raises:
        TypeError: the value is none of these.
    """
    if type(value) is int:
        return value
    if isinstance(value, str):
        return str(value) or None
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating, Decimal)):
        return _number(value if isinstance(value, Decimal) else float(value))
    if is_nothing(value):
        return None
    raise TypeError(f"got {value!r} of type {type(value).__name__}; accepted: {CLASS}, a number, or None")


def is_nothing(value: Any) -> bool:
    """Whether a value is None, NaN, or what pandas has for nothing."""
    if value is None or type(value).__name__ in _NOTHING:
        return True
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _number(value: float | Decimal) -> int | float | None:
    if math.isnan(value):
        return None
    return int(value) if math.isfinite(value) and value == math.floor(value) else float(value)


def class_of(value: Any) -> int | str | None:
    """The class that a value names; None for no label.

    Raises:
        ValueError: a number that is not whole or not of 64 bits, or text that is too long.
        TypeError: see `plain`.
    """
    held = plain(value)
    if isinstance(held, float) or (isinstance(held, int) and held not in INT64) or _too_long(held):
        raise ValueError(f"got {shown(value)}; accepted: {CLASS}, or nothing")
    return held


def binary_of(value: Any, labels: Sequence[int | str]) -> float | None:
    """0.0 or 1.0 for the first or second of two labels; None for no label.

    A value that is written as one of the two is it, whatever its type: 1, 1.0, true and "1" are the label 1.

    Raises:
        ValueError: it is neither.
        TypeError: see `plain`.
    """
    held = plain(value)
    if held is None:
        return None
    for index, label in enumerate(labels):
        if held == label:
            return float(index)
    other: Any = number_in(held) if isinstance(held, str) else str(held)
    texts = {str(label).lower(): label for label in labels if isinstance(label, str)}
    if isinstance(value, (bool, np.bool_)):
        other = texts.get(str(bool(value)).lower(), other)
    for index, label in enumerate(labels):
        if other == label:
            return float(index)
    raise ValueError(f"got {shown(value)}; accepted: {labels[0]!r}, {labels[1]!r} or nothing")


def target_of(value: Any) -> float | None:
    """The number that a regression learns; None for no label. Text that is a number is taken for it.

    Raises:
        ValueError: text that is no number, or a number beyond 1e100 or not finite.
        TypeError: see `plain`.
    """
    held = plain(value)
    if isinstance(held, str):
        text = held.strip()
        held = float(text) if _NUMBER.fullmatch(text) else np.inf
    if held is None:
        return None
    if not abs(held) <= MAX_ABS_TARGET:
        raise ValueError(f"got {shown(value)}; accepted: {TARGET}, or nothing")
    return float(held)


def class_in(cell: str, cells: Cells) -> int | str | None:
    """The class that a cell without a type names; None for no label.

    Raises:
        ValueError: it is not read as an integer where the others are.
    """
    if cells in ("typed", "text"):
        return class_of(cell)
    text = cell.strip()
    if text in MISSING_CELLS:
        return None
    number = number_in(text) if cells == "integer" or _CANONICAL.fullmatch(text) else None
    if number is None:
        raise ValueError(f"got {cell!r}; accepted: an integer, or nothing")
    return class_of(number)


def are_integers(cells: Sequence[str]) -> bool:
    """Whether each of these cells is an integer as it is usually written (or 1.0, or a truth value), or missing."""
    held = _some(cells)
    return all(map(_CANONICAL.fullmatch, held)) if held else not any(cells)  # NA alone is a class


def are_numbers(cells: Sequence[str]) -> bool:
    """Whether each of these cells is a number without leading zeros (or a truth value), or missing."""
    held = _some(cells) or cells
    return all(_CANONICAL.fullmatch(cell) or (_NUMBER.fullmatch(cell) and not _ZEROS.match(cell)) for cell in held)


def _some(cells: Sequence[str]) -> set[str]:
    """The different ones, without those that are missing."""
    return {cell.strip() for cell in cells} - MISSING_CELLS


def number_in(text: str) -> int | float | None:
    """The number that a text says: 1, 01, 1.0, 1e0 and true are 1; None if it says none."""
    text = text.strip()
    if len(text) <= MAX_LABEL_BYTES and _NUMBER.fullmatch(text):
        return _number(Decimal(text))
    return _TRUTH.get(text.lower())


def shown(value: Any) -> str:
    """A value for a message, shortened."""
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "..."


def _too_long(held: Any) -> bool:
    return isinstance(held, str) and 4 * len(held) > MAX_LABEL_BYTES and len(held.encode()) > MAX_LABEL_BYTES
