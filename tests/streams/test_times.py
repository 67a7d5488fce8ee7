"""One rule for times, whatever they are written as."""

from __future__ import annotations

import datetime
import json
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.files import read_file
from streams.mapping import NANOSECONDS, BadRow, ClockWarning, Mapping
from streams.sources.messages import MessageParser, Messages
from streams.times import microseconds, of_values

NOON = 1_714_564_800_000_000  # 2024-05-01T12:00:00Z
TEXTS = {
    "2024-05-01T12:00:00Z": 0,
    "2024-05-01t12:00:00z": 0,
    "2024-05-01 12:00:00": 0,
    "2024-05-01T12:00": 0,
    "2024-05-01T12:00Z": 0,
    "2024-05-01": -43_200_000_000,
    "2024-05-01T14:30:00+02:30": 0,
    "2024-05-01T14:30:00+0230": 0,
    "2024-05-01T14:00:00+02": 0,
    "2024-05-01 05:00:00-07": 0,
    "2024-05-01 14:00:00 +0200": 0,
    "2024-05-01 12:00:00 UTC": 0,
    "2024-05-01T12:00:00-00:00": 0,
    " 2024-05-01T12:00:00Z ": 0,
    **{f"2024-05-01T12:00:00.{'123456789'[:n]}Z": int("123456"[:n].ljust(6, "0")) for n in range(1, 10)},
    "2024-05-01t12:00:00.999999999+00:00": 999_999,
    "2024-05-01 12:00:00.9999999": 999_999,
}  # fmt: skip
WRONG = [
    "yesterday", "", "2024-13-01", "2024-02-30", "2024-05-01T25:00Z", "2024-05-01T12:00:60Z", "12:30:45",
    "2024-05-01T12:00:00.1234567890Z", "2024-05-01T12:00:00,5Z", "2024-05-01T12:00:00+99:99x", "1969-12-31T23:59:59Z",
    "2024-05-01T12:00:00.Z", "01/05/2024", "-5", "nan", "1e30", "9" * 30,
]  # fmt: skip


def test_every_form_of_a_time_as_text_alone_and_together() -> None:
    for text, after in TEXTS.items():
        assert microseconds(pa.array([text]), "s").tolist() == [NOON + after], text
    for text in WRONG:
        assert microseconds(pa.array([text]), "s").tolist() == [-1], text
    mixed = [*TEXTS, *WRONG, None, "1714564800", "1714564800.25", "1714564800e0"]
    expected = [NOON + after for after in TEXTS.values()] + [-1] * (len(WRONG) + 1) + [NOON, NOON + 250_000, NOON]
    for column in (pa.array(mixed), pa.array(mixed, pa.large_string()), pa.array(mixed).dictionary_encode()):
        assert microseconds(column, "s").tolist() == expected
    assert of_values(mixed, "s").tolist() == expected


@settings(deadline=None)
@given(st.lists(st.sampled_from([*TEXTS, *WRONG, "1714564800", "1714564800.5"]), max_size=12))
def test_a_text_says_the_same_whatever_stands_beside_it(texts: list[str]) -> None:
    alone = [microseconds(pa.array([text]), "s").tolist()[0] for text in texts]
    assert microseconds(pa.array(texts, pa.string()), "s").tolist() == alone


