"""A Kafka topic becomes the log of a model: librdkafka's mock cluster, in a process of its own."""

import time
from contextlib import ExitStack

import numpy as np
import pytest
from shard_harness import FEATURES, digest, fold, paused_writes, until
from source_harness import Running, log_of, logged, made_events, sourced

from continual.bench._streams_peers import MockKafka, json_messages
from service.client import Numbered

ROWS = 400


@pytest.fixture(scope="module")
def kafka():
    cluster = MockKafka()
    yield cluster
    cluster.close()


@pytest.fixture
def running(shard, server):
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Running(shard.target, spec, server.url))


@pytest.fixture
def held():
    batch = made_events(ROWS)
    return batch, json_messages(batch, FEATURES)


def spec_for(client, kafka, name, **more):
    spec = sourced(name, {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"t-{name}", **more})
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    client.models.create(spec)
    return spec


def whole(client, server, spec, batch, rows=range(ROWS)):
    """Every event is in the log once, those of a partition in order, and the state is the fold of the log."""
    got, numbers = log_of(server.url, spec)
    order = got.x[:, 0].astype(int)
    assert sorted(order) == list(rows)
    for partition in range(4):
        assert (np.diff(order[order % 4 == partition]) > 0).all()
    assert digest(client, spec.name) == fold(spec, got)[0].digest()
    return numbers


