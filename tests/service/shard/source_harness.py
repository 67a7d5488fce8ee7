"""A consumer on the loop of the tests' shard, and the log that it has to fill."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from shard_harness import FEATURES, OPEN, one_loop, spec_of, until

from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import decode_learn
from service.sources.consumer import Consumer
from service.store.connect import connect
from service.store.partition import Partition as Store
from service.wire import Schema
from streams.batch import Batch
from streams.reach import Reach


def sourced(name: str, *sources: dict[str, Any], kind: str = "binary", **rest: Any) -> ModelSpec:
    fields = {"key": "card"}
    given = [{**source, "fields": fields | source.get("fields", {})} for source in sources]
    return spec_of(name, kind, sources=given, **rest)


def made_events(rows: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, len(FEATURES))).astype(np.float32)
    x[:, 0] = np.arange(rows)  # each event says which one it is
    y = (rng.random(rows) < 0.5).astype(float)
    return Batch.of(x, y, key=[b"k%d" % k for k in rng.integers(0, 9, rows)])


class Running:
    """One consumer, running."""

    def __init__(
        self, target: str, spec: ModelSpec, store: str, number: int = 0, reach: Reach = OPEN
    ) -> None:
        async def make() -> Consumer:
            return Consumer(spec, number, target, store, reach)

        self.consumer = asyncio.run_coroutine_threadsafe(make(), one_loop()).result(10)
        self.run = asyncio.run_coroutine_threadsafe(self.consumer.run(), one_loop())

    @property
    def state(self) -> Any:
        return self.consumer.state

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        one_loop().call_soon_threadsafe(self.consumer.stop)
        self.run.result(30)


def log_of(store: str, spec: ModelSpec) -> tuple[Batch | None, list[tuple[str, int, int, int]]]:
    """Every event in the log of a model; and of every request the producer, its numbers, and its events."""
    client = connect(store)
    batches, numbers = [], []
    for entry in Store(client, "continual", spec.name).read(0):
        for message in entry.messages:
            request = pb.LearnRequest.FromString(message[1:])
            batch = decode_learn(request, Schema.of(spec))
            numbers.append((request.producer, request.sequence, request.next_sequence, len(batch)))
            if len(batch):
                batches.append(batch)
    client.close()
    return (Batch.concat(batches) if batches else None), numbers


def logged(client: Any, spec: ModelSpec, rows: int, seconds: float = 30.0) -> None:
    """Waits until so many events are logged and folded."""
    until(lambda: client.models.statistics(spec.name).position >= rows, seconds)
