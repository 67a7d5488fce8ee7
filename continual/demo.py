"""The demonstration: a real stream through a service, one shard killed midway, the proof that nothing was lost.

Shuttle, 49,097 events -> gRPC -> shard (killed with SIGKILL) -> the same bits as a fold that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from continual.data import SHUTTLE, shuttle
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.serve import Deployment
from service.shard.config import DEPLOYMENT
from service.shard.requests import LEARN
from service.store.connect import connect
from service.store.partition import Partition as Store
from streams.batch import Batch
from streams.metrics import Classification

PRODUCER = "demo"
BLOCK_ROWS = 256
BACK_SECONDS = 0.5
"""A wait for an answer that is longer than this was for a new process."""

OURS, NO_CHANGE, MAJORITY = "continual", "no change", "majority"

SPEC = ModelSpec.model_validate(
    {
        "name": "shuttle",
        "features": list(SHUTTLE.features),
        "target": {"kind": "binary"},
        # One snapshot is taken on the way, by a call: so the log still holds every event when it is counted.
        "deployment": {"snapshot_every": 1_000_000_000},
    }
)


class Rival:
    """A River model on the same events: it predicts each, then learns it.

    Attributes:
        name: shown in tables.
        metrics: over its predictions.
        seconds: spent in its own calls.
    """

    def __init__(self, name: str, model: Any) -> None:
        self.name = name
        self.metrics = Classification()
        self.seconds = 0.0
        self._model = model

    def take(self, batch: Batch) -> None:
        """Predicts and learns every event of a batch."""
        rows = [dict(zip(SHUTTLE.features, row)) for row in batch.x.tolist()]
        labels = [bool(label) for label in batch.y.tolist()]
        predict, learn, given = self._model.predict_proba_one, self._model.learn_one, []
        began = time.perf_counter()
        for x, y in zip(rows, labels):
            given.append(predict(x))
            learn(x, y)
        self.seconds += time.perf_counter() - began
        probability = np.array([one.get(True, 0.0) if one else 0.5 for one in given])
        self.metrics.update_binary(np.clip(probability, 0.0, 1.0), batch.y)


def rivals() -> list[Rival]:
    """River's scaled logistic regression and Hoeffding tree, at their defaults."""
    from river import linear_model, preprocessing, tree

    linear = preprocessing.StandardScaler() | linear_model.LogisticRegression()
    return [
        Rival("River logistic regression", linear),
        Rival("River Hoeffding tree", tree.HoeffdingTreeClassifier()),
    ]


def events(limit: int | None) -> Batch:
    """The stream, or its first events."""
    batch = shuttle()
    return batch if limit is None else batch.slice(0, min(limit, len(batch)))



@dataclass
class Run:
    """The stream on its way through the service.

    Attributes:
        batch: all events.
        acknowledged: events whose answer came.
        predictions: float64 [n], as they came; NaN where an answer had none any more.
        curves: name -> rows of (events, error rate, kappa) over the events so far.
        killed_pid: process that was killed; 0 before.
        killed_at: events acknowledged then.
        outage: seconds of the longest wait for an answer after the kill.
        status: one line for the spectator.
    """

    batch: Batch
    rivals: list[Rival]
    acknowledged: int = 0
    predictions: np.ndarray = field(default_factory=lambda: np.zeros(0))
    metrics: Classification = field(default_factory=Classification)
    curves: dict[str, list[tuple[int, float, float]]] = field(default_factory=dict)
    killed_pid: int = 0
    killed_at: int = 0
    snapshot_at: int = 0
    outage: float = 0.0
    seconds: float = 0.0
    status: str = "starting"

    def __post_init__(self) -> None:
        self.predictions = np.full(len(self.batch), np.nan)
        self._mark = -1

    def stream(self, client: Client, owner: Callable[[], int], on_block: Callable[[], None]) -> None:
        """Sends everything; takes a snapshot at a third, kills the owner of the model at the half.

        Args:
            client: of the service, where the model exists.
            owner: gives the process id of the shard that owns it.
            on_block: called after every answer.
        """
        began = time.perf_counter()
        n = len(self.batch)
        self.status = "streaming"
        learning = client.learn(SPEC.name, self._blocks(), producer=PRODUCER)
        answered = began
        for result in learning:
            waited, answered = time.perf_counter() - answered, time.perf_counter()
            self._take(result)
            if not self.snapshot_at and self.acknowledged >= n // 3:
                self.snapshot_at = client.models.snapshot(SPEC.name).position
            if not self.killed_pid and self.acknowledged >= n // 2:
                self.killed_pid, self.killed_at = owner(), self.acknowledged
                os.kill(self.killed_pid, signal.SIGKILL)
                self._mark = learning.session.sequence
                answered = time.perf_counter()
                self.status = f"killed process {self.killed_pid} (SIGKILL) at {self.killed_at:,} events; waiting for it"
            elif self._mark >= 0:
                # What was sent before the kill is answered at once (it was on its way here) or after the wait.
                self.outage = max(self.outage, waited)
                if waited > BACK_SECONDS or result.sequence >= self._mark:
                    self.status = f"back {self.outage:.1f} s after the kill of process {self.killed_pid}, streaming"
                if result.sequence >= self._mark:
                    self._mark = -1
            on_block()
        self.seconds = time.perf_counter() - began

    def _blocks(self) -> Iterator[Batch]:
        for start in range(0, len(self.batch), BLOCK_ROWS):
            block = self.batch.slice(start, min(start + BLOCK_ROWS, len(self.batch)))
            for rival in self.rivals:
                rival.take(block)
                self._point(rival.name, rival.metrics)
            yield block

    def _take(self, result: Any) -> None:
        rows = slice(result.sequence, result.sequence + result.rows)
        self.acknowledged += result.rows
        if len(result.predictions) != result.rows:
            return
        self.predictions[rows] = result.predictions.value
        self.metrics.update_binary(result.predictions.value, self.batch.y[rows])
        self._point(OURS, self.metrics)
        values, n = self.metrics.values(), self.metrics.events
        self._curve(NO_CHANGE, n, 1 - values["no_change"], float("nan"))
        self._curve(MAJORITY, n, 1 - values["majority"], float("nan"))

    def _point(self, name: str, metrics: Classification) -> None:
        values = metrics.values()
        self._curve(name, metrics.events, 1 - values["accuracy"], values["kappa"])

    def _curve(self, name: str, n: int, error: float, kappa: float) -> None:
        self.curves.setdefault(name, []).append((n, error, kappa))

    def table(self) -> list[dict[str, Any]]:
        """The prequential scores so far, one row for each learner; log_loss and kappa are NaN for the trivial ones."""
        rows = []
        for name, metrics in [(OURS, self.metrics), *((rival.name, rival.metrics) for rival in self.rivals)]:
            values = metrics.values()
            rows.append({"learner": name, **{key: values[key] for key in ("accuracy", "kappa", "log_loss")}})
        values, nan = self.metrics.values(), float("nan")
        for name, key in ((MAJORITY, "majority"), (NO_CHANGE, "no_change")):
            rows.append({"learner": name, "accuracy": values[key], "kappa": nan, "log_loss": nan})
        return rows


