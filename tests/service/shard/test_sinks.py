"""Records of predictions reach a Redis Stream and a Kafka topic, each position once, and say what the fold says."""

import asyncio
import json
import math
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from shard_harness import FEATURES, LocalShard, fold, paused_writes, spec_of, until

from continual.bench._streams_peers import MockKafka
from continual.bench._streams_sinks import audit, kafka_records, redis_records
from service.client import Client
from service.shard.answers import Outbox
from service.sinks.sender import Sender
from service.store.connect import connect
from service.store.partition import Partition as Store
from streams.batch import Batch

ROWS = 300


@pytest.fixture(scope="module")
def kafka():
    cluster = MockKafka()
    yield cluster
    cluster.close()


@pytest.fixture
def redis(server):
    client = connect(server.url)
    yield client
    client.close()


@contextmanager
def running(spec, server, number=0):
    """One sender, running; it fails the test if it fails."""
    sender = Sender(spec, number, server.url)
    failed = []

    def run():
        try:
            sender.run()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield sender
    finally:
        sender.stop()
        thread.join(30)
        assert not failed, failed


def sunk(client, name, *sinks, kind="binary", **rest):
    spec = spec_of(name, kind, sinks=sinks, **rest)
    client.models.create(spec)
    return spec


def to_redis(name, **more):
    return {"kind": "redis_stream", "stream": f"out-{name}", **more}


def events(rows, seed=0, kind="binary"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(FEATURES))).astype(np.float32)
    y = rng.normal(size=rows) if kind == "regression" else rng.integers(0, 5 if kind == "multiclass" else 2, rows) * 1.0
    y[rng.random(rows) < 0.1] = np.nan
    classes = ("a", "b", "c", "d", "e") if kind == "multiclass" else ()
    times = np.arange(rows) * 1_000_000 + 1
    return Batch.of(x, y, key=[b"k%d" % k for k in rng.integers(0, 9, rows)], time=times, classes=classes)


def send(client, name, batch, rows=32):
    list(client.learn(name, [batch.slice(at, min(at + rows, len(batch))) for at in range(0, len(batch), rows)]))


def written(client, name, position, sinks=1):
    until(lambda: [one.position for one in client.models.statistics(name).sinks] == [position] * sinks)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_record_says_what_the_fold_says(client, redis, server, name, kind):
    spec = sunk(client, name, to_redis(name), kind=kind)
    batch = events(ROWS, kind=kind)
    with running(spec, server):
        send(client, name, batch)
        client.update(name, {"a": 1, "b": 2, "c": 0}, key="k1", id="e7", time=10**9)
        written(client, name, ROWS + 1)
    records = redis_records(redis, f"out-{name}")
    assert [one["position"] for one in records] == list(range(ROWS + 1))
    learner, folded = fold(spec, batch)
    classes = {"binary": ["DOWN", "UP"], "multiclass": learner.classes()}.get(kind)
    for row in range(ROWS):
        one, y = records[row], batch.y[row]
        assert (one["model"], one["key"], one["time_us"]) == (name, batch.key[row].decode(), batch.time[row])
        assert one["kind"] == ("observation" if math.isnan(y) else "labelled")
        assert one["outcome"] == (["observed"] if math.isnan(y) else ["learned", "observed"])
        value = float(folded.value[row])
        assert one["value"] == (None if math.isnan(value) else value)
        if kind == "regression":
            assert one["predicted"] == value
            label, loss = float(y), abs(value - y)
        else:
            assert one["predicted"] == (classes[folded.code[row]] if folded.code[row] >= 0 else None)
            label = None if math.isnan(y) else (batch.classes or classes)[int(y)]
            given = folded.scored[row, 0] if kind == "multiclass" or y == 1 else 1 - folded.scored[row, 0]
            loss = -math.log(max(given, 1e-6))
        assert one["label"] == (None if math.isnan(y) else label)
        assert one["loss"] == (None if math.isnan(y) else pytest.approx(loss, rel=1e-12))
    last = records[ROWS]
    assert (last["id"], last["kind"], last["label"], last["loss"]) == ("e7", "observation", None, None)
    assert audit(spec, Store(redis, "continual", name), records) == (0, 0, 0)


