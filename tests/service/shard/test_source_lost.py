"""Brokers that forget what was not read yet: what is gone is counted and told, the rest is in the log once."""

import json
from contextlib import ExitStack

import pytest
from shard_harness import FEATURES, paused_writes, until
from source_harness import Running, log_of, logged, made_events, sourced

from continual.bench._streams_peers import MockKafka, json_messages
from service.store.connect import connect
from service.store.letters import Letters
from streams.mapping import Mapping
from streams.sources.reader import open_reader
from streams.sources.spec import KafkaSource

ROWS = 340
PAD = "x" * 60_000
"""A mock cluster keeps 5 MB of a partition, so some 80 of such messages."""


@pytest.fixture
def kafka():
    cluster = MockKafka(1)
    yield cluster
    cluster.close()


@pytest.fixture
def running(shard, server):
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Running(shard.target, spec, server.url))


@pytest.fixture(scope="module")
def values():
    messages = json_messages(made_events(ROWS), FEATURES)
    return [json.dumps(json.loads(one) | {"pad": PAD}).encode() for one in messages]


def spec_for(client, kafka, name, lost):
    options = {"queued.max.messages.kbytes": 200, "fetch.message.max.bytes": 100_000}  # little is read ahead
    source = {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"t-{name}", "batch": 8, "in_flight": 2}
    spec = sourced(name, source | {"lost": lost, "options": options})
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    client.models.create(spec)
    return spec


def in_log(server, spec):
    got, _ = log_of(server.url, spec)
    return [int(v) for v in got.x[:, 0]]


