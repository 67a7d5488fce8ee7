"""More than one shard: what two give over one, what a change of partitions costs those who wait, a node that dies."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from continual.bench._helpers import (
    Row,
    alternate,
    check,
    cuts,
    logs_on_failure,
    median,
    ratio_row,
    value_row,
    warm,
)
from continual.bench._served import cpu_seconds
from continual.bench._shards_exchange import served, table
from continual.bench._shards_load import FEATURES, Load, logged, lost_and_doubled, spec_of
from continual.bench._shards_nodes import node_killed
from continual.bench.report import out_option, publish
from learners.spec import ModelSpec
from service.client import Client
from service.ports import free_port
from service.serve import Deployment, ServeOptions
from service.wire import encode_columns
from streams.batch import Batch, Keys

TITLES = {
    "throughput": "Two shards against one, on the same two cores",
    "changes": "Partitions split, moved and merged under load",
    "nodes": "Nodes of a Ray cluster killed under load",
    "exchange": "What splitting costs in accuracy, apart and with an exchange",
}
PARTS = tuple(TITLES)
SHARDS = ("shard-0", "shard-1")


@click.command()
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Just this part; may be repeated.")
@click.option("--units", default=512, show_default=True, help="Of the learner whose throughput is measured.")
@click.option("--events", default=200_000, show_default=True, help="Of one throughput measurement.")
@click.option("--keys", default=1000, show_default=True, help="Of the events.")
@click.option("--rounds", default=3, show_default=True, help="Of every throughput, in turn.")
@click.option("--cycles", default=5, show_default=True, help="Of split, move, merge.")
@click.option("--kills", default=3, show_default=True, help="Of nodes.")
@click.option("--stream-events", default=20_000, show_default=True, help="Of each stream that is split, at most.")
@click.option("--seeds", default=3, show_default=True, help="Of learners that draw random numbers.")
@out_option
def shards(
    only: tuple[str, ...],
    units: int,
    events: int,
    keys: int,
    rounds: int,
    cycles: int,
    kills: int,
    stream_events: int,
    seeds: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Two shards against one; split, move and merge under load; a node killed under load; what splitting costs."""
    parts: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
        "throughput": lambda details: throughput(units, events, keys, rounds, details),
        "changes": lambda details: changes(cycles, details),
        "nodes": lambda details: nodes(kills, details),
        "exchange": lambda details: exchange(stream_events, seeds, details),
    }
    for name in only or PARTS:
        details: dict[str, Any] = {}
        rows = parts[name](details)
        notes = _notes(name, events, keys, rounds, details)
        publish(f"shards-{name}", TITLES[name], rows, notes=notes, details=details, out=out, as_json=as_json)


@contextmanager
def _two_shards():
    with tempfile.TemporaryDirectory() as folder:
        options = ServeOptions(data=Path(folder), port=free_port(), shards=2)
        with logs_on_failure(options.data), Deployment(options) as deployment, Client(deployment.address) as client:
            yield deployment, client


# Throughput