def test_labels_that_come_late_are_scored_as_they_were_predicted(client, redis, server, name):
    spec = sunk(client, name, to_redis(name), labels={"pending": 8})
    with running(spec, server):
        for number in range(5):
            client.update(name, {"a": number, "b": 1, "c": 0}, key="k", id=f"e{number}")
        for number in (3, 1):
            client.label(name, f"e{number}", "k", "UP")
        client.label(name, "none", "k", "UP")
        written(client, name, 8)
    records = redis_records(redis, f"out-{name}")
    assert [(one["kind"], one["id"]) for one in records[5:]] == [("label", "e3"), ("label", "e1"), ("label", "none")]
    for late, made in ((records[5], records[3]), (records[6], records[1])):
        assert (late["value"], late["predicted"]) == (made["value"], made["predicted"])
        assert late["label"] == "UP"
        assert late["loss"] == pytest.approx(-math.log(made["value"]), rel=1e-12)
    assert (records[7]["value"], records[7]["loss"], records[7]["outcome"]) == (None, None, ["unknown_id"])


def test_of_several_classes_a_late_label_says_what_was_predicted(client, redis, server, name):
    """The probability that the label was given is not held."""
    spec = sunk(client, name, to_redis(name), kind="multiclass", labels={"pending": 8})
    with running(spec, server):
        client.update(name, {"a": 0, "b": 1, "c": 0}, "red", key="k")
        client.update(name, {"a": 1, "b": 1, "c": 0}, key="k", id="e")
        client.label(name, "e", "k", 7)
        written(client, name, 3)
    _, made, late = redis_records(redis, f"out-{name}")
    assert (made["predicted"], late["predicted"]) == ("red", "red")
    assert (late["label"], late["value"], late["loss"]) == (7, None, None)


def test_a_sink_goes_on_where_its_partition_moves(own_server, name):
    """There and back; the snapshot that is handed over has every answer behind it."""
    shards = [LocalShard(own_server.url, index=0, shards=2)]
    shards.append(LocalShard(own_server.url, index=1, shards=2, port=shards[0].config.port))
    redis = connect(own_server.url)
    with Client(shards[0].shard.address) as client:
        spec = sunk(client, name, to_redis(name), kind="multiclass")
        home = client.models.get(name).partitions[0].shard
        with running(spec, own_server):
            for seed, to in enumerate(["shard-1" if home == "shard-0" else "shard-0", home, None]):
                send(client, name, events(100, seed, kind="multiclass"))
                if to:
                    client.models.move(name, "0", to)
            written(client, name, 300)
    assert audit(spec, Store(redis, "continual", name), redis_records(redis, f"out-{name}")) == (0, 0, 0)
    redis.close()
    for shard in shards:
        shard.stop()
        assert not shard.failures


def test_a_sender_that_looked_before_another_one_began(client, redis, server, name):
    """What that one wrote is the sink's own; and the mark that it left stays."""
    spec = sunk(client, name, to_redis(name))
    batch = events(200)
    store = Store(redis, "continual", name)
    sink = spec.deployment.sinks[0].identity
    with running(spec, server):
        send(client, name, batch.slice(0, 100))
        written(client, name, 100)
    store.mark(sink, {"state": "lost"})
    assert store.marks()[sink]["begun"]
    late = Sender(spec, 0, server.url)
    late._mark = {}  # there was none when it looked
    thread = threading.Thread(target=late.run)
    thread.start()
    send(client, name, batch.slice(100, 200))
    written(client, name, 200)
    late.stop()
    thread.join(30)
    assert [one["position"] for one in redis_records(redis, f"out-{name}")] == list(range(200))


def test_every_position_once_however_often_writing_starts(client, redis, kafka, server, name):
    """Begun again and again; of the Redis Stream two at once, one of them a zombie (brokers themselves refuse one)."""
    kafka.produce(f"other-{name}", [b"the topic of someone else"], 0)
    topic = {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"out-{name}", "envelope": "cloudevents"}
    spec = sunk(client, name, to_redis(name), topic)
    batch = events(ROWS)
    for at in range(0, ROWS, 100):
        with running(spec, server), running(spec, server), running(spec, server, 1):
            send(client, name, batch.slice(at, at + 100))
            written(client, name, at + 100, sinks=2)
    store = Store(redis, "continual", name)
    assert audit(spec, store, redis_records(redis, f"out-{name}")) == (0, 0, 0)
    found, headers = kafka_records(kafka.bootstrap, f"out-{name}")
    assert audit(spec, store, found) == (0, 0, 0)
    assert headers["ce_id"] == str(found[-1]["position"]).encode()
    assert headers["ce_source"] == f"/continual/models/{name}".encode()
    assert headers["ce_type"] == b"continual.prediction.v1"


