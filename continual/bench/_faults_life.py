"""The life of a shard in a campaign of kills: it takes up its partitions, learns, snapshots, splits, and is killed.

What is acknowledged is written to a file at once, a line for each answer: a line that is there was an answer.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
from collections import deque
from collections.abc import Callable
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench._faults_forks import TRIAL, Forked
from continual.bench._faults_learner import MARK
from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard import models
from service.shard.admission import Answer
from service.shard.shard import Shard, ShardConfig
from service.store.errors import StoreError
from service.wire import Schema, columns_of, event_from, key_hash
from streams.batch import Batch, Keys

Say = Callable[[str], None]

HEALTHY, SLOW, RAISES, CRASHES, SPLITS = "healthy", "slow", "raises", "crashes", "splits"
KINDS = (HEALTHY, SLOW, RAISES, CRASHES, SPLITS)
EVENTS = 12_000
KEYS = 60
FEATURES = ("a", "b", "c")

HOW = {HEALTHY: "nothing", SLOW: "nothing", RAISES: "raise", CRASHES: "exit", SPLITS: "nothing"}
PAUSE = {SLOW: 2e-4}
"""Seconds that each event of the slow model takes longer."""
REST = {HEALTHY: 0.01, SLOW: 0.02, RAISES: 0.02, CRASHES: 0.02, SPLITS: 0.004}
"""Seconds between two batches, at most."""
MARKED = {RAISES: 200, CRASHES: 800}
"""One event in so many stops the fold."""

PHASES = ("starting", "rebuilding", "trial", "snapshot", "split", "serving")
SEEN_BYTES = len(PHASES) + 4
"""Of a file that a life keeps for who kills it: a byte for each phase that it is in, and how many answers it gave."""


def spec_of(kind: str, epoch: str) -> ModelSpec:
    """The model of a kind: the default learner with few slots, with a fault of its own; its whole log is kept."""
    learner = {"kind": "poisoned", "how": HOW[kind], "pause": PAUSE.get(kind, 0.0), "cell": {"units": 4}}
    return ModelSpec.model_validate(
        {
            "name": f"{kind}-{epoch}",
            "features": list(FEATURES),
            "target": {"kind": "binary"},
            "learner": learner,
            "deployment": {"slots": 20, "snapshot_every": 500, "dedupe_window": 10_000_000},
        }
    )


def specs(epoch: str) -> list[ModelSpec]:
    """All models of an epoch."""
    return [spec_of(kind, epoch) for kind in KINDS]


def events_of(kind: str, seed: int) -> Batch:
    """The events of a model; the marked ones are at places drawn at random."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    x = rng.normal(size=(EVENTS, len(FEATURES))).astype(np.float32)
    y = (x[:, 0] + rng.normal(size=EVENTS) > 0).astype(float)
    if kind in MARKED:
        x[rng.random(EVENTS) < 1 / MARKED[kind], 0] = MARK
    return Batch.of(x, y, key=Keys.pack(b"k%d" % number for number in rng.integers(0, KEYS, EVENTS)))


def live(order: dict[str, Any], say: Say) -> None:
    """Runs a shard until it is killed; or, if it is the last life of an epoch, until all is folded, and tells it.

    Args:
        order: `redis`, `epoch`, `seed`, `life`, `folder` of what is acknowledged, `address` of the process to fork,
            `split` (whether to split), `last`.
        say: takes a line.
    """
    asyncio.run(Life(order, say).run())


