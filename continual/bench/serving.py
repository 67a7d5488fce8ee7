"""What serving costs: a real shard with its durable log against bare parts of the same, and against the fold alone."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
import psutil

from continual.bench import _served
from continual.bench._helpers import (
    Row,
    Stream,
    alternate,
    check,
    cuts,
    fold,
    load,
    median,
    percentiles,
    ratio_row,
    repeated,
    spec,
    stream_options,
    value_row,
    warm,
    with_keys,
)
from continual.bench._serving_control import beside_compiling, beside_control
from continual.bench.report import out_option, publish
from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.serve import Deployment
from service.store.connect import connect
from service.wire import event_from
from streams.batch import Batch, Keys

THROUGHPUT = {256: 0.5, 1024: 0.7}
"""Rows of a batch -> at least this share of the in-process fold's rate."""
KEYS = 1000


class Bench:
    """One deployment and what the measurements share."""

    def __init__(self, deployment: Deployment, client: Client, stream: Stream) -> None:
        self.deployment, self.client, self.stream = deployment, client, stream
        self.details: dict[str, Any] = {}
        self.processes = _served.processes(deployment) | {"client": psutil.Process()}

    @contextmanager
    def model(self, name: str, units: int = 64, **options: Any) -> Iterator[str]:
        """A fresh model, deleted at the end."""
        self.client.models.create(spec(self.stream, units, name=name, **options))
        try:
            yield name
        finally:
            self.client.models.snapshot(name)  # waits for one that is being written: nothing goes on behind the next
            self.client.models.delete(name)

    @contextmanager
    def calls(self, model: str) -> Iterator[Callable[[str], _served.Call]]:
        """Calls by name, bytes in and out, to the shard that owns the model."""
        with grpc.insecure_channel(_served.owner(self.client, model)) as channel:
            yield lambda name: channel.unary_unary(_served.DATA + name)

    def event(self, row: int, id: str = "") -> pb.Event:
        """An event of the stream, labelled when it has an id."""
        batch = self.stream.batch
        features = dict(zip(self.stream.mapping.features, batch.x[row].tolist()))
        label = self.stream.mapping.labels[int(batch.y[row])] if id else None
        return event_from(features, label, key=b"", time=None, id=id)