def test_all_partitions_are_read_and_taken_up_again(client, kafka, server, shard, name, held):
    batch, values = held
    spec = spec_for(client, kafka, name, batch=32)
    for at in range(0, ROWS, 200):
        kafka.produce(f"t-{name}", values[at : at + 200], [row % 4 for row in range(at, at + 200)])
        with Running(shard.target, spec, server.url), Running(shard.target, spec, server.url):
            logged(client, spec, at + 200)
    whole(client, server, spec, batch)
    for partition in range(4):
        mark = client.producer(name, f"kafka:t-{name}/{partition}")
        assert (mark.known, mark.next_sequence) == (True, ROWS // 4)


def test_poison_and_tombstones_are_kept_and_the_topic_goes_on(client, kafka, server, running, name, held):
    batch, values = held
    spec = spec_for(client, kafka, name, batch=16)
    topic = f"t-{name}"
    poison = [None, b"", b"{", b"\xff\xfe", b'{"a": 1}', b'{"a": 1, "b": 2, "label": "maybe"}']
    for at in range(0, ROWS, 100):
        kafka.produce(topic, poison, 1)
        kafka.produce(topic, values[at : at + 100], [row % 4 for row in range(at, at + 100)])
    kafka.produce(topic, poison, 1)
    run = running(spec)
    logged(client, spec, ROWS)
    until(lambda: run.state.dead_letters == 5 * len(poison))
    numbers = whole(client, server, spec, batch)
    letters = client.models.dead_letters(name).letters
    assert [letter.payload for letter in letters] == [value or b"" for value in poison] * 5
    assert {letter.producer for letter in letters} == {f"kafka:{topic}/1"}
    end = ROWS // 4 + 5 * len(poison)
    until(lambda: client.producer(name, f"kafka:{topic}/1").next_sequence == end)
    assert any(last - first > rows > 0 for _, first, last, rows in numbers)  # gaps within a batch


def test_both_modes_of_cloud_events(client, kafka, server, running, name, held):
    fields = {"key": "$key", "id": "$id", "time": "$time", "label": "label"}
    spec = spec_for(client, kafka, name, fields=fields)
    topic = f"t-{name}"
    binary = {"ce_specversion": "1.0", "ce_id": "e1", "ce_source": "/s", "ce_type": "t"}
    binary["ce_time"] = "2024-01-01T00:00:00Z"
    kafka.produce(topic, [b'{"a": 0, "b": 1, "label": 1}'], headers=binary, key=b"k")
    structured = (
        b'{"specversion": "1.0", "id": "e2", "source": "/s", "type": "t", "time": "2024-01-01T00:00:01Z",'
        b' "partitionkey": "p", "data": {"a": 1, "b": 1, "label": 0}}'
    )
    kafka.produce(topic, [structured], headers={"content-type": "application/cloudevents+json"})
    kafka.produce(topic, [b'{"a": 2, "b": 1, "label": 0}'], key=b"k", timestamp=1704067202000)
    running(spec)
    logged(client, spec, 3)
    got, _ = log_of(server.url, spec)
    assert got.x[:, 0].tolist() == [0, 1, 2]
    assert [got.key[row] for row in range(3)] == [b"k", b"p", b"k"]
    assert ((got.time // 1_000_000) - 1704067200).tolist() == [0, 1, 2]
    assert got.y.tolist() == [1, 0, 0]
    assert got.id[:, 0].astype(bool).tolist() == [True, True, False]


@pytest.mark.parametrize("start", ["latest", {"position": 30}, {"position": {0: 30, 1: 100, 2: 7, 3: 100}}])
def test_where_reading_starts(client, kafka, server, shard, name, held, start):
    batch, values = held
    topic = f"t-{name}"
    kafka.produce(topic, values[:200], [row % 4 for row in range(200)])
    if start != "latest" and isinstance(start["position"], dict):
        start = {"position": {p: min(n, 50) for p, n in start["position"].items()}}
    first = [50] * 4 if start == "latest" else [30] * 4 if start["position"] == 30 else [30, 50, 7, 50]
    spec = spec_for(client, kafka, name, start=start)
    with Running(shard.target, spec, server.url):
        for partition in range(4):
            until(lambda p=partition: client.producer(name, f"kafka:{topic}/{p}").known)
    kafka.produce(topic, values[200:], [row % 4 for row in range(200, ROWS)])
    with Running(shard.target, spec, server.url):
        logged(client, spec, ROWS - sum(first))
    whole(client, server, spec, batch, [row for row in range(ROWS) if row // 4 >= first[row % 4]])


def test_a_partition_that_comes_later_is_read_from_its_beginning(client, kafka, server, running, name, held):
    """Whatever the start policy says: its events came after the start."""
    batch, values = held
    topic = f"t-{name}"
    spec = spec_for(client, kafka, name, start="latest")
    list(client.learn(name, [Numbered(None, f"kafka:{topic}/{partition}", 0, 0) for partition in range(3)]))
    kafka.produce(topic, values, [row % 4 for row in range(ROWS)])
    running(spec)
    logged(client, spec, ROWS)
    whole(client, server, spec, batch)


def test_a_position_beyond_the_end_is_said_and_nothing_is_read(client, kafka, server, running, name, held):
    _, values = held
    kafka.produce(f"t-{name}", values[:4], [0, 1, 2, 3])
    spec = spec_for(client, kafka, name, start={"position": 99}, lost="earliest")
    run = running(spec)
    until(lambda: run.state.state == "lost")
    assert "lies beyond the end, 1: the source was made anew" in run.state.detail
    assert client.models.get(name).position == 0


def test_brokers_that_hang_are_waited_for(client, kafka, server, running, name, held, monkeypatch):
    monkeypatch.setattr("service.sources.consumer.LOOK_SECONDS", 0.5)
    monkeypatch.setattr("streams.sources.kafka.CALL_SECONDS", 1.0)
    batch, values = held
    topic = f"t-{name}"
    spec = spec_for(client, kafka, name, batch=16)
    kafka.produce(topic, values[:200], [row % 4 for row in range(200)])
    run = running(spec)
    logged(client, spec, 200)
    with kafka.hanging():
        until(lambda: run.state.state == "waiting")
        until(lambda: [said.state for said in client.models.statistics(name).sources] == ["waiting"])
    kafka.produce(topic, values[200:], [row % 4 for row in range(200, ROWS)])
    logged(client, spec, ROWS)
    until(lambda: run.state.state == "reading")
    whole(client, server, spec, batch)


def test_nobody_at_the_address(client, server, running, kafka, name, monkeypatch):
    monkeypatch.setattr("streams.sources.kafka.CALL_SECONDS", 0.5)
    spec = sourced(name, {"kind": "kafka", "bootstrap": "127.0.0.1:1", "topic": "none"})
    client.models.create(spec)
    run = running(spec)
    until(lambda: run.state.state == "waiting" and run.state.detail)
    assert client.models.get(name).position == 0


def test_no_more_is_read_ahead_than_the_spec_allows(client, kafka, server, running, name, held):
    """Back-pressure: while the store takes nothing, reading stops."""
    batch, values = held
    spec = spec_for(client, kafka, name, batch=10, in_flight=2)
    run = running(spec)
    kafka.produce(f"t-{name}", values[:4], [0, 1, 2, 3])
    logged(client, spec, 4)
    with paused_writes(server):
        kafka.produce(f"t-{name}", values[4:], [row % 4 for row in range(4, ROWS)])
        until(lambda: run.consumer._unanswered)
        ahead = []
        for _ in range(100):
            time.sleep(0.01)
            ahead.append(run.consumer._unanswered)
        most = max(ahead)
    assert most <= 2 + 4  # those in flight, and one reading: a batch for each partition
    logged(client, spec, ROWS)
    whole(client, server, spec, batch)


def transactions(kafka, topic, batches):
    """Writes each batch to partition 0 in a transaction."""
    from confluent_kafka import Producer

    settings = {"bootstrap.servers": kafka.bootstrap, "transactional.id": topic, "log_level": 0}
    producer = Producer(settings)
    producer.init_transactions(10)
    for values in batches:
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value, partition=0)
        producer.commit_transaction(10)


def test_a_topic_of_transactions_is_read_to_its_end(client, kafka, server, running, name, held, monkeypatch):
    """What ends a transaction takes an offset too: the lag comes to 0, and mark and commit stand after it."""
    monkeypatch.setattr("streams.sources.kafka.COMMIT_SECONDS", 0.1)
    _, values = held
    topic, producer = f"t-{name}", f"kafka:t-{name}/0"
    kafka.produce(topic, values[:1])
    transactions(kafka, topic, [values[at : at + 30] for at in range(1, 91, 30)])
    spec = spec_for(client, kafka, name, batch=16)
    run = running(spec)
    logged(client, spec, 91)
    end = 91 + 3
    until(lambda: client.producer(name, producer).next_sequence == end)
    until(lambda: run.state.lag.get(producer) == 0)
    until(lambda: committed(kafka, name, topic) == end)
    before = len(log_of(server.url, spec)[1])
    time.sleep(0.3)
    got, numbers = log_of(server.url, spec)
    assert len(numbers) == before, "an idle source writes nothing"
    assert sorted(got.x[:, 0].astype(int)) == list(range(91))
    transactions(kafka, topic, [values[91:95]])
    logged(client, spec, 95)
    until(lambda: run.state.lag.get(producer) == 0)
    assert run.state.dead_letters == run.state.lost == 0


def committed(kafka, name, topic):
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": f"continual-{name}", "log_level": 0})
    try:
        return consumer.committed([TopicPartition(topic, 0)], timeout=10)[0].offset
    finally:
        consumer.close()
