"""The store goes away and comes back: nothing acknowledged is lost, nothing passes what was refused."""

import os
import queue
import signal

import grpc
import numpy as np
import pytest
from shard_harness import (
    FEATURES,
    batch_of,
    digest,
    events,
    fold,
    learn_requests,
    spec_of,
    until,
)

from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.store.connect import connect
from service.wire import predictions_from_proto


def pause_writes(server):
    connect(server.url).execute_command("CLIENT", "PAUSE", 60_000, "WRITE")


def test_nothing_passes_a_refused_batch_of_a_client_that_does_not_read(own_server, local, name):
    """The refusal cannot reach such a client; later batches that it sends must not move the producer's mark."""
    spec = spec_of(name, units=1)
    rows = 1000
    given = events("binary", 60 * rows)
    requests = learn_requests(spec, given, [rows] * 60)
    learner, folded = fold(spec, batch_of(spec, given))
    narrow = [("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0)]
    with Client(local.target) as client, grpc.insecure_channel(local.target, narrow) as channel:
        client.models.create(spec)
        partition = local.partition(name)
        to_send: queue.SimpleQueue = queue.SimpleQueue()
        call = api.OnlineLearningStub(channel).Learn(iter(to_send.get, None), timeout=60)
        for request in requests[:40]:
            to_send.put(request)
        until(lambda: partition.learner.position == 40 * rows)
        pause_writes(own_server)
        for request in requests[40:50]:
            to_send.put(request)
        until(lambda: partition.producers.next_sequence("p") == 50 * rows)
        os.kill(own_server.pid, signal.SIGKILL)
        until(lambda: not _serves(local, name))
        until(lambda: _serves(local, name))
        assert partition.producers.next_sequence("p") == 40 * rows
        for request in requests[50:]:
            to_send.put(request)
        replies = []
        with pytest.raises(grpc.RpcError) as error:  # noqa: PT012 (the replies before the error count)
            for reply in call:
                replies.append(reply)
        to_send.put(None)
        refused = from_rpc_error(error.value)
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
        assert refused.retry_seconds
        assert len(replies) == 40
        assert client.models.get(name).position == 40 * rows
        replies += api.OnlineLearningStub(channel).Learn(iter(requests[40:]), timeout=60)
        assert len(replies) == 60
        assert not any(reply.duplicate for reply in replies)
        values = np.concatenate([predictions_from_proto(reply.accepted).value for reply in replies])
        assert values.tobytes() == folded.value.tobytes()
        assert digest(client, name) == learner.digest()


def test_while_the_store_is_gone_calls_are_refused_and_then_served_again(own_server, local, name):
    spec = spec_of(name, slots=2)
    features = dict.fromkeys(FEATURES, 0.5)
    with Client(local.target) as client, Client(local.target) as other:
        client.models.create(spec)
        for key in "abcd":
            client.update(name, features, "UP", key=key)
        os.kill(own_server.pid, signal.SIGSTOP)
        try:
            calls = {
                "Predict": lambda: other.predict(name, event=features, key="a", timeout=1),
                "Update": lambda: other.update(name, features, "UP", timeout=1),
                "Learn": lambda: list(other.learn(name, [{"x": [[1, 2, 3]], "y": ["UP"]}], timeout=1)),
            }
            until(lambda: not _serves(local, name))
            for call in calls.values():
                with pytest.raises(Refused) as error:
                    call()
                assert error.value.code in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                )
        finally:
            os.kill(own_server.pid, signal.SIGCONT)
        position = client.update(name, features, "UP", key="a", timeout=20).position
        assert position in (4, 5)  # the refused update may be in the log: its id was never answered
        assert client.predict(name, event=features, key="b").position == position + 1


def _serves(local, name):
    try:
        local.partition(name).check_serving()
    except Refused:
        return False
    return True
