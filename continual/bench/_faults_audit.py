"""What became of every acknowledged event: looked up by identity in the log, and folded again in process."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np

from continual.bench._faults_traffic import Ledger
from learners.base import Folded, Learner
from learners.fingerprint import fingerprint
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import LEARN
from service.shard.statistics import Statistics
from service.store.partition import Partition as Store
from service.wire import Schema, decode_columns, decode_event
from streams.batch import Batch

FOLD_ROWS = 4096


@dataclass
class Logged:
    """The log of a model, decoded.

    Attributes:
        batches: its events, message by message.
        streams: by producer the position of each of its events, -1 where the log has none.
        updates: by event id the positions of that id.
        doubled: events that are there more than once.
        quarantined: positions that the fold passes over.
    """

    batches: list[Batch] = field(default_factory=list)
    streams: dict[str, np.ndarray] = field(default_factory=dict)
    updates: dict[str, list[int]] = field(default_factory=dict)
    doubled: int = 0
    quarantined: list[int] = field(default_factory=list)

    @property
    def events(self) -> int:
        """Events in the log."""
        return sum(map(len, self.batches))


def read_log(store: Store, spec: ModelSpec, ledger: Ledger) -> Logged:
    """Reads the whole log; positions are dense, or `LogMismatch` is raised.

    Raises:
        ValueError: an entry says another number of events than it holds, or holds events that nobody sent.
    """
    schema = Schema.of(spec)
    logged = Logged(quarantined=sorted(store.quarantined()))
    logged.streams = {producer: np.full(sent, -1) for producer, sent in ledger.sent.items()}
    for entry in store.read(0):
        position = entry.position
        for message in entry.messages:
            if message[:1] == LEARN:
                request = pb.LearnRequest.FromString(message[1:])
                batch = decode_columns(request.columns, schema)
                place = logged.streams[request.producer][request.sequence : request.sequence + len(batch)]
                if len(place) != len(batch):
                    raise ValueError(f"{request.producer}: the log holds rows after the last that was sent")
                logged.doubled += int((place >= 0).sum())
                place[:] = np.arange(position, position + len(batch))
            else:
                update = pb.UpdateRequest.FromString(message[1:])
                batch = decode_event(update.event, schema)
                positions = logged.updates.setdefault(update.event.id, [])
                logged.doubled += bool(positions)
                positions.append(position)
            logged.batches.append(batch)
            position += len(batch)
        if position != entry.end:
            held = position - entry.position
            raise ValueError(f"the entry at {entry.position} says {entry.count} events, holds {held}")
    return logged


@dataclass(frozen=True, slots=True)
class Audit:
    """The result; see `audit`.

    Attributes:
        logged: events in the log.
        acknowledged: events that a client was told are applied.
        lost: of those, how many the log does not hold at the position that the client was told.
        doubled: events that the log holds twice, or more.
        untold: acknowledged again after a crash, when their predictions were no longer remembered.
        mispredicted: acknowledged predictions that differ in any bit from those of the uninterrupted fold.
        digest: whether the served state equals the uninterrupted fold of the log.
        counts: whether the served counts of folded events equal those of that fold.
        file: whether it also equals the fold of the file that was sent (None: not compared).
        nonfinite: whether any number of the state is not finite.
    """

    logged: int
    acknowledged: int
    lost: int
    doubled: int
    untold: int
    mispredicted: int
    digest: bool
    counts: bool
    file: bool | None
    nonfinite: bool

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing twice, every bit as it would be without faults."""
        return not (self.lost or self.doubled) and self.consistent

    @property
    def consistent(self) -> bool:
        """The state is the fold of the log, whatever the log lost."""
        exact = self.digest and self.counts and self.file is not False
        return exact and not (self.doubled or self.mispredicted or self.nonfinite)


def audit(
    store: Store, spec: ModelSpec, ledger: Ledger, served: pb.Statistics, file: Batch | None = None
) -> Audit:
    """Holds what clients were told against the log, and the served state against folds in this process.

    Args:
        store: of the model.
        spec: of an equal learner that has no faults of its own.
        ledger: what clients were told.
        served: statistics of the model, with digest, after the last event.
        file: the events that were sent, where they were all the model got.

    Raises:
        ValueError: the model was served by other numerics than those of this process.
    """
    mine = fingerprint(spec)
    if json.loads(served.fingerprint) != mine:
        raise ValueError(f"fingerprint: served by {served.fingerprint}; accepted: this process' own, {mine}")
    logged = read_log(store, spec, ledger)
    learner, folded, statistics = fold(spec, logged.batches, logged.quarantined)
    acknowledged = lost = untold = mispredicted = 0
    value = folded.value.view(np.int64)
    told = [
        (answer.predictions, logged.streams[answer.producer][answer.sequence :][: answer.rows])
        for answer in ledger.batches
    ]
    for id, answers in ledger.updates.items():
        told += [(answer, np.array(logged.updates.get(id, [-1]))[:1]) for answer in answers[:1]]
        mispredicted += sum(answer.value.tobytes() != answers[0].value.tobytes() for answer in answers[1:])
    for predictions, positions in told:
        acknowledged += len(positions)
        missing = positions < 0
        if not len(predictions):
            untold += len(positions)
            lost += int(missing.sum())
            continue
        moved = positions != np.arange(predictions.position, predictions.position + len(positions))
        lost += int((missing | moved).sum())
        there = ~(missing | moved)
        mispredicted += int((predictions.value.view(np.int64)[there] != value[positions[there]]).sum())
    digest = learner.digest()
    return Audit(
        logged=logged.events,
        acknowledged=acknowledged,
        lost=lost,
        doubled=logged.doubled,
        untold=untold,
        mispredicted=mispredicted,
        digest=served.digest == digest and served.position == logged.events,
        counts=all(served.counts[name] == count for name, count in statistics.counts().items()),
        file=None if file is None else fold(spec, [file], [])[0].digest() == served.digest,
        nonfinite=not all(np.isfinite(array).all() for array in learner.shared_arrays().values()),
    )


def fold(spec: ModelSpec, batches: list[Batch], passed_over: list[int]) -> tuple[Learner, Folded, Statistics]:
    """Folds events in a fresh learner with every key in memory; events at `passed_over` only move the position."""
    roomy = spec.deployment.model_copy(update={"slots": 1_000_000})
    learner = spec.learner.build(spec.model_copy(update={"deployment": roomy}))
    statistics = Statistics(spec.target.kind)
    whole = Batch.concat(batches)
    parts = []
    at = 0
    for stop in [*passed_over, len(whole)]:
        while at < stop:
            piece = whole.slice(at, min(stop, at + FOLD_ROWS))
            parts.append(learner.fold(piece))
            statistics.update(parts[-1])
            at += len(piece)
        if at < len(whole):
            learner.pass_over(1)
            statistics.quarantined(1)
            parts.append(Folded.passed_over(1, pb.OUTCOME_QUARANTINED))
            at += 1
    return learner, Folded.concat(parts), statistics
