"""The state of one `learn` call, without I/O: what is unanswered, what a reply means, when to give up."""

from __future__ import annotations

import time as clock
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import numpy as np

from service.api import continual_v1_pb2 as pb
from service.client.core import Backoff, Core
from service.client.routing import Routes
from service.errors import Refused, from_rpc_error, from_status
from service.wire import PredictionBatch, columns_of, predictions_from_proto

_BROKEN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)

_VANISHED = ("RST_STREAM", "Internal error from Core")
"""How gRPC reports a peer that ended the call while a message was being written."""


MESSAGE_BYTES = 1 << 20
"""Requests that wait together travel in one message of about this size at most."""


def passes(refused: Refused) -> bool:
    """Whether a batch should be sent again: a fault of the way, or a bound that the server says will ease."""
    if refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # without a delay: gRPC's own, message too large
        return refused.retry_seconds is not None
    return refused.code in _BROKEN or refused.reason in ("WRONG_MAP", "WRONG_SEQUENCE", "NO_PARTITION")


def no_reply(seconds: float) -> Refused:
    """A stream that was silent for too long."""
    return Refused(grpc.StatusCode.DEADLINE_EXCEEDED, "NO_REPLY", f"no reply for {seconds:g} s")


@dataclass(frozen=True, slots=True)
class LearnResult:
    """The answer to one batch.

    Attributes:
        sequence: number of its first event in the producer's own count.
        rows: events in the batch.
        predictions: the prequential predictions; None if it was refused.
        refused: why it was refused; None if it was accepted.
        duplicate: every row had been applied before.
        producer: whose batch it is.
        next_sequence: the number that the producer goes on with.
    """

    sequence: int
    rows: int
    predictions: PredictionBatch | None
    refused: Refused | None
    duplicate: bool
    producer: str = ""
    next_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Numbered:
    """A batch that says itself whose it is and how it is counted; see `LearnRequest` of the API.

    Attributes:
        batch: what `columns_of` takes; None for a stamp.
        producer: whose numbers they are; several may share one stream.
        sequence: number of the first event.
        next_sequence: the number after the batch: larger than sequence + rows where numbers are left out, smaller where
            several events share one.
        numbers: of every row, where numbers are left out or shared.
    """

    batch: Any
    producer: str
    sequence: int
    next_sequence: int
    numbers: Any = None


class Several(Exception):  # noqa: N818 (a fact, raised where it shows that one stream does not do)
    """The model has several partitions: every one needs a stream of its own."""