def owner_pid(deployment: Deployment) -> int:
    """Process of the shard that owns the model, by the record in the store."""
    client = connect(deployment.redis_url)
    try:
        held = Store(client, DEPLOYMENT, SPEC.name).owner()
    finally:
        client.close()
    assert held is not None
    return held[1].pid


def census(redis_url: str) -> dict[str, int]:
    """Counts the events of the log by producer and sequence.

    Returns:
        `logged`: events from position 0 on; `twice`: events that are there more than once.

    Raises:
        service.store.errors.LogMismatch: positions are not dense.
    """
    client = connect(redis_url)
    seen: list[np.ndarray] = []
    logged = 0
    try:
        for entry in Store(client, DEPLOYMENT, SPEC.name).read(0):
            logged += entry.count
            for message in entry.messages:
                assert message[:1] == LEARN
                request = pb.LearnRequest.FromString(message[1:])
                seen.append(np.arange(request.sequence, request.sequence + request.columns.rows))
    finally:
        client.close()
    sequences = np.concatenate(seen) if seen else np.zeros(0, np.int64)
    return {"logged": logged, "twice": len(sequences) - len(np.unique(sequences))}


def uninterrupted(batch: Batch) -> tuple[str, np.ndarray, float]:
    """The same events folded here without a fault: digest, predictions float64 [n], seconds."""
    SPEC.learner.build(SPEC).fold(batch.slice(0, 1))  # loads the compiled code
    learner = SPEC.learner.build(SPEC)
    began = time.perf_counter()
    folded = learner.fold(batch)
    seconds = time.perf_counter() - began
    return learner.digest(), folded.value, seconds


@dataclass(frozen=True)
class Check:
    """One line of the proof: what, what was found, what it must be."""

    what: str
    found: Any
    expected: Any

    @property
    def holds(self) -> bool:
        """Whether it is as it must be."""
        return self.found == self.expected


def prove(run: Run, client: Client, deployment: Deployment) -> tuple[list[Check], float]:
    """Compares the service with an uninterrupted fold; also returns the seconds which that took."""
    n = len(run.batch)
    stats = client.models.statistics(SPEC.name, digest=True)
    counted = census(deployment.redis_url)
    digest, predictions, seconds = uninterrupted(run.batch)
    answered = ~np.isnan(run.predictions)
    same = int(np.count_nonzero(run.predictions[answered] == predictions[answered]))
    replaced = run.killed_pid > 0 and owner_pid(deployment) != run.killed_pid
    checks = [
        Check("events sent and acknowledged", run.acknowledged, n),
        Check("events in the log, positions without a gap", counted["logged"], n),
        Check("events in the log twice, by producer and sequence", counted["twice"], 0),
        Check("events folded by the service", stats.position, n),
        Check("a shard was killed and another process took over", replaced, True),
        Check("predictions equal to those of the uninterrupted fold, bit for bit", same, int(answered.sum())),
        Check("SHA-256 of the state, against the uninterrupted fold", stats.digest, digest),
    ]
    return checks, seconds