def first_retained(kafka, topic):
    """The first offset of partition 0 that is still retained."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "look", "log_level": 0})
    try:
        return consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[0]
    finally:
        consumer.close()


def told(client, name):
    sources = client.models.statistics(name).sources
    return sources[0] if sources else None


def test_what_was_trimmed_between_two_runs_is_counted_once_and_told(client, kafka, server, shard, name, values):
    spec = spec_for(client, kafka, name, "earliest")
    kafka.produce(f"t-{name}", values[:10])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 10)
    kafka.produce(f"t-{name}", values[10:300])
    first = first_retained(kafka, f"t-{name}")
    assert first > 100
    with Running(shard.target, spec, server.url) as run:
        logged(client, spec, 10 + 300 - first)
        assert run.state.lost == first - 10
        detail = f"kafka:t-{name}/0: position 10 is no longer retained, the first that is: {first}"
        until(lambda: (told(client, name).state, told(client, name).detail) == ("reading", detail))
    assert in_log(server, spec) == [*range(10), *range(first, 300)]
    with Running(shard.target, spec, server.url) as run:  # the count outlives the run
        kafka.produce(f"t-{name}", values[300:])
        logged(client, spec, 10 + ROWS - first)
        assert run.state.lost == first - 10
        until(lambda: told(client, name).lost == first - 10)
    assert in_log(server, spec) == [*range(10), *range(first, ROWS)]


def test_a_run_that_died_before_the_log_was_told_does_not_count_twice(client, kafka, server, shard, name, values):
    spec = spec_for(client, kafka, name, "earliest")
    kafka.produce(f"t-{name}", values[:10])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 10)
    kafka.produce(f"t-{name}", values[10:300])
    first = first_retained(kafka, f"t-{name}")
    producer = f"kafka:t-{name}"
    letters = Letters(connect(server.url), "continual", name)
    letters.say(producer, {"state": "reading", "lost": 50, "next": {f"{producer}/0": 60}, "time_us": 1})
    with Running(shard.target, spec, server.url) as run:
        logged(client, spec, 10 + 300 - first)
        assert run.state.lost == first - 10  # 50 of them as the earlier run had said
    letters.client.close()


def test_what_is_trimmed_while_it_is_read_is_passed_over_in_the_stream(client, kafka, server, running, name, values):
    """Nothing is torn down for it: what is not lost is there once, in order."""
    spec = spec_for(client, kafka, name, "earliest")
    run = running(spec)
    kafka.produce(f"t-{name}", values[:5])
    logged(client, spec, 5)
    with paused_writes(server):
        kafka.produce(f"t-{name}", values[5:300])
        until(lambda: run.consumer._unanswered)
        first = first_retained(kafka, f"t-{name}")
    until(lambda: client.producer(name, f"kafka:t-{name}/0").next_sequence == 300)
    kafka.produce(f"t-{name}", values[300:])
    until(lambda: client.producer(name, f"kafka:t-{name}/0").next_sequence == ROWS)
    held = in_log(server, spec)
    assert held == sorted(set(held))
    assert set(held) >= {*range(5), *range(first, ROWS)}
    assert run.state.lost == ROWS - len(held) > 50


def test_latest_goes_on_at_the_end_and_counts_all_that_it_passed_over(client, kafka, server, shard, name, values):
    spec = spec_for(client, kafka, name, "latest")
    kafka.produce(f"t-{name}", values[:10])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 10)
    kafka.produce(f"t-{name}", values[10:300])
    with Running(shard.target, spec, server.url) as run:
        until(lambda: client.producer(name, f"kafka:t-{name}/0").next_sequence == 300)
        assert run.state.lost == 290
        assert run.state.detail.endswith("; read on from 300")
        kafka.produce(f"t-{name}", values[300:310])
        logged(client, spec, 20)
    assert in_log(server, spec) == [*range(10), *range(300, 310)]


def test_what_was_to_be_read_again_is_trimmed_and_what_comes_next_is_not(kafka, values):
    topic, producer = "again", "kafka:again/0"
    for value in values[:20]:
        kafka.produce(topic, [value])
    source = KafkaSource(bootstrap=kafka.bootstrap, topic=topic)
    reader = open_reader(source, 10, "g", "", Mapping(("a",), None), None)
    reader.recall({producer: [19, 0, 0]})
    reader.producers()
    reader.seek(producer, 20)
    for value in values[20:]:
        kafka.produce(topic, [value])
        if first_retained(kafka, topic) == 20:
            break
    assert first_retained(kafka, topic) == 20, "the test wants the broker to forget message 19 and no other after it"
    try:
        (first,) = until(reader.read)
        assert (first.first, first.numbers[0]) == (20, 20)
    finally:
        reader.close()


def test_error_stops_and_says_which(client, kafka, server, shard, name, values):
    spec = spec_for(client, kafka, name, "error")
    kafka.produce(f"t-{name}", values[:10])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 10)
    kafka.produce(f"t-{name}", values[10:300])
    first = first_retained(kafka, f"t-{name}")
    with Running(shard.target, spec, server.url) as run:
        until(lambda: run.state.state == "lost")
        assert f"position 10 is no longer retained, the first that is: {first}" in run.state.detail
        until(lambda: told(client, name).state == "lost")
    assert in_log(server, spec) == list(range(10))


def elsewhere(spec, kafka):
    """The same source of the same model, with its topic on other brokers."""
    source = spec.deployment.sources[0].model_copy(update={"bootstrap": kafka.bootstrap})
    return spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"sources": (source,)})})


@pytest.mark.parametrize("lost", ["earliest", "error"])
def test_a_broker_that_forgot_its_end_is_told_and_nothing_is_passed_over(
    client, kafka, server, shard, name, values, lost
):
    """Its numbers are given twice: to messages that are logged, and to others, which nobody would ever read."""
    spec = spec_for(client, kafka, name, lost)
    kafka.produce(f"t-{name}", values[:20])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 20)
    other = MockKafka(1)
    try:
        other.produce(f"t-{name}", values[:15])
        with Running(shard.target, elsewhere(spec, other), server.url) as run:
            until(lambda: run.state.state == "lost")
            assert "position 20 lies beyond the end, 15: the source was made anew" in run.state.detail
            other.produce(f"t-{name}", values[15:25])  # now the numbers alone show nothing
            until(lambda: "message 19 is another one than was read there before" in run.state.detail)
        with Running(shard.target, elsewhere(spec, other), server.url) as run:  # nor is it forgotten with the run
            until(lambda: "message 19 is another one than was read there before" in run.state.detail)
            until(lambda: told(client, name).state == "lost")
    finally:
        other.close()
    assert in_log(server, spec) == list(range(20))
    with Running(shard.target, spec, server.url):  # the brokers of before are as they were
        kafka.produce(f"t-{name}", values[20:30])
        logged(client, spec, 30)
    assert in_log(server, spec) == list(range(30))
