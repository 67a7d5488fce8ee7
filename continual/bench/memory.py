"""`continual bench memory`: more keys than slots: what the shard and redis-server hold, what a cold key costs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import psutil

from continual.bench import _served
from continual.bench._helpers import check, cuts, percentiles
from continual.bench.report import out_option, publish
from learners.spec import ModelSpec
from service.client import Client
from streams.batch import Batch, Keys

SIZE = 1024
FEATURES = ("a", "b", "c", "d")
ZIPF = 1.2
INDEX_BYTES = 160
"""Of a slot beside its row: its key, its place in the index, and what residency needs."""

CONSTANT_BYTES = 192 << 20
"""Of the bound: entries under way, answers kept for producers and updates, what the allocator does not give back."""

RESIDENT = "resident"
COLD = "cold"


@dataclass
class Watch:
    """The largest resident set of each process while a block runs, in bytes."""

    most: dict[str, int] = field(default_factory=dict)


@click.command()
@click.option("--keys", default=1_000_000, show_default=True, help="Entities; each has at least one event.")
@click.option("--slots", default=65_536, show_default=True, help="Rows that the shard may hold in memory.")
@click.option("--units", default=16, show_default=True, help="Of the recurrent learner.")
@click.option("--events", default=200_000, show_default=True, help="Events of each rate.")
@click.option("--asked", default=500, show_default=True, help="Predictions and updates of each latency.")
@click.option("--seed", default=0, show_default=True, help="Of events and of the order of keys.")
@out_option
def memory(
    keys: int, slots: int, units: int, events: int, asked: int, seed: int, out: Path | None, as_json: bool
) -> None:
    """Serve more keys than fit in memory.

    Every key gets an event, in random order, then come events of keys chosen at random (almost all of them cold) and of
    few popular ones. Resident sets are read all the while. Exit status 1 if the shard outgrows the stated bound; every
    answer is compared with a fold in process that holds all rows.
    """
    rng = np.random.default_rng(seed)
    spec = spec_of(COLD, units, slots)
    row = row_bytes(spec)
    orders = {
        "every key once": rng.permutation(keys),
        "keys at random": rng.integers(0, keys, events),
        "popular keys": np.minimum(rng.zipf(ZIPF, events) - 1, keys - 1),
    }
    batches = {name: events_of(order, rng) for name, order in orders.items()}
    few = events_of(rng.integers(0, min(keys, slots) // 4, events), rng)
    with _served.deployed() as deployment, Client(deployment.address) as client:
        for model in (spec, spec_of(RESIDENT, units, slots)):
            client.models.create(model)
        list(client.learn(RESIDENT, cuts(few, SIZE)))
        measured = _served.processes(deployment)
        before = {who: process.memory_info().rss for who, process in measured.items()}
        rates, answers = {}, []
        with watching(measured) as watch:
            for name, batch in batches.items():
                rates[name], said = sent(client, COLD, batch)
                answers.append(said)
            latencies = latencies_of(client, coldest(list(orders.values()), keys, asked), rng)
        rates["all resident"], _ = sent(client, RESIDENT, few)
        statistics = client.models.statistics(COLD)
    total = sum(map(len, batches.values()))
    check(statistics.position == total + asked * 2, f"{total + asked * 2} events in the log")
    check(statistics.keys_resident <= slots, f"at most {slots} keys in memory, got {statistics.keys_resident}")
    held = spec_of(COLD, units, keys).learner.build(spec_of(COLD, units, keys))
    for said, batch in zip(answers, batches.values()):
        folded = np.concatenate([held.fold(piece).value for piece in cuts(batch, SIZE)])
        check(folded.tobytes() == said.tobytes(), "the answers of a fold that holds every row in memory")
    bound = 2 * slots * (row + INDEX_BYTES) + CONSTANT_BYTES
    grown = watch.most["shard"] - before["shard"]
    rows = [
        {"what": "shard: resident set, MB", "value": watch.most["shard"] / 1e6},
        {"what": "of it: grown with the cold model, MB", "value": grown / 1e6},
        {"what": "stated bound on that growth, MB", "value": bound / 1e6},
        {"what": "rows of all keys in memory would be, MB", "value": keys * (row + INDEX_BYTES) / 1e6},
        {"what": "redis-server: resident set, MB", "value": watch.most["store"] / 1e6},
        *({"what": f"events/s: {name}", "value": rate} for name, rate in rates.items()),
        *(
            {"what": f"{name}, ms: {which}", "value": value}
            for name, seconds in latencies.items()
            for which, value in zip(("p50", "p99"), percentiles(seconds))
        ),
        {"what": "at random / resident", "value": rates["keys at random"] / rates["all resident"]},
        {"what": "popular / resident", "value": rates["popular keys"] / rates["all resident"]},
    ]
    notes = [
        f"{keys:,} keys, {slots:,} slots, a recurrent learner of {units} units, {row} bytes a row. Every append and "
        "every evicted row is written with fsync, snapshots are taken meanwhile. Client, shard and store share the "
        "machine.",
        f"Bound: 2 x slots x (row + {INDEX_BYTES} bytes) + {CONSTANT_BYTES >> 20} MB: every row once, and once more "
        "for a snapshot that copies rows before they change.",
        f"`keys at random`: {1 - slots / keys:.0%} are not in memory. `popular keys`: Zipf with exponent {ZIPF}. "
        "`all resident`: the same learner and as many events, of keys that fit. A cold key: one whose last event lies "
        "furthest back.",
        "Every answer is, bit for bit, that of a fold in process with all rows in memory.",
    ]
    details = {"seed": seed, "rates": rates, "bound": bound, "before": before, "most": watch.most}
    publish("memory", f"Memory: {keys:,} keys in {slots:,} slots", rows, notes=notes,
            details=details | {"spec": spec.model_dump(mode="json")}, out=out, as_json=as_json)  # fmt: skip
    sys.exit(0 if grown <= bound else 1)


def spec_of(name: str, units: int, slots: int) -> ModelSpec:
    """A recurrent learner of a binary target that holds `slots` rows."""
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": FEATURES,
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": {"kind": "mingru", "units": units}},
            "deployment": {"slots": slots},
        }
    )


def row_bytes(spec: ModelSpec) -> int:
    """Bytes of one key's row."""
    learner = spec.learner.build(spec)
    return sum(column[0].nbytes for column in learner.rows.columns.values())


