"""A `learn` call to several partitions, without I/O: a lane for each, and answers put together again.

Every batch is cut by the hashes of its keys, and each part goes into the lane of its partition with the numbers of its
rows. A partition that is gone (it was split or merged) leaves its unanswered parts behind: once all such lanes have
ended, these are cut anew, batch by batch in order, before anything newer is sent. So each partition sees the numbers of
a producer in rising order, and what the log has already is left out there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from service.api import continual_v1_pb2 as pb
from service.client.cutting import fits, pieces, taken
from service.client.routing import Routes, hashes_of, united
from service.client.session import LearnResult, LearnSession, Restart
from service.errors import Refused, model_not_found
from service.wire import take_columns

QUIET_BATCHES = 16
"""A partition that got none of so many batches of a source is told that there was nothing for it."""

NOTHING = np.zeros(0, np.int64)


@dataclass(eq=False)
class Whole:
    """A batch as it was given.

    Attributes:
        first, end: the producer's numbers: of the first event, and after the batch.
        columns: None for a stamp.
        numbers: uint64 [n], of every row.
        hashes: uint64 [n], of every row's key.
        counted: whether it says itself where its numbers end (a source's).
        parts: answers, with the rows that they are to.
        left: parts that are not answered.
    """

    producer: str
    first: int
    end: int
    columns: pb.Columns | None
    numbers: np.ndarray
    hashes: np.ndarray
    counted: bool
    parts: list[tuple[np.ndarray, LearnResult]] = field(default_factory=list)
    left: int = 0

    @property
    def rows(self) -> int:
        """Events in the batch."""
        return self.columns.rows if self.columns is not None else 0


@dataclass
class Lane:
    """What goes to one partition.

    Attributes:
        session: numbers nothing and splits nothing; keeps what is unanswered.
        given: the batch and the rows of each unanswered part.
        sent: the number after the last part, by producer.
        quiet: batches of sources since the last part.
        open: whether a stream is open.
        retry_at: of `time.monotonic`: when to open the next one; None: as soon as there is something to send.
    """

    session: LearnSession
    given: deque[tuple[Whole, np.ndarray]] = field(default_factory=deque)
    sent: dict[str, int] = field(default_factory=dict)
    quiet: int = 0
    open: bool = False
    retry_at: float | None = None


class Lanes:
    """See the module's docstring.

    Args:
        session: of the call until it met a second partition; its unanswered batches are the first ones here.
    """

    def __init__(self, session: LearnSession) -> None:
        self.session = session
        self.lanes: dict[str, Lane] = {}
        self.wholes: deque[Whole] = deque()
        self._routes = Routes(session.core.map, session.model)
        self._again = deque(self._from_request(request) for request in session.unanswered)
        session.unanswered.clear()

    def routes(self) -> Routes:
        """The partitions as the client knows them now; as it knew them where another call of its has dropped the map.

        Raises:
            service.errors.Refused: there are none: the model was deleted.
        """
        if (current := self.session.core.map) is not None:
            self._routes = Routes(current, self.session.model)
        if not self._routes.ids:
            raise model_not_found(self.session.model)
        return self._routes

    # Giving

    def room(self, routes: Routes) -> bool:
        """Whether one more batch may be given: the window is not full, and nothing older has to go first."""
        stamped = any(whole.columns is None for whole in self.wholes)
        behind = any(lane.given for id, lane in self.lanes.items() if id not in routes.ids)
        return len(self.wholes) < self.session.in_flight and not stamped and not behind

    def old(self) -> Whole | None:
        """The next batch from before the call had lanes."""
        return self._again.popleft() if self._again else None

    def whole(self, batch: Any) -> Whole:
        """A batch as its caller gives it."""
        columns, first, end, given = self.session.numbered(batch)
        producer = self.session.producer if given is None else given.producer
        numbers = None if given is None else given.numbers
        refused = None
        if columns is not None and not fits(columns):
            refused = self._refusal(columns, first, end, numbers)
        self.session.expect(first, end, columns, 1, refused)
        if refused is not None:
            columns = numbers = None
        return self._whole(producer, first, end, columns, numbers, given is not None)

    def _refusal(self, columns: pb.Columns, first: int, end: int, numbers: Any) -> Refused | None:
        """Why a batch that is larger than a message cannot be cut: then its numbers go alone, as a stamp."""
        try:
            pieces(columns, np.arange(first, end) if numbers is None else np.asarray(numbers))
        except Refused as refused:
            return refused
        return None

    def _from_request(self, request: pb.LearnRequest) -> Whole:
        counted = request.HasField("next_sequence")
        end = request.next_sequence if counted else request.sequence + request.columns.rows
        columns = request.columns if request.HasField("columns") and request.columns.rows else None
        numbers = self.session.numbers.pop((request.producer, request.sequence), None)
        return self._whole(request.producer, request.sequence, end, columns, numbers, counted)

    def _whole(
        self, producer: str, first: int, end: int, columns: pb.Columns | None, numbers: Any, counted: bool
    ) -> Whole:
        rows = columns.rows if columns is not None else 0
        if numbers is None:
            if rows and end != first + rows:
                raise ValueError("numbers: got none; accepted: one for each row, as the batch leaves numbers out")
            numbers = np.arange(first, first + rows)
        hashes = NOTHING.astype(np.uint64) if columns is None else hashes_of(columns)
        return Whole(producer, first, end, columns, np.asarray(numbers, np.uint64), hashes, counted)

    def give(self, whole: Whole, routes: Routes) -> list[tuple[str, pb.LearnRequest]]:
        """Cuts a batch and keeps its parts; returns what is to be sent into which lane."""
        self.wholes.append(whole)
        if whole.columns is None:
            return self._part_out(whole, [(id, NOTHING) for id in routes.ids])
        parts = routes.rows(whole.hashes)
        if whole.counted:
            fed = {id for id, _ in parts}
            for id in routes.ids:
                lane = self._lane(id)
                lane.quiet = 0 if id in fed else lane.quiet + 1
                if lane.quiet >= QUIET_BATCHES:
                    lane.quiet = 0
                    parts.append((id, NOTHING))
        return self._part_out(whole, parts)

    def _part_out(self, whole: Whole, parts: Iterable[tuple[str, np.ndarray]]) -> list[tuple[str, pb.LearnRequest]]:
        out = []
        for id, rows in parts:
            lane = self._lane(id)
            first = min(whole.first, lane.sent.get(whole.producer, whole.first))
            for piece, columns, end in self._pieces(whole, rows):
                request = pb.LearnRequest(
                    route=self.session.core.route(self.session.model),
                    model=self.session.model,
                    producer=whole.producer,
                    sequence=first,
                    columns=columns,
                    next_sequence=end,
                    partition=id,
                    number=whole.numbers[piece].astype("<u8").tobytes(),
                )
                lane.sent[whole.producer] = first = end
                lane.session.unanswered.append(request)
                lane.given.append((whole, piece))
                whole.left += 1
                out.append((id, request))
        return out

    def _pieces(self, whole: Whole, rows: np.ndarray) -> list[tuple[np.ndarray, pb.Columns | None, int]]:
        """What goes to one partition, cut where it is larger than a message: rows, columns, the number after them."""
        if len(rows) == 0 or whole.columns is None:
            return [(rows, None, whole.end)]
        columns = take_columns(whole.columns, rows) if len(rows) < whole.columns.rows else whole.columns
        if fits(columns):
            return [(rows, columns, whole.end)]
        numbers = whole.numbers[rows]
        out: list[tuple[np.ndarray, pb.Columns | None, int]] = []
        for cut in pieces(columns, numbers):
            end = whole.end if cut.stop == len(rows) else int(numbers[cut.stop])
            out.append((rows[cut], taken(columns, cut), end))
        return out

    def _lane(self, id: str) -> Lane:
        if id not in self.lanes:
            one = self.session
            options: dict[str, Any] = {"producer": one.producer, "first_sequence": 0, "timeout": one.timeout}
            session = LearnSession(one.core, one.model, in_flight=1, on_refused="yield", partition=id, **options)
            self.lanes[id] = Lane(session)
        return self.lanes[id]

    # Streams

    @property
    def more(self) -> bool:
        """Whether batches from before the call had lanes wait to be given."""
        return bool(self._again)

    def to_open(self, routes: Routes, now: float) -> list[str]:
        """The lanes that want a stream: they have something to send, and the time has come."""
        return [
            id
            for id, lane in self.lanes.items()
            if lane.given and not lane.open and id in routes.ids and now >= (lane.retry_at or 0.0)
        ]

    def next_open(self, now: float) -> float:
        """Seconds until a lane may want a stream; a long time if none does."""
        ids = self.routes().ids
        waiting = (lane.retry_at for id, lane in self.lanes.items() if lane.given and not lane.open and id in ids)
        return min((at - now for at in waiting if at is not None), default=60.0)

    def opened(self, id: str) -> Lane:
        """A stream of this lane is about to be opened."""
        lane = self.lanes[id]
        lane.open, lane.retry_at = True, None
        return lane

    def ended(self, id: str, cause: grpc.RpcError | Restart | None, now: float) -> None:
        """The stream of a lane has ended (None: as if it had nothing more to say).

        Raises:
            service.errors.Refused: for a reason that trying again does not change.
        """
        lane = self.lanes[id]
        lane.open = False
        if lane.given:
            lane.retry_at = now + lane.session.fault(cause)

    # A partition that is gone

    def gone(self, routes: Routes) -> list[tuple[str, pb.LearnRequest]]:
        """Cuts anew what lanes of partitions that are gone have left, once all of those have ended.

        These lanes are no more; streams of theirs that are open have nothing to say.
        """
        lost = {id: lane for id, lane in self.lanes.items() if id not in routes.ids}
        if not lost or any(lane.open and lane.given for lane in lost.values()):
            return []
        known = set(self.lanes) - set(lost)
        left: dict[int, list[np.ndarray]] = {}
        for id, lane in lost.items():
            for whole, rows in lane.given:
                left.setdefault(id_of(whole), []).append(rows)
                whole.left -= 1
            del self.lanes[id]
        out = []
        for whole in self.wholes:
            if id_of(whole) not in left:
                continue
            rows = np.sort(np.concatenate(left[id_of(whole)]))
            if len(rows):
                parts = [(id, rows[where]) for id, where in routes.rows(whole.hashes[rows])]
            else:  # a stamp: to those that are new
                parts = [(id, NOTHING) for id in routes.ids if id not in known]
            out += self._part_out(whole, parts)
        return out

    # Answers

    def answer(self, id: str, reply: pb.LearnReply) -> Restart | None:
        """Takes the reply to the oldest unanswered part of a lane; returns why that has to go into a new stream.

        Raises:
            service.errors.Refused: the time for retries is used up.
        """
        lane = self.lanes[id]
        try:
            result = lane.session.piece(reply)
        except Restart as restart:
            return restart
        whole, rows = lane.given.popleft()
        whole.parts.append((rows, result))
        whole.left -= 1
        return None

    def ready(self) -> LearnResult | None:
        """The answer to the oldest batch, once all of its parts are answered.

        Raises:
            service.errors.Refused: a part was refused for good and the caller wants that raised.
        """
        while self.wholes and not self.wholes[0].left:
            whole = self.wholes.popleft()
            refused = next((part.refused for _, part in whole.parts if part.refused is not None), None)
            parts = [(rows, part.predictions) for rows, part in whole.parts if part.predictions is not None]
            filled = sorted(((rows, part) for rows, part in parts if len(rows)), key=lambda part: part[0][0]) or parts
            predictions = united(filled, whole.rows) if refused is None and filled else None
            duplicate = bool(whole.parts) and all(part.duplicate for _, part in whole.parts)
            plain = (whole.first, whole.rows, predictions, refused, duplicate, whole.producer, whole.end)
            if (result := self.session.settle(LearnResult(*plain))) is not None:
                return result
        return None


def id_of(whole: Whole) -> int:
    """Identity of a batch."""
    return id(whole)