class Life:
    """See `live`."""

    def __init__(self, order: dict[str, Any], say: Say) -> None:
        self._order = order
        self._say = say
        self._rng = np.random.default_rng([order["seed"], order["life"]])
        folder = Path(order["folder"])
        with (folder / "phases").open("r+b") as file:
            self._phases = mmap.mmap(file.fileno(), SEEN_BYTES)
        self._ledgers = {
            kind: os.open(folder / kind, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600) for kind in KINDS
        }
        self._folder = folder
        self._answers = 0

    async def run(self) -> None:
        """See `live`."""
        order = self._order

        def exit(cause: BaseException) -> None:
            self._say(f"exit {type(cause).__name__} {cause}")
            os._exit(17)

        self._shard = shard = Shard(ShardConfig(order["redis"]), exit)
        shard.revival.start_trial = lambda asked: Forked(order["address"], TRIAL, asked)
        watching = asyncio.create_task(self._watch())
        with self._in("starting"):
            await shard.start("127.0.0.1:1")
            for spec in specs(order["epoch"]):
                if shard.maps.of(spec.name) is None:
                    await models.create(shard, pb.CreateModelRequest(spec_json=spec.to_json(), exist_ok=True), b"")
        if order["last"]:
            self._say(json.dumps(await self._settled()))
            watching.cancel()
            return
        work = [self._stream(kind) for kind in KINDS if kind != SPLITS] + [self._update(), self._snapshots()]
        if order["split"]:
            work.append(self._split())
        with self._in("serving"):
            await asyncio.gather(*work)
            await asyncio.Event().wait()

    @contextmanager
    def _in(self, phase: str) -> Any:
        at = PHASES.index(phase)
        self._phases[at] = 1
        try:
            yield
        finally:
            self._phases[at] = 0

    async def _watch(self) -> None:
        """Says in which phases the shard is, for who kills it."""
        while True:
            states = {partition.state for partition in self._shard.partitions.values()}
            self._phases[PHASES.index("rebuilding")] = "rebuilding" in states
            self._phases[PHASES.index("trial")] = self._shard.revival.trying
            await asyncio.sleep(0.001)

    def _acknowledged(self, kind: str, number: int, answer: Answer) -> None:
        values = answer.value.view(np.int64).tolist()
        line = [number, answer.position, values, answer.outcome.tolist()]
        os.write(self._ledgers[kind], json.dumps(line).encode() + b"\n")
        self._answers += 1
        self._phases[len(PHASES) :] = self._answers.to_bytes(4, "little")

    async def _rest(self, kind: str) -> None:
        await asyncio.sleep(float(self._rng.random()) * REST[kind])

    async def _stream(self, kind: str) -> None:
        """A producer with a few batches under way, which goes on where the log ends after every fault."""
        spec = spec_of(kind, self._order["epoch"])
        events, schema = events_of(kind, self._order["seed"]), Schema.of(spec)
        at = 0
        while at < len(events):
            waiting: deque[asyncio.Future[Answer]] = deque()
            try:
                partition = await self._shard.serving(spec.name, "0")
                at = (await partition.producer("p")).next_sequence
                while at < len(events):
                    stop = min(len(events), at + int(self._rng.integers(1, 40)))
                    columns = columns_of(events.slice(at, stop), schema)
                    request = pb.LearnRequest(model=spec.name, producer="p", sequence=at, columns=columns)
                    answer = await partition.learn(request, request.SerializeToString())
                    answer.add_done_callback(partial(self._note, kind, at))
                    waiting.append(answer)
                    at = stop
                    await self._rest(kind)
                    while len(waiting) > 3:
                        await waiting.popleft()
            except errors.Refused:
                await asyncio.sleep(0.002)

    def _note(self, kind: str, number: int, done: asyncio.Future[Answer]) -> None:
        if not done.cancelled() and done.exception() is None and len(done.result().value):
            self._acknowledged(kind, number, done.result())

    async def _update(self) -> None:
        """Single updates, one after the other; the one that was under way at the last death is sent again."""
        spec = spec_of(SPLITS, self._order["epoch"])
        events = events_of(SPLITS, self._order["seed"])
        at = len((self._folder / SPLITS).read_bytes().splitlines())
        while at < len(events):
            key, features = events.key[at], dict(zip(FEATURES, events.x[at].tolist()))
            event = event_from(features, int(events.y[at]), key=key, time=None, id=str(at))
            request = pb.UpdateRequest(model=spec.name, event=event)
            try:
                part = self._shard.find(spec.name, key_hash(request.event.key))
                partition = await self._shard.serving(spec.name, part.id)
                answer = await partition.update(request, request.SerializeToString())
                self._acknowledged(SPLITS, at, answer)
                at += 1
                await self._rest(SPLITS)
            except errors.Refused:
                await asyncio.sleep(0.002)

    async def _snapshots(self) -> None:
        while True:
            await asyncio.sleep(float(self._rng.exponential(0.05)))
            places = sorted(self._shard.snapshots)
            place = places[int(self._rng.integers(len(places)))]
            if self._shard.partitions[place].state == "serving":
                with self._in("snapshot"), suppress(errors.Refused, StoreError):
                    await self._shard.snapshots[place].take()

    async def _split(self) -> None:
        spec = spec_of(SPLITS, self._order["epoch"])
        await asyncio.sleep(float(self._rng.random()) * 0.1)
        held = self._shard.maps.of(spec.name)
        while held is None or len(held.partitions) == 1:
            with self._in("split"), suppress(errors.Refused):
                await self._shard.resharding.split(spec.name, "0", 2, ["shard-0"])
            await asyncio.sleep(0.005)
            held = self._shard.maps.of(spec.name)

    async def _settled(self) -> dict[str, list[dict[str, Any]]]:
        """By model its partitions, with digest, position and counts, once all of its log is folded."""
        found: dict[str, list[dict[str, Any]]] = {}
        for kind in KINDS:
            name = spec_of(kind, self._order["epoch"]).name
            held = self._shard.maps.of(name)
            assert held is not None
            found[kind] = []
            for part in held.partitions:
                found[kind].append(await self._told(name, part.id))
        return found

    async def _told(self, name: str, id: str) -> dict[str, Any]:
        while True:
            partition = self._shard.partitions.get((name, id))
            if partition is not None and partition.state == "failed":
                return {"id": id, "failed": partition.reason}
            try:
                request = pb.GetStatisticsRequest(name=name, partition=id, digest=True)
                said = await models.statistics(self._shard, request, b"")
            except errors.Refused:
                await asyncio.sleep(0.01)
                continue
            return {"id": id, "digest": said.digest, "position": said.position, "counts": dict(said.counts)}
