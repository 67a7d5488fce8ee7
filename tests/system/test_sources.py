"""Queues read by actors under Ray, and what reads and folds them killed: a bounded run of `continual bench streams`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from continual.bench import _streams_backlog as backlog
from continual.bench._faults_served import Served
from continual.bench._streams_faults import KINDS, actor_processes, run_source_kills
from continual.bench._streams_peers import MockKafka
from continual.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture
def kafka() -> Iterator[MockKafka]:
    cluster = MockKafka()
    yield cluster
    cluster.close()


def test_every_message_is_in_the_log_once_through_five_kills(served: Served, kafka: MockKafka) -> None:
    outcome = run_source_kills(served, kafka, kills=5, events=10_000, seed=3)
    assert (outcome.logged, outcome.lost, outcome.doubled, outcome.disordered) == (10_000, 0, 0, 0)
    assert outcome.digest
    assert outcome.kept == outcome.poison > 100
    assert set(outcome.kills) == set(KINDS)
    assert outcome.hangs == 1
    assert outcome.sinks == {"Redis Stream": (0, 0, 0), "Kafka": (0, 0, 0)}
    with served.client() as client:
        assert len(client.models.statistics("queues").sources) == 2
        people = CliRunner().invoke(main, ["models", "stats", "queues", "--target", served.address])
        assert "kafka:bench-topic-out" in people.output
        assert "writing" in people.output
        client.models.delete("queues")


def command(served: Served, *arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(main, [*arguments, "--target", served.address, "--json"])
    assert result.exit_code == code, (result.output, result.exception)
    return json.loads(result.stdout)


def test_dead_letters_from_the_command_line(served: Served) -> None:
    """Ray starts the source when the model is created; its letters are listed, shown, mended and sent again."""
    fields = {"key": "$key", "time": "$time"}
    source = {"kind": "redis_stream", "stream": "letters-in", "fields": fields}
    spec = {"name": "letters", "features": ["a"], "target": {"kind": "binary"}, "deployment": {"sources": [source]}}
    redis = served.store("letters").client
    bad = [b'{"a": "one", "label": 1}', b"\xff", b'{"a": 1, "label": 7}']
    for value in [b'{"a": 1, "label": 1}', *bad]:
        redis.execute_command("XADD", "letters-in", "*", "data", value, "key", "k7")
    with served.client() as client:
        client.models.create(spec)
        deadline = time.monotonic() + 60
        while client.models.dead_letters("letters").total < 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        held = command(served, "events", "dead-letters", "list", "--model", "letters")
        assert held["total"] == 3
        first, second, third = held["dead_letters"]
        assert "column 'a': 'one'" in first["reason"]
        assert second["payload"] == "\\xff"
        assert command(served, "events", "dead-letters", "show", third["id"], "--model", "letters") == third
        show = ["events", "dead-letters", "show", second["id"], "--raw", "--model", "letters"]
        raw = CliRunner().invoke(main, [*show, "--target", served.address])
        assert raw.stdout_bytes == b"\xff"
        retry = ("events", "dead-letters", "retry", "--model", "letters")
        stayed = command(served, *retry, "--all", code=1)["outcomes"]
        assert [one["sent"] for one in stayed] == [False] * 3
        assert "accepted: 0, 1 or nothing" in stayed[2]["reason"]
        mended = command(served, *retry, first["id"], "--payload", '{"a": 2, "label": 1}')["outcomes"]
        assert mended == [{"id": first["id"], "sent": True}]
        assert command(served, "events", "dead-letters", "list", "--model", "letters")["total"] == 2
        gone = CliRunner().invoke(main, [*retry, first["id"], "--target", served.address])
        assert (gone.exit_code, "has no dead letter" in gone.output) == (1, True)
        assert client.models.get("letters").position == 2
        while not (said := command(served, "models", "stats", "letters")["sources"]):
            assert time.monotonic() < deadline, "a source says how it is within seconds"
            time.sleep(0.2)
        assert [one["name"] for one in said] == ["redis:letters-in"]
        assert (said[0]["dead_letters"], said[0]["lag"]) == (3, {"redis:letters-in": 0})
        people = CliRunner().invoke(main, ["models", "stats", "letters", "--target", served.address])
        assert "reading" in people.output
        client.models.delete("letters")
    deadline = time.monotonic() + 30
    while actor_processes(served, "SourceActor"):
        assert time.monotonic() < deadline, "the source of a model that is gone runs on"
        time.sleep(0.1)


def drained(folder: Path, *, kills: int, events: int, seed: int, busy: int) -> backlog.Outcome:
    files = folder / "in"
    files.mkdir()
    cluster = MockKafka(1)
    try:
        with Served(folder / "data", shards=2, folders=[files]) as served:
            return backlog.run(served, cluster, files, kills=kills, events=events, seed=seed, busy=busy)
    finally:
        cluster.close()


def sound(outcome: backlog.Outcome, kills: int) -> None:
    assert (outcome.untold, outcome.doubled, outcome.disordered, outcome.elsewhere) == (0, 0, 0, 0), outcome
    assert outcome.told > 0, "the run wants a broker that forgets"
    assert outcome.logged + outcome.missing == outcome.events
    assert outcome.kills.total() == kills
    assert set(outcome.kills) == set(backlog.KILLS)
    assert outcome.changes.total() > 0


@pytest.mark.timeout(900)
def test_a_backlog_is_read_to_its_end_on_a_busy_machine_and_what_a_broker_forgot_is_told(tmp_path: Path) -> None:
    """Kills amid changes of partitions; three kinds of queue; see `continual bench streams --part backlog`."""
    sound(drained(tmp_path, kills=3, events=1200, seed=0, busy=2), 3)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(1, 6))
def test_the_same_through_forty_kills(tmp_path: Path, seed: int) -> None:
    sound(drained(tmp_path, kills=40, events=40_000, seed=seed, busy=6), 40)
