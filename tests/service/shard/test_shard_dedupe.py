"""An event sent twice counts once: by (producer, sequence) in streams, by id in unary updates."""

import queue
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from shard_harness import (
    FEATURES,
    batch_of,
    columns,
    cut,
    digest,
    events,
    fold,
    learn_requests,
    paused_writes,
    same_answers,
    spec_of,
    until,
)

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.wire import Schema, predictions_from_proto

ROWS = 400


def answers(channel, requests):
    return list(api.OnlineLearningStub(channel).Learn(iter(requests), timeout=30))


def values(replies):
    return np.concatenate([predictions_from_proto(reply.accepted).value for reply in replies]).view(np.int64)


@pytest.fixture(params=["binary", "multiclass"])
def sent(request, client, channel, name):
    """A stream that was sent once: spec, events, requests, replies, digest."""
    spec = spec_of(name, request.param, slots=5)
    client.models.create(spec)
    given = events(request.param, ROWS)
    requests = learn_requests(spec, given, [37] * 20)
    return spec, given, requests, answers(channel, requests), digest(client, name)


def test_a_stream_sent_again_is_answered_as_before_and_adds_nothing(client, channel, sent):
    spec, _, requests, first, before = sent
    assert not any(reply.duplicate for reply in first)
    again = answers(channel, requests)
    for one, two in zip(first, again, strict=True):
        assert two.duplicate
        assert (one.sequence, one.next_sequence) == (two.sequence, two.next_sequence)
        assert one.accepted.position == two.accepted.position
        assert one.accepted.value == two.accepted.value
        assert one.accepted.code == two.accepted.code
        assert one.accepted.outcome == two.accepted.outcome
    assert digest(client, spec.name) == before
    statistics = client.models.statistics(spec.name)
    assert statistics.position == ROWS
    assert statistics.counts["duplicates"] == ROWS


def test_a_stream_sent_again_in_other_batches_adds_nothing(client, channel, sent):
    """Answers are remembered by batch; another cut is told that everything was applied, with no wrong rows."""
    spec, given, _, first, before = sent
    for sizes in ([400], [10] * 40, [74] * 6, [1] * 400):
        for request, reply in zip(
            requests := learn_requests(spec, given, sizes), answers(channel, requests), strict=True
        ):
            assert reply.duplicate
            assert reply.next_sequence == request.sequence + request.columns.rows
            assert reply.accepted.rows in (0, request.columns.rows)
            if reply.accepted.rows:
                assert reply.accepted.position == request.sequence
                given_then = values(first)[request.sequence : reply.next_sequence]
                assert values([reply]).tolist() == given_then.tolist()
    assert digest(client, spec.name) == before


def test_a_batch_that_begins_before_the_mark_adds_only_the_rest(client, channel, name):
    spec = spec_of(name, "multiclass", slots=5)
    client.models.create(spec)
    given = events("multiclass", ROWS, by_id=True) | {"time": np.arange(ROWS)}
    learner, folded = fold(spec, batch_of(spec, given))
    whole = learn_requests(spec, given, [ROWS])[0]
    first, second, third = learn_requests(spec, given, [100, 37, 263])
    overlapping = [first, pb.LearnRequest(), third, whole]
    joined = columns(spec, given)
    overlapping[1] = pb.LearnRequest(
        model=name, producer="p", sequence=50, columns=cut(joined, Schema.of(spec), [50, 87])[1]
    )
    replies = answers(channel, overlapping)
    assert [reply.duplicate for reply in replies] == [False, False, False, True]
    assert [reply.accepted.rows for reply in replies[:3]] == [100, 37, 263]
    assert [reply.accepted.position for reply in replies[:3]] == [0, 100, 137]
    assert [reply.next_sequence for reply in replies] == [100, 137, ROWS, ROWS]
    assert second.columns.rows == 37
    assert values(replies[:3]).tolist() == folded.value.view(np.int64).tolist()
    assert digest(client, name) == learner.digest()


