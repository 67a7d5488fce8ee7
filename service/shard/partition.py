"""One partition served: admission, log, fold and answers, in one sequencer.

    request -> admit -> append to the log -> fold -> answer

Two tasks run side by side: while entry n is folded, entry n + 1 is being appended and requests for n + 2 gather.
A batch is folded only after its own append is acknowledged, an answer follows both. `turn` is held by whoever
touches the learner: a piece of a fold, a prediction, a piece of a snapshot. `unsplit` is held from the first event
of some requests until all of them are answered: a snapshot begun in between would not know the ids it has folded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import redis.asyncio

from learners.base import Folded, Learner, Predicted
from learners.keyed import CaptureActive
from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.admission import Answer, Item, Producers, UpdateWindow, new_future, payload_hash, update_id
from service.shard.rows import StoreRows
from service.shard.statistics import Statistics
from service.shard.writer import LEASE_SECONDS, RETRY_SECONDS, WAITING_ROWS, LogWriter
from service.store.partition import Partition as Store
from service.wire import Schema, decode_columns, decode_event, slice_columns
from streams.batch import Batch

ANSWER_ROWS = 2048
"""An entry is folded and answered in groups of requests of about this many events."""

MAX_SEQUENCE = 2**62
"""Of a producer's first row: the numbers after it are exact and fit everywhere."""

MAX_PROBABILITIES = 8 << 20
"""Of one reply: its bytes fit a message, and its predictions do not keep the fold waiting for seconds."""

PIECE_SECONDS = 2e-3
"""A fold is cut so that a prediction waits about this long at most."""

INLINE_SECONDS = 1e-4
"""Shorter folds of resident keys run on the event loop: a thread would take longer to wake."""

UPDATE, LEARN = b"U", b"L"
"""First byte of a message in the log: what kind of request follows."""


