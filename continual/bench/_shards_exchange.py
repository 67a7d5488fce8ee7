"""What splitting costs in accuracy, with and without an exchange: one partition, two and four, on the same events.

In process, with the fold and the exchange that are served; `served` shows that they are, by the digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np

from continual import data
from continual.bench._helpers import Row, check, cuts, until
from learners.base import MemoryRows
from learners.exchange import ROUND, combine
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.serve import Deployment
from service.shard.requests import EXCHANGED, LEARN, decode_learn, keys_inside
from service.shard.statistics import Statistics
from service.store.catalog import Catalog
from service.store.connect import connect
from service.store.partition import Partition as Store
from service.store.partition_map import Range
from service.store.tensors import pack, unpack
from service.wire import Schema, encode_columns
from streams.batch import Batch, Keys

PARTITIONS = (2, 4)

EVERY = ((1000, "mean"), (100, "mean"), (100, "sum"))
"""Events of a partition between two exchanges, and what becomes of weights that are trained by gradients."""

APART = (0, "mean")
"""Without an exchange."""

LEARNERS: dict[str, dict[str, Any]] = {
    "recurrent": {"kind": "recurrent", "cell": {"units": 16}},
    "Kalman, bank": {"kind": "static", "head": {"kind": "kalman"}},
    "Kalman, gamma 1": {"kind": "static", "head": {"kind": "kalman", "gammas": [1.0]}},
    "ridge": {"kind": "static", "head": {"kind": "ridge"}},
}


@dataclass(frozen=True)
class Keyed:
    """A stream of many keys that share what is to be learned.

    Attributes:
        name: what it is.
        target: kind of the target.
        score: name of the prequential metric.
        features: names of the columns.
        batch: its events, in order.
    """

    name: str
    target: str
    score: str
    features: tuple[str, ...]
    batch: Batch

    def spec(self, learner: str, seed: int, exchange: tuple[int, str] = APART) -> ModelSpec:
        """The model of a learner for it."""
        every, weights = exchange
        return ModelSpec.model_validate(
            {
                "name": "exchange",
                "features": self.features,
                "target": {"kind": self.target},
                "learner": {**LEARNERS[learner], "seed": seed},
                "deployment": {
                    "exchange": {"every": every, "weights": weights} if every else None,
                    "dedupe_window": 10_000_000,
                },
            }
        )


def drifting(events: int, keys: int = 1000, seed: int = 0) -> Keyed:
    """Is a noisy linear score of eight inputs above zero? Its weights turn slowly, the same for every key."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(events, 8)).astype(np.float32)
    weights = np.cumsum(rng.normal(scale=0.02, size=(events, 8)), axis=0) + rng.normal(size=8)
    score = (x * weights).sum(1) / np.linalg.norm(weights, axis=1) + 0.3 * rng.normal(size=events)
    names = [b"key-%04d" % key for key in rng.integers(0, keys, events).tolist()]
    batch = Batch.of(x, (score > 0).astype(float), key=names)
    return Keyed(f"generated, {keys:,} keys", "binary", "accuracy", tuple(f"f{i}" for i in range(8)), batch)


def streams(events: int) -> list[Keyed]:
    """Elec2 and bike sharing by the time of the day, and a generated stream whose concept drifts.

    Raises:
        click.ClickException: a file is not there.
    """
    try:
        elec2, bike = data.elec2(), data.bike()
    except data.NoData as missing:
        raise click.ClickException(str(missing)) from missing
    halves = np.rint(elec2.x[:, data.ELEC2.features.index("period")] * 47).astype(int)
    hours = bike.x[:, data.BIKE.features.index("hr")].astype(int)
    found = [
        Keyed("Elec2, 48 half hours", "binary", "accuracy", data.ELEC2.features, _keyed(elec2, halves)),
        Keyed("bike sharing, 24 hours", "regression", "mae", data.BIKE.features, _keyed(bike, hours)),
        drifting(events),
    ]
    return [replace(one, batch=one.batch.slice(0, min(events, len(one.batch)))) for one in found]


def _keyed(batch: Batch, numbers: np.ndarray) -> Batch:
    return replace(batch, key=Keys.pack(b"%02d" % number for number in numbers.tolist()))


# In process