def test_batches_sent_twice_at_once_count_once(server, client, channel, name):
    """Two streams of one producer, the second while the first waits for the store."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", ROWS)
    learner, folded = fold(spec, batch_of(spec, given))
    requests = learn_requests(spec, given, [50] * 8)
    with ThreadPoolExecutor(2) as pool:
        with paused_writes(server):
            streams = [pool.submit(answers, channel, requests) for _ in range(2)]
            until(lambda: client.models.statistics(name).counts["duplicates"] == ROWS)
        one, two = [stream.result() for stream in streams]
    assert sorted([one[0].duplicate, two[0].duplicate]) == [False, True]
    for a, b in zip(one, two, strict=True):
        assert a.duplicate != b.duplicate
        assert a.accepted == b.accepted
    assert values(one).tolist() == folded.value.view(np.int64).tolist()
    assert digest(client, name) == learner.digest()


def test_a_stream_given_up_in_flight_can_be_sent_again(server, shard, client, channel, name):
    """The batches of a cancelled call go on to the log; whoever repeats them meets the originals."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 100)
    learner, folded = fold(spec, batch_of(spec, given))
    requests = learn_requests(spec, given, [50, 50])
    open_requests: queue.SimpleQueue = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as pool:
        with paused_writes(server):
            call = api.OnlineLearningStub(channel).Learn(iter(open_requests.get, None))
            for request in requests:
                open_requests.put(request)
            until(lambda: shard.partition(name).producers.next_sequence("p") == 100)
            call.cancel()
            open_requests.put(None)
            again = pool.submit(answers, channel, requests)
            until(lambda: client.models.statistics(name).counts["duplicates"] == 100)
        replies = again.result()
    assert [reply.duplicate for reply in replies] == [True, True]
    assert values(replies).tolist() == folded.value.view(np.int64).tolist()
    assert digest(client, name) == learner.digest()


def test_a_gap_inside_a_stream_is_refused_with_what_is_expected(client, channel, sent):
    spec, _, requests, _, before = sent
    moved = [pb.LearnRequest.FromString(request.SerializeToString()) for request in requests[:3]]
    for request in moved:
        request.producer = "another"
    moved[2].sequence += 5
    call = api.OnlineLearningStub(channel).Learn(iter(moved), timeout=30)
    taken = []
    with pytest.raises(grpc.RpcError) as error:  # noqa: PT012 (the replies before the error count)
        for reply in call:
            taken.append(reply)
    refused = from_rpc_error(error.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "WRONG_SEQUENCE")
    assert "sequence 79" in refused.message
    assert "expected 74" in refused.message
    assert [reply.next_sequence for reply in taken] == [37, 74]
    assert client.models.get(spec.name).position == ROWS + 74
    assert digest(client, spec.name) != before


