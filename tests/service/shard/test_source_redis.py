"""A Redis Stream becomes the log of a model, every entry once."""

import json
import time
from contextlib import ExitStack

import numpy as np
import pyarrow as pa
import pytest
from shard_harness import FEATURES, digest, fold, paused_writes, until
from source_harness import Running, log_of, logged, made_events, sourced

from continual.bench._streams_peers import json_messages
from service.api import continual_v1_pb2 as pb
from service.store.connect import connect
from streams.sources.redis_ids import number_of

ROWS = 300


@pytest.fixture
def redis(server):
    client = connect(server.url)
    yield client
    client.close()


@pytest.fixture
def running(shard, server):
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Running(shard.target, spec, server.url))


def add(redis, stream, values, **more):
    return [redis.xadd(stream, {"data": value} | more) for value in values]


@pytest.fixture
def held():
    batch = made_events(ROWS)
    return batch, json_messages(batch, FEATURES)


def source(name, **more):
    return {"kind": "redis_stream", "stream": f"s-{name}", **more}


def spec_for(client, name, **more):
    spec = sourced(name, source(name, **more))
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    client.models.create(spec)
    return spec


def same(client, server, spec, batch):
    got, _ = log_of(server.url, spec)
    assert got.x[:, 0].tolist() == batch.x[:, 0].tolist()
    assert digest(client, spec.name) == fold(spec, got)[0].digest()


def test_every_entry_is_logged_once_however_often_reading_starts(client, redis, server, shard, name, held):
    batch, values = held
    spec = spec_for(client, name, batch=16)
    for at in range(0, ROWS, 100):
        add(redis, f"s-{name}", values[at : at + 100])
        with Running(shard.target, spec, server.url), Running(shard.target, spec, server.url):
            logged(client, spec, at + 100)  # two at once: one of them is a zombie
    same(client, server, spec, batch)


def test_entries_that_come_while_it_waits(client, redis, server, running, name, held):
    batch, values = held
    spec = spec_for(client, name)
    run = running(spec)
    until(lambda: run.state.state == "reading")
    for at in range(0, 30):
        add(redis, f"s-{name}", values[10 * at : 10 * at + 10])
    logged(client, spec, ROWS)
    same(client, server, spec, batch)
    until(lambda: run.state.events == ROWS)
    said = until(lambda: client.models.statistics(name).sources)[0]
    assert (said.name, said.state) == (f"redis:s-{name}", "reading")
    until(lambda: client.models.statistics(name).sources[0].events == ROWS)
    assert dict(client.models.statistics(name).sources[0].lag) == {f"redis:s-{name}": 0}


def test_poison_is_kept_and_the_stream_goes_on(client, redis, server, running, name, held):
    batch, values = held
    spec = spec_for(client, name, batch=32)
    poison = [b"", b"{", b"[1]", b'{"a": "x"}', b"\xff", values[0][:-1], values[0] * 2]
    for at in range(0, ROWS, 100):
        add(redis, f"s-{name}", poison)
        redis.xadd(f"s-{name}", {"other": "field"})
        add(redis, f"s-{name}", values[at : at + 100])
    add(redis, f"s-{name}", poison)
    run = running(spec)
    logged(client, spec, ROWS)
    until(lambda: run.state.dead_letters == 4 * len(poison) + 3)
    same(client, server, spec, batch)
    first = client.models.dead_letters(name, count=5)
    rest = client.models.dead_letters(name, after=first.letters[-1].id)
    letters = [*first.letters, *rest.letters]
    assert first.total == len(letters) == 4 * len(poison) + 3
    assert [letter.payload for letter in letters[: len(poison) + 1]] == [*poison, b""]
    assert {letter.producer for letter in letters} == {f"redis:s-{name}"}
    assert all("accepted: " in letter.reason for letter in letters)
    assert letters[0].number == number_of(redis.xrange(f"s-{name}", count=1)[0][0])
    until(lambda: client.producer(name, f"redis:s-{name}").next_sequence == letters[-1].number + 1)


def test_dead_letters_are_kept_once_and_bounded(client, redis, server, shard, name, held):
    spec = spec_for(client, name, batch=16, dead_letters=100)
    add(redis, f"s-{name}", [b"%d" % number for number in range(1000)])
    end = number_of(redis.xinfo_stream(f"s-{name}")["last-generated-id"]) + 1
    for _ in range(3):
        with Running(shard.target, spec, server.url):
            until(lambda: client.producer(name, f"redis:s-{name}").next_sequence == end)
    kept = [int(letter.payload) for letter in client.models.dead_letters(name, count=1000).letters]
    assert 100 <= len(kept) < 300
    assert kept == list(range(1000 - len(kept), 1000))
    assert client.models.get(name).position == 0


