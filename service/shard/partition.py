"""One partition served: admission, log, fold and answers, in one sequencer.

    request -> admit -> append to the log -> fold -> answer

While one entry is folded, the next one is being appended and requests for the one after it gather. A batch is folded
only after its own append is acknowledged, an answer follows both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load as load_tensors

from learners.base import Folded, Learner
from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.admission import (
    FORGOTTEN,
    Answer,
    Item,
    Producers,
    UpdateWindow,
    groups_of,
    new_future,
    payload_hash,
    repeated,
    seen,
    update_id,
)
from service.shard.answers import Outbox
from service.shard.exchange import Exchanger
from service.shard.requests import (
    EXCHANGED,
    LEARN,
    MAX_SEQUENCE,
    NO_EVENTS,
    PREPARED,
    UPDATE,
    decode_learn,
    end_of,
    keys_inside,
    numbers_of,
    rows_of,
)
from service.shard.rows import StoreRows
from service.shard.sequencer import Sequencer
from service.shard.statistics import Statistics
from service.shard.writer import WAITING_ROWS, LogWriter
from service.store.connect import Link
from service.store.partition import Partition as Store
from service.store.partition_map import Range
from service.wire import Schema, decode_event, slice_columns
from streams.batch import Batch

ENTRIES_AHEAD = 8
"""Logged entries that may wait for the fold thread, so that it never waits for the event loop."""

THAW_SECONDS = 5.0
"""Requests wait for so long while the partition moves."""


class Partition:
    """A partition that this process owns.

    Args:
        spec: of the model.
        store: its keys in Redis, through a client that fold and snapshot threads share.
        token: of the ownership.
        client: an asyncio client, for appends and confirmations.
        fail: called with the cause when this process must stop serving (it lost ownership, or its state is in doubt).
        part: its range of the key hashes.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        token: str,
        client: Link,
        fail: Callable[[BaseException], None],
        part: Range,
    ) -> None:
        self.spec = spec
        self.part = part
        self.schema = Schema.of(spec)
        self.store = store
        self.token = token
        self.client = client
        self.fail = fail
        self.learner: Learner = spec.learner.build(spec)
        self.cold = StoreRows(store, token, -1)
        self.statistics = Statistics(spec.target.kind)
        self.producers = Producers()
        self.window = UpdateWindow(spec.deployment.dedupe_window)
        self.duplicates = 0
        self.refused = 0
        self.exchanges = 0  # folded by this process
        self.snapshot_position = -1
        self.state = "starting"
        self.classes: tuple[int | str, ...] = ()
        self.on_progress: Callable[[], None] = lambda: None
        self.peers: Callable[[], tuple[list[str], list[str]]] = lambda: ([], [])
        self.exchanger = Exchanger(self, spec.deployment.exchange.every) if spec.deployment.exchange else None
        self.refuse: Callable[[str], errors.Refused] = lambda message: errors.wrong_map(pb.PartitionMap(), message)
        self._thawed = asyncio.Event()
        self.writer = LogWriter(store, token, client, self.producers, self.window, self._logged)
        self.outbox = Outbox(store, token, client) if spec.deployment.sinks else None
        self._depth = asyncio.Semaphore(ENTRIES_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    def start(self, head: int) -> None:
        """Begins to serve; the learner has folded the log up to `head`."""
        self.writer.begin(head)
        self.classes = self.learner.classes()
        self.sequencer = Sequencer(self.learner, self.statistics, self.cold, f"fold-{self.spec.name}")
        loops = [self.writer.append_loop(), self.writer.confirm_loop()]
        if self.exchanger is not None:
            loops.append(self.exchanger.run())
        if self.outbox is not None:
            self.outbox.begin(head)
            loops.append(self.outbox.write_loop())
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in loops]
        self.state = "serving"

    async def _guard(self, loop: Any) -> None:
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.state = "failed"
            self.fail(error)

    async def stop(self) -> None:
        """Serves what was admitted, then stops."""
        if self.state != "moved":
            self.state = "stopping"
        try:
            async with asyncio.timeout(5):
                while self.writer.busy:
                    await asyncio.sleep(0.005)
                if self.outbox is not None:
                    await self.outbox.reach(self.learner.position)
        except TimeoutError:
            self.cold.patient = False  # the log has it, or its callers were never answered
        if self.outbox is not None:
            await self.outbox.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        refusal = errors.unavailable("PARTITION_STOPPED", f"model {self.spec.name!r} stopped; repeat the request", 0.2)
        for item in [*self.producers.unanswered(), *self.window.waiting.values()]:
            item.refuse(refusal)

    @property
    def name(self) -> str:
        """Of the model, with the partition where there may be several."""
        return self.spec.name if self.part.whole else f"{self.spec.name}/{self.part.id}"

    async def freeze(self, note: bytes) -> int:
        """Takes no more events; returns where the log ends once all are folded and answered and the log says so.

        Args:
            note: what is about to happen, for the log.

        Raises:
            service.errors.Refused: the store does not answer; the partition takes events again.
        """
        self.check_serving()
        self._thawed.clear()
        self.state = "moving"
        while self.writer.busy:
            await asyncio.sleep(0.001)
        item = Item(NO_EVENTS, PREPARED + note, new_future())
        self.writer.enqueue(item)
        try:
            await item.done
        except BaseException:
            self.thaw()
            raise
        return self.head

    def thaw(self) -> None:
        """Takes events again."""
        if self.state == "moving":
            self.state = "serving"
        self._thawed.set()

    def moved(self) -> None:
        """Others serve its keys: whoever waits, or comes, is told so."""
        self.state = "moved"
        self._thawed.set()

    async def close(self) -> None:
        """Ends the fold thread and the connection for appends: learner and log are not touched again."""
        self.sequencer.stop()
        await self.client.aclose()

    @property
    def head(self) -> int:
        """Events in the log."""
        return self.writer.head

    def check_started(self) -> None:
        """Raises UNAVAILABLE before the partition first served."""
        if self.state == "starting":
            raise errors.unavailable("PARTITION_STARTING", f"model {self.spec.name!r} is starting", 0.2)

    def check_serving(self, writing: bool = True) -> None:
        """Raises UNAVAILABLE unless this process certainly owns the partition and, to write, can write its log."""
        if self.state == "moved":
            raise self.refuse(f"model {self.name!r} has moved")
        if self.state not in ("serving", "moving"):
            raise errors.unavailable("PARTITION_STARTING", f"model {self.spec.name!r} is {self.state}", 0.2)
        self.writer.check(writing)

    # Admission

    async def _admitting(self) -> None:
        """Waits while the partition moves; raises UNAVAILABLE if it cannot take events, WRONG_MAP if it moved."""
        if self.state == "moving":
            try:
                await asyncio.wait_for(self._thawed.wait(), THAW_SECONDS)
            except TimeoutError as error:
                raise errors.unavailable("PARTITION_MOVING", f"model {self.name!r} is moving", 0.05) from error
        self.check_serving()

    def check_keys(self, batch: Batch) -> None:
        """Raises WRONG_MAP if a key belongs to another partition."""
        if not self.part.whole and (inside := keys_inside(batch.key, self.part.low, self.part.high)).sum() < len(batch):
            key = errors.shorten(batch.key[int(inside.argmin())])
            raise self.refuse(f"model {self.spec.name!r}: key {key} is not in partition {self.part.id!r}")

    async def learn(self, request: pb.LearnRequest, raw: bytes) -> asyncio.Future[Answer]:
        """Admits a batch of a producer; the answer follows. Waits while too much is waiting already.

        Raises:
            service.errors.Refused: the batch does not fit the spec, or cannot be taken now.
        """
        await self._admitting()
        if not 1 <= len(request.producer.encode()) <= 256:
            raise errors.invalid("producer", request.producer, "1 to 256 bytes of UTF-8")
        if request.sequence > MAX_SEQUENCE:
            raise errors.invalid("sequence", request.sequence, f"at most {MAX_SEQUENCE}")
        end = end_of(request)
        batch = self.decoded(decode_learn, request)
        self.check_keys(batch)
        while self.writer.full:
            await self.writer.room()
            await self._admitting()
        sequence = request.sequence
        expected, known = self.producers.next_sequence(request.producer), self.producers.known(request.producer)
        gap = request.HasField("next_sequence") and not request.partition and sequence > expected and known
        if gap or request.acknowledged > expected:
            raise errors.sequence_broken("SEQUENCE_GAP", request.producer, sequence, end, expected)
        if request.partition or request.number or self.producers.apart(request.producer):
            return self._learn_numbered(request, raw, batch, end)
        gaps = end != sequence + len(batch)
        if end <= expected and (sequence < expected or known):
            return self._repeat(request.producer, sequence, end, len(batch))
        if sequence < expected and gaps and len(batch):
            raise errors.sequence_broken("SEQUENCE_OVERLAP", request.producer, sequence, end, expected)
        if sequence < expected and not gaps:
            batch = batch.slice(expected - sequence, len(batch))
            rest = slice_columns(request.columns, expected - sequence, self.schema)
            sequence = expected
            cut = pb.LearnRequest(
                model=request.model, producer=request.producer, sequence=sequence, columns=rest
            )
            raw = cut.SerializeToString()
        return self._take(Item(batch, LEARN + raw, new_future(), request.producer, max(sequence, expected), end))

    def _learn_numbered(self, request: pb.LearnRequest, raw: bytes, batch: Batch, end: int) -> asyncio.Future[Answer]:
        """Admits the rows of a batch that are not in the log, by their numbers; see `LearnRequest`."""
        producer, numbers = request.producer, numbers_of(request, end)
        left = self.producers.not_logged(producer, numbers, batch.key)
        if end <= self.producers.next_sequence(producer) and not left.any() and self.producers.known(producer):
            return self._repeat(producer, request.sequence, end, len(batch))
        if not left.all():
            request = rows_of(request, np.flatnonzero(left), numbers, end)
            raw, batch = request.SerializeToString(), decode_learn(request, self.schema)
        return self._take(Item(batch, LEARN + raw, new_future(), producer, request.sequence, end))

    def _take(self, item: Item) -> asyncio.Future[Answer]:
        self.producers.admit(item)
        self.writer.enqueue(item)
        return item.done

    def _repeat(self, producer: str, sequence: int, end: int, rows: int) -> asyncio.Future[Answer]:
        """The answer to a batch that was sent before, once all of its events are in the log and folded."""
        self.duplicates += rows
        items = self.producers.on_their_way(producer, sequence, end)
        if items:
            waiting = asyncio.ensure_future(repeated(items, sequence, rows))
            waiting.add_done_callback(seen)
            return waiting
        done = new_future()
        done.set_result((self.producers.answer_to(producer, sequence, end, rows) or FORGOTTEN).as_duplicate())
        return done

    async def producer(self, name: str) -> pb.Producer:
        """Where a producer goes on; waits until everything admitted from it is in the log, or refused."""
        self.check_serving()
        known, expected = await self.producers.settled(name)
        self.check_serving()
        return pb.Producer(known=known, next_sequence=expected)

    async def update(self, request: pb.UpdateRequest, raw: bytes) -> Answer:
        """Admits one event and waits for its answer.

        Raises:
            service.errors.Refused: the event does not fit the spec, its id was used for another one, or it cannot be
                taken now.
        """
        await self._admitting()
        if not request.event.id:
            raise errors.invalid("event.id", "", "an id of 1 to 256 bytes, the same in every retry of this event")
        batch = self.decoded(decode_event, request.event)
        self.check_keys(batch)
        payload = payload_hash(batch)
        id = update_id(batch)
        known = self.window.waiting.get(id)
        if known is not None:
            self._same_payload(known.payload, payload, request.event.id)
            self.duplicates += 1
            return (await known.joined()).as_duplicate()
        found = self.window.find(id, self.classes)
        if found is not None:
            self._same_payload(found[0], payload, request.event.id)
            self.duplicates += 1
            return found[1]
        if self.writer.full:
            raise errors.exhausted("QUEUE_FULL", f"{WAITING_ROWS} events wait for the log", 0.05)
        item = Item(batch, UPDATE + raw, new_future(), id=id, payload=payload)
        self.window.waiting[id] = item
        self.writer.enqueue(item)
        return await item.joined()

    def decoded(self, decode: Callable[[Any, Schema], Batch], message: Any) -> Batch:
        """The events of a request; a request that does not fit is counted."""
        try:
            return decode(message, self.schema)
        except errors.Refused:
            self.refused += 1
            raise

    def _same_payload(self, before: int, now: int, id: str) -> None:
        if before != now:
            self.refused += 1
            raise errors.conflict(id)

    async def log_exchange(self, message: bytes) -> None:
        """Logs what others have learned, and waits until it is folded; nothing where no events are taken either.

        Raises:
            service.errors.Refused: the store does not answer; it may have been logged.
        """
        self.check_serving()
        if self.state == "serving":
            item = Item(NO_EVENTS, EXCHANGED + message, new_future())
            self.writer.enqueue(item)
            await item.done

    # The fold

    def fold_exchange(self, message: bytes) -> None:
        """Folds what others have learned, as it was logged."""
        exchanging: Any = self.learner
        exchanging.receive(load_tensors(message[1:]))
        self.exchanges += 1

    async def _logged(self, position: int, items: list[Item]) -> None:
        """Takes over a logged entry: folds it here if it is small, else hands it to the fold thread in groups."""
        if self.outbox is not None:
            await self.outbox.room()
        groups = groups_of(items)
        if not any(len(item.batch) for item in items):
            if items[0].message[:1] == EXCHANGED:
                await self.sequencer.between_entries(self.fold_exchange, items[0].message)
                self.classes = self.learner.classes()
            self._answer(position, items, NOTHING, self.classes)
            return
        batches = [Batch.concat([item.batch for item in group if len(item.batch)]) for group in groups]
        if len(batches) == 1 and self.sequencer.small(batches[0]):
            folded = self.sequencer.fold_now(batches[0])
            self._answer(position, items, folded, self.learner.classes())
            self._progressed()
            return
        starts = [position]
        for batch in batches:
            starts.append(starts[-1] + len(batch))

        def done(number: int, folded: Folded, classes: tuple[int | str, ...]) -> None:
            self._answer(starts[number], groups[number], folded, classes)

        await self._depth.acquire()
        self.sequencer.fold(batches, done).add_done_callback(self._entry_folded)

    def _entry_folded(self, job: asyncio.Future[None]) -> None:
        self._depth.release()
        if job.cancelled() or job.exception() is None:
            self._progressed()
        elif self.state in ("serving", "moving"):
            self.state = "failed"
            self.fail(job.exception() or RuntimeError("the fold failed"))

    def _progressed(self) -> None:
        self.on_progress()
        if self.exchanger is not None:
            self.exchanger.progressed()

    def _answer(self, position: int, items: list[Item], folded: Folded, classes: tuple[int | str, ...]) -> None:
        """Answers the requests of a folded group that begins at `position`."""
        self.classes = classes
        if self.outbox is not None:
            self.outbox.add(position, folded, classes)
        at = 0
        for item in items:
            rows = slice(at, at + len(item.batch))
            answer = Answer(position + at, folded.value[rows], folded.code[rows], folded.outcome[rows], classes)
            at += len(item.batch)
            if item.producer:
                self.producers.answered(item, answer)
            elif item.id:
                self.window.waiting.pop(item.id, None)
                self.window.note(item.id, item.payload, answer)
            item.answer(answer)
        self.writer.answered(at)


NOTHING = Folded.passed_over(0, 0)
"""What is said of no events."""
