"""Sources of queues in which nothing happens for long: they go on with the first message that comes."""

import time
from contextlib import ExitStack

import pytest
from shard_harness import FEATURES, until
from source_harness import Running, log_of, logged, made_events, sourced

from continual.bench._streams_peers import MockKafka, json_messages
from service.store.connect import connect

LONG_SECONDS = 130.0
"""Beyond every default timeout on the way: 5 s of redis-py, 30 s of an answer, 120 s of gRPC's idle streams."""


@pytest.fixture
def running(shard, server):
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Running(shard.target, spec, server.url))


@pytest.fixture
def values():
    return json_messages(made_events(20), FEATURES)


def quiet(client, server, running, name, source, send, values, seconds):
    """Ten events, nothing for some seconds, and ten more: all there, once."""
    spec = sourced(name, source)
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    client.models.create(spec)
    send(values[:10])
    run = running(spec)
    logged(client, spec, 10)
    until(lambda: run.state.state == "reading")
    before = len(log_of(server.url, spec)[1])
    time.sleep(seconds)
    send(values[10:])
    logged(client, spec, 20)
    got, numbers = log_of(server.url, spec)
    assert got.x[:, 0].tolist() == list(range(20))
    assert len(numbers) <= before + 10, "nothing was written meanwhile"
    assert run.state.events == 20


def redis_case(server, name):
    redis = connect(server.url)

    def send(values):
        for value in values:
            redis.xadd(f"q-{name}", {"data": value})

    return {"kind": "redis_stream", "stream": f"q-{name}"}, send


def test_a_quiet_redis_stream_outlasts_many_timeouts(client, server, running, name, values, monkeypatch):
    monkeypatch.setattr("streams.sources.redis_stream.READ_SECONDS", 1.0)
    monkeypatch.setattr("service.sources.consumer.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("service.sources.consumer.REPLY_SECONDS", 0.5)
    quiet(client, server, running, name, *redis_case(server, name), values, 4.0)


@pytest.mark.long
def test_a_redis_stream_that_is_quiet_for_two_minutes(client, server, running, name, values):
    quiet(client, server, running, name, *redis_case(server, name), values, LONG_SECONDS)


@pytest.mark.long
def test_a_kafka_topic_that_is_quiet_for_two_minutes(client, server, running, name, values):
    kafka = MockKafka(1)
    source = {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"t-{name}"}
    try:
        send = lambda some: kafka.produce(f"t-{name}", some)  # noqa: E731
        quiet(client, server, running, name, source, send, values, LONG_SECONDS)
    finally:
        kafka.close()