class Partition:
    """A partition that this process owns.

    Args:
        spec: of the model.
        store: its keys in Redis, through a client that only the fold thread uses.
        token: of the ownership.
        client: an asyncio client, for appends and confirmations.
        fail: called with the cause when this process must stop serving (it lost ownership, or its state is in doubt).
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        token: str,
        client: redis.asyncio.Redis,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.spec = spec
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
        self.snapshot_position = -1
        self.state = "starting"
        self.turn = asyncio.Lock()
        self.unsplit = asyncio.Lock()
        self.folded = asyncio.Condition()
        self.snapshot_done = asyncio.Event()
        self.snapshot_done.set()
        self.on_progress: Callable[[], None] = lambda: None
        self.pool = ThreadPoolExecutor(1, f"fold-{spec.name}")
        self.writer = LogWriter(store, token, client, self.producers, self.window, self._logged)
        self._entries: asyncio.Queue[tuple[int, list[Item]]] = asyncio.Queue(2)
        self._idle = False
        self._row_seconds = 2e-6
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    def start(self, head: int) -> None:
        """Begins to serve; the learner has folded the log up to `head`."""
        self.writer.begin(head)
        self.state = "serving"
        loops = (self.writer.append_loop(), self._fold_loop(), self.writer.confirm_loop())
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in loops]

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
        self.state = "stopping"
        try:
            async with asyncio.timeout(5):
                while self.writer.busy:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            self.cold.patient = False  # the log has it, or its callers were never answered
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        refusal = errors.unavailable("PARTITION_STOPPED", f"model {self.spec.name!r} stopped; repeat the request", 0.2)
        for item in [*self.producers.unanswered(), *self.window.waiting.values()]:
            if not item.done.done():
                item.done.set_exception(refusal)
                item.done.exception()  # seen: a caller that went away leaves no warning
        async with self.turn:  # whoever takes it next sees the state first
            self.pool.shutdown()

    @property
    def head(self) -> int:
        """Events in the log."""
        return self.writer.head

    def check_serving(self) -> None:
        """Raises UNAVAILABLE unless this process certainly owns the partition and can write its log."""
        if self.state != "serving":
            raise errors.unavailable("PARTITION_STARTING", f"model {self.spec.name!r} is {self.state}", 0.2)
        self.writer.check()

    # Admission

    async def learn(self, request: pb.LearnRequest, raw: bytes) -> asyncio.Future[Answer]:
        """Admits a batch of a producer; the answer follows. Waits while too much is waiting already.

        Raises:
            service.errors.Refused: the batch does not fit the spec, or cannot be taken now.
        """
        self.check_serving()
        if not 1 <= len(request.producer.encode()) <= 256:
            raise errors.invalid("producer", request.producer, "1 to 256 bytes of UTF-8")
        if request.sequence > MAX_SEQUENCE:
            raise errors.invalid("sequence", request.sequence, f"at most {MAX_SEQUENCE}")
        batch = self._decoded(decode_columns, request.columns)
        while self.writer.full:
            await self.writer.room()
            self.check_serving()
        sequence = request.sequence
        expected = self.producers.next_sequence(request.producer)
        if sequence < expected:
            if sequence + len(batch) <= expected:
                return self._repeat(request.producer, sequence, len(batch))
            batch = batch.slice(expected - sequence, len(batch))
            rest = slice_columns(request.columns, expected - sequence, self.schema)
            sequence = expected
            cut = pb.LearnRequest(
                model=request.model, producer=request.producer, sequence=sequence, columns=rest
            )
            raw = cut.SerializeToString()
        item = Item(batch, LEARN + raw, new_future(), request.producer, sequence)
        self.producers.admit(item)
        self.writer.enqueue(item)
        return item.done

    def _repeat(self, producer: str, sequence: int, rows: int) -> asyncio.Future[Answer]:
        """The answer to a batch that was sent before, once all of its events are in the log and folded."""
        self.duplicates += rows
        items = self.producers.on_their_way(producer, sequence, sequence + rows)
        if items:
            waiting = asyncio.ensure_future(_repeated(items, sequence, rows))
            waiting.add_done_callback(_seen)
            return waiting
        done = new_future()
        done.set_result(_as_duplicate(self.producers.answer_to(producer, sequence, rows) or _FORGOTTEN))
        return done

    async def update(self, request: pb.UpdateRequest, raw: bytes) -> Answer:
        """Admits one event and waits for its answer.

        Raises:
            service.errors.Refused: the event does not fit the spec, its id was used for another one, or it cannot be
                taken now.
        """
        self.check_serving()
        if not request.event.id:
            raise errors.invalid("event.id", "", "an id of 1 to 256 bytes, the same in every retry of this event")
        batch = self._decoded(decode_event, request.event)
        payload = payload_hash(batch)
        id = update_id(batch)
        known = self.window.waiting.get(id)
        if known is not None:
            self._same_payload(known.payload, payload, request.event.id)
            self.duplicates += 1
            return _as_duplicate(await asyncio.shield(known.done))
        found = self.window.find(id, self.learner.classes())
        if found is not None:
            self._same_payload(found[0], payload, request.event.id)
            self.duplicates += 1
            return found[1]
        if self.writer.full:
            raise errors.exhausted("QUEUE_FULL", f"{WAITING_ROWS} events wait for the log", 0.05)
        item = Item(batch, UPDATE + raw, new_future(), id=id, payload=payload)
        self.window.waiting[id] = item
        self.writer.enqueue(item)
        return await asyncio.shield(item.done)

    def _decoded(self, decode: Callable[[Any, Schema], Batch], message: Any) -> Batch:
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

    # The fold

    async def _logged(self, position: int, items: list[Item]) -> None:
        """Takes over a logged entry."""
        rows = sum(len(item.batch) for item in items)
        if self._idle and rows * self._row_seconds < INLINE_SECONDS:
            await self._answer(position, items)  # no hand-over between tasks for a few events
        else:
            await self._entries.put((position, items))

    async def _fold_loop(self) -> None:
        while True:
            self._idle = self._entries.empty()
            position, items = await self._entries.get()
            self._idle = False
            await self._answer(position, items)

    async def _answer(self, position: int, items: list[Item]) -> None:
        """Folds a logged entry and answers its requests, a group of them at a time."""
        group: list[Item] = []
        rows = 0
        for item in items:
            group.append(item)
            rows += len(item.batch)
            if rows >= ANSWER_ROWS or item is items[-1]:
                await self._answer_group(position, group)
                position += rows
                group, rows = [], 0
        self.on_progress()

    async def _answer_group(self, position: int, items: list[Item]) -> None:
        async with self.unsplit:
            folded = await self.fold(Batch.concat([item.batch for item in items]))
            classes = self.learner.classes()
            at = 0
            for item in items:
                rows = slice(at, at + len(item.batch))
                answer = Answer(position + at, folded.value[rows], folded.code[rows], folded.outcome[rows], classes)
                at += len(item.batch)
                if item.producer:
                    self.producers.answered(item, answer)
                else:
                    self.window.waiting.pop(item.id, None)
                    self.window.note(item.id, item.payload, answer)
                if not item.done.done():
                    item.done.set_result(answer)
        self.writer.answered(at)

    async def fold(self, batch: Batch) -> Folded:
        """Folds logged events in pieces of about 2 ms, so that predictions find a place between them."""
        parts: list[Folded] = []
        start = 0
        while start < len(batch):
            stop = min(len(batch), start + max(64, int(PIECE_SECONDS / self._row_seconds)))
            piece = batch.slice(start, stop) if stop - start < len(batch) else batch
            async with self.turn:
                part = await self._fold_piece(piece)
            if part is None:
                await self.snapshot_done.wait()
                continue
            parts.append(part)
            start += len(part.value)
        return parts[0] if len(parts) == 1 else Folded.concat(parts)

    async def _fold_piece(self, piece: Batch) -> Folded | None:
        """Folds a piece, or as much of it as a running snapshot allows (None: nothing)."""
        try:
            if len(piece) * self._row_seconds < INLINE_SECONDS and self.learner.resident(piece.key):
                folded = self.learner.fold(piece)
            else:
                loop = asyncio.get_running_loop()
                folded = await loop.run_in_executor(self.pool, self._fold_waiting, piece)
        except CaptureActive as stopped:
            if stopped.folded is None:
                return None
            folded = stopped.folded
        self.statistics.update(folded)
        return folded

    def _fold_waiting(self, piece: Batch) -> Folded:
        """Folds in the fold thread; while the store is gone, rows that it has to read or write are waited for.

        Keeps the time of an event; that for a thread to wake is not part of it.
        """
        self.cold.patient = True
        began = time.perf_counter()
        try:
            folded = self.learner.fold(piece)
        finally:
            self.cold.patient = False
        if len(piece) >= 64:
            seconds = (time.perf_counter() - began) / len(piece)
            self._row_seconds += 0.2 * (seconds - self._row_seconds)
        return folded

    # Predictions

    async def predict(self, request: pb.PredictRequest) -> tuple[int, Predicted, tuple[int | str, ...]]:
        """Predicts between two folds. Returns the position, the predictions and the classes.

        Raises:
            service.errors.Refused: the events do not fit the spec, or cannot be served now.
        """
        self.check_serving()
        if request.WhichOneof("events") == "event":
            batch = self._decoded(decode_event, request.event)
        else:
            batch = self._decoded(decode_columns, request.columns)
        if (batch.kind == 2).any():
            raise errors.invalid("kind", 2, "observations or labelled events: a label alone has no prediction")
        table = len(batch) * len(self.learner.classes())
        if request.probabilities and table > MAX_PROBABILITIES:
            accepted = f"at most {MAX_PROBABILITIES} probabilities in one reply: ask for fewer rows"
            raise errors.invalid("probabilities", f"{table} ({len(batch)} rows)", accepted, "TOO_MANY_PROBABILITIES")
        await self._take_turn()
        try:
            if len(batch) * self._row_seconds < INLINE_SECONDS and self.learner.resident(batch.key):
                predicted = self.learner.predict(batch, request.probabilities)
            else:
                loop = asyncio.get_running_loop()
                predicted = await loop.run_in_executor(self.pool, self.learner.predict, batch, request.probabilities)
            return self.learner.position, predicted, self.learner.classes()
        finally:
            self.turn.release()

    async def _take_turn(self) -> None:
        """Acquires `turn`, or raises UNAVAILABLE: a fold that waits for the store keeps it."""
        if not self.turn.locked():
            await self.turn.acquire()
            return
        try:
            await asyncio.wait_for(self.turn.acquire(), LEASE_SECONDS)
        except TimeoutError as error:
            message = f"no turn for {LEASE_SECONDS:g} s; nothing was lost"
            raise errors.unavailable("PARTITION_BUSY", message, RETRY_SECONDS) from error
        try:
            self.check_serving()
        except errors.Refused:
            self.turn.release()
            raise

    async def in_fold_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Runs `function` where the fold runs, with the learner to itself."""
        async with self.turn:
            return await asyncio.get_running_loop().run_in_executor(self.pool, function, *args)


_FORGOTTEN = Answer(0, np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.uint8), ())
"""To a batch that was applied, but not as this batch, or too long ago to remember its predictions."""


async def _repeated(items: list[Item], sequence: int, rows: int) -> Answer:
    """The answer to events that are on their way in `items`; refused if one of them is."""
    answers = [await asyncio.shield(item.done) for item in items]
    same = items[0].sequence == sequence and len(items[0].batch) == rows
    return _as_duplicate(answers[0] if same else _FORGOTTEN)


def _seen(waiting: asyncio.Future[Answer]) -> None:
    """A caller that went away leaves no warning."""
    if not waiting.cancelled():
        waiting.exception()


def _as_duplicate(answer: Answer) -> Answer:
    return Answer(answer.position, answer.value, answer.code, answer.outcome, answer.classes, duplicate=True)

