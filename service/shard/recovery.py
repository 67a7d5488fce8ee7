"""From the store back to a serving partition: the newest snapshot, then the log after it through the same fold.

A start that dies while replaying leaves a mark. The next one records every entry before it folds it, the one after
that every event of the entry that failed, and an event that fails again is quarantined: moved to the dead letters
and passed over by every later replay.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import numpy as np

from learners.base import Folded, hash_shared
from learners.fingerprint import fingerprint
from service.api import continual_v1_pb2 as pb
from service.shard.admission import Answer, UpdateWindow, payload_hash, update_id
from service.shard.partition import NOTHING, Partition
from service.shard.requests import EXCHANGED, LEARN, PREPARED, decode_learn, end_of
from service.shard.rows import StoreRows
from service.shard.statistics import Statistics
from service.store.errors import SnapshotUnreadable
from service.store.log import Entry
from service.wire import decode_event, take_columns
from streams.batch import Batch

log = logging.getLogger(__name__)

FIRST_OF_ENTRY, INSIDE_ENTRY = 3, 2
"""Attempts at which an event is quarantined: the count of an entry's first event includes that of the entry."""

REPLAY_ROWS = 8192
"""Events folded at a time: many, as after each fold the thread waits for the interpreter lock that decoding holds."""


class Logged(NamedTuple):
    """One logged request: as it came, decoded, and how its producer counts it (no producer: a unary update)."""

    message: bytes
    batch: Batch
    producer: str | None
    sequence: int
    end: int


