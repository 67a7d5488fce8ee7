"""A `Learn` stream: requests are admitted as they come, and answered in order behind that."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.admission import Answer
from service.shard.shard import Shard
from service.shard.writer import UNCONFIRMED
from service.store.errors import StoreError
from service.wire import first_key, key_hash, parse, predictions_to_proto

log = logging.getLogger(__name__)

IN_FLIGHT = 64
"""Batches of one stream between admission and answer, at most; beyond it the stream is not read (back-pressure)."""

PATIENCE_SECONDS = 10.0
"""A stream waits for so long for a shard that cannot confirm its ownership, and for half of the time that it has."""

TOGETHER_BYTES = 1 << 20
"""Replies that are ready together travel in one message until it is as large."""


class LearnStream:
    """One open stream of `LearnRequest`, read while in `async with`.

    Args:
        shard: that owns the model.
        messages: what comes.
        context: of the call.
        unpack: the requests in a message.
    """

    def __init__(
        self,
        shard: Shard,
        messages: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
        unpack: Callable[[bytes], Sequence[bytes]],
    ) -> None:
        self._shard = shard
        self._messages = messages
        self._context = context
        self._unpack = unpack
        self._queue: asyncio.Queue[Any] = asyncio.Queue(IN_FLIGHT)
        self._last: tuple[str, str, str, int] | None = None
        self._kinds: dict[str, str] = {}  # of the models' targets
        self._ended = False

    async def __aenter__(self) -> LearnStream:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._reader.cancel()

    async def _read(self) -> None:
        """Admits requests as they come and queues (request, future answer or refusal)."""
        try:
            async for message in self._messages:
                try:
                    requests = self._unpack(message)
                except errors.Refused as refused:
                    await self._queue.put((pb.LearnRequest(), refused))
                    continue
                for raw in requests:
                    if self._ended or not await self._take(raw):
                        return
            await self._queue.put(None)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            log.exception("reading a Learn stream failed")
            await self._queue.put((pb.LearnRequest(), errors.unavailable("STREAM_FAILED", str(error))))

    async def _take(self, raw: bytes) -> bool:
        """Admits a request. Returns whether a later one may be admitted."""
        request = pb.LearnRequest()
        try:
            request = parse(pb.LearnRequest, raw)
            self._check_sequence(request, self._last)
            outcome: Any = await self._admit_in_time(request, raw)
        except errors.Refused as refused:
            outcome = refused
        except StoreError as error:
            outcome = errors.unavailable("STORE_UNAVAILABLE", str(error), 0.25)
        self._last = (request.model, request.partition, request.producer, _end(request))
        await self._queue.put((request, outcome))
        # A later batch must not pass the mark of one that the client will send again.
        return not (isinstance(outcome, errors.Refused) and outcome.code in _ENDS_THE_STREAM)

    async def replies(self) -> AsyncIterator[list[pb.LearnReply]]:
        """The replies in order, those that are ready together; aborts the call where it cannot go on in order."""
        entry = await self._queue.get()
        while entry is not None:
            ready: list[pb.LearnReply] = []
            size = 0
            try:
                while entry is not None and (not ready or _is_there(entry[1])):
                    ready.append(await self._reply(*entry))
                    size += ready[-1].ByteSize()
                    entry = _NONE_YET
                    if self._queue.empty() or size > TOGETHER_BYTES:
                        break
                    entry = self._queue.get_nowait()
            except errors.Refused as refused:
                if ready:
                    yield ready
                self._reader.cancel()
                await errors.abort(self._context, refused)
            yield ready
            if entry is _NONE_YET:
                entry = await self._queue.get()

    async def _admit_in_time(self, request: pb.LearnRequest, raw: bytes) -> asyncio.Future[Answer]:
        """Admits a request; waits where the ownership of the partition is not certain just now."""
        give_up = 0.0
        while True:
            try:
                return await self._admit(request, raw)
            except errors.Refused as refused:
                now = time.monotonic()
                give_up = give_up or now + min(PATIENCE_SECONDS, (self._context.time_remaining() or math.inf) / 2)
                if refused.reason != UNCONFIRMED or self._ended or now > give_up:
                    raise
            await asyncio.sleep(0.05)

    async def _admit(self, request: pb.LearnRequest, raw: bytes) -> asyncio.Future[Answer]:
        await self._shard.maps.check(request.route, request.model)
        part = self._shard.find(request.model, _learn_hash(self._shard, request), request.partition)
        if not self._shard.maps.is_mine(part):
            raise self._shard.maps.refusal(f"model {request.model!r} is served by another shard")
        partition = await self._shard.serving(request.model, part.id)
        self._kinds[request.model] = partition.spec.target.kind
        answer = await partition.learn(request, raw)
        answer.add_done_callback(self._note_end)
        return answer

    def _note_end(self, answer: asyncio.Future[Answer]) -> None:
        """Ends the reading at once, however long the refusal waits for a client that does not read its replies."""
        if not answer.cancelled():
            error = answer.exception()
            self._ended |= isinstance(error, errors.Refused) and error.code in _ENDS_THE_STREAM

    def _check_sequence(self, request: pb.LearnRequest, last: tuple[str, str, str, int] | None) -> None:
        """A stream may begin anywhere; after that a producer's batches follow one another."""
        same = last is not None and last[:3] == (request.model, request.partition, request.producer)
        if last is not None and same and request.sequence > last[3]:
            raise errors.wrong_sequence(request.producer, request.sequence, last[3])

    async def _reply(self, request: pb.LearnRequest, outcome: Any) -> pb.LearnReply:
        """The reply to a request once its answer is there.

        Raises:
            service.errors.Refused: the stream cannot go on in order.
        """
        end = _end(request)
        if isinstance(outcome, errors.Refused):
            refused = outcome
        else:
            try:
                # A call that is given up does not take the answer from others.
                answer = outcome.result() if outcome.done() else await asyncio.shield(outcome)
                return pb.LearnReply(
                    sequence=request.sequence,
                    accepted=predictions_of(answer, self._kinds[request.model]),
                    next_sequence=end,
                    duplicate=answer.duplicate,
                )
            except errors.Refused as error:
                refused = error
        if refused.code in _ENDS_THE_STREAM:
            raise refused
        return pb.LearnReply(sequence=request.sequence, refused=refused.to_status(), next_sequence=end)


_NONE_YET = (pb.LearnRequest(), None)


def _is_there(outcome: Any) -> bool:
    """Whether the reply to a request can be made at once."""
    return isinstance(outcome, errors.Refused) or outcome.done()


def _end(request: pb.LearnRequest) -> int:
    """The producer's number after a batch, whatever it says."""
    if request.HasField("next_sequence"):
        return request.next_sequence
    return min(request.sequence + request.columns.rows, 2**64 - 1)


_ENDS_THE_STREAM = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED)
"""Nothing after such a refusal can be taken in order: the client resends from the oldest unanswered batch."""


def _learn_hash(shard: Shard, request: pb.LearnRequest) -> int:
    """The hash of a key of a batch that names no partition, where that matters."""
    held = shard.maps.of(request.model)
    if request.partition or held is None or len(held.partitions) == 1:
        return 0
    return key_hash(first_key(request))


def predictions_of(answer: Answer, target: str) -> pb.Predictions:
    """What the fold said of a request, for its caller."""
    code = None if target == "regression" else answer.code
    return predictions_to_proto(answer.position, answer.value, code, answer.classes, outcome=answer.outcome)