def throughput(units: int, events: int, keys: int, rounds: int, details: dict[str, Any]) -> list[Row]:
    """Learn of a model on one shard, and of the same model split over two, in turn on the same two cores."""
    batch = _events(events, keys)
    model = spec_of("fold", units, slots=max(4096, 2 * keys))
    warm(model, batch)
    pieces = cuts(batch, 1024)
    alone = _fold_alone(model, pieces)
    check(alone >= 8.0, f"a fold of at least 8 us an event, got {alone:.2f}: more --units")
    columns = [encode_columns(piece, model.target) for piece in pieces]
    with _two_shards() as (deployment, client):
        measured = _processes(deployment)
        spent: dict[str, list[float]] = {"one": [], "two": []}

        def learned(which: str) -> float:
            name = f"{which}-{time.monotonic_ns()}"
            client.models.create(model.model_copy(update={"name": name}))
            if which == "two":
                client.models.split(name, shards=SHARDS)
            before = sum(cpu_seconds(measured).values())
            start = time.perf_counter()
            rows = sum(result.rows for result in client.learn(name, columns, in_flight=16))
            seconds = time.perf_counter() - start
            spent[which].append(1e6 * (sum(cpu_seconds(measured).values()) - before) / rows)
            found = client.models.statistics(name)
            check(rows == found.counts["events"] == len(batch), f"{len(batch)} events folded, got {found.counts}")
            check(len(found.partitions) == (2 if which == "two" else 0), "the partitions that were asked for")
            client.models.delete(name)
            return seconds

        seconds = alternate(rounds, {"one": lambda: learned("one"), "two": lambda: learned("two")})
    rates = {name: len(batch) / median(values) for name, values in seconds.items()}
    cpu = {name: median(values) for name, values in spent.items()}
    cores = psutil.cpu_count() or 1
    details["throughput"] = {
        "fold_us_per_event": alone,
        "rates": rates,
        "seconds": seconds,
        "cpu_us_per_event": cpu,
        "cores": cores,
    }
    rows = [
        value_row(f"The fold alone, {units} units, us of CPU an event", alone, 8.0, at_least=True),
        ratio_row("Learn by 1024, two shards, events/s", rates["two"], "one shard", rates["one"], 1.5, at_least=True),
    ]
    for name, shown in (("one", "one shard"), ("two", "two shards")):
        floor = cores * 1e6 / alone
        what = f"Learn by 1024, {shown}, events/s"
        rows.append(ratio_row(what, rates[name], f"{cores} cores that only fold", floor, math.nan))
        rows.append(value_row(f"CPU of client, shards and store, {shown}, us an event", cpu[name]))
    return rows


def _fold_alone(model: ModelSpec, pieces: list[Batch]) -> float:
    """Microseconds of CPU that the fold of an event takes, once every key has its row."""
    learner = model.learner.build(model)
    half = len(pieces) // 2
    for piece in pieces[:half]:
        learner.fold(piece)
    start = time.process_time()
    for piece in pieces[half:]:
        learner.fold(piece)
    return 1e6 * (time.process_time() - start) / sum(map(len, pieces[half:]))


def _events(count: int, keys: int) -> Batch:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, len(FEATURES))).astype(np.float32)
    names = [b"key-%07d" % key for key in range(keys)]
    batch = Batch.of(x, (x[:, 0] > 0).astype(float))
    return replace(batch, key=Keys.pack(names[key] for key in rng.integers(0, keys, count).tolist()))


def _processes(deployment: Deployment) -> dict[str, psutil.Process]:
    import ray  # not earlier: Ray reads its settings when it is imported

    assert deployment.store is not None
    pids = ray.get([actor.ready.remote() for actor in deployment.actors.values()])
    found = {f"shard {pid}": psutil.Process(pid) for pid in pids}
    return found | {"store": psutil.Process(deployment.store.pid), "client": psutil.Process()}


# Changes under load


def changes(cycles: int, details: dict[str, Any]) -> list[Row]:
    """Split, move and merge, again and again, while a stream and single updates go on."""
    gaps: dict[str, list[float]] = {"split": [], "move": [], "merge": [], "nothing": []}
    stood: dict[str, list[float]] = {"split": [], "move": [], "merge": []}
    with _two_shards() as (deployment, client):
        client.models.create(spec_of("changing"))
        with Load(deployment.address, "changing") as load:
            for _ in range(cycles):
                for what in ("nothing", "split", "move", "merge"):
                    start = time.perf_counter()
                    if seconds := _change(client, what):
                        stood[what].append(seconds)
                    time.sleep(1.0)
                    gaps[what] += load.gaps(start, time.perf_counter())
        found = logged(deployment.redis_url, "changing")
        lost, doubled = lost_and_doubled(load.sent, found)
        folded = client.models.statistics("changing").counts["events"]
    check((lost, doubled) == (0, 0), f"0 lost and 0 doubled of {len(load.sent)}, got {lost} and {doubled}")
    check(folded == len(found), f"{len(found)} logged events folded, got {folded}")
    details["changes"] = {
        "events": len(load.sent),
        "gaps_s": {name: np.percentile(values, [50, 99, 100]).tolist() for name, values in gaps.items()},
        "stood_s": stood,
    }
    rows = [
        value_row(f"events answered through {cycles} splits, moves and merges", len(load.sent)),
        value_row("of these not in any log", lost, 0),
        value_row("in the logs more than once", doubled, 0),
    ]
    for what in ("split", "move", "merge"):
        p50, p99 = np.percentile(gaps[what], [50, 99])
        rows.append(value_row(f"{what}: longest time without an answer, of a key, p50, s", float(p50)))
        rows.append(value_row(f"{what}: the same, p99, s", float(p99), 2.0))
    rows.append(value_row("nothing changed: the same, p99, s", float(np.percentile(gaps["nothing"], 99))))
    return rows