class Restart(Exception):  # noqa: N818 (a decision, raised where a reply calls for a new stream)
    """The stream has to be opened again after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(f"open the stream again after {delay} s")
        self.delay = delay


class Packing:
    """Takes requests that wait together into one message. Nothing waits for company.

    Args:
        waiting: gives the next request that waits, or None at the end; raises `empty` where there is none.
        empty: see `waiting`.
        most: requests in a message; fewer than the window holds, so that the server is never without one.

    Attributes:
        held: the request that the next message begins with, if it was taken already.
        ended: whether the end was met.
    """

    def __init__(
        self, waiting: Callable[[], pb.LearnRequest | None], empty: type[Exception], most: int
    ) -> None:
        self._waiting, self._empty, self._most = waiting, empty, most
        self.held: pb.LearnRequest | None = None
        self.ended = False

    def message(self, first: pb.LearnRequest) -> pb.LearnRequests:
        """A message of `first` and of what waits behind it."""
        packed = [first.SerializeToString()]
        size = len(packed[0])
        self.held = None
        while len(packed) < self._most:
            try:
                request = self._waiting()
            except self._empty:
                break
            if request is None:
                self.ended = True
                break
            data = request.SerializeToString()
            size += len(data)
            if size > MESSAGE_BYTES:
                self.held = request
                break
            packed.append(data)
        return pb.LearnRequests(requests=packed)


class LearnSession:
    """Numbers batches, keeps the unanswered ones, and decides what a reply or a fault means.

    Batches are identified by (producer, sequence), so sending an unanswered one again is always safe.
    """

    def __init__(
        self,
        core: Core,
        model: str,
        *,
        producer: str | None,
        first_sequence: int,
        in_flight: int,
        on_refused: Literal["raise", "yield"],
        timeout: float,
        partition: str = "",
    ) -> None:
        if in_flight < 1 or on_refused not in ("raise", "yield"):
            got = f"in_flight, on_refused: got {in_flight}, {on_refused!r}"
            raise ValueError(f"{got}; accepted: at least 1, and 'raise' or 'yield'")
        self.core, self.model, self.partition = core, model, partition
        self.producer = producer or str(uuid.uuid4())
        self.timeout, self.in_flight, self.raises = timeout, in_flight, on_refused == "raise"
        self.sequence = first_sequence
        self.address = core.target
        self.unanswered: deque[pb.LearnRequest] = deque()
        self.numbers: dict[tuple[str, int], Any] = {}  # of unanswered batches that leave numbers out
        self._acknowledged: dict[str, int] = {}  # by producer: every number before was
        self._backoff: Backoff | None = None
        self.timed_out = False
        self._waiting_since: float | None = None

    @property
    def together(self) -> int:
        """How many requests a message may hold: a quarter of the window, so that messages follow one another."""
        return max(1, self.in_flight // 4)

    @property
    def room(self) -> bool:
        """Whether one more batch may be sent before a reply is awaited."""
        return len(self.unanswered) < self.in_flight

    def connect(self) -> list[pb.LearnRequest]:
        """Chooses the owner for a new stream and returns what has to be sent first, oldest first.

        Raises:
            Several: the model has several partitions, and this session is not for one of them.
            Restart: another call has dropped the map.
        """
        if not self.partition and (current := self.core.map) is None:
            raise Restart(0.0)
        if not self.partition and not Routes(current, self.model).whole:
            raise Several
        self.address = self.core.owner(self.model, b"", self.partition)
        for request in self.unanswered:
            request.route.CopyFrom(self.core.route(self.model))
            request.acknowledged = self._acknowledged.get(request.producer, 0)
        return list(self.unanswered)

    def offer(self, batch: Any) -> pb.LearnRequest:
        """Numbers a batch and keeps it until it is answered; see `columns_of` for what it may be, or `Numbered`."""
        if isinstance(batch, Numbered):
            return self._offer_numbered(batch)
        columns = columns_of(batch, self.core.schemas[self.model])
        request = pb.LearnRequest(
            route=self.core.route(self.model),
            model=self.model,
            producer=self.producer,
            sequence=self.sequence,
            columns=columns,
        )
        self.sequence += columns.rows
        self.unanswered.append(request)
        return request

    def _offer_numbered(self, given: Numbered) -> pb.LearnRequest:
        columns = None if given.batch is None else columns_of(given.batch, self.core.schemas[self.model])
        if given.numbers is not None:
            self.numbers[given.producer, given.sequence] = given.numbers
        request = pb.LearnRequest(
            route=self.core.route(self.model),
            model=self.model,
            producer=given.producer,
            sequence=given.sequence,
            columns=columns,
            next_sequence=given.next_sequence,
        )
        if columns is not None and given.numbers is not None and given.next_sequence - given.sequence == columns.rows:
            numbers = np.asarray(given.numbers, "<u8")
            if (numbers[1:] == numbers[:-1]).any():  # as many rows as numbers, but they are not one each
                request.number = numbers.tobytes()
        self.unanswered.append(request)
        return request

    def waiting(self, since: bool) -> None:
        """Notes that the caller starts or ends waiting for a reply."""
        self._waiting_since = clock.monotonic() if since else None

    def overdue(self) -> bool:
        """Whether a reply has been awaited for longer than the timeout; remembered for `fault`."""
        since = self._waiting_since
        self.timed_out = since is not None and clock.monotonic() - since > self.timeout
        return self.timed_out

    def answer(self, reply: pb.LearnReply) -> LearnResult:
        """Takes the reply to the oldest unanswered batch.

        Raises:
            Restart: the batch has to be sent again, on a new stream.
            Refused: the batch was refused for good and the caller wants that raised (later batches go on), or
                the time for retries is used up.
        """
        refused = from_status(reply.refused) if reply.HasField("refused") else None
        if refused is not None and passes(refused):
            if refused.reason == "WRONG_SEQUENCE" and reply.next_sequence < self.unanswered[0].sequence:
                raise refused  # the server lacks batches that it had answered
            raise Restart(self._delay(refused))
        request = self.unanswered[0]
        if reply.sequence != request.sequence:
            message = f"reply for sequence {reply.sequence}, expected {request.sequence}"
            raise Restart(self._delay(Refused(grpc.StatusCode.UNKNOWN, "OUT_OF_STEP", message)))
        self.unanswered.popleft()
        self.numbers.pop((request.producer, request.sequence), None)
        self._backoff = None
        if refused is not None and self.raises:
            raise refused
        if refused is None:
            self._acknowledged[request.producer] = reply.next_sequence
        predictions = None if refused else predictions_from_proto(reply.accepted, reply.duplicate)
        plain = (request.sequence, request.columns.rows, predictions, refused, reply.duplicate)
        return LearnResult(*plain, request.producer, reply.next_sequence)

    def fault(self, cause: grpc.RpcError | Restart | None) -> float:
        """The stream broke (or ended: None) with batches unanswered; seconds to wait before the next one.

        Raises:
            Refused: it ended for a reason that trying again does not change, or the time is used up.
        """
        if self.timed_out:
            self.timed_out = False
            raise no_reply(self.timeout) from cause
        if isinstance(cause, Restart):
            return cause.delay
        ended = Refused(grpc.StatusCode.UNAVAILABLE, "STREAM_ENDED", "the server ended the stream")
        refused = ended if cause is None else from_rpc_error(cause)
        if refused.code is grpc.StatusCode.INTERNAL and any(text in refused.message for text in _VANISHED):
            refused = ended
        if not passes(refused):
            raise refused
        return self._delay(refused)

    def _delay(self, refused: Refused) -> float:
        first = self._backoff is None
        if self._backoff is None:
            self._backoff = Backoff(self.timeout)
        moved = self.core.learn_from(refused, self.address)
        delay = self._backoff.after(refused)
        return 0.0 if first and moved else delay
