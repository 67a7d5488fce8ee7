"""Admission: round trips, every refusal, and mutated bytes."""

import random
from dataclasses import replace

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.api import continual_v1_pb2 as pb
from service.errors import Refused
from service.wire import (
    columns_from,
    decode_columns,
    decode_event,
    encode_columns,
    event_from,
    hash_id,
    label_to_proto,
    parse,
    slice_columns,
)
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch
from streams.mapping import LATEST_US
from tests.service.wire_cases import ROW, SCHEMAS, TARGETS, same


@st.composite
def batches(draw, kind):
    """A batch that may stand in a log, and the ids of its rows."""
    rows = draw(st.integers(1, 8))
    column = lambda values: np.array(draw(st.lists(values, min_size=rows, max_size=rows)))  # noqa: E731
    x = np.stack([column(st.floats(width=32, allow_nan=i == 1, allow_infinity=False)) for i in range(3)], 1)
    kinds = column(st.sampled_from([OBSERVATION, LABELLED, LABEL]))
    x[kinds == LABEL] = 0
    labels = st.one_of(st.integers(-(2**63), 2**63 - 1), st.text(min_size=1, max_size=64))
    classes = (
        tuple(draw(st.lists(labels, min_size=1, max_size=5, unique=True))) if kind == "multiclass" else ()
    )
    if kind == "regression":
        y = column(st.floats(-1e100, 1e100))
    else:
        y = column(st.integers(0, (len(classes) or 2) - 1)).astype(float)
    y[kinds == OBSERVATION] = np.nan
    if (kinds == OBSERVATION).all():
        classes = ()
    keys = draw(st.lists(st.binary(max_size=20), min_size=rows, max_size=rows))
    ids = draw(st.lists(st.text(min_size=1, max_size=60), min_size=rows, max_size=rows))
    time = column(st.integers(0, LATEST_US))
    hashes = np.stack([hash_id(id) for id in ids])
    return Batch.of(x, y, kind=kinds, key=keys, time=time, id=hashes, classes=classes), ids


@pytest.mark.parametrize("kind", TARGETS)
@settings(deadline=None)
@given(data=st.data())
def test_columns_round_trip(kind, data):
    batch, ids = data.draw(batches(kind))
    columns = pb.Columns.FromString(encode_columns(batch, TARGETS[kind], ids).SerializeToString())
    decoded = decode_columns(columns, SCHEMAS[kind])
    same(decoded, batch)
    for array in (decoded.x, decoded.y, decoded.kind, decoded.time, decoded.id, decoded.key.offsets):
        assert array.flags.c_contiguous
        assert array.flags.aligned
    start = data.draw(st.integers(0, len(batch) - 1))
    rest = slice_columns(columns, start, SCHEMAS[kind])
    same(decode_columns(rest, SCHEMAS[kind]), batch.slice(start, len(batch)))


@pytest.mark.parametrize("kind", TARGETS)
@settings(deadline=None)
@given(data=st.data())
def test_an_event_is_a_row_of_columns(kind, data):
    batch, ids = data.draw(batches(kind))
    decoded = decode_columns(encode_columns(batch, TARGETS[kind], ids), SCHEMAS[kind])
    for row in range(len(batch)):
        y = None if np.isnan(batch.y[row]) else batch.y[row]
        if y is not None and kind != "regression":
            y = (batch.classes or TARGETS["binary"].labels)[int(y)]
        features = None
        if batch.kind[row] != LABEL:
            features = dict(zip(SCHEMAS[kind].features, batch.x[row].tolist(), strict=True))
        event = event_from(features, y, batch.key[row], int(batch.time[row]), ids[row])
        one = decode_event(pb.Event.FromString(event.SerializeToString()), SCHEMAS[kind])
        expected = decoded.slice(row, row + 1)
        if kind == "multiclass" and y is not None:
            assert one.classes == (y,)
            one = replace(one, y=expected.y, classes=expected.classes)
        elif kind == "multiclass":
            one = replace(one, classes=expected.classes)
        same(one, expected)


def good(target="binary", kind=None):
    y = {"binary": ["UP", "DOWN"] * 2, "multiclass": [3, "x"] * 2, "regression": [1.0, 2.0] * 2}[target]
    if target == "multiclass":
        y = np.array(y, object)
    more = {"key": ["a", "b", "", "c"], "time": np.arange(4), "id": [f"é{i}" for i in range(4)]}
    return columns_from(np.arange(12).reshape(4, 3), y, target=TARGETS[target], kind=kind, **more)