def _change(client: Client, what: str) -> float:
    """One change; seconds that the partitions stood."""
    parts = client.models.get("changing").partitions
    if what == "split":
        return client.models.split("changing", shards=["shard-0"]).seconds
    if what == "move":
        return client.models.move("changing", parts[-1].id, "shard-1").seconds
    if what == "merge":
        return client.models.merge("changing", parts[0].id, parts[1].id).seconds
    return 0.0


# Nodes


def nodes(kills: int, details: dict[str, Any]) -> list[Row]:
    """Nodes of a Ray cluster of three killed under load."""
    outcome = node_killed(kills)
    details["nodes"] = outcome
    check(outcome["lost"] == 0, f"no answered event lost, got {outcome['lost']} of {outcome['events']}")
    check(outcome["doubled"] == 0, f"no event doubled, got {outcome['doubled']}")
    gap = "node killed: longest time without an answer, of a key of its shard, median, s"
    return [
        value_row(f"events answered through {kills} deaths of a node", outcome["events"]),
        value_row("of these not in any log after node deaths", outcome["lost"], 0),
        value_row("in the logs more than once after node deaths", outcome["doubled"], 0),
        value_row(gap, median(outcome["gaps"])),
        value_row("all nodes gone, Redis intact: answered events that a new cluster has not", outcome["lost_anew"], 0),
    ]


# Exchange


def exchange(events: int, seeds: int, details: dict[str, Any]) -> list[Row]:
    """Accuracy of one partition and of several, and that what is served folds as it is folded here."""
    with _two_shards() as (deployment, client):
        details["served"] = served(deployment, client, min(events, 20_000))
    return table(events, seeds, details)


def _notes(part: str, events: int, keys: int, rounds: int, details: dict[str, Any]) -> list[str]:
    return {
        "throughput": [
            f"Throughput: {events:,} events of {keys:,} keys, batches of 1024, 16 in flight, one client, medians of "
            f"{rounds} rounds in turn; both models are served by the same deployment of two shards, the one by one of "
            "them, the other by both, half of the key hashes each. Client, shards and store share the cores."
        ],
        "changes": [
            "Changes: a stream of 6,400 events/s at most and 50 keys that are updated one event after the other, all "
            "through the client library. Events are counted by id in the logs of all partitions, present and past. "
            "The time without an answer is that of a key between two of its updates, which are 50 ms apart."
        ],
        "nodes": [
            "Nodes: `ray.cluster_utils.Cluster` on this machine, three nodes with room for a shard each, two shards; "
            "a node with a shard that is not the head is killed, Ray starts the shard on another, and a node is added "
            "in its place. Ray takes a node for dead after 3 missed checks, half a second apart."
        ],
        "exchange": [
            "Exchange: prequential scores over the events of all partitions, to which keys are dealt by hash; the "
            "model is split before its first event. Apart: without an exchange; every n: an exchange after n events of "
            "a partition, in which trained weights become their mean, or the sum of their changes (`weights: sum`; "
            "closed-form learners have none: the two agree). Means over seeds; those of each are in the JSON. MAE: "
            "lower is better.",
            "Served: {events:,} events of the generated stream to two partitions on two shards, {exchanges} exchanges; "
            "the digests equal those of the logs folded in process.".format(**details.get("served", _NONE)),
        ],
    }[part]


_NONE = {"events": 0, "exchanges": 0}
"""Where nothing was served."""
