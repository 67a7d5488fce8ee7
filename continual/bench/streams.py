"""`continual bench streams`: queues into logs: how fast, and what kills do to it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench import _streams_backlog as backlog_run
from continual.bench import _streams_faults as faults_run
from continual.bench import _streams_rates as rates_run
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import file_events
from continual.bench._served import deployed
from continual.bench._streams_peers import MockKafka
from continual.bench.faults import progress
from continual.bench.report import out_option, publish
from service.client import Client
from service.store.connect import connect

ASKED = 0.5
KINDS = ("redis_stream", "kafka")


@click.command()
@click.option("--part", type=click.Choice(["rates", "faults", "backlog", "all"]), default="all", show_default=True)
@click.option("--events", default=100_000, show_default=True, help="Events of each run.")
@click.option("--repeats", default=3, show_default=True, help="Runs of each rate; the median is shown.")
@click.option("--kills", default=50, show_default=True, help="SIGKILLs in the parts `faults` and `backlog`.")
@click.option("--busy", default=4, show_default=True, help="Processes that keep the cores busy in the part `backlog`.")
@click.option("--seed", default=0, show_default=True, help="Of events and kills.")
@out_option
def streams(
    part: str, events: int, repeats: int, kills: int, busy: int, seed: int, out: Path | None, as_json: bool
) -> None:
    """Read a Redis Stream and a Kafka topic into the log of a model.

    rates: events per second, against a bare consumer that only parses the same messages. faults: what reads, what
    folds and what writes predictions on is killed at random while both queues fill one model; then every message is
    looked up in the log, and every event in both sinks. backlog: a stream, a topic and a folder fill a model on a
    machine that is kept busy, while what reads and folds them is killed, its partitions are split, moved and merged,
    and the broker forgets what was not read; drained to the end, every message is in a log once, or told. Kafka is
    librdkafka's mock cluster, in a process of its own.
    Exit status 1 if anything was lost, doubled or different.
    """
    sound = True
    if part in ("rates", "all"):
        sound &= report_rates(events, repeats, seed, out, as_json)
    if part in ("faults", "all"):
        sound &= report_faults(events, kills, seed, out, as_json)
    if part in ("backlog", "all"):
        sound &= report_backlog(events, kills, busy, seed, out, as_json)
    sys.exit(0 if sound else 1)


def report_rates(events: int, repeats: int, seed: int, out: Path | None, as_json: bool) -> bool:
    """Runs and publishes `streams`; returns whether every log held every event once."""
    batch = file_events(events, seed)
    rows: list[dict[str, Any]] = []
    raw: dict[str, Any] = {}
    kafka = MockKafka()
    try:
        with deployed() as deployment, Client(deployment.address) as client:
            redis = connect(deployment.redis_url)
            for kind in KINDS:
                queue = f"bench-{kind.replace('_', '-')}"
                rates_run.fill(kind, queue, batch, redis, kafka)
                source = rates_run.source_of(kind, queue, kafka.bootstrap)
                runs: dict[str, list[rates_run.Rate]] = {kind: [], f"{kind}, with a sink": []}
                bares: dict[str, list[float]] = {how: [] for how in rates_run.HOWS}
                for number in range(repeats):  # in turn, so that a busy machine is busy for all
                    for what, got in runs.items():
                        sinks = [{"kind": "redis_stream", "stream": f"{queue}-out-{number}"}] if what != kind else []
                        name = f"{queue}-{number}"
                        got.append(rates_run.ingest(deployment, client, name, source, batch, sinks))
                    for how, rate in bares.items():
                        rate.append(rates_run.bare(source, events, how, deployment.redis_url))
                raw[kind] = {what: [run.events_per_second for run in got] for what, got in runs.items()} | bares
                rows += [rate_row(what, got, bares) for what, got in runs.items()]
    finally:
        kafka.close()
    notes = [
        "`ingest`: read, parsed, logged with fsync and folded (a recurrent learner of 4 units); from the first event "
        "in the log to the last. Every log was read and held every event once. `bare`: the same messages read by the "
        "same client in one process and parsed, nothing else; `share` is of the faster of the two.",
        "`with a sink`: every prediction also goes to a Redis Stream of the same store, by an actor of its own on the "
        "same cores.",
        f"Asked: a share of at least {ASKED:.0%}. Runs were made in turn; medians of {repeats}.",
    ]
    publish("streams", f"Queues: {events:,} events of 8 features as JSON", rows, notes=notes,
            details={"seed": seed, "runs": raw}, out=out, as_json=as_json)  # fmt: skip
    return True


def rate_row(kind: str, runs: list[rates_run.Rate], bares: dict[str, list[float]]) -> dict[str, Any]:
    """One row of the table of rates."""
    ingest = float(np.median([run.events_per_second for run in runs]))
    bare = {how: float(np.median(got)) for how, got in bares.items()}
    cpu = {who: 1e6 * float(np.median([run.cpu[who] for run in runs])) for who in runs[0].cpu}
    return {
        "source": kind,
        "ingest events/s": ingest,
        **{f"bare, {how} /s": rate for how, rate in bare.items()},
        "share": ingest / max(bare.values()),
        **{f"{who} CPU us/event": value for who, value in cpu.items()},
    }


def report_faults(events: int, kills: int, seed: int, out: Path | None, as_json: bool) -> bool:
    """Runs and publishes `streams-faults`; returns whether nothing was lost, doubled or different."""
    kafka = MockKafka()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="continual-streams-") as folder,
            progress("kills", events) as advance,
            Served(Path(folder)) as served,
        ):
            options: dict[str, Any] = {"kills": kills, "events": events, "seed": seed, "progress": advance}
            outcome = faults_run.run_source_kills(served, kafka, **options)
    finally:
        kafka.close()
    rows = [
        {"what": f"kills: {kind}" if kind else "kills", "value": count}
        for kind, count in [("", outcome.kills.total()), *sorted(outcome.kills.items())]
    ]
    rows += [
        {"what": "brokers hung", "value": outcome.hangs},
        {"what": "events written to the queues", "value": outcome.events},
        {"what": "events in the log", "value": outcome.logged},
        {"what": "lost", "value": outcome.lost},
        {"what": "doubled", "value": outcome.doubled},
        {"what": "out of order in their partition", "value": outcome.disordered},
        {"what": "state = fold of the log", "value": outcome.digest},
        {"what": "bad messages", "value": outcome.poison},
        {"what": "dead letters, each once with its bytes", "value": outcome.kept},
    ]
    for sink, counts in outcome.sinks.items():
        for what, count in zip(("without a record", "with several", "with another value than the fold's"), counts):
            rows.append({"what": f"{sink} sink: positions {what}", "value": count})
    rows += [
        {"what": "goes on, p50 s", "value": float(np.median(outcome.seconds))},
        {"what": "goes on, max s", "value": max(outcome.seconds)},
    ]
    notes = [
        "One model, half of its events from a Redis Stream of its own store, half from two partitions of a Kafka "
        "topic, bad messages among them; its predictions go to another Redis Stream and another topic. Each kill is a "
        "SIGKILL of the actor of a source, of the shard, of the actor of a sink, or of a source and the shard at once "
        "(`both`), while messages keep coming. Afterwards the log is read: every event by its number, every bad "
        "message by its bytes; and every record of both sinks.",
        f"There is no consumer group that could be rebalanced: one actor has all partitions. Instead, at every "
        f"{faults_run.HANG_EVERY}th kill no broker answers for {faults_run.HANG_SECONDS:g} s, and what was killed "
        "comes back to that.",
        "`goes on`: from a kill to the next event in the log; after the kill of one source the other one goes on.",
    ]
    publish("streams-faults", f"Queues: {kills} kills over {events:,} events", rows, notes=notes,
            details={"seed": seed, "seconds": outcome.seconds}, out=out, as_json=as_json)  # fmt: skip
    return outcome.sound and outcome.kills.total() == kills


def report_backlog(
    events: int, kills: int, busy: int, seed: int, out: Path | None, as_json: bool
) -> bool:
    """Runs and publishes `streams-backlog`; returns whether every message is in a log once, or told."""
    kafka = MockKafka(1)
    try:
        with tempfile.TemporaryDirectory(prefix="continual-streams-") as held, progress("events", events) as advance:
            folder = Path(held) / "in"
            folder.mkdir()
            with Served(Path(held) / "data", shards=2, folders=[folder]) as served:
                options: dict[str, Any] = {"kills": kills, "events": events, "seed": seed, "busy": busy}
                outcome = backlog_run.run(served, kafka, folder, progress=advance, **options)
    finally:
        kafka.close()
    rows: list[dict[str, Any]] = [{"what": "kills", "value": outcome.kills.total()}]
    rows += [{"what": f"kills: {kind}", "value": count} for kind, count in sorted(outcome.kills.items())]
    rows += [{"what": f"partitions: {kind}", "value": count} for kind, count in sorted(outcome.changes.items())]
    rows += [
        {"what": "partitions: changes that a kill prevented", "value": outcome.refused},
        {"what": "good messages written", "value": outcome.events},
        {"what": "bad messages written", "value": outcome.poison},
        {"what": "events in the logs", "value": outcome.logged},
        {"what": "dead letters", "value": outcome.kept},
        {"what": "not in the logs", "value": outcome.missing},
        {"what": "forgotten by the broker, as the source tells: at most", "value": outcome.told},
        {"what": "neither there nor told", "value": outcome.untold},
        {"what": "missing from queues that forgot nothing", "value": outcome.elsewhere},
        {"what": "doubled", "value": outcome.doubled},
        {"what": "out of order in their partition", "value": outcome.disordered},
        {"what": "from the last message to the end of the backlog, s", "value": outcome.seconds},
    ]
    notes = [
        "One model with up to four partitions on two shards takes a Redis Stream, two partitions of a Kafka topic and "
        f"a folder, a quarter of the events each, while {busy} processes keep the cores busy. Each kill is a SIGKILL "
        "of the actor of a source, of a shard, or of both, amid a split, move, merge or rebalance of the partitions.",
        f"In the middle {backlog_run.BURST} large messages go to one partition of the topic while no source "
        "runs, twice what the mock cluster retains: it answers `offset out of range`, and the source, told to go on "
        "from the earliest, says what it passed over. Bad messages in that range count too, and so do events that one "
        "partition of the model has logged ahead of the others, as the lowest mark counts.",
        "Nothing is waited for by a fixed time: the run ends when every queue is read and all of it is logged or told.",
    ]
    publish("streams-backlog", f"Queues to their end: {kills} kills over {outcome.events:,} events", rows, notes=notes,
            details={"seed": seed}, out=out, as_json=as_json)  # fmt: skip
    return outcome.sound and outcome.kills.total() == kills