@click.command()
@stream_options
@click.option("--rounds", default=3, show_default=True, help="Of every throughput, in turn with the fold.")
@click.option("--calls", default=3000, show_default=True, help="Unary calls of each kind.")
@click.option("--learned", default=450_000, show_default=True, help="Events of one throughput measurement.")
@click.option("--in-flight", default=64, show_default=True, help="Batches sent before the first is answered.")
@click.option("--rows", default=100_000, show_default=True, help="Keyed rows of the snapshot.")
@click.option("--trees", default=500, show_default=True, help="Of the River forest that is created.")
@click.option("--idle", default=4.0, show_default=True, help="Seconds of Predict before and after a control call.")
@click.option("--cold/--warm", default=True, help="Also beside a first compilation, which takes minutes.")
@out_option
def serving(
    stream: str,
    events: int | None,
    rounds: int,
    calls: int,
    learned: int,
    in_flight: int,
    rows: int,
    trees: int,
    idle: float,
    cold: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Latency and throughput of a durable shard: against a bare gRPC echo, a bare append, the fold alone."""
    chosen = load(stream, events)
    warm(spec(chosen), chosen.batch)
    with _served.deployed() as deployment, Client(deployment.address) as client:
        bench = Bench(deployment, client, chosen)
        table = unary(bench, calls)
        table += throughput(bench, rounds, learned, in_flight)
        table += under_load(bench, stream, calls)
        table += during_snapshot(bench, rows)
        beside, bench.details["control"] = beside_control(client, chosen, rows, trees, idle)
        table += beside
    if cold:
        beside, bench.details["compiling"] = beside_compiling(chosen, idle)
        table += beside
    publish(
        "serving",
        f"Serving: one shard, its store and its clients on one machine, {stream}, 64 units",
        table,
        notes=_notes(calls, rounds, learned, in_flight),
        details=bench.details,
        out=out,
        as_json=as_json,
    )


# Latency


def unary(bench: Bench, times: int) -> list[Row]:
    """Predict and Update, one after the other, beside an echo and an append of the same bytes."""
    with bench.model("latency") as model, bench.calls(model) as calls, _served.echo() as echo:
        for reply in bench.client.learn(model, cuts(bench.stream.batch.slice(0, 1024), 256)):
            check(reply.refused is None, "a model that has learned")
        seconds = _interleaved(bench, model, calls, echo, times)
        said = bench.client.models.statistics(model)
        # Every update was logged and folded once: those of the raw calls and those of the client.
        updates = 2 * (times + WARM)
        check(said.position == min(1024, len(bench.stream.batch)) + updates, f"{updates} updates, each once")
    p = {name: percentiles(values) for name, values in seconds.items()}
    bench.details["unary_ms"] = {name: {"p50": p50, "p99": p99} for name, (p50, p99) in p.items()}
    echoed, sum_ = "echo of the same bytes", "echo + append of the same bytes"
    durable = p["update echo"][0] + p["append"][0]
    raw, library, bare = p["predict"], p["client predict"], p["predict echo"]
    return [
        ratio_row("Predict p50, ms", raw[0], echoed, bare[0], 1.3),
        ratio_row("Predict p99, ms", raw[1], echoed, bare[1], 2.0),
        ratio_row("Predict by the client library p50, ms", library[0], echoed, bare[0], math.nan),
        ratio_row("Predict by the client library p99, ms", library[1], echoed, bare[1], math.nan),
        ratio_row("Update p50, ms", p["update"][0], sum_, durable, 1.3),
        ratio_row("Update by the client library p50, ms", p["client update"][0], sum_, durable, math.nan),
        value_row("Update p99, ms", p["update"][1]),
        value_row("append (fsync) by redis-py p50, ms", p["append"][0]),
        value_row("append (fsync) by redis-py p99, ms", p["append"][1]),
    ]


WARM = 100


def _interleaved(bench: Bench, model: str, calls: Any, echo: Any, times: int) -> dict[str, list[float]]:
    features = dict(bench.event(0).features)
    label = bench.stream.mapping.labels[int(bench.stream.batch.y[0])]
    asking = pb.PredictRequest(model=model, event=bench.event(0)).SerializeToString()
    ids = (f"{i:032x}" for i in count())  # as long as the client's own
    telling = [
        pb.UpdateRequest(model=model, event=bench.event(0, next(ids))).SerializeToString() for _ in range(times + WARM)
    ]
    predict, update = calls("Predict"), calls("Update")
    reply = predict(asking)
    check(math.isfinite(np.frombuffer(pb.PredictReply.FromString(reply).predictions.value)[0]), "a finite prediction")
    echoes = echo(len(reply)), echo(len(reply) + 10)
    unused = iter(telling)
    store = connect(bench.deployment.redis_url)
    seconds = _served.interleave(
        {
            "predict echo": lambda: echoes[0](asking),
            "predict": lambda: predict(asking),
            "client predict": lambda: bench.client.predict(model, event=features),
            "update echo": lambda: echoes[1](telling[0]),
            "append": lambda: store.xadd("{bench}log", {"n": 1, "m": telling[0]}),
            "update": lambda: update(next(unused)),
            "client update": lambda: bench.client.update(model, features, label),
        },
        times,
        WARM,
    )
    store.delete("{bench}log")
    store.close()
    return seconds


# Throughput


def throughput(bench: Bench, rounds: int, learned: int, in_flight: int) -> list[Row]:
    """Learn, one stream, against the fold of the same batches in this process."""
    rows = []
    one = repeated(bench.stream.batch, learned)
    for name, batch in (("1 key", one), (f"{KEYS:,} keys", with_keys(one, KEYS))):
        for size, share in THROUGHPUT.items():
            rows.append(_rate(bench, f"Learn, batches of {size}, {name}", batch, size, share, rounds, in_flight))
    return rows


def _rate(bench: Bench, what: str, batch: Batch, size: int, share: float, rounds: int, in_flight: int) -> Row:
    pieces = cuts(batch, size)
    model = spec(bench.stream)
    digests: dict[str, str] = {}
    spent: list[dict[str, float]] = []

    def folded() -> float:
        learner = model.learner.build(model)
        seconds, _ = fold(learner, pieces)
        digests["fold"] = learner.digest()
        return seconds

    def learned() -> float:
        with bench.model(f"learn-{time.monotonic_ns()}") as name:
            before = _served.cpu_seconds(bench.processes)
            start = time.perf_counter()
            rows = sum(reply.rows for reply in bench.client.learn(name, pieces, in_flight=in_flight))
            seconds = time.perf_counter() - start
            after = _served.cpu_seconds(bench.processes)
            spent.append({who: 1e6 * (after[who] - before[who]) / len(batch) for who in after})
            said = bench.client.models.statistics(name, digest=True)
        check(rows == said.position == len(batch), f"{what}: {len(batch)} events, got {rows}, logged {said.position}")
        check(said.digest == digests["fold"], f"{what}: the state of the fold in this process")
        return seconds

    seconds = alternate(rounds, {"fold": folded, "served": learned})
    rates = {name: len(batch) / median(values) for name, values in seconds.items()}
    best = {name: len(batch) / min(values) for name, values in seconds.items()}
    cpu = {who: median([one[who] for one in spent]) for who in spent[0]}
    bench.details[what] = {"rates": rates, "best": best, "cpu_us_per_event": cpu, "seconds": seconds}
    return ratio_row(f"{what}, events/s", rates["served"], "the fold in process", rates["fold"], share, at_least=True)


# Latency under load


def _timed(calls: dict[str, Callable[[], Any]], done: Callable[[], bool]) -> dict[str, list[tuple[float, float]]]:
    """Makes the calls in turn until `done()`: for each (start, end) on the clock of `perf_counter`."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    while not done():
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append((start, time.perf_counter()))
    return times


def _raw_calls(bench: Bench, model: str, calls: Any, key: bytes = b"") -> dict[str, Callable[[], Any]]:
    predict, update = calls("Predict"), calls("Update")
    asked = bench.event(0)
    asked.key = key
    asking = pb.PredictRequest(model=model, event=asked).SerializeToString()
    told = bench.event(0, "id")
    told.key = key
    numbers = count()

    def tell() -> None:
        told.id = f"{model}-{next(numbers)}"
        update(pb.UpdateRequest(model=model, event=told).SerializeToString())

    return {"Predict": lambda: predict(asking), "Update": tell}


def under_load(bench: Bench, stream: str, times: int) -> list[Row]:
    """Predict and Update to a model that another process feeds at full rate."""
    rows = []
    for size in THROUGHPUT:
        with (
            bench.model(f"load-{size}") as model,
            bench.calls(model) as calls,
            _served.module("_load", bench.deployment.address, model, stream, str(size)) as feeding,
        ):
            _served.line(feeding)
            before = bench.client.models.statistics(model).position
            began = time.perf_counter()
            measured = _timed(_raw_calls(bench, model, calls), chain(repeat(False, times), [True]).__next__)
            rate = (bench.client.models.statistics(model).position - before) / (time.perf_counter() - began)
        check(rate > 1000, f"events are learned meanwhile, got {rate:.0f} a second")
        for name, spans in measured.items():
            p50, p99 = percentiles([end - start for start, end in spans])
            bench.details[f"{name} under Learn by {size}"] = {"p50": p50, "p99": p99, "events_per_second": rate}
            rows.append(value_row(f"{name} p50 while {rate:,.0f} events/s are learned by {size}, ms", p50))
            rows.append(value_row(f"{name} p99 while {rate:,.0f} events/s are learned by {size}, ms", p99))
    return rows


def during_snapshot(bench: Bench, keys: int) -> list[Row]:
    """Update while a snapshot of as many keyed rows is written."""
    options = {"slots": max(131_072, 2 * keys), "snapshot_every": 10**9}
    with bench.model("snapshot", 16, **options) as model, bench.calls(model) as calls:
        names = Keys.pack(b"key-%07d" % key for key in range(keys))
        batch = replace(repeated(bench.stream.batch, keys), key=names)
        for reply in bench.client.learn(model, cuts(batch, 4096)):
            check(reply.refused is None, "a row for every key")
        taken: list[Any] = []
        span = [math.inf, -math.inf]

        def snapshot() -> None:
            span[0] = time.perf_counter()
            taken.append(bench.client.models.snapshot(model, timeout=300))
            span[1] = time.perf_counter()

        writing = threading.Thread(target=snapshot)
        update = {"Update": _raw_calls(bench, model, calls, b"key-0000000")["Update"]}
        idle = _timed(update, chain(repeat(False, 300), [True]).__next__)["Update"]
        writing.start()
        spans = _timed(update, lambda: not writing.is_alive())["Update"]
        writing.join()
        check(bool(taken) and taken[0].rows >= keys, f"a snapshot of {keys} rows, got {[one.rows for one in taken]}")
    during = [end - start for start, end in spans if end > span[0] and start < span[1]]
    p50, p99 = percentiles(during)
    before = percentiles([end - start for start, end in idle])
    seconds = span[1] - span[0]
    bench.details["snapshot"] = {
        "rows": taken[0].rows,
        "bytes": taken[0].bytes,
        "seconds": seconds,
        "updates": len(during),
        "update_ms": {"p50": p50, "p99": p99, "max": 1e3 * max(during), "before": before},
    }
    what = f"a snapshot of {taken[0].rows:,} rows, {taken[0].bytes / 1e6:.0f} MB in {seconds:.1f} s, is written"
    return [
        value_row(f"Update p50 while {what}, ms", p50),
        value_row(f"Update p99 while {what}, ms", p99, 20.0),
    ]


def _notes(calls: int, rounds: int, learned: int, in_flight: int) -> list[str]:
    return [
        f"Latency: {calls:,} calls of each kind, in turn, by blocking stubs over bytes from one process, to the echo "
        "as to the shard; 'by the client library' includes what `service.client.Client` does. The echo is a `grpc.aio` "
        "server in a process of its own that replies with as many bytes.",
        "Appends of the same bytes go to the same store, through blocking redis-py over its unix socket; the store "
        "writes every one to the disk before it answers.",
        f"Throughput: {learned:,} events, {in_flight} batches in flight, blocking client, medians of {rounds} rounds "
        "in turn with the fold; every served state has the digest of the fold. The client sends batches that wait "
        f"together in one message (`LearnMany`), at most {max(1, in_flight // 4)}; each batch has its own reply.",
        "Beside control calls: a process predicts, one event after the other, while another one makes the call; "
        "'without' is before and after it. The first compilation is that of a service with an empty cache.",
        "Under load, the client that learns is a process of its own with 16 batches in flight; a shard, a store and "
        "two clients share the cores.",
    ]
