"""Real streams for demonstrations, benches and tests.

What River ships works at once. Larger files are looked for in a local folder: `CONTINUAL_DATA`, else
`../shared/data` beside the repository.

River 0.26 ships, and these work offline: AirlinePassengers, Bananas, ChickWeights, ImageSegments, Phishing,
SP500Stocks, Shuttle, SolarFlare, TrumpApproval, WaterFlow, Yeast. Its other data sets are downloads.
"""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from streams.batch import Batch, Keys
from streams.files import read_file
from streams.mapping import Mapping

ELEC2 = Mapping(
    ("date", "day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"), label="class"
)
SHUTTLE = Mapping(tuple(f"f{index}" for index in range(1, 10)), label="anomaly")
SEA = Mapping(("attrib1", "attrib2", "attrib3"), label="class")
WEATHER = Mapping(
    (
        *("temperature", "dew_point", "sea_level_pressure", "visibility", "avg_wind_speed"),
        *("max_sustained_wind", "max_temperature", "min_temperature"),
    ),
    label="rain",
)
ETTH1 = Mapping(
    ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL"), label="OT", time="date", target="regression"
)
BIKE = Mapping(
    (
        *("season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit"),
        *("temp", "atemp", "hum", "windspeed"),
    ),
    label="cnt",
    time="dteday",
    target="regression",
)


class NoData(FileNotFoundError):  # noqa: N818 - it is caught to skip, not to fail
    """A stream's file is not in the data folder, or there is none."""


def folder() -> Path | None:
    """The local data folder; None where there is none.

    Raises:
        NoData: `CONTINUAL_DATA` is set to something that is no folder.
    """
    named = os.environ.get("CONTINUAL_DATA")
    if named:
        if not Path(named).is_dir():
            raise NoData(f"CONTINUAL_DATA={named!r} is not a folder")
        return Path(named)
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


def find(name: str) -> Path:
    """The path of a file in the data folder.

    Raises:
        NoData: it is not there; the message says where it was looked for.
    """
    held = folder()
    if held is None:
        raise NoData(f"{name}: no data folder; set CONTINUAL_DATA to one that holds it")
    if not (held / name).is_file():
        raise NoData(f"{name}: not in the data folder {held}")
    return held / name


def load(path: str | Path, mapping: Mapping, columns: tuple[str, ...] | None = None) -> Batch:
    """A whole file as one batch."""
    return concatenate([batch for _, batch in read_file(path, mapping, rows=1 << 20, columns=columns)])


def concatenate(batches: list[Batch]) -> Batch:
    """Batches one after the other as one; the classes are those of all, in order of first appearance."""
    if not batches:
        raise ValueError("concatenate needs at least one batch, got none")
    if len(batches) == 1:
        return batches[0]
    classes = tuple(dict.fromkeys(label for batch in batches for label in batch.classes))
    place = {label: float(index) for index, label in enumerate(classes)}

    def indices(batch: Batch) -> np.ndarray:
        if not batch.classes:
            return batch.y
        table = np.array([*(place[label] for label in batch.classes), np.nan])
        return table[np.nan_to_num(batch.y, nan=-1).astype(np.int64)]

    lengths = np.concatenate([np.diff(batch.key.offsets) for batch in batches])
    key = Keys(np.append(0, np.cumsum(lengths)), np.concatenate([batch.key.data for batch in batches]))
    return Batch(
        np.concatenate([batch.x for batch in batches]),
        np.concatenate([batch.kind for batch in batches]),
        np.concatenate([indices(batch) for batch in batches]),
        key,
        np.concatenate([batch.time for batch in batches]),
        np.concatenate([batch.id for batch in batches]),
        classes,
    )


def elec2() -> Batch:
    """Elec2: does the price of electricity rise? 45,312 half-hours, 8 features, binary."""
    return load(find("elec2/elec2.csv.gz"), ELEC2)


def shuttle_file() -> Path:
    """Shuttle as a CSV file (gzip), as River's wheel holds it: features `f1` to `f9`, label `anomaly`."""
    return Path(str(importlib.resources.files("river.datasets") / "shuttle.csv.gz"))


def shuttle() -> Batch:
    """Shuttle: is the sensor reading an anomaly (7 %)? 49,097 events, 9 features, binary; shuffled."""
    return load(shuttle_file(), SHUTTLE)


def sea() -> Batch:
    """SEA: is the sum of the first two of three features above 9? 40,000 events, a tenth flipped, and no drift.

    Its source speaks of concepts that change, but the same threshold fits every quarter of the file best.
    """
    return load(find("sea/sea.csv.gz"), SEA)


def weather() -> Batch:
    """NOAA weather: does it rain? 18,159 days, 8 features, binary."""
    return load(find("weather_noaa/weather.csv.gz"), WEATHER)


def etth1() -> Batch:
    """ETTh1: oil temperature of a transformer from the loads of the hour; 17,420 hours, 6 features."""
    return load(find("etth1/ETTh1.csv.gz"), ETTH1)


def bike() -> Batch:
    """Bike sharing: rentals in the hour, 17,379 hours, 12 features, regression."""
    days = load(find("bikesharing/hour.csv.gz"), BIKE)
    hours = days.x[:, BIKE.features.index("hr")].astype(np.int64)
    return replace(days, time=days.time + hours * 3_600_000_000)


def exchange(series: int = 0) -> Batch:
    """Exchange rates of 8 currencies: one's next rate from all of today's; 7,587 days, regression."""
    if not 0 <= series < 8:
        raise ValueError(f"series must be 0 to 7, got {series}")
    names = tuple(f"rate{index}" for index in range(8))
    rates = load(find("exchange_rate/exchange_rate.txt.gz"), Mapping(names), columns=names).x
    return Batch.of(rates[:-1], rates[1:, series])
