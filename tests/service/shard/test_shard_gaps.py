"""Numbers with gaps and stamps: the seam by which sources are ingested exactly once."""

import signal

import grpc
import numpy as np
import pytest
from shard_harness import batch_of, columns, cut, digest, events, fold, paused_writes, spec_of, until

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client, Numbered, Refused
from service.errors import from_rpc_error, from_status
from service.wire import Schema

ROWS = 60
SIZES = [20, 20, 20]


@pytest.fixture
def made(client, name):
    """A model, its events, and these in three batches."""
    spec = spec_of(name, "multiclass", slots=5)
    client.models.create(spec)
    given = events("multiclass", ROWS)
    return spec, given, cut(columns(spec, given), Schema.of(spec), SIZES)


def numbered(pieces, *numbers, producer="kafka:t/0"):
    return [Numbered(piece, producer, first, end) for piece, (first, end) in zip(pieces, numbers, strict=True)]


def learn(client, name, batches):
    return list(client.learn(name, batches, timeout=20))


def refusal(client, name, batches):
    with pytest.raises(Refused) as caught:
        learn(client, name, batches)
    return caught.value


def test_numbers_with_gaps_move_the_mark_and_fold_every_event_once(client, made):
    spec, given, pieces = made
    batches = numbered(pieces, (0, 20), (20, 55), (55, 80))
    results = learn(client, spec.name, batches)
    assert [result.next_sequence for result in results] == [20, 55, 80]
    mark = client.producer(spec.name, "kafka:t/0")
    assert (mark.known, mark.next_sequence) == (True, 80)
    again = learn(client, spec.name, batches)
    assert [result.duplicate for result in again] == [True] * 3
    for one, two in zip(results, again, strict=True):
        assert one.predictions.value.tobytes() == two.predictions.value.tobytes()
    assert digest(client, spec.name) == fold(spec, batch_of(spec, given))[0].digest()


def test_a_producer_never_heard_of_is_not_known(client, made):
    mark = client.producer(made[0].name, "kafka:t/9")
    assert (mark.known, mark.next_sequence) == (False, 0)