class Recovery:
    """One start of a partition. `run` blocks and belongs in a thread; nothing else touches the partition meanwhile."""

    def __init__(self, partition: Partition) -> None:
        self._p = partition
        self.replayed = 0
        self.load_seconds = 0.0
        self.replay_seconds = 0.0
        self.same_numerics = True

    def run(self) -> int:
        """Brings the learner to the end of the log and returns that position.

        Raises:
            service.store.errors.StoreError: the store cannot serve, lost part of the log, or another owner took over.
        """
        p = self._p
        began = time.perf_counter()
        start = self._load()
        loaded = time.perf_counter()
        self.load_seconds = loaded - began
        head = p.store.head().position
        attempts = p.store.attempts()
        if attempts or p.store.quarantined():
            p.store.discard_newer(p.token, p.snapshot_position)
        if start < head and attempts:
            self._replay_recording(start, max(attempts))
        else:
            if start < head:
                p.store.record_attempt(p.token, start - 1)
            self._replay(start)
        if start < head:
            p.store.clear_attempts(p.token)
        self.replay_seconds = time.perf_counter() - loaded
        return head

    def _load(self) -> int:
        p = self._p
        snapshot = p.store.load_snapshot()
        if snapshot is None:
            p.cold = StoreRows(p.store, p.token, -1)
            p.learner.attach(p.cold)
            return 0
        manifest = snapshot.manifest
        if manifest["spec_digest"] not in p.spec.digests():
            raise SnapshotUnreadable(f"the snapshot of {p.spec.name!r} was written for another spec")
        # Of the arrays as they were written: a learner of today may hold them in another form.
        shared = {name: array for name, array in snapshot.arrays.items() if not name.startswith(UpdateWindow.PREFIX)}
        if hash_shared(shared).hexdigest() != manifest["shared_digest"]:
            raise SnapshotUnreadable(f"the snapshot of {p.spec.name!r} does not match its digest")
        p.cold = StoreRows(p.store, p.token, snapshot.position)
        p.learner.load(snapshot.arrays, p.cold)
        p.window.load(snapshot.arrays)
        p.producers.load(manifest)
        p.statistics = Statistics.from_dict(p.spec.target.kind, manifest["statistics"])
        p.snapshot_position = snapshot.position
        then, now = manifest["fingerprint"], fingerprint(p.spec)
        self.same_numerics = then == now
        if not self.same_numerics:
            names = sorted(name for name in then | now if then.get(name) != now.get(name))
            what = ", ".join(f"{name} {then.get(name, 'unknown')} then, {now.get(name, 'none')} now" for name in names)
            log.warning("model %s: numerics differ from those of its snapshot: %s", p.spec.name, what)
            p.store.discard_newer(p.token, snapshot.position)
        return snapshot.position

    def _replay(self, start: int) -> None:
        """Folds everything from `start`, up to `REPLAY_ROWS` at a time, while the next entries are read and decoded."""
        pending: list[tuple[Entry, list[Logged]]] = []
        rows = 0
        with ThreadPoolExecutor(1, "read-log") as pool:
            entries = ((entry, self._decoded(entry)) for entry in self._p.store.read(start, batch=AHEAD))
            for entry, decoded in _ahead(pool, entries):
                apart = _is_exchange(entry)
                if not apart:
                    pending.append((entry, decoded))
                    rows += entry.count
                if pending and (apart or rows >= REPLAY_ROWS):
                    self._fold(pending, start)
                    pending, rows = [], 0
                if apart:
                    self._p.fold_exchange(entry.messages[0])
        if pending:
            self._fold(pending, start)

    def _replay_recording(self, start: int, suspect: int) -> None:
        """The same, noting in the store what is about to be folded."""
        p = self._p
        for entry in p.store.read(start):
            if _is_exchange(entry):
                p.fold_exchange(entry.messages[0])
            elif entry.position <= suspect < entry.end:
                self._event_by_event(entry, start)
            else:
                if entry.count:
                    p.store.record_attempt(p.token, entry.position)
                self._fold([(entry, self._decoded(entry))], start)

    def _event_by_event(self, entry: Entry, start: int) -> None:
        p = self._p
        passed_over = p.store.quarantined()
        outcomes = []
        decoded = self._decoded(entry)
        batch = Batch.concat([one.batch for one in decoded if len(one.batch)])
        for row in range(max(0, start - entry.position), len(batch)):
            position = entry.position + row
            if position in passed_over:
                outcomes.append(self._pass_over(1))
                continue
            attempts = p.store.record_attempt(p.token, position)
            if attempts >= (FIRST_OF_ENTRY if row == 0 else INSIDE_ENTRY):
                message = self._message_of(decoded, row)
                p.store.quarantine(p.token, position, f"stopped the fold at {attempts} starts in a row", message)
                log.error("model %s: event at position %d is quarantined", p.spec.name, position)
                outcomes.append(self._pass_over(1))
                continue
            outcomes.append(self._folded(batch.slice(row, row + 1)))
        self._note(decoded, entry.position, max(0, start - entry.position), Folded.concat(outcomes))

    @staticmethod
    def _message_of(decoded: list[Logged], row: int) -> bytes:
        """The logged request that row `row` of an entry came with, without other rows."""
        for one in decoded:
            if row < len(one.batch):
                if one.producer is None:
                    return one.message
                request = pb.LearnRequest.FromString(one.message[1:])
                request.columns.CopyFrom(take_columns(request.columns, np.array([row])))
                request.ClearField("number")
                return LEARN + request.SerializeToString()
            row -= len(one.batch)
        raise IndexError(row)

    def _decoded(self, entry: Entry) -> list[Logged]:
        schema = self._p.schema
        decoded = []
        for message in entry.messages:
            body = message[1:]
            if message[:1] in (PREPARED, EXCHANGED):
                continue
            if message[:1] == LEARN:
                request = pb.LearnRequest.FromString(body)
                batch = decode_learn(request, schema)
                decoded.append(Logged(message, batch, request.producer, request.sequence, end_of(request)))
            else:
                batch = decode_event(pb.UpdateRequest.FromString(body).event, schema)
                decoded.append(Logged(message, batch, None, 0, 0))
        return decoded

    def _fold(self, entries: list[tuple[Entry, list[Logged]]], start: int) -> None:
        first = entries[0][0].position
        decoded = list(chain.from_iterable(messages for _, messages in entries))
        skip = max(0, start - first)
        batches = [one.batch for one in decoded if len(one.batch)]
        if not batches:
            self._note(decoded, first, skip, NOTHING)
            return
        batch = Batch.concat(batches)
        parts = []
        at = skip
        for position in sorted(self._p.store.quarantined()) if self._quarantined() else []:
            row = position - first
            if at <= row < len(batch):
                if at < row:
                    parts.append(self._folded(batch.slice(at, row)))
                parts.append(self._pass_over(1))
                at = row + 1
        if at < len(batch):
            parts.append(self._folded(batch.slice(at, len(batch)) if at else batch))
        self._note(decoded, first, skip, Folded.concat(parts))

    def _quarantined(self) -> bool:
        if not hasattr(self, "_any"):
            self._any = bool(self._p.store.quarantined())
        return self._any

    def _folded(self, batch: Batch) -> Folded:
        folded = self._p.learner.fold(batch)
        self._p.statistics.update(folded)
        self.replayed += len(batch)
        return folded

    def _pass_over(self, events: int) -> Folded:
        """Events without effect: only the position moves."""
        self._p.learner.pass_over(events)
        self._p.statistics.quarantined(events)
        return Folded.passed_over(events, pb.OUTCOME_QUARANTINED)

    def _note(self, decoded: list[Logged], first: int, skip: int, folded: Folded) -> None:
        """Rebuilds marks, answers and the table of updates; the first `skip` rows were folded before the snapshot."""
        p = self._p
        at = -skip
        classes = p.learner.classes()
        if p.outbox is not None:
            p.outbox.replayed(first + skip, folded, classes)
        for _, batch, producer, sequence, end in decoded:
            stop = at + len(batch)
            if at < 0:
                if producer is not None:
                    p.producers.note(producer, end)
            else:
                rows = slice(at, stop)
                answer = Answer(first + skip + at, folded.value[rows], folded.code[rows], folded.outcome[rows], classes)
                if producer is not None:
                    p.producers.replayed(producer, sequence, end, answer)
                else:
                    p.window.note(update_id(batch), payload_hash(batch), answer)
            at = stop


def _is_exchange(entry: Entry) -> bool:
    """Whether an entry holds what other partitions have learned; one from before the snapshot changes nothing."""
    return entry.messages[0][:1] == EXCHANGED


T = TypeVar("T")
AHEAD = 8
"""Entries read and decoded at a time: few enough that the first fold does not wait for long."""


def _ahead(pool: ThreadPoolExecutor, entries: Iterator[T]) -> Iterator[T]:
    """The same entries, each made in the pool while those before it are folded."""

    def some() -> list[T]:
        return list(islice(entries, AHEAD))

    reading = pool.submit(some)
    while part := reading.result():
        reading = pool.submit(some)
        yield from part
