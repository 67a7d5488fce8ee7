"""What clients send: rows, frames, labels, times and keys in whatever form Python has them."""

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from learners.spec import BinaryTarget
from service.wire import (
    Schema,
    columns_from,
    columns_from_frame,
    columns_of,
    decode_columns,
    decode_event,
    event_from,
    label_to_proto,
)
from streams.batch import Batch, Keys
from streams.mapping import ClockWarning
from tests.service.wire_cases import FEATURES, ROW, SCHEMAS, TARGETS, same


def test_a_frame_is_read_by_name():
    frame = pd.DataFrame(
        {"day": [1, 2], "key": ["a", "b"], "price": [0.5, 1.5], "label": ["UP", None], "time": [3, 4]}
    )
    batch = decode_columns(columns_from_frame(frame, SCHEMAS["binary"]), SCHEMAS["binary"])
    expected = np.array([[0.5, np.nan, 1], [1.5, np.nan, 2]])
    same(batch, Batch.of(expected, np.array([1, np.nan]), key=[b"a", b"b"], time=np.array([3, 4])))
    with pytest.raises(ValueError, match="unknown columns"):
        columns_from_frame(frame.assign(other=1), SCHEMAS["binary"])
    with pytest.raises(ValueError, match="no column for the features"):
        columns_from_frame(frame.drop(columns="day"), SCHEMAS["binary"])
    with pytest.raises(ValueError, match=r"'cheap' in the features \['price'\]; accepted: numbers"):
        columns_from_frame(frame.assign(price=["cheap", "dear"]), SCHEMAS["binary"])


def test_gaps_of_pandas_own_types_are_missing_values():
    frame = pd.DataFrame(
        {
            "price": pd.array([True, None], dtype="boolean"),
            "sales": pd.array([None, 3], dtype="Int64"),
            "day": pd.array([0.5, None], dtype="Float64"),
        }
    )
    expected = np.array([[1, np.nan, 0.5], [np.nan, 3, np.nan]])
    read = np.frombuffer(columns_from(frame).x, "<f4").reshape(expected.shape)
    np.testing.assert_array_equal(read, expected)


def test_what_is_no_number_or_no_column_is_named():
    with pytest.raises(TypeError, match=r"features.day: got 'monday'; accepted: a number"):
        event_from({"price": 0.5, "day": "monday"}, "UP")
    with pytest.raises(ValueError, match=r"x: got .*'one'; accepted: numbers"):
        columns_from([["one", 2]])
    with pytest.raises(ValueError, match=r"unknown columns \['X', 'label'\]; accepted: id, key, kind, time, x, y"):
        columns_of({"X": [[1.0]], "label": ["UP"]}, SCHEMAS["binary"])


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        (np.array([3, 1, 3]), [3, 1, 3]),
        (np.array([3, np.nan, 1]), [3, None, 1]),
        (["b", "a", "b"], ["b", "a", "b"]),
        (np.array(["b", None, 4], object), ["b", None, 4]),
        (np.array([np.int64(3), float("nan"), "x"], object), [3, None, "x"]),
        ([1.0, None, 0], [1, None, 0]),
        ([True, False, None], [1, 0, None]),
        (np.array([True, False, True]), [1, 0, 1]),
        (["01", "1", ""], ["01", "1", None]),
        (["NA", 1, 1.0], ["NA", 1, 1]),
        ([Decimal("7.00"), pd.NA, pd.NaT], [7, None, None]),
        (pd.array([1, None, 0], "Int64"), [1, None, 0]),
        (pd.array([True, None, False], "boolean"), [1, None, 0]),
        (pd.array(["a", None, "b"], "string"), ["a", None, "b"]),
        (pd.Categorical(["a", None, "b"]), ["a", None, "b"]),
        (pd.Series([1.0, None, 0.0]), [1, None, 0]),
        (np.array([2**63 - 1, 0, 1], np.uint64), [2**63 - 1, 0, 1]),
        ([2**53 + 1, 1.0, 0], [2**53 + 1, 1, 0]),
        (np.float32([1, np.nan, 0]), [1, None, 0]),
    ],
)
def test_labels_of_any_kind_become_classes(y, expected):
    columns = columns_from(np.zeros((3, 3)), y, target=TARGETS["multiclass"])
    batch = decode_columns(columns, SCHEMAS["multiclass"])
    assert [None if np.isnan(v) else batch.classes[int(v)] for v in batch.y] == expected


@pytest.mark.parametrize(
    ("y", "error", "said"),
    [
        ([1.0, 0.5], ValueError, r"y\[1\]: got 0.5; accepted: a whole number of 64 bits"),
        ([object(), 1], TypeError, r"y\[0\]: got .*of type object"),
        (np.array([1e19, 0]), ValueError, r"y\[0\]: got 1e\+19"),
        (np.array([0, -9.3e18]), ValueError, r"y\[1\]: got -9.3e\+18"),
        (np.array([0, 2**63], np.uint64), ValueError, r"y\[1\]: got 9223372036854775808"),
        ([2**64, 1], ValueError, r"y\[0\]: got 18446744073709551616"),
        ([Decimal("1.5"), 1], ValueError, r"y\[0\]: got Decimal"),
        ([1, "x" * 257], ValueError, r"y\[1\]: got 'xxx"),
        ([{}, 1], TypeError, "y: unhashable"),
        (np.array(["2024", "2025"], "M8[Y]"), TypeError, "y: got an array of datetime64"),
    ],
)
def test_labels_that_are_no_class_are_an_error(y, error, said):
    with pytest.raises(error, match=said):
        columns_from(np.zeros((2, 3)), y, target=TARGETS["multiclass"])


NOON = 1_714_564_800_000_000