def with_x(row, column, value):
    def change(columns):
        x = np.frombuffer(columns.x, "<f4").reshape(4, 3).copy()
        x[row, column] = value
        columns.x = x.tobytes()

    return change


def put(**fields):
    def change(columns):
        for name, value in fields.items():
            setattr(columns, name, value)

    return change


def labels(*values):
    def change(columns):
        del columns.labels[:]
        columns.labels.extend(v if isinstance(v, pb.Label) else label_to_proto(v) for v in values)

    return change


def i4(*values):
    return np.array(values, "<i4").tobytes()


def then(*changes):
    def change(columns):
        for one in changes:
            one(columns)

    return change


NO_LABELS = then(put(code=b"", y=b""), labels())

COLUMN_CASES = [
    ("binary", put(rows=0), "EMPTY_BATCH", "columns.rows"),
    ("binary", put(rows=65_537), "TOO_MANY_ROWS", "columns.rows"),
    ("binary", put(rows=3), "WRONG_LENGTH", "columns.code"),
    ("binary", put(x=bytes(47)), "WRONG_LENGTH", "columns.x"),
    ("regression", put(y=bytes(31)), "WRONG_LENGTH", "columns.y"),
    ("binary", put(code=bytes(15)), "WRONG_LENGTH", "columns.code"),
    ("binary", put(code=b""), "WRONG_LENGTH", "columns.code"),
    ("binary", put(kind=bytes(3)), "WRONG_LENGTH", "columns.kind"),
    ("binary", put(key_length=bytes(15)), "WRONG_LENGTH", "columns.key_length"),
    ("binary", put(key_length=b""), "WRONG_LENGTH", "columns.key_length"),
    ("binary", put(key=b"ab"), "WRONG_LENGTH", "columns.key"),
    ("binary", put(time_us=bytes(7)), "WRONG_LENGTH", "columns.time_us"),
    ("binary", put(id_length=bytes(15)), "WRONG_LENGTH", "columns.id_length"),
    ("binary", put(id=b"x"), "WRONG_LENGTH", "columns.id"),
    ("binary", put(x=b""), "NO_FEATURES", "columns.x"),
    ("binary", with_x(2, 0, np.nan), "MISSING_VALUE", "columns.x[2].price"),
    ("binary", with_x(1, 1, np.inf), "NOT_FINITE", "columns.x[1].demand"),
    ("binary", with_x(3, 2, -np.inf), "NOT_FINITE", "columns.x[3].day"),
    ("binary", put(kind=b"\1\1\3\1"), "UNKNOWN_KIND", "columns.kind[2]"),
    ("binary", put(kind=b"\1\0\1\1"), "LABEL_UNEXPECTED", "columns.kind[1]"),
    ("binary", put(code=i4(0, 0, -1, 1)), "LABEL_REQUIRED", "columns.kind[2]"),
    ("binary", then(NO_LABELS, put(kind=b"\0\0\0\1")), "LABEL_REQUIRED", "columns.kind[3]"),
    ("regression", put(y=np.array([1, np.nan, 2, 3.0]).tobytes()), "LABEL_REQUIRED", "columns.kind[1]"),
    ("regression", put(y=np.array([1, 2e100, 2, 3.0]).tobytes()), "TARGET_OUT_OF_RANGE", "columns.y[1]"),
    ("regression", put(y=np.array([1, 2, -np.inf, 3]).tobytes()), "TARGET_OUT_OF_RANGE", "columns.y[2]"),
    ("regression", put(code=bytes(16)), "WRONG_LABEL_COLUMN", "columns.code"),
    ("regression", labels("a"), "WRONG_LABEL_COLUMN", "columns.labels"),
    ("binary", put(y=bytes(32)), "WRONG_LABEL_COLUMN", "columns.y"),
    ("multiclass", put(y=bytes(32)), "WRONG_LABEL_COLUMN", "columns.y"),
    ("binary", put(code=i4(0, 0, 0, 2)), "CODE_OUT_OF_RANGE", "columns.code[3]"),
    ("multiclass", put(code=i4(0, -2, 0, 1)), "CODE_OUT_OF_RANGE", "columns.code[1]"),
    ("binary", labels("UP", "down"), "LABEL_UNKNOWN", "columns.labels[1]"),
    ("binary", labels("UP", 0), "LABEL_UNKNOWN", "columns.labels[1]"),
    ("binary", labels(1.0, "UP"), "LABEL_UNKNOWN", "columns.labels[0]"),
    ("binary", labels(1.5, "UP"), "LABEL_TYPE", "columns.labels[0]"),
    ("multiclass", labels(1e19, 1), "LABEL_TYPE", "columns.labels[0]"),
    ("multiclass", labels(3, 1.5), "LABEL_TYPE", "columns.labels[1]"),
    ("multiclass", labels(pb.Label(), 1), "LABEL_TYPE", "columns.labels[0]"),
    ("multiclass", labels("é" * 129, 1), "LABEL_TOO_LONG", "columns.labels[0]"),
    ("multiclass", labels(3, 3), "DUPLICATE_LABEL", "columns.labels"),
    ("multiclass", labels(3, pb.Label(number=3.0)), "DUPLICATE_LABEL", "columns.labels"),
    ("multiclass", labels(*range(65_537)), "TOO_MANY_LABELS", "columns.labels"),
    ("binary", put(time_us=np.array([0, 1, -1, 0]).tobytes()), "NEGATIVE_TIME", "columns.time_us[2]"),
    ("binary", put(key=b"k" * 1025, key_length=i4(0, 1025, 0, 0)), "KEY_TOO_LONG", "columns.key[1]"),
    ("binary", put(id=b"k" * 257, id_length=i4(0, 0, 257, 0)), "ID_TOO_LONG", "columns.id[2]"),
    ("binary", put(id=b"ab\xff", id_length=i4(1, 1, 0, 1)), "ID_NOT_UTF8", "columns.id[3]"),
    ("binary", put(id="aé".encode(), id_length=i4(0, 2, 0, 1)), "ID_NOT_UTF8", "columns.id[1]"),
    ("binary", put(kind=b"\1\1\2\1", id=b"", id_length=b""), "ID_REQUIRED", "columns.id[2]"),
    ("binary", put(kind=b"\1\2\2\1", id=b"ab", id_length=i4(1, 1, 0, 0)), "ID_REQUIRED", "columns.id[2]"),
]


