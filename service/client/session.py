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
from service.client.cutting import fits, pieces, taken
from service.client.routing import Routes, united
from service.errors import Refused, from_rpc_error, from_status, invalid
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


@dataclass(slots=True)
class _Given:
    """A batch as its caller gave it: the answers to its pieces become one.

    Attributes:
        sequence, next_sequence: the producer's numbers: of the first event, and after the batch.
        rows: events in it.
        left: pieces that are not answered.
        refused: why nothing of it is sent but its numbers.
        parts: answers to pieces.
    """

    sequence: int
    next_sequence: int
    rows: int
    left: int
    refused: Refused | None
    parts: list[LearnResult]

    def united(self) -> LearnResult:
        """The answer to the batch."""
        refused, parts = self.refused, self.parts
        at = 0
        for part in parts:
            if refused is None and part.refused is not None:
                refused = self._in_part(part.refused, at, at + part.rows)
            at += part.rows
        predictions = None
        if refused is None:
            places = np.cumsum([0, *(part.rows for part in parts)])
            said = [(np.arange(a, a + one.rows), one.predictions) for a, one in zip(places, parts)]
            predictions = united([(rows, one) for rows, one in said if one is not None], self.rows)
        duplicate = all(part.duplicate for part in parts)
        plain = (self.sequence, self.rows, predictions, refused, duplicate, parts[0].producer)
        return LearnResult(*plain, self.next_sequence)

    def _in_part(self, refused: Refused, start: int, stop: int) -> Refused:
        """What refused a piece, as that of the batch."""
        where = f"in the rows {start} to {stop - 1} of a batch that was sent in {len(self.parts)} pieces"
        message = f"{where}, of which others may be in the log: {refused.message}"
        return Refused(refused.code, refused.reason, message, refused.violations, refused.retry_seconds)


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
        self._given: deque[_Given] = deque()  # batches that are not answered
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

    def offer(self, batch: Any) -> list[pb.LearnRequest]:
        """Numbers a batch and keeps it until it is answered; see `columns_of` for what it may be, or `Numbered`.

        Returns:
            What is to be sent: several pieces, where the batch is larger than a message.
        """
        columns, first, end, given = self.numbered(batch)
        producer = self.producer if given is None else given.producer
        if columns is None or fits(columns):
            requests = [self._request(producer, first, columns, end if given is not None else None)]
            if given is not None and given.numbers is not None:
                self._say_numbers(requests[0], given.numbers, always=False)
            self.expect(first, end, columns, 1)
        else:
            requests = self._pieces(columns, first, end, given)
        self.unanswered.extend(requests)
        return requests

    def numbered(self, batch: Any) -> tuple[pb.Columns | None, int, int, Numbered | None]:
        """A batch as columns (None: a stamp), the producer's numbers of its first event and after it."""
        given = batch if isinstance(batch, Numbered) else None
        inside = batch if given is None else given.batch
        columns = None if inside is None else columns_of(inside, self.core.schemas[self.model])
        if given is not None:
            return columns, given.sequence, given.next_sequence, given
        assert columns is not None
        first, self.sequence = self.sequence, self.sequence + columns.rows
        return columns, first, self.sequence, None

    def expect(self, first: int, end: int, columns: pb.Columns | None, left: int, why: Refused | None = None) -> None:
        """Notes a batch whose pieces will be answered: `left` of them; `why` it is refused, whatever they say."""
        rows = columns.rows if columns is not None else 0
        self._given.append(_Given(first, end, rows, left, why, []))

    def _request(
        self, producer: str, first: int, columns: pb.Columns | None, end: int | None
    ) -> pb.LearnRequest:
        return pb.LearnRequest(
            route=self.core.route(self.model),
            model=self.model,
            producer=producer,
            sequence=first,
            columns=columns,
            next_sequence=end,
        )

    def _say_numbers(self, request: pb.LearnRequest, given: Any, always: bool) -> None:
        """Keeps the numbers of the rows, and writes them down where the request would not be clear without."""
        self.numbers[request.producer, request.sequence] = given
        if not request.columns.rows:
            return
        numbers = np.asarray(given, "<u8")
        as_many = request.next_sequence - request.sequence == request.columns.rows
        if always or (as_many and (numbers[1:] == numbers[:-1]).any()):  # but they are not one each
            request.number = numbers.tobytes()

    def _pieces(
        self, columns: pb.Columns, first: int, end: int, given: Numbered | None
    ) -> list[pb.LearnRequest]:
        """A batch in pieces, each with its own numbers; one that cannot be cut leaves its numbers alone."""
        producer = self.producer if given is None else given.producer
        numbers = None if given is None else given.numbers
        try:
            if numbers is None and end != first + columns.rows:
                raise invalid("numbers", "none", "one for each row of a batch that is larger than a message")
            counted = np.arange(first, end) if numbers is None else np.asarray(numbers)
            cut = pieces(columns, counted)
        except Refused as refused:
            # The mark of the producer passes the batch. What was refused before it may have left the mark behind.
            before = first if given is not None else min(first, self._acknowledged.get(producer, 0))
            self.expect(first, end, columns, 1, refused)
            return [self._request(producer, before, None, end)]
        requests = []
        for rows in cut:
            start = first if rows.start == 0 else int(counted[rows.start])
            stop = end if rows.stop == columns.rows else int(counted[rows.stop])
            request = self._request(producer, start, taken(columns, rows), stop if given is not None else None)
            if given is not None:
                self._say_numbers(request, counted[rows], always=True)
            requests.append(request)
        self.expect(first, end, columns, len(requests))
        return requests

    def waiting(self, since: bool) -> None:
        """Notes that the caller starts or ends waiting for a reply."""
        self._waiting_since = clock.monotonic() if since else None

    def overdue(self) -> bool:
        """Whether a reply has been awaited for longer than the timeout; remembered for `fault`."""
        since = self._waiting_since
        self.timed_out = since is not None and clock.monotonic() - since > self.timeout
        return self.timed_out

    def answer(self, reply: pb.LearnReply) -> LearnResult | None:
        """Takes the reply to the oldest unanswered piece; the answer to its batch once that is whole.

        Raises:
            Restart: the piece has to be sent again, on a new stream.
            Refused: the batch was refused for good and the caller wants that raised (later batches go on), or
                the time for retries is used up.
        """
        return self.settle(self.piece(reply))

    def piece(self, reply: pb.LearnReply) -> LearnResult:
        """The answer to the oldest unanswered piece; raises as `answer` does, but not what refused it for good."""
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
        if refused is None:
            self._acknowledged[request.producer] = reply.next_sequence
        predictions = None if refused else predictions_from_proto(reply.accepted, reply.duplicate)
        plain = (request.sequence, request.columns.rows, predictions, refused, reply.duplicate)
        return LearnResult(*plain, request.producer, reply.next_sequence)

    def settle(self, result: LearnResult) -> LearnResult | None:
        """The answer to the oldest batch, once all of its pieces are answered; `result` is that to the next one.

        Raises:
            Refused: it was refused and the caller wants that raised.
        """
        given = self._given[0]
        given.left -= 1
        if given.left or given.parts or given.refused:
            given.parts.append(result)
            if given.left:
                return None
            result = given.united()
        self._given.popleft()
        if result.refused is not None and self.raises:
            raise result.refused
        return result

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