def test_a_gapped_batch_that_overlaps_is_refused_with_what_is_expected(client, made):
    spec, _, pieces = made
    learn(client, spec.name, numbered(pieces[:1], (0, 30)))
    refused = refusal(client, spec.name, numbered(pieces[1:2], (10, 50)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_OVERLAP")
    assert "expected 30 next" in refused.message
    assert client.models.get(spec.name).position == 20


def test_a_known_producer_cannot_leave_numbers_out(client, made):
    """What a store that lost its tail no longer has must be read again, never passed over."""
    spec, _, pieces = made
    learn(client, spec.name, numbered(pieces[:1], (500, 520)))
    refused = refusal(client, spec.name, numbered(pieces[1:2], (521, 541)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SEQUENCE_GAP")
    assert "expected 520 next" in refused.message
    assert learn(client, spec.name, numbered(pieces[1:2], (520, 541)))[0].next_sequence == 541


def test_a_batch_without_gaps_is_cut_where_it_overlaps(client, made):
    spec, given, pieces = made
    learn(client, spec.name, numbered(pieces[:1], (0, 20)))
    whole = Numbered(columns(spec, given), "kafka:t/0", 0, ROWS)
    result = learn(client, spec.name, [whole])[0]
    assert (result.predictions.position, len(result.predictions)) == (20, 40)
    assert digest(client, spec.name) == fold(spec, batch_of(spec, given))[0].digest()


def test_numbers_that_are_shared_are_cut_by_number_where_they_overlap(client, made):
    """Number 0 is no event, number 1 is two: as many events as numbers, but they are not one each."""
    spec, given, pieces = made
    numbers = [1, 1, *range(2, 20)]
    learn(client, spec.name, [Numbered(None, "kafka:t/0", 0, 1)])
    shared = Numbered(pieces[0], "kafka:t/0", 0, 20, np.array(numbers))
    assert len(learn(client, spec.name, [shared])[0].predictions) == 20
    assert [result.duplicate for result in learn(client, spec.name, [shared])] == [True]
    late = Numbered(pieces[1], "kafka:t/0", 21, 41, np.array(numbers) + 21)
    assert refusal(client, spec.name, [late]).reason == "SEQUENCE_GAP"
    learn(client, spec.name, numbered(pieces[1:], (20, 40), (40, 60)))
    assert digest(client, spec.name) == fold(spec, batch_of(spec, given))[0].digest()


def test_a_stamp_moves_the_mark_and_nothing_else(client, made):
    spec, given, pieces = made
    stamp = Numbered(None, "kafka:t/0", 0, 0)
    results = learn(client, spec.name, [stamp, stamp, Numbered(None, "kafka:t/0", 0, 7)])
    assert [(result.rows, result.duplicate) for result in results] == [(0, False), (0, True), (0, False)]
    assert client.models.get(spec.name).position == 0
    learn(client, spec.name, numbered(pieces, (7, 27), (27, 47), (47, 67)))
    mixed = [Numbered(None, "kafka:t/0", 60, 90), Numbered(None, "kafka:t/0", 90, 99)]
    assert [result.next_sequence for result in learn(client, spec.name, mixed)] == [90, 99]
    assert client.producer(spec.name, "kafka:t/0").next_sequence == 99
    assert client.models.get(spec.name).position == ROWS
    assert digest(client, spec.name) == fold(spec, batch_of(spec, given))[0].digest()


@pytest.mark.parametrize(
    ("rows", "sequence", "end", "field"),
    [(0, 5, None, "columns.rows"), (0, 5, 4, "next_sequence"), (20, 5, 5, "next_sequence"), (0, 5, 2**63, "next_seq")],
)
def test_numbers_that_contradict_the_rows_are_refused(channel, made, rows, sequence, end, field):
    spec, _, pieces = made
    given = pieces[0] if rows else None
    request = pb.LearnRequest(model=spec.name, producer="p", sequence=sequence, columns=given, next_sequence=end)
    reply = next(iter(api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10)))
    refused = from_status(reply.refused)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.violations[0].field.startswith(field)


def test_several_producers_share_a_stream(client, made):
    spec, _, pieces = made
    batches = [
        Numbered(pieces[0], "kafka:t/0", 3, 40),
        Numbered(pieces[1], "kafka:t/1", 0, 20),
        Numbered(pieces[2], "kafka:t/0", 40, 60),
    ]
    assert [result.producer[-1] for result in learn(client, spec.name, batches)] == ["0", "1", "0"]
    marks = [client.producer(spec.name, f"kafka:t/{number}").next_sequence for number in (0, 1)]
    assert marks == [60, 20]


def test_the_mark_is_told_once_what_is_on_its_way_is_logged(server, shard, client, channel, made):
    spec, _, pieces = made
    stub = api.OnlineLearningStub(channel)
    request = pb.LearnRequest(
        model=spec.name, producer="kafka:t/0", sequence=0, columns=pieces[0], next_sequence=33
    )
    with paused_writes(server):
        replies = stub.Learn(iter([request]), timeout=20)
        until(lambda: shard.partition(spec.name).producers.next_sequence("kafka:t/0") == 33)
        asked = stub.GetProducer.future(pb.GetProducerRequest(model=spec.name, producer="kafka:t/0"), timeout=20)
        assert not asked.done()
    assert asked.result().next_sequence == 33
    assert next(iter(replies)).next_sequence == 33


def test_an_unknown_model_has_no_producers(channel):
    with pytest.raises(grpc.RpcError) as caught:
        api.OnlineLearningStub(channel).GetProducer(pb.GetProducerRequest(model="none", producer="p"), timeout=10)
    assert from_rpc_error(caught.value).reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("snapshot", [False, True])
def test_marks_and_stamps_survive_a_kill(start_shard, name, snapshot):
    """Also stamps alone at the end of the log, after a snapshot at the very same position, or with no event at all."""
    shard = start_shard()
    spec = spec_of(name, "multiclass", slots=5)
    given = events("multiclass", ROWS)
    pieces = cut(columns(spec, given), Schema.of(spec), SIZES)
    with Client(shard.target) as client:
        client.models.create(spec)
        learn(client, name, [Numbered(None, "redis:s", 0, 11), Numbered(None, "redis:s", 11, 12)])
        assert shard.end(signal.SIGKILL) == -signal.SIGKILL
        shard.start()
        assert client.producer(name, "redis:s").next_sequence == 12
        learn(client, name, [Numbered(None, "redis:s", 12, 13), *numbered(pieces[:2], (1, 30), (30, 77))])
        if snapshot:
            client.models.snapshot(name)
        stamps = [Numbered(None, "kafka:t/0", 77 + at, 78 + at) for at in range(3)]
        for stamp in stamps:
            learn(client, name, [stamp])
        assert shard.end(signal.SIGKILL) == -signal.SIGKILL
        shard.start()
        assert client.producer(name, "redis:s").next_sequence == 13
        assert client.producer(name, "kafka:t/0").next_sequence == 80
        again = learn(client, name, [*numbered(pieces[:2], (1, 30), (30, 77)), *stamps])
        assert all(result.duplicate for result in again)
        learn(client, name, [*numbered(pieces[2:], (80, 100)), Numbered(None, "kafka:t/0", 100, 200)])
        assert client.models.get(name).position == ROWS
        assert digest(client, name) == fold(spec, batch_of(spec, given))[0].digest()


def test_marks_of_sources_are_never_forgotten(monkeypatch):
    from service.shard import admission

    monkeypatch.setattr(admission, "MAX_PRODUCERS", 3)
    producers = admission.Producers()
    producers.note("kafka:t/0", 9)
    for number in range(9):
        producers.note(f"client-{number}", 1)
    assert list(producers.logged) == ["kafka:t/0", "client-7", "client-8"]
    for number in range(9):
        producers.note(f"redis:{number}", 1)
    assert producers.logged["kafka:t/0"] == 9
    assert np.all([f"redis:{number}" in producers.logged for number in range(9)])