def test_the_same_file_twice_adds_nothing(client, name):
    """`client.learn` under the identity of a file."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", ROWS)
    learner, folded = fold(spec, batch_of(spec, given))
    for time, sizes in enumerate([[64] * 9, [64] * 9, [100] * 4]):
        pieces = cut(columns(spec, given), Schema.of(spec), sizes)
        results = list(client.learn(name, pieces, producer="sha256:abc"))
        assert all(result.duplicate == (time > 0) for result in results)
        if time < 2:
            same_answers(results, folded)
        assert client.models.get(name).position == ROWS
    assert digest(client, name) == learner.digest()


def test_an_update_sent_twice_is_answered_as_before(client, name):
    spec = spec_of(name, "multiclass", dedupe_window=20)
    client.models.create(spec)
    given = events("multiclass", 20)
    rows = [dict(zip(FEATURES, x.tolist())) for x in given["x"]]
    first = [client.update(name, rows[i], given["y"][i], key="k", id=f"e{i}") for i in range(20)]
    before = digest(client, name)
    for i in (0, 7, 19):
        again = client.update(name, rows[i], given["y"][i], key="k", id=f"e{i}")
        assert (first[i].duplicate, again.duplicate) == (False, True)
        assert again.position == first[i].position == i
        assert again.value.tobytes() == first[i].value.tobytes()
        assert again.code.tolist() == first[i].code.tolist()
        assert again.outcome.tolist() == first[i].outcome.tolist()
    assert digest(client, name) == before
    assert client.models.statistics(name).counts["duplicates"] == 3


def test_an_update_sent_many_times_at_once_counts_once(server, client, name):
    spec = spec_of(name)
    client.models.create(spec)
    features = dict.fromkeys(FEATURES, 0.5)
    with ThreadPoolExecutor(8) as pool:
        with paused_writes(server):
            calls = [pool.submit(client.update, name, features, "UP", id="one") for _ in range(8)]
            until(lambda: client.models.statistics(name).counts["duplicates"] == 7)
        replies = [call.result() for call in calls]
    assert sorted(reply.duplicate for reply in replies) == [False] + [True] * 7
    assert {(reply.position, reply.value.tobytes()) for reply in replies} == {(0, replies[0].value.tobytes())}
    assert client.models.get(name).position == 1


@pytest.mark.parametrize("change", ["features", "label", "key", "time", "observation"])
def test_an_id_with_another_payload_is_refused(client, name, change):
    spec = spec_of(name, "multiclass")
    client.models.create(spec)
    features = dict.fromkeys(FEATURES, 0.5)
    client.update(name, features, 7, key="k", time=9, id="one")
    before = digest(client, name)
    other = {"features": features, "label": 7, "key": "k", "time": 9}
    other |= {
        "features": {"features": features | {"a": 0.25}},
        "label": {"label": "7"},
        "key": {"key": "l"},
        "time": {"time": 8},
        "observation": {"label": None},
    }[change]
    with pytest.raises(Refused) as error:
        client.update(name, id="one", **other)
    assert (error.value.code, error.value.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED")
    assert "'one'" in error.value.message
    assert digest(client, name) == before
    assert client.models.statistics(name).counts["refused"] == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_duplicates_are_known_after_a_restart(start_shard, name, how):
    shard = start_shard()
    spec = spec_of(name, "multiclass", slots=5)
    given = events("multiclass", ROWS)
    features = dict.fromkeys(FEATURES, 0.5)
    requests = learn_requests(spec, given, [50] * 8)
    with Client(shard.target) as client, grpc.insecure_channel(shard.target) as channel:
        client.models.create(spec)
        first = answers(channel, requests)
        update = client.update(name, features, "red", id="one")
        before = digest(client, name)
        assert shard.end(how) in (0, -signal.SIGKILL)
        shard.start()
        until(lambda: client.health() == "SERVING")
        again = answers(channel, requests)
        assert all(reply.duplicate for reply in again)
        for one, two in zip(first, again, strict=True):
            if two.accepted.rows:
                assert one.accepted.position == two.accepted.position
                assert one.accepted.value == two.accepted.value
        assert [bool(reply.accepted.rows) for reply in again] == [how == signal.SIGKILL] * 8
        repeated = client.update(name, features, "red", id="one")
        assert (repeated.duplicate, repeated.position) == (True, ROWS)
        assert repeated.value.tobytes() == update.value.tobytes()
        with pytest.raises(Refused, match="ID_REUSED"):
            client.update(name, features, "green", id="one")
        assert digest(client, name) == before
        assert client.models.get(name).position == ROWS + 1


def test_a_repeated_batch_is_not_acknowledged_before_it_is_in_the_log(server, shard, client, channel, name):
    """Also one that was cut differently: an acknowledgement would be lost with the original."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 100)
    with ThreadPoolExecutor(2) as pool:
        with paused_writes(server):
            original = pool.submit(answers, channel, learn_requests(spec, given, [100]))
            until(lambda: shard.partition(name).producers.next_sequence("p") == 100)
            again = pool.submit(answers, channel, learn_requests(spec, given, [50, 50]))
            until(lambda: client.models.statistics(name).counts["duplicates"])
            assert not original.done()
            assert not again.done()
        assert [reply.duplicate for reply in again.result()] == [True, True]
        assert [reply.duplicate for reply in original.result()] == [False]
    assert client.models.get(name).position == 100