class Partitions:
    """Partitions of a model that was split before its first event; exchanges as `service.shard.exchange` does."""

    def __init__(self, spec: ModelSpec, parts: list[Range]) -> None:
        self._parts = parts
        self._every = spec.deployment.exchange.every if spec.deployment.exchange else 0
        self._learners: list[Any] = [spec.learner.build(spec) for _ in parts]
        self._published = [0] * len(parts)
        self._open = [False] * len(parts)
        self._contributions: dict[str, bytes] = {}
        self._statistics = [Statistics(spec.target.kind) for _ in parts]
        for learner in self._learners if self._every and len(parts) > 1 else ():
            learner.begin_apart("0")

    def fold(self, batch: Batch) -> None:
        """Folds events in order; several at a time, a quarter of what lies between two exchanges."""
        inside = [keys_inside(batch.key, part.low, part.high) for part in self._parts]
        for at in range(0, len(batch), step := max(1, self._every // 4) if self._every else len(batch)):
            for number, mine in enumerate(inside):
                rows = at + np.flatnonzero(mine[at : at + step])
                self._statistics[number].update(self._learners[number].fold(_rows(batch, rows)))
                self._turn(number)
            for number, waits in enumerate(self._open):
                if waits and len(fresh := self._news(number)) == len(self._parts) - 1 and fresh:
                    self._take(number)

    def _turn(self, number: int) -> None:
        learner = self._learners[number]
        if not self._every or len(self._parts) == 1 or learner.position - self._published[number] < self._every:
            return
        if self._open[number] and self._news(number):
            self._take(number)
        self._contributions[self._parts[number].id] = pack(learner.contribution())
        self._published[number], self._open[number] = learner.position, True

    def _news(self, number: int) -> list[str]:
        taken, own = self._learners[number].exchange.taken.live, self._parts[number].id
        given = self._contributions.items()
        return [id for id, one in given if id != own and int(unpack(one)["steps"][0]) > taken.get(id, 0)]

    def _take(self, number: int) -> None:
        learner, own = self._learners[number], self._parts[number].id
        others = {id: unpack(one) for id, one in self._contributions.items() if id != own}
        round = int(learner.exchange.counts[ROUND]) + 1
        learner.receive(combine(round, learner.classes(), learner.exchange.taken, others, {}))
        self._open[number] = False

    def metrics(self) -> dict[str, float]:
        """Prequential, over the events of all partitions."""
        return Statistics.united(self._statistics).metrics()


def _rows(batch: Batch, rows: np.ndarray) -> Batch:
    keys = Keys.pack(batch.key[row] for row in rows.tolist())
    return Batch(batch.x[rows], batch.kind[rows], batch.y[rows], keys, batch.time[rows], batch.id[rows], batch.classes)


def pieces(into: int) -> list[Range]:
    """The partitions of a model that was split at its beginning."""
    cut = Range("0").pieces(into) if into > 1 else [(Range("0").low, Range("0").high)]
    return [Range(str(number + 1), low, high) for number, (low, high) in enumerate(cut)]


def scores(stream: Keyed, learner: str, seeds: int) -> dict[str, list[float]]:
    """The score of every way to split, by seed."""
    found: dict[str, list[float]] = {}
    for seed in range(seeds if stream.spec(learner, 0).learner.uses_seed() else 1):
        for into, exchange in [(1, APART), *((into, how) for into in PARTITIONS for how in (APART, *EVERY))]:
            partitions = Partitions(stream.spec(learner, seed, exchange), pieces(into))
            partitions.fold(stream.batch)
            found.setdefault(_named(into, *exchange), []).append(partitions.metrics()[stream.score])
    return found


def _named(into: int, every: int, weights: str) -> str:
    """The column of a way to split."""
    if into == 1:
        return "one"
    return f"{into}, {weights} every {every:,}" if every else f"{into} apart"


def table(events: int, seeds: int, details: dict[str, Any]) -> list[Row]:
    """A row for every stream and learner: the mean score of one partition, of several apart, and with exchanges."""
    rows = []
    for stream in streams(events):
        for learner in LEARNERS:
            found = scores(stream, learner, seeds)
            check(bool(np.isfinite(list(found.values())).all()), f"finite scores of {learner}, got {found}")
            details.setdefault(stream.name, {})[learner] = found
            named = {"stream": stream.name, "score": stream.score, "learner": learner}
            rows.append({**named, **{name: float(np.mean(values)) for name, values in found.items()}})
    return rows


# Served


def served(deployment: Deployment, client: Client, events: int) -> dict[str, Any]:
    """Serves a model of two partitions that exchange, folds their logs in process, and compares the digests."""
    stream = drifting(events)
    spec = stream.spec("recurrent", 0, EVERY[0])
    client.models.create(spec)
    client.models.split(spec.name)
    columns = [encode_columns(piece, spec.target) for piece in cuts(stream.batch, 200)]
    rows = sum(result.rows for result in client.learn(spec.name, columns, in_flight=4))
    check(rows == events, f"{events} events learned, got {rows}")
    store = connect(deployment.redis_url)
    held = Catalog(store, "continual").map_of(spec.name)
    assert held is not None
    compared: dict[str, Any] = {}

    def equal() -> bool:
        logs = {part.id: _folded(spec, Store(store, "continual", spec.name, part.id)) for part in held.partitions}
        found = {one.partition: one.digest for one in client.models.statistics(spec.name, digest=True).partitions}
        compared.update(events=events, exchanges=sum(exchanges for _, exchanges in logs.values()))
        return found == {id: digest for id, (digest, _) in logs.items()}

    until(equal, 60, "the digests of what is served and of its logs folded in process", every=0.5)
    check(compared["exchanges"] > 0, "exchanges in the logs, got none")
    store.close()
    return compared


def _folded(spec: ModelSpec, store: Store) -> tuple[str, int]:
    """The digest of the fold of a log, and how many exchanges it holds."""
    learner: Any = spec.learner.build(spec)
    learner.attach(MemoryRows())
    learner.begin_apart("0")
    for message in _messages(store):
        if message[:1] == EXCHANGED:
            learner.receive(unpack(message[1:]))
        elif message[:1] == LEARN:
            learner.fold(decode_learn(pb.LearnRequest.FromString(message[1:]), Schema.of(spec)))
    return learner.digest(), int(learner.exchange.counts[ROUND])


def _messages(store: Store) -> Iterator[bytes]:
    for entry in store.read(store.first_position()):
        yield from entry.messages