@settings(deadline=None)
@given(
    time=st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31, 23, 59)),
    digits=st.integers(0, 9),
    rest=st.integers(0, 999),
    offset=st.one_of(st.none(), st.integers(-840, 840)),
    letters=st.sampled_from(["TZ", "tz", " Z"]),
)
def test_rfc_3339_is_read_to_the_microsecond(time, digits: int, rest: int, offset: int | None, letters: str) -> None:
    """Against Python's own arithmetic; digits beyond the sixth are cut."""
    fraction = f"{time.microsecond:06}{rest:03}"[:digits]
    kept = time.replace(microsecond=int(fraction[:6].ljust(6, "0")) if digits else 0)
    zone = letters[1] if offset is None else f"{'-' if offset < 0 else '+'}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    text = f"{time:%Y-%m-%d}{letters[0]}{time:%H:%M:%S}{'.' + fraction if digits else ''}{zone}"
    expected = (kept - datetime.datetime(1970, 1, 1)) // datetime.timedelta(microseconds=1) - (offset or 0) * 60_000_000
    expected = expected if 0 <= expected < 253_402_300_800_000_000 else -1
    assert microseconds(pa.array([text]), "s").tolist() == [expected], text


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_numbers_are_read_in_their_unit(unit: Any) -> None:
    per = {"s": 10**6, "ms": 10**3, "us": 1, "ns": 1}[unit]
    number = NOON * 1000 + 999 if unit == "ns" else NOON // per
    for held in (pa.array([number]), pa.array([number], pa.uint64()), pa.array([str(number)])):
        assert microseconds(held, unit).tolist() == [NOON]
    assert of_values([number], unit).tolist() == [NOON]
    if unit in ("s", "ms"):
        for held in (pa.array([number + 0.25]), pa.array([f"{number}.25"])):
            assert microseconds(held, unit).tolist() == [NOON + per // 4]
    beyond = pa.array([2**63, 2**64 - 1], pa.uint64())
    assert microseconds(beyond, "s").tolist() == microseconds(beyond.cast(pa.string()), "s").tolist() == [-1, -1]


@pytest.mark.parametrize("zone", [None, "UTC", "+05:30", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_of_every_unit_are_cut_to_microseconds(unit: str, zone: str | None) -> None:
    held = pa.array([(NOON * 1000 + 999) // NANOSECONDS[unit], None, -1], pa.int64())  # type: ignore[index]
    assert microseconds(held.cast(pa.timestamp(unit, zone)), "s").tolist() == [NOON, -1, -1]


def test_the_same_times_from_every_file(tmp_path: Path) -> None:
    """Zoned and naive, of any number of digits, mixed in one column."""
    texts = [*TEXTS, "1714564800", "1714564800.25"]
    expected = [NOON + after for after in TEXTS.values()] + [NOON, NOON + 250_000]
    frame = pd.DataFrame({"a": 1.0, "t": texts})
    mapping = Mapping(("a",), time="t")
    for kind, writer in (
        ("csv", lambda path: frame.to_csv(path, index=False)),
        ("jsonl", lambda path: frame.to_json(path, orient="records", lines=True)),
        ("parquet", frame.to_parquet),
    ):
        path = tmp_path / f"t.{kind}"
        writer(path)
        assert next(read_file(path, mapping))[1].time.tolist() == expected, kind


def parse(values: list[Any], headers: list[dict[str, bytes]] | None = None, **more: Any) -> tuple[list[int], list[str]]:
    messages = Messages("q", 0, len(values), range(len(values)), values, headers, None, [7] * len(values))
    parsed = MessageParser(Mapping(("a",), **more)).parse(messages)
    return [] if parsed.batch is None else parsed.batch.time.tolist(), [str(bad) for _, bad in parsed.bad]


def test_the_same_times_from_every_kind_of_message() -> None:
    mixed = [
        json.dumps({"a": 1, "t": t}).encode() for t in (1714564800, 1714564800.25, "1714564800", "2024-05-01t12:00z")
    ]
    expected = [NOON, NOON + 250_000, NOON, NOON]
    assert parse(mixed, time="t") == (expected, [])
    fields = [{b"a": b"1", b"t": t} for t in (b"1714564800", b"1714564800.25", b"2024-05-01T12:00:00.0000000Z")]
    assert parse(fields, time="t") == ([NOON, NOON + 250_000, NOON], [])
    event = {"specversion": "1.0", "id": "1", "source": "/s"}
    binary = [{f"ce_{name}": text.encode() for name, text in (event | {"time": text}).items()} for text in TEXTS]
    assert parse([b'{"a": 1}'] * len(binary), binary, time="$time") == ([NOON + after for after in TEXTS.values()], [])
    structured = [json.dumps(event | {"time": text, "data": {"a": 1}}).encode() for text in TEXTS]
    kind = [{"content-type": b"application/cloudevents+json"}] * len(structured)
    assert parse(structured, kind, time="$time") == ([NOON + after for after in TEXTS.values()], [])


def test_a_refused_time_is_named_with_its_value() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "time": "yesterday"}
    headers = [{f"ce_{name}": text.encode() for name, text in event.items()}]
    for got in (
        parse([b'{"a": 1}'], headers, time="$time"),
        parse(
            [json.dumps(event | {"data": {"a": 1}}).encode()],
            [{"content-type": b"application/cloudevents+json"}],
            time="$time",
        ),
        parse([b'{"a": 1, "$time": "yesterday"}'], time="$$time"),
    ):
        assert not got[0]
        assert "time': 'yesterday' does not fit; accepted: a time of RFC 3339" in got[1][0]


@pytest.mark.parametrize(
    ("number", "unit", "looks"), [(1_714_564_800_000, "s", "ms"), (NOON * 1000, "us", "ns"), (NOON, "ms", "us")]
)
def test_a_finer_clock_than_the_unit_is_refused_with_what_to_set(
    tmp_path: Path, number: int, unit: Any, looks: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a,t\n1,{number}\n")
    with pytest.raises(BadRow, match=f"{number}.* does not fit; .*this looks like {looks}: set time_unit: {looks}"):
        list(read_file(path, Mapping(("a",), time="t", time_unit=unit)))
    assert next(read_file(path, Mapping(("a",), time="t", time_unit=looks)))[1].time.tolist() == [NOON]  # type: ignore[arg-type]
    assert (
        f"set time_unit: {looks}" in parse([json.dumps({"a": 1, "t": number}).encode()], time="t", time_unit=unit)[1][0]
    )


@pytest.mark.parametrize(
    ("number", "unit", "looks"), [(1_714_564_800, "us", "s"), (1_714_564_800_000, "us", "ms"), (NOON, "ns", "us")]
)
def test_a_coarser_clock_than_the_unit_is_said_once(tmp_path: Path, number: int, unit: Any, looks: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,t\n" + f"1,{number}\n" * 20_000)
    with pytest.warns(
        ClockWarning, match=f"column 't': numbers are read in {unit}.*they look like {looks}: set time_unit"
    ):
        assert sum(len(batch) for _, batch in read_file(path, Mapping(("a",), time="t", time_unit=unit))) == 20_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.write_text("a,t\n1,1\n1,1000\n")  # a clock of its own is no clock of another unit
        list(read_file(path, Mapping(("a",), time="t", time_unit=unit)))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(0, 2**60), st.floats(0, 1e18), st.none(), st.booleans(), st.sampled_from([*TEXTS, *WRONG])
        ),
        min_size=1,
        max_size=6,
    )
)
def test_messages_say_of_each_time_what_it_says_alone(times: list[Any]) -> None:
    values = [json.dumps({"a": 1, "t": t}).encode() for t in times]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClockWarning)
        alone = [parse([value], time="t", time_unit="us")[0] for value in values]
        assert parse(values, time="t", time_unit="us")[0] == [one for held in alone for one in held]


def test_parquet_says_what_a_frame_says(tmp_path: Path) -> None:
    for column in (
        pd.Series(pd.to_datetime(["2024-05-01T12:00:00.000000999"])),
        pd.Series(pd.to_datetime(["2024-05-01T14:00+02:00"])),
        pd.Series([datetime.date(2024, 5, 1)]),
    ):
        path = tmp_path / "t.parquet"
        pyarrow.parquet.write_table(pa.table({"a": [1.0], "t": pa.Array.from_pandas(column)}), path)
        expected = NOON if hasattr(column[0], "hour") else NOON - 43_200_000_000
        assert next(read_file(path, Mapping(("a",), time="t")))[1].time.tolist() == [expected]