@pytest.mark.parametrize(("kind", "change", "reason", "field"), COLUMN_CASES)
def test_columns_are_refused(kind, change, reason, field):
    columns = good(kind)
    decode_columns(columns, SCHEMAS[kind])
    change(columns)
    with pytest.raises(Refused) as caught:
        decode_columns(columns, SCHEMAS[kind])
    assert_refusal(caught.value, reason, field)


def assert_refusal(refused, reason, field):
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert refused.violations[0].field == field
    assert refused.violations[0].value
    assert refused.violations[0].accepted
    assert field in refused.message



EVENT_CASES = [
    ("binary", event_from(), "NO_FEATURES", "event.features"),
    ("binary", event_from(None, "UP"), "ID_REQUIRED", "event.id"),
    ("binary", event_from({**ROW, "prise": 1}), "UNKNOWN_FEATURE", "event.features.prise"),
    ("binary", event_from({"price": 1.0}), "MISSING_VALUE", "event.features.day"),
    ("binary", event_from({**ROW, "price": np.nan}), "MISSING_VALUE", "event.features.price"),
    ("binary", event_from({**ROW, "demand": np.inf}), "NOT_FINITE", "event.features.demand"),
    ("binary", event_from({**ROW, "day": 1e39}), "NOT_FINITE", "event.features.day"),
    ("binary", event_from(ROW, 1), "LABEL_UNKNOWN", "event.label"),
    ("binary", event_from(ROW, 1.0), "LABEL_UNKNOWN", "event.label"),
    ("binary", event_from(ROW, 0.5), "LABEL_TYPE", "event.label"),
    ("multiclass", event_from(ROW, 2**63), "LABEL_TYPE", "event.label"),
    ("binary", pb.Event(features=ROW, label=pb.Label()), "LABEL_TYPE", "event.label"),
    ("multiclass", event_from(ROW, 0.5), "LABEL_TYPE", "event.label"),
    ("multiclass", event_from(ROW, "x" * 257), "LABEL_TOO_LONG", "event.label"),
    ("regression", event_from(ROW, "one"), "LABEL_TYPE", "event.label"),
    ("regression", pb.Event(features=ROW, label=pb.Label()), "LABEL_TYPE", "event.label"),
    ("regression", pb.Event(features=ROW, label=pb.Label(number=np.nan)), "TARGET_OUT_OF_RANGE", "event.label"),
    ("regression", event_from(ROW, -1.1e100), "TARGET_OUT_OF_RANGE", "event.label"),
    ("binary", event_from(ROW, time=-1), "NEGATIVE_TIME", "event.time_us"),
    ("binary", event_from(ROW, key="k" * 1025), "KEY_TOO_LONG", "event.key"),
    ("binary", event_from(ROW, id="é" * 129), "ID_TOO_LONG", "event.id"),
]


