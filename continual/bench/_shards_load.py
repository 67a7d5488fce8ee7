"""Traffic to a model whose partitions change: a stream of batches, single updates of many keys, and their fate."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from continual.bench._helpers import until
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import AsyncClient, Client
from service.shard.requests import LEARN, UPDATE
from service.store.catalog import Catalog
from service.store.connect import connect
from service.store.partition import Partition as Store

FEATURES = tuple(f"f{number}" for number in range(8))
LABELS = ("DOWN", "UP")
ROWS = 128
"""Events of a batch."""
BATCH_SECONDS = 0.02
"""Between two batches: the load leaves the machine room, so that a gap is the change's and not the queue's."""


def spec_of(name: str, units: int = 16, **deployment: Any) -> ModelSpec:
    """A model that these benches change; its log is kept whole, so that it can be counted."""
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": list(FEATURES),
            "target": {"kind": "binary", "labels": LABELS},
            "learner": {"kind": "recurrent", "cell": {"units": units}},
            "deployment": {"dedupe_window": 10_000_000, **deployment},
        }
    )


@dataclass
class Load:
    """Feeds a model until it is stopped; use as a context manager.

    Args:
        target: host:port of a shard.
        model: its name.
        keys: of the stream.
        probes: keys that are updated one event after the other, each on its own, all at once.

    Attributes:
        sent: ids of events that were answered.
        answers: of each probe, when its updates were answered (`perf_counter`).
    """

    target: str
    model: str
    keys: int = 2000
    probes: int = 50
    sent: list[str] = field(default_factory=list)
    answers: list[list[float]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _errors: list[BaseException] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.answers = [[] for _ in range(self.probes)]
        for work in (self._stream, lambda: asyncio.run(self._probe())):
            self._threads.append(threading.Thread(target=self._guarded, args=(work,), daemon=True))
            self._threads[-1].start()
        until(lambda: bool(self._errors) or (all(self.answers) and len(self.sent) > 5 * ROWS), 60, "the load")
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)

    def _batches(self) -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for number in range(10**9):
            if self._stop.is_set():
                return
            x = rng.normal(size=(ROWS, len(FEATURES))).astype(np.float32)
            y = np.where(x[:, 0] > 0, "UP", "DOWN").tolist()
            key = [f"k{k}" for k in rng.integers(0, self.keys, ROWS)]
            yield {"x": x, "y": y, "key": key, "id": [f"s{number}-{row}" for row in range(ROWS)]}
            time.sleep(BATCH_SECONDS)

    def _stream(self) -> None:
        with Client(self.target) as client:
            for number, result in enumerate(client.learn(self.model, self._batches(), in_flight=4, timeout=120)):
                self.sent.extend(f"s{number}-{row}" for row in range(result.rows))

    async def _probe(self) -> None:
        async with AsyncClient(self.target) as client:
            await asyncio.gather(*(self._one(client, probe) for probe in range(self.probes)))

    async def _one(self, client: AsyncClient, probe: int) -> None:
        features = dict.fromkeys(FEATURES, 0.5)
        for number in range(10**9):
            if self._stop.is_set():
                return
            id = f"p{probe}-{number}"
            await client.update(self.model, features, "UP", key=f"probe{probe}", id=id, timeout=120)
            self.answers[probe].append(time.perf_counter())
            self.sent.append(id)
            await asyncio.sleep(0.05)

    def gaps(self, start: float, stop: float) -> list[float]:
        """Of every probe, the longest time without an answer between `start` and `stop`, in seconds."""
        found = []
        for times in self.answers:
            inside = [at for at in times if start <= at <= stop]
            found.append(max(np.diff([start, *inside, stop])))
        return found


def logged(url: str, model: str) -> Counter[str]:
    """How often each event id stands in the logs of a model, of partitions that are and that were."""
    client = connect(url)
    held = Catalog(client, "continual").map_of(model)
    assert held is not None
    found: Counter[str] = Counter()
    for id in [*held.retired, *(part.id for part in held.partitions)]:
        store = Store(client, "continual", model, id)
        for entry in store.read(store.first_position()):
            for message in entry.messages:
                if message[:1] == UPDATE:
                    found[pb.UpdateRequest.FromString(message[1:]).event.id] += 1
                elif message[:1] == LEARN:
                    columns = pb.LearnRequest.FromString(message[1:]).columns
                    ends = np.cumsum(np.frombuffer(columns.id_length, "<u4")).tolist()
                    found.update(columns.id[a:b].decode() for a, b in zip([0, *ends], ends))
    client.close()
    return found


def lost_and_doubled(sent: list[str], found: Counter[str]) -> tuple[int, int]:
    """Answered events that no log holds, and events that logs hold more than once."""
    return sum(id not in found for id in set(sent)), sum(count > 1 for count in found.values())


def layout(url: str, model: str) -> str:
    """The partitions of a model and their shards, for a note."""
    held = Catalog(connect(url), "continual").map_of(model)
    assert held is not None
    return json.dumps({part.id: part.shard for part in held.partitions})
