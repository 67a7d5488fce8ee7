"""From the store back to a serving partition: the newest snapshot, then the log after it through the same fold.

This is one attempt; `service.shard.evidence` says what is done where a fold fails in it. Before the first event is
folded the store gets a mark, and loses it after the last one: a start that finds the mark knows that a process died
meanwhile, though not of what.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import NamedTuple, TypeVar

import redis

from learners.base import Folded, hash_shared
from learners.fingerprint import fingerprint
from service.api import continual_v1_pb2 as pb
from service.shard.admission import Answer, UpdateWindow, payload_hash, update_id
from service.shard.failures import FoldFailed, Stopped, Unrecoverable, raised
from service.shard.partition import NOTHING, Partition
from service.shard.requests import EXCHANGED, LEARN, PREPARED, decode_learn, end_of
from service.shard.rows import StoreRows
from service.shard.snapshots import write_here
from service.shard.statistics import Statistics
from service.store.errors import SnapshotUnreadable, StoreError
from service.store.log import Entry
from service.wire import Schema, decode_event
from streams.batch import Batch

log = logging.getLogger(__name__)

REPLAY_ROWS = 8192
"""Events folded at a time: many, as after each fold the thread waits for the interpreter lock that decoding holds."""

KEEP_SECONDS = 10.0
"""A process that tries a fold writes a snapshot so often: what it was killed for is not folded again."""


class Logged(NamedTuple):
    """One logged request: as it came, decoded, and how its producer counts it (no producer: a unary update)."""

    message: bytes
    batch: Batch
    producer: str | None
    sequence: int
    end: int


class Recovery:
    """One attempt to bring a partition to the end of its log.

    `run` blocks and belongs in a thread; nothing else touches the partition meanwhile.

    Args:
        partition: new, or left by an attempt before.
        apart: the events of positions [first, second) are folded one by one.
        dirty: whether rows may be left of a fold that failed.
        trial: of a process that tries folds: called with position and number of the events about to be folded, and
            with two zeros after. Such an attempt leaves no mark and writes snapshots.
        stopping: asked between two folds.
    """

    def __init__(
        self,
        partition: Partition,
        apart: tuple[int, int] = (0, 0),
        *,
        dirty: bool = False,
        trial: Callable[[int, int], None] | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._p = partition
        self._apart = apart
        self._dirty = dirty
        self._trial = trial
        self._stopping = stopping
        self._set_aside: list[int] = []
        self._kept = time.monotonic()
        self.replayed = 0
        self.load_seconds = 0.0
        self.replay_seconds = 0.0
        self.same_numerics = True

    def run(self) -> int:
        """Brings the learner to the end of the log and returns that position.

        Raises:
            FoldFailed: a fold raised; the partition is good for nothing but another attempt.
            Unrecoverable: what the store holds is damaged, or is not of this build.
            Stopped: see `stopping`.
            service.store.errors.StoreError: the store cannot serve, or another owner took over.
        """
        p = self._p
        began = time.perf_counter()
        if not p.fresh:  # it was left by an attempt before
            p.renew()
        p.fresh = False
        head = p.writer.head = p.store.head().position
        start = self._load()
        loaded = time.perf_counter()
        self.load_seconds = loaded - began
        self._set_aside = sorted(position for position in p.store.quarantined() if position >= start)
        if self._dirty or self._set_aside:
            p.store.discard_newer(p.token, p.snapshot_position)
        if start < head and self._trial is None:
            p.store.mark_replay(p.token)
        try:
            self._replay(start)
        finally:  # this process lives
            if self._trial is None:
                self._unmark()
        self.replay_seconds = time.perf_counter() - loaded
        return head

    def _unmark(self) -> None:
        try:
            self._p.store.clear_replay(self._p.token)
        except StoreError as error:  # then the next start takes more care than it need
            log.warning("model %s: the mark of the replay stays: %s", self._p.name, error)

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
                    self._exchange(entry)
        if pending:
            self._fold(pending, start)

    def _exchange(self, entry: Entry) -> None:
        try:
            self._p.fold_exchange(entry.messages[0])
        except BaseException as error:
            what = f"what other partitions had learned, logged at position {entry.position}"
            raise Unrecoverable(f"the fold of {what}, {raised(error)}") from error

    def _decoded(self, entry: Entry) -> list[Logged]:
        return decoded(entry, self._p.schema)

    def _fold(self, entries: list[tuple[Entry, list[Logged]]], start: int) -> None:
        first = entries[0][0].position
        decoded = list(chain.from_iterable(messages for _, messages in entries))
        skip = max(0, start - first)
        batches = [one.batch for one in decoded if len(one.batch)]
        if not batches:
            self._note(decoded, first, skip, NOTHING)
            return
        batch = Batch.concat(batches)
        self._keep(first + len(batch))
        parts = []
        at = skip
        while at < len(batch):
            stop = self._end_of_fold(first + at, first + len(batch)) - first
            if stop == at:
                parts.append(self._pass_over(1))
                stop = at + 1
            else:
                parts.append(self._folded(first + at, batch.slice(at, stop) if stop - at < len(batch) else batch))
            at = stop
        self._note(decoded, first, skip, Folded.concat(parts))

    def _end_of_fold(self, position: int, end: int) -> int:
        """Up to where events are folded together from a position on; the position itself if it was set aside."""
        end = next((one for one in self._set_aside if position <= one < end), end)
        first, last = self._apart
        if position < first:
            return min(end, first)
        return min(end, position + 1) if position < last else end

    def _keep(self, end: int) -> None:
        """Writes a snapshot before events that failed are folded again, so that those before them need not be."""
        p = self._p
        first, last = self._apart
        again = first < last and max(0, p.snapshot_position) < p.learner.position <= first < end
        long = self._trial is not None and time.monotonic() - self._kept > KEEP_SECONDS
        if again or long:
            write_here(p)
            self._kept = time.monotonic()

    def _folded(self, position: int, batch: Batch) -> Folded:
        if self._stopping():
            raise Stopped
        if self._trial is not None:
            self._trial(position, len(batch))
        try:
            folded = self._p.learner.fold(batch)
        except (StoreError, redis.RedisError):
            raise  # the fold met the store, not the event
        except BaseException as error:  # this is a thread: what comes here comes out of the fold
            raise FoldFailed.raised(position, len(batch), error) from error
        if self._trial is not None:
            self._trial(0, 0)
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


def decoded(entry: Entry, schema: Schema) -> list[Logged]:
    """The requests of an entry of the log, without those that hold no events of its own."""
    found = []
    for message in entry.messages:
        body = message[1:]
        if message[:1] in (PREPARED, EXCHANGED):
            continue
        if message[:1] == LEARN:
            request = pb.LearnRequest.FromString(body)
            found.append(
                Logged(message, decode_learn(request, schema), request.producer, request.sequence, end_of(request))
            )
        else:
            batch = decode_event(pb.UpdateRequest.FromString(body).event, schema)
            found.append(Logged(message, batch, None, 0, 0))
    return found


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
