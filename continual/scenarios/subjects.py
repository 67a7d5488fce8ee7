"""Who is examined: a learner in this process, or the same spec behind a running service. Both answer alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from continual.metrics.cost import state_bytes
from learners.spec import ModelSpec
from streams.batch import Batch, LabelValue

MESSAGE = 2 << 20
"""Bytes of features in one message, about."""


@dataclass(frozen=True)
class Said:
    """Predictions of n events, before they were learned.

    Attributes:
        value: float64 [n]; a number, or the probability of the second class of two, or of the likeliest of several.
        code: int64 [n], index in the scenario's labels, -1: none (all of them for a regression).
        given: float64 [n], the probability given to the label that came; NaN: not told.
    """

    value: np.ndarray
    code: np.ndarray
    given: np.ndarray


class Subject(Protocol):
    """Learns and predicts. `seconds` have gone into learning so far."""

    seconds: float

    def learn(self, batch: Batch) -> Said:
        """Predicts and learns each event in order."""

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Changes nothing. Returns codes as in `Said`, and probabilities float64 [n, labels] (0 of a class not met)."""

    def state_bytes(self) -> int | None:
        """Bytes of state; None: not told."""

    def digest(self) -> str:
        """Of the state."""


def _places(known: Sequence[LabelValue], labels: Sequence[LabelValue]) -> np.ndarray:
    """int64: the index in `labels` of each known class, and -1 for none at the end."""
    index = {label: place for place, label in enumerate(labels)}
    return np.array([*(index[label] for label in known), -1], np.int64)


def _table(
    places: np.ndarray, code: np.ndarray, probabilities: np.ndarray | None, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    table = np.zeros((len(code), labels))
    if probabilities is not None and len(places) > 1:
        table[:, places[:-1]] = probabilities
    return places[code], table


class InProcess:
    """A learner that is folded here."""

    def __init__(self, spec: ModelSpec, labels: Sequence[LabelValue]) -> None:
        self.learner: Any = spec.learner.build(spec)
        self.labels, self.seconds = labels, 0.0
        self._numbers = spec.target.kind == "regression"

    def learn(self, batch: Batch) -> Said:
        """See `Subject`."""
        start = time.perf_counter()
        folded = self.learner.fold(batch)
        self.seconds += time.perf_counter() - start
        if self._numbers:
            return Said(folded.value, np.full(len(batch), -1), np.full(len(batch), np.nan))
        given = folded.scored[:, 0]
        if len(self.labels) == 2 and not batch.classes:
            given = np.where(batch.y == 1, folded.value, 1 - folded.value)
        return Said(folded.value, _places(self.learner.classes(), self.labels)[folded.code], given)

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """See `Subject`."""
        said = self.learner.predict(batch, probabilities=True)
        return _table(_places(self.learner.classes(), self.labels), said.code, said.probabilities, len(self.labels))

    def state_bytes(self) -> int | None:
        """See `Subject`."""
        return state_bytes(self.learner)

    def digest(self) -> str:
        """See `Subject`."""
        return self.learner.digest()


class Served:
    """The same spec in a service, over gRPC. A reply does not tell the probability of the label that came."""

    def __init__(self, client: Any, spec: ModelSpec, labels: Sequence[LabelValue]) -> None:
        self.client, self.model, self.labels, self.seconds = client, spec.name, labels, 0.0
        self._sent = 0
        client.models.create(spec)

    def learn(self, batch: Batch) -> Said:
        """See `Subject`."""
        start = time.perf_counter()
        producer = {"producer": f"bench-{self.model}", "first_sequence": self._sent}
        replies = [reply.predictions for reply in self.client.learn(self.model, self._cut(batch), **producer)]
        self.seconds += time.perf_counter() - start
        self._sent += len(batch)
        value = np.concatenate([reply.value for reply in replies])
        unknown = np.full(len(batch), np.nan)
        if not len(replies[0].code):
            return Said(value, np.full(len(batch), -1), unknown)
        code = np.concatenate([_places(reply.labels, self.labels)[reply.code] for reply in replies])
        return Said(value, code, unknown)

    def predict(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """See `Subject`."""
        parts = []
        for piece in self._cut(batch):
            said = self.client.predict(self.model, piece.x, probabilities=True)
            places = _places(said.labels, self.labels)
            parts.append(_table(places, said.code, said.probabilities, len(self.labels)))
        code, table = (np.concatenate(column) for column in zip(*parts))
        return code, table

    def _cut(self, batch: Batch) -> list[Batch]:
        rows = max(1, MESSAGE // max(1, 4 * batch.x.shape[1]))
        return [batch.slice(at, min(at + rows, len(batch))) for at in range(0, len(batch), rows)]

    def state_bytes(self) -> int | None:
        """See `Subject`."""
        return None

    def digest(self) -> str:
        """See `Subject`."""
        return self.client.models.statistics(self.model, digest=True).digest

    def close(self) -> None:
        """Removes the model from the service."""
        self.client.models.delete(self.model)
