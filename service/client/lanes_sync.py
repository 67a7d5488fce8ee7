"""A `learn` call to several partitions: its lanes driven by threads, for the synchronous client."""

from __future__ import annotations

import queue
import threading
import time as clock
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from service.api import continual_v1_pb2 as pb
from service.client.core import DATA
from service.client.lanes import Lanes
from service.client.session import LearnResult, LearnSession, no_reply

if TYPE_CHECKING:
    from service.client.sync import Client

LOOK_SECONDS = 0.5


class LaneStreams(Iterator[LearnResult]):
    """The replies to what `session` has unanswered and to `batches`; one stream per partition, read by a thread each.

    Everything but the reading happens in the caller's thread.
    """

    def __init__(self, client: Client, session: LearnSession, batches: Iterator[Any] | None) -> None:
        self.lanes = Lanes(session)
        self._client = client
        self._batches = batches
        self._calls: dict[str, tuple[Any, queue.SimpleQueue]] = {}
        self._events: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
        self._heard = clock.monotonic()

    def __next__(self) -> LearnResult:
        while True:
            self._fill()
            if (result := self.lanes.ready()) is not None:
                return result
            if not self.lanes.wholes and self._batches is None and not self.lanes.more:
                self.close()
                raise StopIteration
            self._hear()

    def close(self) -> None:
        """Ends the streams; batches that are not answered may or may not have been applied."""
        for id in list(self._calls):
            self._drop(id)

    # Sending

    def _fill(self) -> None:
        """Cuts anew what has to be, sends batches until the window is full, opens streams that are wanted."""
        core, session = self._client.core, self.lanes.session
        self._client.run(core.have_map(session.timeout))
        routes = self.lanes.routes()
        self._send(self.lanes.gone(routes))
        for id in [id for id in self._calls if id not in self.lanes.lanes]:
            self._drop(id)
        while self.lanes.room(routes):
            whole = self.lanes.old()
            if whole is None:
                if self._batches is None:
                    break
                try:
                    whole = self.lanes.whole(next(self._batches))
                except StopIteration:
                    self._batches = None
                    break
            if not self.lanes.wholes:
                self._heard = clock.monotonic()
            self._send(self.lanes.give(whole, routes))
        for id in self.lanes.to_open(routes, clock.monotonic()):
            self._open(id)

    def _send(self, requests: list[tuple[str, pb.LearnRequest]]) -> None:
        for id, request in requests:
            if id in self._calls:  # else it goes with the others once a stream is open
                self._calls[id][1].put(request)

    def _open(self, id: str) -> None:
        lane, requests = self.lanes.opened(id), queue.SimpleQueue[pb.LearnRequest | None]()
        for request in lane.session.connect():
            requests.put(request)
        call = self._client.stub(lane.session.address, DATA).Learn(iter(requests.get, None))
        self._calls[id] = call, requests
        threading.Thread(target=self._read, args=(id, call), daemon=True).start()

    def _drop(self, id: str) -> None:
        call, requests = self._calls.pop(id)
        requests.put(None)
        call.cancel()

    # Reading

    def _read(self, id: str, call: Any) -> None:
        """In a thread: hands on every reply, and last why there are no more."""
        try:
            for reply in call:
                self._events.put((id, call, reply))
        except grpc.RpcError as error:
            self._events.put((id, call, error))
        else:
            self._events.put((id, call, None))

    def _hear(self) -> None:
        """Waits for what happens next.

        Raises:
            Refused: nothing for longer than the timeout, or a stream ended for good.
        """
        now = clock.monotonic()
        wait = min(LOOK_SECONDS, max(0.0, self.lanes.next_open(now)))
        try:
            id, call, said = self._events.get(timeout=wait or 0.001)
        except queue.Empty:
            if now - self._heard > self.lanes.session.timeout:
                raise no_reply(self.lanes.session.timeout) from None
            return
        if id not in self._calls or self._calls[id][0] is not call:
            return  # of a stream that was given up
        cause = said
        if isinstance(said, pb.LearnReply):
            self._heard = clock.monotonic()
            cause = self.lanes.answer(id, said)
            if cause is None:
                return
        self._drop(id)
        self.lanes.ended(id, cause, clock.monotonic())