def test_a_sender_that_dies_between_writing_and_its_mark(client, redis, kafka, server, name, monkeypatch):
    """The mark lags behind what is written: what is there is not written again."""
    topic = {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"out-{name}"}
    spec = sunk(client, name, to_redis(name), topic)
    for number in (0, 1):
        with running(spec, server, number):
            until(lambda: len(client.models.statistics(name).sinks) == number + 1)  # noqa: B023
    kept = Store(redis, "continual", name).marks()
    send(client, name, events(ROWS))
    for _ in range(2):
        for number in (0, 1):
            with running(spec, server, number):
                written_by = spec.deployment.sinks[number].identity
                until(lambda: Store(redis, "continual", name).marks()[written_by]["position"] == ROWS)  # noqa: B023
        for sink, mark in kept.items():
            Store(redis, "continual", name).mark(sink, mark)
    store = Store(redis, "continual", name)
    assert audit(spec, store, redis_records(redis, f"out-{name}")) == (0, 0, 0)
    assert audit(spec, store, kafka_records(kafka.bootstrap, f"out-{name}")[0]) == (0, 0, 0)


def test_brokers_that_hang_are_waited_for(client, redis, kafka, server, name, monkeypatch):
    monkeypatch.setattr("streams.sinks.kafka.CALL_SECONDS", 1.0)
    spec = sunk(client, name, {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"out-{name}"})
    with running(spec, server) as sender:
        send(client, name, events(50))
        written(client, name, 50)
        with kafka.hanging():
            send(client, name, events(50, 1))
            until(lambda: sender.said["state"] == "waiting")
        written(client, name, 100)
        until(lambda: sender.said["state"] == "writing")
    found, _ = kafka_records(kafka.bootstrap, f"out-{name}")
    assert audit(spec, Store(redis, "continual", name), found) == (0, 0, 0)


def test_a_stream_that_disappears_is_gone_on_with(client, redis, server, name):
    """What was in it is not written again; nothing later is missing."""
    spec = sunk(client, name, to_redis(name))
    with running(spec, server):
        send(client, name, events(100))
        written(client, name, 100)
        redis.delete(f"out-{name}")
        send(client, name, events(50, 1))
        written(client, name, 150)
    redis.delete(f"out-{name}")
    send(client, name, events(50, 2))
    with running(spec, server):
        written(client, name, 200)
    assert [one["position"] for one in redis_records(redis, f"out-{name}")] == list(range(150, 200))


def test_what_is_there_and_of_someone_else_is_left_alone(client, redis, kafka, server, name):
    redis.xadd(f"out-{name}", {"data": "of someone else"})
    kafka.produce(f"out-{name}", [b"of someone else"], 2)
    topic = {"kind": "kafka", "bootstrap": kafka.bootstrap, "topic": f"out-{name}"}
    spec = sunk(client, name, to_redis(name), topic)
    send(client, name, events(20))
    with running(spec, server) as one, running(spec, server, 1) as other:
        for sender in (one, other):
            until(lambda: sender.said["state"] == "lost" and "did not write" in sender.said["detail"])  # noqa: B023
        until(lambda: [said.state for said in client.models.statistics(name).sinks] == ["lost", "lost"])
    assert redis.xlen(f"out-{name}") == 1


def test_log_and_answers_wait_for_the_slowest_sink_and_no_longer_than_agreed(client, redis, server, name):
    spec = sunk(client, name, to_redis(name, behind=1000), snapshot_every=100, dedupe_window=1)
    store = Store(redis, "continual", name)

    def snapshot():
        client.models.snapshot(name)
        return store.first_position(), store.first_answer()

    send(client, name, events(600))
    snapshot()
    assert snapshot() == (0, 0), "nothing has taken them"
    with running(spec, server):
        written(client, name, 600)
    send(client, name, events(200, 1))
    snapshot()
    send(client, name, events(32, 2))
    log, answers = snapshot()
    assert 500 < log <= 600 and 500 < answers <= 600  # noqa: PT018
    send(client, name, events(1200, 3))
    snapshot()
    send(client, name, events(32, 4))
    log, answers = snapshot()
    assert 600 < answers <= 1064
    with running(spec, server) as sender:
        until(lambda: sender.said["state"] == "lost")
        assert f"positions 600 to {answers - 1} are not retained" in sender.said["detail"]
    assert redis.xlen(f"out-{name}") == 600


