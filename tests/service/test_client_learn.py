"""Streams of events through both clients, against a real `grpc.aio` server over real channels, with faults."""

import asyncio
import threading

import grpc
import numpy as np
import pytest
from client_harness import Server, applied, batches

from service import errors
from service.client import AsyncClient


@pytest.mark.parametrize("in_flight", [1, 8, 100])
def test_learn_answers_every_batch_in_order(client, service, in_flight):
    got = client.collect("m", batches(20), in_flight=in_flight)
    assert [(one.sequence, one.rows) for one in got] == [(3 * i, 3) for i in range(20)]
    assert [one.predictions.position for one in got] == [3 * i for i in range(20)]
    assert got[1].predictions.value.tolist() == [6.0, 8.0, 10.0]
    assert applied(service.servicer) == list(range(60))
    assert service.servicer.calls.count("Learn") == 1


def test_learn_of_nothing_is_nothing(client):
    assert client.collect("m", []) == []


def test_learn_keeps_the_window_open(client, service):
    service.servicer.faults["Learn reply"] = [0.5]
    seen = []

    def source():
        for batch in batches(10):
            seen.append(service.servicer.received)
            yield batch

    got = client.collect("m", source(), in_flight=5)
    assert len(got) == 10
    assert seen[:5] == [0] * 5  # all of the window is offered before the first answer is needed
    assert seen[5] >= 1


def test_learn_survives_streams_that_drop(client, service):
    service.servicer.drop_after = [4, 0, 2]
    got = client.collect("m", batches(20), timeout=20)
    assert applied(service.servicer) == list(range(60))
    assert [one.sequence for one in got] == [3 * i for i in range(20)]
    assert any(one.duplicate for one in got)
    assert service.servicer.calls.count("Learn") == 4


def test_learn_survives_a_restart_of_the_server(client, service):
    def source():
        for i, batch in enumerate(batches(20)):
            if i == 10:
                service.kill()
                threading.Timer(0.3, service.start).start()
            yield batch

    got = client.collect("m", source(), timeout=20, in_flight=4)
    assert len(got) == 20
    assert applied(service.servicer) == list(range(60))


@pytest.mark.parametrize(
    "refused", [errors.unavailable("LOADING", "store", 0.01), errors.exhausted("FULL", "queue", 0.01)]
)
def test_learn_waits_where_the_server_asks_for_it(client, service, refused):
    service.servicer.faults["Learn"] = [refused, refused]
    assert len(client.collect("m", batches(5))) == 5
    assert applied(service.servicer) == list(range(15))


def test_learn_goes_to_the_owner_and_never_past_it(servers, connect):
    target, owner = Server(), Server()
    door, home = servers(target), servers(owner)
    target.map.partitions[0].address = home.address
    owner.drop_after = [3]
    assert len(connect(door.address).collect("m", batches(10), timeout=20)) == 10
    assert applied(owner) == list(range(30))
    assert applied(target) == []


def test_learn_takes_a_new_map(client, service):
    client.partition_map()
    service.servicer.map.partitions[0].map_version = 7
    assert len(client.collect("m", batches(5))) == 5
    assert applied(service.servicer) == list(range(15))


def spoiled(at, count):
    for i, batch in enumerate(batches(count)):
        if i == at:
            batch["x"] = np.full_like(batch["x"], np.inf)
        yield batch


@pytest.mark.parametrize("on_refused", ["raise", "yield"])
def test_a_refused_batch_does_not_disturb_later_ones(client, service, on_refused):
    got = client.collect("m", spoiled(2, 6), on_refused=on_refused)
    refused = got[2] if on_refused == "raise" else got[2].refused
    assert refused.reason == "NOT_FINITE"
    assert [one.sequence for i, one in enumerate(got) if i != 2] == [0, 3, 9, 12, 15]
    assert applied(service.servicer) == [y for y in range(18) if y not in (6, 7, 8)]
    assert service.servicer.calls.count("Learn") == 1


def test_a_producer_that_sends_again_adds_nothing(client, service):
    client.collect("m", batches(4), producer="p")
    got = client.collect("m", batches(6), producer="p")
    assert [one.duplicate for one in got] == [True] * 4 + [False] * 2
    client.collect("m", batches(2, start=6), producer="p", first_sequence=18)
    assert applied(service.servicer) == list(range(24))


def test_learn_gives_up_on_a_server_that_is_silent(client, service):
    service.servicer.faults["Learn reply"] = [30.0]
    (refused,) = client.collect("m", batches(3), timeout=1.0)
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "NO_REPLY")


def test_learn_gives_up_when_the_time_for_retries_is_over(client, service):
    service.servicer.faults["Learn"] = [errors.unavailable("LOADING", "store", 0.05)] * 100
    got = client.collect("m", batches(3), timeout=1.0)
    assert got[0].code is grpc.StatusCode.UNAVAILABLE


def test_learn_of_an_unknown_model_is_refused(client):
    got = client.collect("nobody", batches(1), timeout=2.0)
    assert got[0].reason == "MODEL_NOT_FOUND"


def test_an_async_source_that_pauses_holds_no_reply_back(service):
    async def main():
        answered = asyncio.Event()

        async def source():
            for i, batch in enumerate(batches(6)):
                if i == 3:  # waits for an answer to what was sent before: would hang if it were held back
                    await asyncio.wait_for(answered.wait(), 10)
                yield batch

        got = []
        async with AsyncClient(service.address) as client:
            async for one in client.learn("m", source()):
                got.append(one.sequence)
                answered.set()
        return got

    assert asyncio.run(main()) == [0, 3, 6, 9, 12, 15]
    assert applied(service.servicer) == list(range(18))


def test_an_async_source_survives_streams_that_drop(service):
    service.servicer.drop_after = [2, 1]

    async def source():
        for batch in batches(8):
            await asyncio.sleep(0)
            yield batch

    async def main():
        async with AsyncClient(service.address) as client:
            return [one.sequence async for one in client.learn("m", source(), in_flight=3)]

    assert asyncio.run(main()) == [3 * i for i in range(8)]
    assert applied(service.servicer) == list(range(24))


def test_a_fault_of_the_source_is_the_callers(client):
    def source():
        yield from batches(2)
        raise KeyError("source")

    with pytest.raises(KeyError):
        client.collect("m", source())
