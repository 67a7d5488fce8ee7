"""How the columns of a source become events, and what is refused on the way."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash

MAX_KEY_BYTES = 1024
MAX_ID_BYTES = 256
MAX_LABEL_BYTES = 256
MAX_ABS_TARGET = 1e100

SHOWN = 20
"""Names in a message, at most."""

TargetKind = Literal["binary", "multiclass", "regression"]
TimeUnit = Literal["s", "ms", "us", "ns"]
NANOSECONDS: dict[TimeUnit, int] = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
LATEST_US = 253_402_300_799_999_999
"""The last microsecond of the year 9999, where RFC 3339 ends."""


def likely_unit(number: float) -> TimeUnit | None:
    """The unit under which a number is a time from 2001 to 2096; None where it is one under none."""
    number = number.item() if isinstance(number, np.generic) else number  # Python's own do not overflow
    return next((unit for unit, ns in NANOSECONDS.items() if 1e18 <= number * ns < 4e18), None)


class ClockWarning(UserWarning):
    """Numbers are read as times of 1970, and would be times of this century in another unit."""


def warn_of_unit(what: str, looks: str | None, read: str, do: str) -> None:
    """Says so, once for each place."""
    said = f"{what}: numbers are read in {read} and lie in the first weeks of 1970; they look like {looks}: {do}"
    warnings.warn(said, ClockWarning, stacklevel=3)


def twice(names: Iterable[str]) -> list[str]:
    """The names that are there more than once, in order; the first 20 of them. In linear time."""
    return sorted(name for name, times in Counter(names).items() if times > 1)[:SHOWN]


@dataclass(frozen=True)
class Mapping:
    """Which column is what.

    Attributes:
        features: names of the input columns, in the order of `Batch.x`.
        label: name of the label column; None: every event is an observation.
        key: name of the column that holds the entity; None: one entity.
        time: name of the column that holds the event time: a number in `time_unit` since the epoch, a timestamp, or
            RFC 3339 text (see `streams.times`); None: no clock.
        id: name of the column that holds the event id; None: no ids.
        target: what the label is.
        labels: the negative and the positive label of a binary target.
        missing: names of the features that may be missing; a missing value elsewhere refuses the event.
        time_unit: unit of a numeric time column.
        late: whether a row with an id and a label but no feature is a label for an earlier observation.

    Raises:
        ValueError: a column is named twice, there are no features, or a name in `missing` is no feature.
    """

    features: tuple[str, ...]
    label: str | None = None
    key: str | None = None
    time: str | None = None
    id: str | None = None
    target: TargetKind = "binary"
    labels: tuple[int | str, int | str] = (0, 1)
    missing: tuple[str, ...] = ()
    time_unit: TimeUnit = "s"
    late: bool = False

    def __post_init__(self) -> None:
        if not self.features:
            raise ValueError("features: at least one column is needed, got none")
        if again := twice(self.features):
            raise ValueError(f"features: each column may be named once, these are named twice: {', '.join(again)}")
        if self.label in self.features:
            raise ValueError(f"label: {self.label!r} is a feature too; a label must not be its own input")
        unknown = sorted(set(self.missing) - set(self.features))
        if unknown:
            raise ValueError(f"missing: {some(unknown)} are no features; features: {some(self.features)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that is read, each once."""
        others = (self.label, self.key, self.time, self.id)
        return tuple(dict.fromkeys([*self.features, *(name for name in others if name is not None)]))


class BadRow(ValueError):  # noqa: N818 - callers keep it as a record of the row
    """A row that does not fit the mapping.

    Attributes:
        file: where the row stands.
        row: its number, from 0, among the rows of the source (a header and blank lines are no rows).
        column: the column at fault; "" where the row as a whole is.
        value: what was found, None where nothing was.
        accepted: what would have fitted.
        original: the bytes of the row; empty where the source has none.
    """

    def __init__(
        self, file: str, row: int, column: str, *, value: Any, accepted: str, original: bytes = b""
    ) -> None:
        where = f"column {column!r}" if column else "the row"
        shown = repr(value)
        shown = shown if len(shown) <= 200 else shown[:200] + "..."
        wrong = "no value" if value is None else f"{shown} does not fit"
        super().__init__(f"{file}, row {row}, {where}: {wrong}; accepted: {accepted}")
        self.file, self.row, self.column, self.value = file, row, column, value
        self.accepted, self.original = accepted, original


OnBad = Callable[[BadRow], None]
"""Called with each refused row; the stream goes on when it returns."""


def some(names: Iterable[str], most: int = SHOWN) -> str:
    """The first of some names for a message, and how many there are."""
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def hash_ids(ids: Iterable[bytes]) -> np.ndarray:
    """The ids of events as `Batch.id` holds them: XXH3-128, high half first.

    Returns:
        uint64 [n, 2]; an empty id, which is none, gives zeros.
    """
    ids = list(ids)
    digests = b"".join(map(xxhash.xxh3_128_digest, ids))
    out = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
    absent = [row for row, value in enumerate(ids) if not value] if b"" in ids else []
    out[absent] = 0
    return out
