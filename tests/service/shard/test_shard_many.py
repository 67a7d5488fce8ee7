"""Several requests in a message: the same log, the same answers and the same refusals as one by one."""

import itertools
import queue

import numpy as np
import pytest
from shard_harness import (
    batch_of,
    digest,
    events,
    fold,
    learn_requests,
    paused_writes,
    refused_by,
    same_answers,
    spec_of,
)

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client.session import MESSAGE_BYTES, Packing
from service.errors import from_status

ROWS = 600


def packed(requests, sizes):
    """The requests in messages of so many."""
    left = [request.SerializeToString() for request in requests]
    return [pb.LearnRequests(requests=[left.pop(0) for _ in range(min(size, len(left)))]) for size in sizes]


def many(channel, messages):
    return [r for m in api.OnlineLearningStub(channel).LearnMany(iter(messages), timeout=30) for r in m.replies]


def test_any_packing_gives_the_same_log_and_the_same_answers(client, channel, name):
    given = events("multiclass", ROWS)
    rng = np.random.default_rng(3)
    wanted = None
    for way in range(3):
        spec = spec_of(f"{name}-{way}", "multiclass")
        client.models.create(spec)
        requests = learn_requests(spec, given, itertools.repeat(23))
        if way == 0:
            replies = list(api.OnlineLearningStub(channel).Learn(iter(requests), timeout=30))
        else:
            sizes = [0, *rng.integers(1, 9, len(requests))]
            replies = many(channel, packed(requests, sizes))
        assert [reply.sequence for reply in replies] == [request.sequence for request in requests]
        answers = [reply.accepted for reply in replies]
        said = [(answer.position, answer.value, answer.code, answer.outcome) for answer in answers]
        wanted = wanted or said
        assert said == wanted
        assert digest(client, spec.name) == fold(spec, batch_of(spec, given))[0].digest()


def test_what_is_refused_in_a_message_does_not_disturb_the_rest(client, channel, name):
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 300)
    requests = learn_requests(spec, given, [60] * 5)
    requests[1].columns.x = requests[1].columns.x[4:]
    (message,) = packed(requests, [5])
    message.requests.insert(3, b"\xff no request")
    replies = many(channel, [pb.LearnRequests.FromString(b""), message])
    assert [reply.HasField("refused") for reply in replies] == [False, True, False, True, False, False]
    assert from_status(replies[1].refused).violations[0].field == "columns.x"
    assert from_status(replies[3].refused).reason == "NOT_A_MESSAGE"
    kept = {field: [*column[:60], *column[120:]] for field, column in given.items()}
    assert digest(client, name) == fold(spec, batch_of(spec, kept))[0].digest()


def test_a_message_that_is_none_is_refused_as_one_request(client, channel, name):
    spec = spec_of(name)
    client.models.create(spec)
    (good,) = packed(learn_requests(spec, events("binary", 20), [20]), [1])
    stream = channel.stream_stream("/continual.v1.OnlineLearning/LearnMany")
    messages = iter([b"\xff\xff\xff", good.SerializeToString()])
    replies = [r for m in stream(messages, timeout=10) for r in pb.LearnReplies.FromString(m).replies]
    assert from_status(replies[0].refused).reason == "NOT_A_MESSAGE"
    assert replies[1].accepted.rows == 20


def test_what_was_answered_before_a_break_arrives(client, channel, name):
    """A gap in the numbers ends the stream; the answers to what stood before it in the message are given first."""
    spec = spec_of(name)
    client.models.create(spec)
    requests = learn_requests(spec, events("binary", 200), [50] * 4)
    del requests[2]
    call = api.OnlineLearningStub(channel).LearnMany(iter(packed(requests, [3])), timeout=10)
    got = []

    def read():
        for message in call:
            got.extend(reply.sequence for reply in message.replies)

    assert refused_by(read).reason == "WRONG_SEQUENCE"
    assert got == [0, 50]
    assert client.models.get(name).position == 100


def test_replies_that_wait_together_travel_together(client, server, channel, name):
    spec = spec_of(name)
    client.models.create(spec)
    requests = learn_requests(spec, events("binary", 400), [50] * 8)
    with paused_writes(server):
        call = api.OnlineLearningStub(channel).LearnMany(iter(packed(requests, [3, 3, 2])), timeout=30)
        client.models.statistics(name)
    sizes = [len(message.replies) for message in call]
    assert sum(sizes) == 8
    assert len(sizes) < 8


@pytest.mark.parametrize("in_flight", [1, 3, 16, 64])
def test_the_clients_pack(client, name, in_flight):
    spec = spec_of(name, "regression")
    client.models.create(spec)
    given = events("regression", ROWS)
    _, folded = fold(spec, batch_of(spec, given))
    pieces = [{field: column[at : at + 17] for field, column in given.items()} for at in range(0, ROWS, 17)]
    same_answers(list(client.learn(name, pieces, in_flight=in_flight)), folded)
    assert digest(client, name) == fold(spec, batch_of(spec, given))[0].digest()


def test_a_message_is_bounded():
    small, large = pb.LearnRequest(producer="s"), pb.LearnRequest(producer="l")
    large.columns.x = bytes(MESSAGE_BYTES - 100)
    waiting = queue.SimpleQueue()
    for request in (small, small, large, large, small, small, small, small, None):
        waiting.put(request)
    packing = Packing(waiting.get_nowait, queue.Empty, 3)
    sizes = []
    while not packing.ended:
        message = packing.message(packing.held or waiting.get())
        sizes.append([len(data) for data in message.requests])
        assert len(message.requests) == 1 or message.ByteSize() < MESSAGE_BYTES + 1024
    s, b = small.ByteSize(), large.ByteSize()
    assert sizes == [[s, s, b], [b, s, s], [s, s]]


def test_nothing_waits_for_company():
    waiting = queue.SimpleQueue()
    packing = Packing(waiting.get_nowait, queue.Empty, 8)
    assert len(packing.message(pb.LearnRequest()).requests) == 1
    assert not packing.ended
    assert packing.held is None