def test_clocks_that_jump_and_events_that_come_again_or_too_early(client, redis, server, running, name):
    """All that fits is logged in the order of the queue, and the fold decides; what no clock can say is a letter."""
    spec = spec_for(client, name, fields={"time": "at", "id": "id"})
    times = [5_000, 10**15, 4_000, 0, 6_000, 2**57, 7_000, 7_000, 3]
    absurd = [-1, 2**61, "yesterday", None, 1e300]
    same = {"b": 1, "card": "k"}
    made = [same | {"a": row, "label": row % 2, "at": at, "id": f"e{row // 2}"} for row, at in enumerate(times)]
    wrong = [same | {"a": 1, "label": 1, "at": at} for at in absurd]
    mixed = [json.dumps(one).encode() for pair in zip(made, wrong) for one in pair]
    add(redis, f"s-{name}", mixed + [json.dumps(one).encode() for one in made[len(wrong) :]])
    run = running(spec)
    logged(client, spec, len(times))
    until(lambda: run.state.dead_letters == len(absurd))
    got, _ = log_of(server.url, spec)
    assert got.time.tolist() == times
    learner, folded = fold(spec, got)
    assert digest(client, spec.name) == learner.digest()
    counted = int((folded.outcome & pb.OUTCOME_OUT_OF_ORDER > 0).sum())
    assert client.models.statistics(name).counts["out_of_order"] == counted == 2  # a time of 0 is none
    away = folded.outcome & (pb.OUTCOME_OBSERVED | pb.OUTCOME_UNKNOWN_ID) == pb.OUTCOME_OBSERVED | pb.OUTCOME_UNKNOWN_ID
    assert np.flatnonzero(away).tolist() == [1, 5], "far from the others, which are a millisecond apart"
    reasons = [letter.reason for letter in client.models.dead_letters(name).letters]
    assert all("column 'at'" in reason for reason in reasons), reasons


def test_messages_of_many_events_are_taken_whole_and_once(client, redis, server, shard, name, held):
    """Arrow streams of 0 to 40 events; one with a bad row is a letter, and no event of it is logged."""
    batch, values = held
    spec = spec_for(client, name, batch=25, in_flight=2, envelope="arrow")
    rows = [json.loads(value) for value in values]
    rng = np.random.default_rng(0)
    bad = [b"no stream", arrow([*rows[:3], rows[3] | {"label": 7}]), arrow([{"a": 1.0}]), arrow(rows[:9])[:-40]]
    at, messages = 0, []
    while at < ROWS:
        size = int(rng.integers(0, 41))
        messages.append(arrow(rows[at : at + size] or rows[:1], len(rows[at : at + size])))
        at += size
    third = len(messages) // 3
    sent = 0
    for turn, part in enumerate((messages[:third], messages[third : 2 * third], messages[2 * third :])):
        add(redis, f"s-{name}", [bad[turn], *part, bad[3]])
        sent = min(ROWS, sent + sum(rows_in(message) for message in part))
        with Running(shard.target, spec, server.url), Running(shard.target, spec, server.url):
            logged(client, spec, sent)
            end = number_of(redis.xinfo_stream(f"s-{name}")["last-generated-id"]) + 1
            until(lambda: client.producer(name, f"redis:s-{name}").next_sequence == end)  # noqa: B023
    same(client, server, spec, batch)
    letters = client.models.dead_letters(name).letters
    assert [one.payload for one in letters] == [bad[0], bad[3], bad[1], bad[3], bad[2], bad[3]]
    assert "row 3, column 'label': 7 does not fit" in letters[2].reason
    assert "of a message with such a row none is taken" in letters[2].reason
    assert "no column (or more than one) named" in letters[4].reason


def arrow(rows, count=None):
    """Events as an Arrow IPC stream, in record batches of seven."""
    table = pa.Table.from_pylist(rows).slice(0, count)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    return sink.getvalue().to_pybytes()


def rows_in(message):
    return pa.ipc.open_stream(message).read_all().num_rows


