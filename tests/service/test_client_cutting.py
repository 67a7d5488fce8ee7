"""Batches larger than a message: cut, answered as one, exact under faults; what cannot be cut is refused and passed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from client_harness import applied
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api import continual_v1_pb2 as pb
from service.client import Numbered, cutting
from service.client.core import Core
from service.client.session import LearnSession
from service.errors import Refused
from service.wire import Schema, columns_from

SPEC = '{"name": "m", "features": [{"name": "a"}, {"name": "b"}], "target": {"kind": "multiclass"}}'
SCHEMA = Schema.from_json(SPEC)


@pytest.fixture(autouse=True)
def small_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests need not send megabytes; the server takes 4 MiB."""
    monkeypatch.setattr(cutting, "MAX_MESSAGE_BYTES", 2000)
    monkeypatch.setattr(cutting, "PIECE_BYTES", 500)
    monkeypatch.setattr(cutting, "BESIDE_BYTES", 100)


def batch(first: int, rows: int, key_bytes: int = 4) -> dict:
    numbers = np.arange(first, first + rows, dtype=float)
    keys = [f"{i}".ljust(key_bytes, "k") for i in range(rows)]
    return {"x": np.stack([numbers, numbers], 1), "y": numbers, "key": keys}


def test_a_large_batch_has_one_answer(client, service):
    got = client.collect("m", [batch(0, 3), batch(3, 300), batch(303, 2)])
    assert [(one.sequence, one.rows, one.next_sequence) for one in got] == [(0, 3, 3), (3, 300, 303), (303, 2, 305)]
    assert got[1].predictions.value.tolist() == [2.0 * i for i in range(3, 303)]
    assert got[1].predictions.position == 3
    assert len(got[1].predictions.outcome) == 300
    assert applied(service.servicer) == list(range(305))
    assert service.servicer.received > 10


def test_a_large_batch_is_applied_once_however_often_the_stream_drops(client, service):
    service.servicer.drop_after = [2, 5, 0, 9, 1]
    got = client.collect("m", [batch(0, 3), batch(3, 300), batch(303, 300), batch(603, 2)], timeout=30, in_flight=2)
    assert applied(service.servicer) == list(range(605))
    assert [(one.sequence, one.rows, len(one.predictions)) for one in got] == [
        (0, 3, 3),
        (3, 300, 300),
        (303, 300, 300),
        (603, 2, 2),
    ]


def test_a_batch_sent_again_is_one_duplicate(client, service):
    for expected in (False, True):
        (one,) = client.collect("m", [batch(0, 300)], producer="p")
        assert (one.duplicate, one.rows, one.next_sequence) == (expected, 300, 300)
    assert applied(service.servicer) == list(range(300))


@pytest.mark.parametrize("how", ["raise", "yield"])
def test_a_row_larger_than_a_message_is_refused_and_passed(client, service, how):
    got = client.collect("m", [batch(0, 3), batch(3, 2, key_bytes=5000), batch(5, 300)], on_refused=how)
    refused = got[1] if how == "raise" else got[1].refused
    assert refused.reason == "MESSAGE_TOO_LARGE"
    assert "columns[0]" in refused.message
    assert str(2000 - 100) in refused.message
    assert [(one.sequence, one.rows) for one in (got[0], got[2])] == [(0, 3), (5, 300)]
    assert applied(service.servicer) == [0, 1, 2, *range(5, 305)]
    assert len(got) == 3


def test_labels_count_for_the_size_of_a_row():
    many = columns_from(np.zeros((100, 2)), [f"label {i} {'x' * 40}" for i in range(100)], target=SCHEMA.target)
    assert not cutting.fits(many)
    assert len(cutting.pieces(many)) > 10