def events_of(order: np.ndarray, rng: np.random.Generator) -> Batch:
    """An event for each number of a key."""
    x = rng.normal(size=(len(order), len(FEATURES)))
    y = (x[:, 0] + rng.normal(size=len(order)) > 0).astype(float)
    return Batch.of(x, y, key=Keys.pack(map(name_of, order.tolist())))


def name_of(number: int) -> bytes:
    """The name of a key."""
    return b"key-%07d" % number


def sent(client: Client, model: str, batch: Batch) -> tuple[float, np.ndarray]:
    """Streams events; returns events per second and the predictions."""
    began = time.perf_counter()
    said = [result.predictions.value for result in client.learn(model, cuts(batch, SIZE))]  # type: ignore[union-attr]
    return len(batch) / (time.perf_counter() - began), np.concatenate(said)


def coldest(orders: list[np.ndarray], keys: int, wanted: int) -> list[str]:
    """The keys whose last event lies furthest back."""
    last = np.zeros(keys, np.int64)
    at = 0
    for order in orders:
        last[order] = np.arange(at, at + len(order))  # of several, the last one counts
        at += len(order)
    return [name_of(number).decode() for number in np.argsort(last)[:wanted].tolist()]


def latencies_of(client: Client, cold: list[str], rng: np.random.Generator) -> dict[str, list[float]]:
    """Seconds of Predict and Update of cold keys, and of the same keys again, which are then in memory, in turn."""
    kinds = [f"{call} of a {kind} key" for kind in ("cold", "warm") for call in ("Predict", "Update")]
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for key, x in zip(cold, rng.normal(size=(len(cold), len(FEATURES))).tolist()):
        event = dict(zip(FEATURES, x))
        for kind in kinds:
            began = time.perf_counter()
            if kind.startswith("Predict"):
                client.predict(COLD, event=event, key=key)
            else:
                client.update(COLD, event, label=1, key=key)
            seconds[kind].append(time.perf_counter() - began)
    return seconds


@contextmanager
def watching(measured: dict[str, psutil.Process], every: float = 0.05) -> Iterator[Watch]:
    """Reads the resident sets of processes while the block runs."""
    watch = Watch(dict.fromkeys(measured, 0))
    ended = threading.Event()

    def read() -> None:
        for who, process in measured.items():
            watch.most[who] = max(watch.most[who], process.memory_info().rss)

    def follow() -> None:
        while not ended.wait(every):
            read()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        ended.set()
        thread.join()
        read()