@pytest.mark.parametrize("start", ["latest", "time", "position"])
def test_where_reading_starts(client, redis, server, shard, name, held, start):
    batch, values = held
    add(redis, f"s-{name}", values[:99])
    time.sleep(0.01)
    hundredth = add(redis, f"s-{name}", values[99:100])[0].decode()
    begin = {"time": {"time": int(hundredth.split("-")[0]) / 1000}, "position": {"position": hundredth}}
    spec = spec_for(client, name, start=begin.get(start, start))
    expected = 100 if start == "latest" else 99
    with Running(shard.target, spec, server.url):
        until(lambda: client.producer(name, f"redis:s-{name}").known)
    add(redis, f"s-{name}", values[100:])  # while nobody reads: what was decided first stays decided
    with Running(shard.target, spec, server.url):
        logged(client, spec, ROWS - expected)
    same(client, server, spec, batch.slice(expected, ROWS))


@pytest.mark.parametrize("lost", ["error", "earliest", "latest"])
def test_what_is_no_longer_retained_is_never_passed_over_in_silence(
    client, redis, server, shard, name, held, lost
):
    _, values = held
    spec = spec_for(client, name, lost=lost)
    add(redis, f"s-{name}", values[:100])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 100)
    add(redis, f"s-{name}", values[100:200])
    redis.xtrim(f"s-{name}", maxlen=50, approximate=False)
    with Running(shard.target, spec, server.url) as run:
        if lost == "error":
            until(lambda: run.state.state == "lost")
            assert "is no longer retained" in run.state.detail
            assert client.models.get(name).position == 100
            return
        until(lambda: run.state.lost)
        until(lambda: run.state.state == "reading")
        if lost == "earliest":
            logged(client, spec, 150)
        add(redis, f"s-{name}", values[200:])
        logged(client, spec, 250 if lost == "earliest" else 200)
    got, _ = log_of(server.url, spec)
    kept = [*range(100), *range(150 if lost == "earliest" else 200, ROWS)]
    assert got.x[:, 0].tolist() == kept


def test_a_trimmed_stream_of_which_everything_was_read_is_no_loss(client, redis, server, shard, name, held):
    batch, values = held
    spec = spec_for(client, name)
    add(redis, f"s-{name}", values[:100])
    with Running(shard.target, spec, server.url):
        logged(client, spec, 100)
        redis.xtrim(f"s-{name}", maxlen=1, approximate=False)
    add(redis, f"s-{name}", values[100:])
    with Running(shard.target, spec, server.url):
        logged(client, spec, ROWS)
    same(client, server, spec, batch)


def test_a_stream_that_is_missing_or_no_stream_is_waited_for(client, redis, server, running, name, held):
    batch, values = held
    spec = spec_for(client, name)
    redis.set(f"s-{name}", "not a stream")
    run = running(spec)
    until(lambda: run.state.state == "waiting" and "WRONGTYPE" in run.state.detail)
    redis.delete(f"s-{name}")
    until(lambda: any("does not exist" in said.detail for said in client.models.statistics(name).sources))
    add(redis, f"s-{name}", values)
    logged(client, spec, ROWS)
    same(client, server, spec, batch)
    until(lambda: client.models.statistics(name).sources[0].state == "reading")


def test_a_store_that_hangs_for_a_while(client, redis, server, running, name, held):
    batch, values = held
    spec = spec_for(client, name, batch=10, in_flight=2)
    add(redis, f"s-{name}", values)
    with paused_writes(server):
        run = running(spec)
        until(lambda: run.state.next or run.state.state == "waiting")
        time.sleep(1.5)
    logged(client, spec, ROWS)
    same(client, server, spec, batch)


def test_entries_with_fields_of_their_own(client, redis, server, running, name, held):
    batch, values = held
    spec = spec_for(client, name, payload=None)
    for value in values:
        held_fields = {k: str(v) for k, v in json.loads(value).items() if v is not None}
        redis.xadd(f"s-{name}", held_fields)
    redis.xadd(f"s-{name}", {"a": "1", "b": "one"})
    run = running(spec)
    logged(client, spec, ROWS)
    same(client, server, spec, batch)
    until(lambda: run.state.dead_letters == 1)


def test_a_model_that_is_deleted_leaves_nothing(client, redis, server, running, name, held, monkeypatch):
    monkeypatch.setattr("service.sources.consumer.LOOK_SECONDS", 0.2)
    _, values = held
    spec = spec_for(client, name)
    add(redis, f"s-{name}", [*values, b"poison"])
    run = running(spec)
    logged(client, spec, ROWS)
    until(lambda: client.models.statistics(name).sources)
    client.models.delete(name)
    until(lambda: "does not exist" in run.state.detail)
    time.sleep(1.2)
    assert [key for key in redis.keys("*") if f"/{name}/".encode() in key] == []
