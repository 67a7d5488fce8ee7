"""From the log and what the fold said of it to the records that a sink takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from learners.base import Folded
from learners.spec import BinaryTarget, ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import LEARN, UPDATE, decode_learn
from service.store.answers import Said
from service.store.partition import Partition as Store
from service.wire import Schema, decode_event
from streams.batch import Batch
from streams.metrics import CLIP
from streams.sinks.target import Record

KINDS = ("observation", "labelled", "label")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode
OUTCOMES = [(pb.Outcome.Value(name), name.removeprefix("OUTCOME_").lower()) for name in pb.Outcome.keys()][1:]  # noqa: SIM118


class Records:
    """Makes the records of one model.

    Args:
        spec: of the model.
        store: its partition.
    """

    def __init__(self, spec: ModelSpec, store: Store) -> None:
        self._spec = spec
        self._store = store
        self._schema = Schema.of(spec)
        self._classes: list[int | str] = []

    def read(self, position: int) -> tuple[int, list[Record]]:
        """The records from `position` on, some entries of the answers at most; and the position after them.

        Raises:
            service.store.errors.LogMismatch: `position` is no longer retained.
            service.store.errors.StoreUnavailable: the store cannot serve now.
        """
        said = list(self._store.read_answers(position))
        if not said:
            return position, []
        end = said[-1].end
        folded = Folded.concat([one.folded for one in said]) if len(said) > 1 else said[0].folded
        folded = folded.take(slice(position - said[0].position, end - said[0].position))
        batch, ids = self._events(position, end)
        return end, list(self._records(Said(position, folded), batch, ids))

    def _events(self, first: int, end: int) -> tuple[Batch, list[str]]:
        """The events of the log from `first` to `end`, and their ids as text."""
        batches, ids, start = [], [], -1
        for entry in self._store.read(first, end):
            start = entry.position if start < 0 else start
            for message in entry.messages:
                if message[:1] == LEARN:
                    request = pb.LearnRequest.FromString(message[1:])
                    batches.append(decode_learn(request, self._schema))
                    ids += _ids_of(request.columns, len(batches[-1]))
                elif message[:1] == UPDATE:
                    event = pb.UpdateRequest.FromString(message[1:]).event
                    batches.append(decode_event(event, self._schema))
                    ids.append(event.id)
        batch = Batch.concat([batch for batch in batches if len(batch)])
        return batch.slice(first - start, end - start), ids[first - start : end - start]

    def _records(self, said: Said, batch: Batch, ids: list[str]) -> Iterator[Record]:
        folded, target = said.folded, self._spec.target
        made = ~np.isnan(folded.scored[:, 3])  # a label met its prediction, here or, if it came late, then
        code = np.where((folded.code < 0) & made, np.nan_to_num(folded.scored[:, 1], nan=-1), folded.code).astype(int)
        value = np.where(np.isnan(folded.value) & (target.kind != "multiclass"), folded.scored[:, 0], folded.value)
        predicted = self._named(code.tolist()) if target.kind != "regression" else _plain(value)
        labels = self._labels(batch)
        columns = {
            "value": _plain(value),
            "probability": _plain(np.maximum(value, 1 - value)) if target.kind == "binary" else None,
            "loss": _plain(_loss(target.kind, folded.scored)),
            "interval": _plain(folded.scored[:, 4]) if target.kind == "regression" else None,
        }
        shown = [(name, column) for name, column in columns.items() if column is not None]
        outcomes = [[name for flag, name in OUTCOMES if code & flag] for code in range(256)]
        beside = {"model": self._spec.name, "partition": "0"}
        times, kinds, outcome = batch.time.tolist(), batch.kind.tolist(), folded.outcome.tolist()
        for row in range(len(batch)):
            key = batch.key[row]
            held: dict[str, Any] = {**beside, "position": said.position + row, "kind": KINDS[kinds[row]]}
            if ids[row]:
                held["id"] = ids[row]
            held["key"] = key.decode(errors="backslashreplace")
            if times[row]:
                held["time_us"] = times[row]
            held["predicted"] = predicted[row]
            held |= {name: column[row] for name, column in shown}
            held["label"] = labels[row]
            held["outcome"] = outcomes[outcome[row]]
            yield Record(said.position + row, key, times[row], _ENCODE(held).encode())

    def _named(self, codes: list[int]) -> list[int | str | None]:
        if isinstance(self._spec.target, BinaryTarget):
            classes: list[int | str] = list(self._spec.target.labels)
        else:
            if max(codes, default=-1) >= len(self._classes):
                self._classes = self._store.classes()
            classes = self._classes
        return [classes[code] if code >= 0 else None for code in codes]

    def _labels(self, batch: Batch) -> list[Any]:
        if self._spec.target.kind == "regression":
            return _plain(batch.y)
        classes = self._spec.target.labels if isinstance(self._spec.target, BinaryTarget) else batch.classes
        return [None if code != code else classes[int(code)] for code in batch.y.tolist()]  # noqa: PLR0124 (NaN)


def _ids_of(columns: pb.Columns, rows: int) -> list[str]:
    if not columns.id_length:
        return [""] * rows
    ends = np.cumsum(np.frombuffer(columns.id_length, "<u4")).tolist()
    return [columns.id[start:end].decode() for start, end in zip([0, *ends], ends)]


def _loss(kind: str, scored: np.ndarray) -> np.ndarray:
    """Of the prediction as it was made: log-loss of a class, absolute error of a number; NaN where there is none."""
    if kind == "regression":
        return np.abs(scored[:, 0] - scored[:, 3])
    given = scored[:, 0] if kind == "multiclass" else np.where(scored[:, 3] == 1, scored[:, 0], 1 - scored[:, 0])
    return -np.log(np.maximum(given, CLIP))


def _plain(column: np.ndarray) -> list[float | None]:
    """Numbers for JSON, which has no NaN and no infinity."""
    return [value if ok else None for value, ok in zip(column.tolist(), np.isfinite(column).tolist())]