@pytest.mark.parametrize(("kind", "event", "reason", "field"), EVENT_CASES)
def test_events_are_refused(kind, event, reason, field):
    with pytest.raises(Refused) as caught:
        decode_event(event, SCHEMAS[kind])
    assert_refusal(caught.value, reason, field)


def test_an_unknown_feature_comes_with_the_close_match():
    with pytest.raises(Refused, match="did you mean 'price'"):
        decode_event(event_from({**ROW, "prise": 1}), SCHEMAS["binary"])


def test_lengths_say_got_and_expected():
    columns = good()
    columns.x = bytes(47)
    with pytest.raises(Refused, match=r"got 47 bytes; accepted: 48 bytes \(4 x 3 of float32\)"):
        decode_columns(columns, SCHEMAS["binary"])


def test_label_rows_have_zero_features_whatever_was_sent():
    columns = good(kind=[2, 1, 2, 2])
    with_x(0, 0, np.nan)(columns)
    batch = decode_columns(columns, SCHEMAS["binary"])
    np.testing.assert_array_equal(batch.x, [[0, 0, 0], [3, 4, 5], [0, 0, 0], [0, 0, 0]])
    columns.kind, columns.x = b"\2\2\2\2", b""
    np.testing.assert_array_equal(decode_columns(columns, SCHEMAS["binary"]).x, np.zeros((4, 3)))


def test_defaults_of_absent_columns():
    batch = decode_columns(columns_from(np.ones((2, 3))), SCHEMAS["binary"])
    same(batch, Batch.of(np.ones((2, 3))))
    assert len(batch.key) == 2


def test_an_integer_is_a_regression_target():
    assert decode_event(event_from(ROW, 3), SCHEMAS["regression"]).y.tolist() == [3.0]


def test_bytes_that_are_no_message_are_refused():
    with pytest.raises(Refused) as caught:
        parse(pb.UpdateRequest, b"\xff\xff\xff")
    assert caught.value.reason == "NOT_A_MESSAGE"


def mutate(random, data):
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data))
        match random.randrange(4):
            case 0:
                data[at] ^= 1 << random.randrange(8)
            case 1:
                data[at] = random.randrange(256)
            case 2:
                del data[at : at + random.randint(1, 8)]
            case _:
                data[at:at] = random.randbytes(random.randint(1, 8))
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", TARGETS)
def test_mutated_bytes_raise_nothing_but_refused(kind):
    generator = random.Random(kind)
    label = {"binary": "UP", "multiclass": 3, "regression": 1.5}[kind]
    event = event_from(ROW, label, "key", 5, "id").SerializeToString()
    columns = good(kind, kind=[1, 2, 1, 2]).SerializeToString()
    admitted, refusals = 0, []
    for message, data, decode in (
        (pb.Columns, columns, decode_columns),
        (pb.Event, event, decode_event),
    ) * 1500:
        try:
            batch = decode(parse(message, mutate(generator, data)), SCHEMAS[kind])
        except Refused as error:
            refusals.append(error)
        else:
            assert_invariants(batch, kind)
            admitted += 1
    assert min(admitted, len(refusals)) > 100
    for refused in refusals:
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.violations
        assert errors.from_status(refused.to_status()).reason == refused.reason


def assert_invariants(batch, kind):
    """What `streams.batch` promises of every batch."""
    assert set(batch.kind) <= {0, 1, 2}
    assert not np.isinf(batch.x).any()
    assert not np.isnan(batch.x[:, [0, 2]]).any()
    assert not batch.x[batch.kind == LABEL].any()
    np.testing.assert_array_equal(np.isnan(batch.y), batch.kind == OBSERVATION)
    known = batch.y[batch.kind != OBSERVATION]
    assert (np.abs(known) <= 1e100).all()
    if kind == "binary":
        assert set(known) <= {0.0, 1.0}
    if kind == "multiclass":
        assert all(0 <= y < len(batch.classes) for y in known)
    assert (batch.time >= 0).all()
    assert batch.key.offsets[-1] == len(batch.key.data)
    assert batch.id[batch.kind == LABEL].any(axis=1).all()