@pytest.mark.parametrize("seconds", [0.0, 0.2])
def test_a_sink_may_go_on_after_a_loss(client, redis, server, name, monkeypatch, seconds):
    """Also where answers are written slowly, so that an entry of theirs holds many of the log."""
    append = Outbox._append

    async def slowly(self, *said):
        await asyncio.sleep(seconds)
        await append(self, *said)

    monkeypatch.setattr(Outbox, "_append", slowly)
    spec = sunk(client, name, to_redis(name, behind=1000, lost="earliest"), snapshot_every=100, dedupe_window=1)
    send(client, name, events(1500))
    client.models.snapshot(name)
    send(client, name, events(1, 1))
    client.models.snapshot(name)
    store = Store(redis, "continual", name)
    first = store.first_answer()
    assert first > 0
    assert 0 < store.first_position() <= first
    with running(spec, server) as sender:
        written(client, name, 1501)
        assert sender.said["lost"] == first
    assert [one["position"] for one in redis_records(redis, f"out-{name}")] == list(range(first, 1501))


def test_a_store_that_takes_nothing_for_a_while(client, redis, server, name):
    """Answers to callers and records come once it is back; nothing is missing, nothing twice."""
    spec = sunk(client, name, to_redis(name))
    with running(spec, server):
        send(client, name, events(50))
        with paused_writes(server), pytest.raises(Exception, match=r"store|reply"):
            client.update(name, {"a": 1, "b": 1, "c": 1}, label="UP", timeout=1.5)
        send(client, name, events(50, 1))
        until(lambda: client.models.statistics(name).sinks[0].position == client.models.get(name).position)
    assert audit(spec, Store(redis, "continual", name), redis_records(redis, f"out-{name}")) == (0, 0, 0)


def test_a_shard_that_dies_before_the_answers_are_written_says_them_again(own_server, start_shard, name, monkeypatch):
    """The replay writes what the crash cut off, from amid an entry too."""
    shard = start_shard()
    redis = connect(own_server.url)
    store = Store(redis, "continual", name)
    with Client(shard.target) as client:
        spec, batch = sunk(client, name, to_redis(name)), events(ROWS)
        for begin, end in ((0, ROWS // 2), (ROWS // 2, ROWS)):
            if begin:
                client.models.snapshot(name)  # the only one, and not of the end
            send(client, name, batch.slice(begin, end))
            until(lambda end=end: store.answered() == end)
    shard.end(9)
    entries = redis.execute_command(b"XRANGE", store.keys.answers, "-", "+")
    assert len(entries) > 1
    last = int(entries[-1][0].split(b"-")[0])
    assert last >= store.snapshot_position()
    redis.xdel(store.keys.answers, entries[-1][0])
    redis.execute_command("XSETID", store.keys.answers, entries[-2][0])
    redis.hset(store.keys.answered, "position", last)  # as if it had died before its last write
    shard.start()
    assert store.answered() == ROWS
    with running(spec, own_server):
        until(lambda: redis.xlen(f"out-{name}") == ROWS)
    assert audit(spec, store, redis_records(redis, f"out-{name}")) == (0, 0, 0)
    redis.close()


def test_the_outbox_writes_what_is_not_there_yet(own_server, start_shard, name):
    """Replayed in any pieces, over what a former owner wrote."""
    redis = connect(own_server.url)
    with Client(start_shard().target) as client:
        spec = sunk(client, name, to_redis(name))
        store = Store(redis, "continual", name)
        _, folded = fold(spec, events(40))
        whole = [getattr(folded, part) for part in ("value", "code", "outcome", "scored")]
        rng = np.random.default_rng(0)
        token = store.owner()[0]
        for _ in range(6):
            outbox, at = Outbox(store, token, None), int(rng.integers(0, store.answered() + 1))
            while at < 40 and rng.random() < 0.9:
                rows = int(rng.integers(1, 12))
                outbox.replayed(at, type(folded)(*(column[at : at + rows] for column in whole)), ())
                at += rows
        end = store.answered()
        got = np.concatenate([said.folded.value for said in store.read_answers(0, 100)])
        assert end > 20
        np.testing.assert_array_equal(got, folded.value[:end])
    redis.close()


def test_records_are_json_without_what_json_has_not(client, redis, server, name):
    spec = sunk(client, name, to_redis(name, keep=50), kind="regression")
    with running(spec, server):
        send(client, name, events(ROWS, kind="regression"), rows=7)
        written(client, name, ROWS)
    entries = redis.xrange(f"out-{name}")
    assert 50 <= len(entries) < ROWS
    assert all("NaN" not in fields[b"data"].decode() for _, fields in entries)
    json.loads(entries[-1][1][b"data"])
