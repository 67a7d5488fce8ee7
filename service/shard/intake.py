"""What a partition admits to its log, and what it answers of it again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.admission import (
    FORGOTTEN,
    Answer,
    Item,
    Producers,
    UpdateWindow,
    new_future,
    payload_hash,
    repeated,
    seen,
    update_id,
)
from service.shard.requests import (
    LEARN,
    MAX_SEQUENCE,
    UPDATE,
    decode_learn,
    end_of,
    keys_inside,
    numbers_of,
    rows_of,
)
from service.shard.writer import WAITING_ROWS, LogWriter
from service.store.partition_map import Range
from service.wire import Schema, decode_event, slice_columns
from streams.batch import Batch

THAW_SECONDS = 5.0
"""Requests wait for so long while the partition moves."""


class Intake:
    """The part of `service.shard.partition.Partition` that takes requests."""

    spec: ModelSpec
    part: Range
    schema: Schema
    state: str
    classes: tuple[int | str, ...]
    producers: Producers
    window: UpdateWindow
    writer: LogWriter
    duplicates: int
    refused: int
    refuse: Callable[[str], errors.Refused]
    _thawed: asyncio.Event

    @property
    def name(self) -> str:
        """Of the model, with the partition where there may be several."""
        return self.spec.name if self.part.whole else f"{self.spec.name}/{self.part.id}"

    def check_serving(self) -> None:
        """Raises UNAVAILABLE unless this process certainly owns the partition and can write its log."""
        raise NotImplementedError

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
