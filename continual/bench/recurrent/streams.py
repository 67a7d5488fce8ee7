"""The six streams as everyone gets them, and a generated one whose concepts come back.

Every learner, ours and the peers, is given the columns named here and the labels that came before: nothing that is
known only after the event. Times are microseconds since the epoch where the source has a clock, else 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import click
import numpy as np

from continual import data
from streams.batch import Batch
from streams.mapping import Mapping, TargetKind

HOUR = 3_600_000_000
"""Microseconds."""

ELEC2_START = 831_427_200_000_000
"""7 May 1996, 00:00: the first half hour of Elec2; the file has no dates, but every half hour of 944 days."""

SEA_NOTE = "sea counts among the drift streams by name: in this file no concept changes, one threshold fits all parts."
"""Stands under tables of several streams."""


@dataclass(frozen=True)
class Stream:
    """Events in order, as one model or, where several targets are predicted, as one model each.

    Attributes:
        name: a file name.
        target: what is predicted.
        features: names of the columns of `Batch.x`.
        batches: the whole stream of each model.
        season: span after which the label repeats, in microseconds of the events' time; 0: there is none.
        columns: what everyone is given, in words.
        tolerance: share by which the MAE may lie above that of no-change and count as "at" it.
    """

    name: str
    target: TargetKind
    features: tuple[str, ...]
    batches: tuple[Batch, ...]
    columns: str
    season: int = 0
    tolerance: float = 0.0

    @property
    def events(self) -> int:
        """Events of one model."""
        return len(self.batches[0])

    def first(self, events: int | None) -> Stream:
        """The stream cut to its first events; None: whole."""
        if events is None:
            return self
        return replace(self, batches=tuple(batch.slice(0, min(events, len(batch))) for batch in self.batches))


def elec2() -> Stream:
    """Elec2: does the price of electricity rise against the mean of the last day? 45,312 half hours."""
    batch = data.elec2()
    time = ELEC2_START + HOUR // 2 * np.arange(len(batch))
    columns = "the 8 columns of the file"
    return Stream(
        "elec2", "binary", data.ELEC2.features, (replace(batch, time=time),), columns, season=24 * HOUR
    )


def weather() -> Stream:
    """NOAA weather: does it rain? 18,159 days; the file has no dates, and days are missing: no clock."""
    return Stream("weather", "binary", data.WEATHER.features, (data.weather(),), "the 8 columns of the file")


def sea() -> Stream:
    """SEA: is the sum of two of three inputs above 9? 40,000 events without a clock or, in this file, a change."""
    columns = "the 3 columns of the file, of which no concept drifts"
    return Stream("sea", "binary", data.SEA.features, (data.sea(),), columns)


def bike() -> Stream:
    """Bike sharing: rentals in the hour (`cnt`), 17,379 hours. `casual` and `registered`, which sum to it, stay out."""
    batch = data.bike()
    hour = batch.x[:, data.BIKE.features.index("hr")].astype(np.int64)
    categories = (hour[:, None] == np.arange(24)).astype(np.float32)
    return Stream(
        "bike",
        "regression",
        (*data.BIKE.features, *(f"hr={one}" for one in range(24))),
        (replace(batch, x=np.ascontiguousarray(np.column_stack([batch.x, categories]))),),
        "12 columns of the file (calendar and weather of the hour), and the hour again as 24 indicators",
        season=24 * HOUR,
    )


def etth1() -> Stream:
    """ETTh1: oil temperature of the next hour from the seven series of this one, 17,419 hours."""
    now = data.etth1()
    return Stream(
        "etth1",
        "regression",
        (*data.ETTH1.features, "OT"),
        (Batch.of(np.column_stack([now.x, now.y])[:-1], now.y[1:], time=now.time[:-1]),),
        "the 7 series of the hour; the label is OT one hour later, so the last label is this hour's OT",
        season=24 * HOUR,
    )


def exchange() -> Stream:
    """Exchange rates: each of eight currencies on the next day, from all eight of this day; eight models."""
    names = tuple(f"rate{index}" for index in range(8))
    rates = data.load(data.find("exchange_rate/exchange_rate.txt.gz"), Mapping(names), columns=names).x
    # One model keyed by series would share the weights, though a change of the yen is not one of the pound.
    batches = tuple(Batch.of(rates[:-1], rates[1:, series]) for series in range(8))
    columns = "the 8 rates of the day; eight models, one for each currency"
    return Stream("exchange", "regression", names, batches, columns, tolerance=0.01)


STREAMS: dict[str, Callable[[], Stream]] = {
    loader.__name__: loader for loader in (elec2, weather, sea, bike, etth1, exchange)
}


def load(name: str, events: int | None = None) -> Stream:
    """One of `STREAMS`, cut to its first `events`.

    Raises:
        click.ClickException: its file is not in the data folder.
    """
    try:
        return STREAMS[name]().first(events)
    except data.NoData as missing:
        raise click.ClickException(str(missing)) from missing


CONCEPTS, LAGS, INPUTS, NOISE = 4, 3, 4, 0.05
"""Of the generated stream: concepts, events before this one that matter, inputs, share of labels flipped."""


def recurring(events: int, seed: int, block: int = 5000) -> tuple[Stream, np.ndarray]:
    """A binary stream of four concepts that come back in turn, a block of events each.

    With four inputs x, uniform in (-1, 1), concept k labels

        y[t] = 1  where  a[k] . x[t] + b[k] . (x[t-1] + x[t-2] + x[t-3]) / sqrt(3) > 0,  flipped with probability 0.05

    so a learner that sees x[t] alone misses about half of the sum's variance. Every random number is Philox at a
    counter that only the event sets: a longer stream begins with the shorter one. No accuracy is above 95 %.

    Args:
        events: how many.
        seed: of the inputs and of the concepts.
        block: events before the concept changes.

    Returns:
        The stream, and the concept of each event: int64 [events].
    """
    x = (2.0 * _uniform(seed, 0, events * INPUTS) - 1.0).reshape(events, INPUTS)
    now, before = (2.0 * _uniform(seed, 1, 2 * CONCEPTS * INPUTS) - 1.0).reshape(2, CONCEPTS, INPUTS)
    concept = np.arange(events) // block % CONCEPTS
    past = np.zeros_like(x)
    for lag in range(1, LAGS + 1):
        past[lag:] += x[:-lag]
    past /= math.sqrt(LAGS)
    score = np.einsum("ij,ij->i", x, now[concept]) + np.einsum("ij,ij->i", past, before[concept])
    y = (score > 0) ^ (_uniform(seed, 2, events) < NOISE)
    columns = f"{INPUTS} inputs; the label depends on them and on those of the {LAGS} events before"
    names = tuple(f"x{index}" for index in range(INPUTS))
    return Stream("recurring", "binary", names, (Batch.of(x, y),), columns), concept


def _uniform(seed: int, stream: int, size: int) -> np.ndarray:
    """float64 [size] in [0, 1): counter-based (Philox), one 64-bit word each."""
    raw = np.atleast_1d(np.random.Philox(key=[seed, 1000 + stream]).random_raw(size))
    return (raw >> np.uint64(11)) * 2.0**-53