def test_a_piece_that_is_refused_refuses_the_batch_once(client, service):
    bad = batch(0, 300)
    bad["y"][150] = 1e200
    got = client.collect("m", [bad, batch(300, 2)], on_refused="yield")
    assert [one.rows for one in got] == [300, 2]
    assert "rows" in got[0].refused.message
    assert got[0].predictions is None
    assert got[1].refused is None


def test_predictions_of_many_rows_are_one_answer(client, service):
    got = client.predict("m", x=np.stack([np.arange(500), np.arange(500)], 1))
    assert got.value.tolist() == [2.0 * i for i in range(500)]
    assert service.servicer.calls.count("Predict") > 5


def test_an_event_larger_than_a_message_names_the_limit(client):
    calls = {"predict": {"event": {"a": 1.0}}, "update": {"features": {"a": 1.0}}}
    for name, event in calls.items():
        with pytest.raises(Refused, match="at most 2000 bytes") as refused:
            getattr(client, name)("m", key="k" * 3000, **event)
        assert refused.value.reason == "MESSAGE_TOO_LARGE"


@st.composite
def large(draw: st.DrawFn) -> tuple[pb.Columns, np.ndarray]:
    """Columns of all kinds, with the numbers of their rows, which rise by 0 to 3."""
    rows = draw(st.integers(1, 120))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    names = [f"label-{i}" * int(rng.integers(1, 6)) for i in range(int(rng.integers(1, 12)))]
    labels = [None if rng.random() < 0.1 else names[int(i)] for i in rng.integers(0, len(names), rows)]
    given = {
        "x": rng.normal(size=(rows, 2)).astype(np.float32),
        "y": labels if draw(st.booleans()) else None,
        "key": [b"k" * int(n) for n in rng.integers(0, 200, rows)] if draw(st.booleans()) else None,
        "id": [f"i{i}" for i in range(rows)] if draw(st.booleans()) else None,
        "time": np.arange(1, rows + 1) if draw(st.booleans()) else None,
    }
    columns = columns_from(target=SCHEMA.target, **{name: value for name, value in given.items() if value is not None})
    steps = rng.integers(0, 4, rows) if draw(st.booleans()) else np.ones(rows, int)
    return columns, np.cumsum(steps)


def labels_of(columns: pb.Columns) -> list[str]:
    codes = np.frombuffer(columns.code, "<i4").tolist()
    return ["" if code < 0 else columns.labels[code].SerializeToString().hex() for code in codes]


@settings(max_examples=60, deadline=None)
@given(large())
def test_pieces_are_the_batch(given_columns):
    columns, numbers = given_columns
    core = Core("nowhere")
    core.schemas["m"] = SCHEMA
    options = {"producer": None, "first_sequence": 0, "in_flight": 1, "on_refused": "yield", "timeout": 1.0}
    session = LearnSession(core, "m", **options)
    end = int(numbers[-1]) + 1
    requests = session.offer(Numbered(columns, "q", int(numbers[0]), end, numbers))
    if not requests[0].columns.rows:  # rows of one number do not fit: their numbers are passed
        assert [(one.sequence, one.next_sequence) for one in requests] == [(numbers[0], end)]
        return
    for one, after in itertools.pairwise(requests):
        assert one.next_sequence == after.sequence
        assert after.sequence > one.sequence
    assert (requests[0].sequence, requests[-1].next_sequence) == (numbers[0], end)
    pieces = [one.columns for one in requests]
    assert sum(one.rows for one in pieces) == columns.rows
    for name in ("x", "kind", "time_us", "key", "key_length", "id", "id_length"):
        assert b"".join(getattr(one, name) for one in pieces) == getattr(columns, name), name
    assert [label for one in pieces for label in labels_of(one)] == labels_of(columns)
    if len(requests) > 1:
        said = [np.frombuffer(one.number, "<u8") for one in requests]
        assert np.concatenate(said).tolist() == numbers.tolist()
        for one, held in zip(requests, said):
            assert one.sequence <= held[0]
            assert held[-1] < one.next_sequence
            assert one.ByteSize() <= 2000
