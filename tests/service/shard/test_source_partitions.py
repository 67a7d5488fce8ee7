"""A source that fills a model with several partitions: every message is in one log once, wherever its key is."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from click.testing import CliRunner
from reshard_harness import logged, map_of
from shard_harness import FEATURES, until
from source_harness import Running, made_events, sourced

from continual.bench._streams_peers import json_messages
from continual.cli import main
from service.client import Client
from service.store.connect import connect
from service.store.letters import Letters
from streams.batch import Keys


def numbers(url, spec):
    """What the logs of all partitions, present and past, hold: the number of each event, in order by log."""
    held = map_of(url, spec.name)
    ids = [*held.retired, *(part.id for part in held.partitions)]
    return [[int(v) for _, batch in logged(url, spec, id) for v in batch.x[:, 0]] for id in ids]


def test_a_source_goes_on_through_splits_merges_and_restarts(two, own_server, name):
    rows = 1200
    batch = made_events(rows)
    values = json_messages(batch, FEATURES)
    spec = sourced(name, {"kind": "redis_stream", "stream": "s", "batch": 16})
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    redis = connect(own_server.url)
    with Client(two[0].shard.address) as client:
        client.models.create(spec)
        changes = [
            lambda: client.models.split(name, shards=["shard-0", "shard-1"]),
            lambda: client.models.split(name, "1", into=2),
            lambda: client.models.merge(name, "4", "2"),
            lambda: client.models.move(name, "3", "shard-1"),
            lambda: client.models.merge(name, "3", "5"),
        ]
        for step, change in enumerate(changes):
            part = slice(step * 240, (step + 1) * 240)
            with Running(two[0].shard.address, spec, own_server.url):
                for value in values[part][:120]:
                    redis.xadd("s", {"data": value})
                until(lambda: client.models.get(name).position >= step * 240 + 60)  # noqa: B023
                change()
                for value in values[part][120:]:
                    redis.xadd("s", {"data": value})
                until(lambda: client.models.get(name).position >= step * 240 + 180)  # noqa: B023
        with Running(two[0].shard.address, spec, own_server.url) as running:
            until(lambda: client.models.get(name).position >= rows)
            until(lambda: running.state.state == "reading" and running.state.next)
        found = numbers(own_server.url, spec)
        assert sorted(n for log in found for n in log) == list(range(rows))
        assert all(log == sorted(log) for log in found)
        assert client.models.statistics(name).counts["events"] == rows
    redis.close()


def test_a_letter_of_many_events_is_sent_again_to_all_their_partitions(two, own_server, name):
    rows = 40
    batch = made_events(rows)
    source = {"kind": "redis_stream", "stream": "s", "envelope": "arrow"}
    spec = sourced(name, source)
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    columns = {feature: batch.x[:, at] for at, feature in enumerate(FEATURES)}
    keys = [batch.key[row].decode() for row in range(rows)]
    table = pa.table(columns | {"card": keys, "label": batch.y.astype(int)})
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    redis = connect(own_server.url)
    with Client(two[0].shard.address) as client:
        client.models.create(spec)
        client.models.split(name, shards=["shard-0", "shard-1"])
        Letters(redis, "continual", name).keep("redis:s", 10, [(7, "why", buffer.getvalue().to_pybytes(), "{}")])
        command = ["events", "dead-letters", "retry", "--all", "--model", name, "--target", two[0].shard.address]
        done = CliRunner().invoke(main, [*command, "--json"])
        assert done.exit_code == 0, done.output
        assert sorted(n for log in numbers(own_server.url, spec) for n in log) == list(range(rows))
        assert client.models.dead_letters(name).total == 0
    redis.close()


def test_a_partition_that_gets_nothing_is_stamped(two, own_server, name):
    """Its mark follows, so that the source does not begin far back; the initial mark reaches it before any event."""
    batch = replace(made_events(400), key=Keys.pack([b"k"] * 400))
    values = json_messages(batch, FEATURES)
    spec = sourced(name, {"kind": "redis_stream", "stream": "s", "batch": 4})
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    redis = connect(own_server.url)
    with Client(two[0].shard.address) as client:
        client.models.create(spec)
        client.models.split(name, shards=["shard-0", "shard-1"])
        with Running(two[0].shard.address, spec, own_server.url):
            for value in values:
                redis.xadd("s", {"data": value})
            until(lambda: client.models.get(name).position >= 400)
            marks = [two[i].partition(name, str(i + 1)).producers.logged for i in range(2)]
            until(lambda: all(marks))
            (producer,) = marks[0]
            behind = np.ptp([mark[producer] for mark in marks])
            ids = [int(id.split(b"-")[0]) for id, _ in redis.xrange("s")]
            assert behind < (ids[-1] - ids[0] + 1) << 20
            assert min(mark[producer] for mark in marks) > 0
    redis.close()