@pytest.mark.parametrize(
    "times",
    [
        [NOON, NOON],
        np.array([NOON, NOON], np.uint64),
        [float(NOON)] * 2,
        ["2024-05-01T12:00:00Z", "2024-05-01 14:00:00.000000999+02:00"],
        np.array(["2024-05-01T12"] * 2, "M8[h]"),
        np.array(["2024-05-01T12:00:00.000000999"] * 2, "M8[ns]"),
        [np.datetime64("2024-05-01T12:00"), datetime.datetime(2024, 5, 1, 12)],
        [datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC), pd.Timestamp("2024-05-01T17:30+05:30")],
        *(pd.Series(pd.to_datetime(["2024-05-01T12:00"] * 2)).dt.as_unit(unit) for unit in ("s", "ms", "us", "ns")),
        *(pd.Series(pd.to_datetime(["2024-05-01T12:00Z"] * 2)).dt.as_unit(unit) for unit in ("s", "ms", "us", "ns")),
        pd.Series(pd.to_datetime(["2024-05-01T21:00+09:00"] * 2)).dt.tz_convert("Asia/Tokyo"),
        pd.DatetimeIndex(["2024-05-01T14:00+02:00"] * 2),
        pd.Series(["2024-05-01T12:00Z"] * 2, dtype="string"),
        pd.Series([pd.Timestamp("2024-05-01T12:00Z"), pd.Timestamp("2024-05-01T12:00")], dtype=object),
        pd.Series(pd.to_datetime(["2024-05-01T12:00"] * 2)).astype("timestamp[ns][pyarrow]"),
        pd.array([NOON, NOON], "Int64"),
    ],
    ids=lambda times: f"{type(times).__name__}-{getattr(times, 'dtype', type(times[0]).__name__)}",
)
def test_times_of_any_kind_become_microseconds(times):
    assert decode_columns(columns_from(np.zeros((2, 3)), time=times), SCHEMAS["binary"]).time.tolist() == [NOON, NOON]
    frame = pd.DataFrame({"price": [1.0, 1], "day": [1.0, 1], "time": times})
    assert decode_columns(columns_of(frame, SCHEMAS["binary"]), SCHEMAS["binary"]).time.tolist() == [NOON, NOON]
    assert event_from(ROW, time=next(iter(times))).time_us == NOON


@pytest.mark.parametrize(
    ("times", "error", "said"),
    [
        ([1, 1_714_564_800_000_000_000], ValueError, r"time\[1\]: got 17145648.*, which looks like ns; accepted"),
        (["yesterday", 1], ValueError, r"time\[0\]: got 'yesterday'; accepted: microseconds"),
        ([1, None], ValueError, r"time\[1\]: got ''"),
        ([1.0, np.nan], ValueError, r"time\[1\]: got nan"),
        (np.array(["2024", "NaT"], "M8[D]"), ValueError, r"time\[1\]: got NaT"),
        (np.array(["2024", "12000"], "M8[Y]"), ValueError, r"time\[1\]: got 12000"),
        ([1, object()], TypeError, r"time\[1\]: got .*of type object"),
        (np.array([True, False]), TypeError, "time: got an array of bool"),
    ],
)
def test_times_that_are_none_are_named(times, error, said):
    with pytest.raises(error, match=said):
        columns_from(np.zeros((2, 3)), time=times)


@pytest.mark.parametrize("times", [[1_714_564_800] * 2, np.array([1_714_564_800_000] * 2)])
def test_a_clock_of_another_unit_is_said(times):
    with pytest.warns(ClockWarning, match="look like m?s: give microseconds"):
        columns_from(np.zeros((2, 3)), time=times)
    with pytest.warns(ClockWarning):
        event_from(ROW, time=int(times[0]))


def test_labels_of_an_event_follow_the_same_rule():
    assert event_from(ROW, True).label.integer == event_from(ROW, 1.0).label.integer == 1
    assert event_from(ROW, Decimal("2.00")).label.integer == 2
    assert not any(event_from(ROW, nothing).HasField("label") for nothing in (None, np.nan, "", pd.NA, pd.NaT))
    assert decode_event(event_from(ROW, "2.5"), SCHEMAS["regression"]).y.tolist() == [2.5]
    assert decode_event(event_from(ROW, 2**70), SCHEMAS["regression"]).y.tolist() == [2.0**70]
    numbers = Schema._build("m", FEATURES[:1], BinaryTarget())
    for value in (1, 1.0, True, "1", "1.0", "true", Decimal(1)):
        assert decode_event(event_from({"price": 1}, value), numbers).y.tolist() == [1]


def test_the_empty_class_of_an_older_log_can_still_be_told():
    assert label_to_proto("").WhichOneof("value") == "text"


@pytest.mark.parametrize(
    "key",
    [
        np.array([1, 22]),
        ["1", "22"],
        [b"1", b"22"],
        np.array(["1", "22"]),
        [1, "22"],
        pd.array([1, 22], "Int64"),
        pd.array(["1", "22"], "string"),
        pd.Categorical(["1", "22"]),
    ],
)
def test_keys_of_any_kind_become_bytes(key):
    columns = columns_from(np.zeros((2, 3)), key=key)
    batch = decode_columns(columns, SCHEMAS["binary"])
    same(batch, Batch.of(np.zeros((2, 3)), key=Keys.pack([b"1", b"22"])))


def test_any_form_of_a_batch_becomes_the_same_columns():
    x = np.ones((2, 3))
    forms = [x, {"x": x}, Batch.of(x), pd.DataFrame(x, columns=SCHEMAS["binary"].features), columns_from(x)]
    assert len({columns_of(form, SCHEMAS["binary"]).SerializeToString() for form in forms}) == 1
    with pytest.raises(TypeError, match="batch: got str"):
        columns_of("x", SCHEMAS["binary"])
