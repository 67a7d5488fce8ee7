"""Ownership that is confirmed beside whatever keeps the process busy; a stream outlasts a moment without."""

import asyncio
import threading
import time

import grpc
import pytest
from shard_harness import (
    FEATURES,
    batch_of,
    digest,
    events,
    fold,
    learn_requests,
    one_loop,
    paused_writes,
    spec_of,
    until,
)

from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.store.ownership import LEASE_SECONDS, OwnerRecord, confirm_all
from service.store.partition import Partition as Store
from service.store.scripting import _WhileRunning


def test_the_lease_holds_while_the_event_loop_stands_still(client, shard, name):
    client.models.create(spec_of(name))
    partition = shard.partition(name)
    one_loop().call_soon_threadsafe(time.sleep, 2.5 * LEASE_SECONDS)
    time.sleep(2 * LEASE_SECONDS)  # the loop sleeps still
    partition.check_serving()
    client.update(name, dict.fromkeys(FEATURES, 0.5), "UP")
    client.models.delete(name)


def test_a_stream_goes_on_while_python_takes_both_cores_and_the_loop(client, shard, channel, name):
    """For seconds: threads that compute without a break, and an event loop that is held up again and again."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 6000)
    over = threading.Event()

    def compute():
        while not over.is_set():
            sum(range(1000))

    def hold_up():
        time.sleep(1.2 * LEASE_SECONDS)
        if not over.is_set():
            one_loop().call_later(0.02, hold_up)

    for _ in range(2):
        threading.Thread(target=compute, daemon=True).start()
    one_loop().call_soon_threadsafe(hold_up)
    threading.Timer(6, over.set).start()
    try:
        replies = list(api.OnlineLearningStub(channel).Learn(iter(learn_requests(spec, given, [100] * 60)), timeout=60))
    finally:
        over.set()
    assert len(replies) == 60
    assert not any(reply.HasField("refused") or reply.duplicate for reply in replies)
    learner, _ = fold(spec, batch_of(spec, given))
    assert digest(client, name) == learner.digest()
    client.models.delete(name)


def test_a_stream_waits_for_ownership_to_be_confirmed_and_a_call_does_not(client, shard, channel, name, monkeypatch):
    spec = spec_of(name)
    client.models.create(spec)
    partition = shard.partition(name)
    given = events("binary", 300)
    requests = learn_requests(spec, given, [100] * 3)
    monkeypatch.setattr(partition.writer, "_was_asked", lambda sent, trouble: None)  # not heard of from now on
    away = threading.Event()

    def unconfirmed():
        partition.writer._confirmed = 0.0
        if not away.is_set():
            one_loop().call_later(0.01, unconfirmed)

    one_loop().call_soon_threadsafe(unconfirmed)
    until(lambda: partition.writer._confirmed == 0.0)
    replies = []
    call = api.OnlineLearningStub(channel).Learn(iter(requests), timeout=60)
    reading = threading.Thread(target=lambda: replies.extend(call))
    reading.start()
    with pytest.raises(Refused, match="LEASE_UNCONFIRMED"):
        client.predict(name, [[1, 2, 3]], timeout=0.5)
    assert not replies
    assert partition.head == 0
    away.set()
    until(lambda: len(replies) == 0 and _confirm(partition))
    reading.join(30)
    assert len(replies) == 3
    client.models.delete(name)


def _confirm(partition):
    partition.writer._confirmed = time.monotonic()
    return True


def test_a_stream_waits_no_longer_than_it_has_time(client, shard, channel, name):
    spec = spec_of(name)
    client.models.create(spec)
    writer = shard.partition(name).writer
    lost = threading.Event()

    def unconfirmed():
        writer._confirmed = 0.0
        if not lost.is_set():
            one_loop().call_soon(lambda: one_loop().call_later(0.001, unconfirmed))

    one_loop().call_soon_threadsafe(unconfirmed)
    request = learn_requests(spec, events("binary", 10), [10])
    with pytest.raises(grpc.RpcError) as error:
        list(api.OnlineLearningStub(channel).Learn(iter(request), timeout=2))
    lost.set()
    refused = from_rpc_error(error.value)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "LEASE_UNCONFIRMED")
    client.models.delete(name)


def test_a_shard_that_lost_its_partition_acknowledges_nothing(own_server, name):
    """Another owner takes over while the store answers nothing to the first, whose stream is open and waits."""
    from shard_harness import LocalShard

    local = LocalShard(own_server.url)
    spec = spec_of(name)
    given = events("binary", 200)
    requests = learn_requests(spec, given, [100] * 2)
    with Client(local.target) as client, grpc.insecure_channel(local.target) as channel:
        client.models.create(spec)
        partition = local.partition(name)
        store = Store(local.shard.client, "continual", name, "0")
        replies, failed = [], []
        sent = threading.Event()

        def source():
            yield requests[0]
            sent.wait()
            yield requests[1]

        def read():
            try:
                for reply in api.OnlineLearningStub(channel).Learn(source(), timeout=3):
                    replies.append(reply)
            except grpc.RpcError as error:
                failed.append(error)

        reading = threading.Thread(target=read)
        reading.start()
        until(lambda: len(replies) == 1)
        record = OwnerRecord("shard-9", "elsewhere", 1, 0.0, "nowhere:1")
        taken = store.acquire(record, lease=0.0, timeout=5)
        sent.set()
        reading.join(30)
        assert len(replies) == 1
        assert failed
        until(lambda: local.failures)
        assert type(local.failures[0]).__name__ == "Fenced"
        assert store.head().position == 100
        assert confirm_all(local.shard.client, [(store, taken)]) == [None]
        assert type(confirm_all(local.shard.client, [(store, partition.token)])[0]).__name__ == "Fenced"
        with pytest.raises(Refused):
            client.predict(name, [[1, 2, 3]], timeout=0.5)


def test_a_store_that_is_paused_ends_the_lease(own_server, local, name):
    with Client(local.target) as client:
        client.models.create(spec_of(name))
        partition = local.partition(name)
        with paused_writes(own_server, 30):
            until(lambda: _refuses(partition))
        until(lambda: not _refuses(partition))
        assert client.predict(name, [[1, 2, 3]]).position == 0


def _refuses(partition):
    try:
        partition.check_serving()
    except Refused as refused:
        return refused.reason == "LEASE_UNCONFIRMED"
    return False


def test_time_in_which_the_loop_stood_still_is_no_silence_of_the_store():
    async def waits(seconds):
        async with _WhileRunning(0.4):
            time.sleep(1.0)
            await asyncio.sleep(seconds)

    asyncio.run(waits(0.05))
    with pytest.raises(TimeoutError):
        asyncio.run(waits(5.0))
