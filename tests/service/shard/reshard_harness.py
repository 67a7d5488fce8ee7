"""Partitions that are cut and joined: what their logs hold, and the fold that each has to equal."""

from __future__ import annotations

import numpy as np
from shard_harness import FEATURES, events

from learners.base import Learner, MemoryRows
from learners.exchange import Arrays
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import EXCHANGED, LEARN, PREPARED
from service.store.catalog import Catalog
from service.store.connect import connect
from service.store.partition import Partition as Store
from service.store.partition_map import ModelMap, Range
from service.store.tensors import unpack
from service.wire import Schema, decode_columns, decode_event, key_hash
from streams.batch import Batch

X = dict(zip(FEATURES, (0.5, -0.25, 1.0)))


def map_of(url: str, model: str) -> ModelMap:
    """The map that is committed."""
    held = Catalog(connect(url), "continual").map_of(model)
    assert held is not None
    return held


def logged(url: str, spec: ModelSpec, id: str) -> list[tuple[list[str], Batch | Arrays]]:
    """What the log of a partition holds: ids and events of each request, and what others gave (no ids)."""
    store = Store(connect(url), "continual", spec.name, id)
    out: list[tuple[list[str], Batch | Arrays]] = []
    for entry in store.read(store.first_position()):
        for message in entry.messages:
            if message[:1] == PREPARED:
                continue
            if message[:1] == EXCHANGED:
                out.append(([], unpack(message[1:])))
                continue
            if message[:1] != LEARN:
                event = pb.UpdateRequest.FromString(message[1:]).event
                out.append(([event.id], decode_event(event, Schema.of(spec))))
                continue
            columns = pb.LearnRequest.FromString(message[1:]).columns
            if columns.rows:
                ends = np.cumsum(np.frombuffer(columns.id_length, "<u4")).tolist()
                ids = [columns.id[a:b].decode() for a, b in zip([0, *ends], ends)]
                out.append((ids, decode_columns(columns, Schema.of(spec))))
    return out


def all_ids(url: str, spec: ModelSpec) -> list[str]:
    """The id of every event that any log of the model holds, of partitions that are and that were."""
    held = map_of(url, spec.name)
    ids = [*held.retired, *(part.id for part in held.partitions)]
    return [one for id in ids for batch, _ in logged(url, spec, id) for one in batch]


class Folds:
    """Folds the logs of a model as its partitions should have: children from their parents' state."""

    def __init__(self, url: str, spec: ModelSpec) -> None:
        self._url = url
        self.spec = spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"slots": 65_536})})
        self.done: dict[str, tuple[Learner, dict[bytes, tuple[int, bytes]]]] = {}

    def fold(self, part: Range, parents: list[str] | None = None) -> Learner:
        """The state of a partition, of parents that were folded before."""
        learner = self.spec.learner.build(self.spec)
        rows = MemoryRows()
        if parents:
            states = [self.done[id] for id in parents]
            donor, _ = max(states, key=lambda state: state[0].position)
            for _, held in states:
                inside = [
                    (key, *row) for key, row in held.items() if part.low <= key_hash(key) < part.high
                ]
                rows.put_rows(inside)
            learner.load(donor.shared_arrays(), rows)
            if self.spec.deployment.exchange:
                learner.begin_apart(next(id for id in parents if self.done[id][0] is donor))
        else:
            learner.attach(rows)
        for _, given in logged(self._url, self.spec, part.id):
            if isinstance(given, Batch):
                learner.fold(given)
            else:
                learner.receive(given)
        self.done[part.id] = learner, self._rows(learner, rows)
        return learner

    @staticmethod
    def _rows(learner: Learner, cold: MemoryRows) -> dict[bytes, tuple[int, bytes]]:
        """Every keyed row."""
        held = {key: row for key in cold.iter_keys() if (row := cold.get_rows([key], 0)[0]) is not None}
        learner.begin_capture(-1)
        while (piece := learner.capture(1 << 20)) is not None:
            held |= {key: (position, content) for key, position, content in piece}
        learner.end_capture()
        return held


def batches(rows: int, size: int, kind: str = "binary", keys: int = 40, seed: int = 0) -> list[dict]:
    """Events with ids, in batches as `Client.learn` takes them."""
    whole = events(kind, rows, keys=keys, seed=seed, by_id=True)
    return [{name: column[at : at + size] for name, column in whole.items()} for at in range(0, rows, size)]
