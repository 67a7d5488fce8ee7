"""A `learn` call to several partitions: its lanes driven by tasks, for the asyncio client."""

from __future__ import annotations

import asyncio
import time as clock
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import grpc

from service.api import continual_v1_pb2 as pb
from service.client.core import DATA
from service.client.lanes import Lanes
from service.client.session import LearnResult, LearnSession, no_reply

if TYPE_CHECKING:
    from service.client.aio import AsyncClient

LOOK_SECONDS = 0.5
END = object()
"""What an async source gives after its last batch."""


class AsyncLaneStreams:
    """See `service.client.lanes_sync.LaneStreams`; replies come while an async source pauses.

    Args:
        client: whose call it is.
        session: of the call until now.
        batches: what is left of a source that does not wait.
        later: what is left of one that does.
        pull: the batch of `later` that is awaited already.
    """

    def __init__(
        self,
        client: AsyncClient,
        session: LearnSession,
        batches: Iterator[Any] | None,
        later: AsyncIterator[Any] | None,
        pull: asyncio.Future[Any] | None,
    ) -> None:
        self.lanes = Lanes(session)
        self._client = client
        self._batches = batches
        self._later = later
        self._pull = pull
        self._calls: dict[str, tuple[Any, asyncio.Queue, asyncio.Task]] = {}
        self._events: asyncio.Queue[tuple[str, Any, Any]] = asyncio.Queue()
        self._hearing: asyncio.Future[Any] | None = None
        self._heard = clock.monotonic()

    async def next(self) -> LearnResult | None:
        """The answer to the next batch; None after the last."""
        while True:
            await self._fill()
            if (result := self.lanes.ready()) is not None:
                return result
            if not (self.lanes.wholes or self._batches or self._later or self.lanes.more):
                await self.close()
                return None
            await self._hear()

    async def close(self) -> None:
        """Ends the streams; batches that are not answered may or may not have been applied."""
        for waiting in (self._pull, self._hearing):
            if waiting is not None:
                waiting.cancel()
        for id in list(self._calls):
            await self._drop(id)

    # Sending

    async def _fill(self) -> None:
        """See `LaneStreams._fill`; from an async source only what it has given already."""
        core, session = self._client.core, self.lanes.session
        await self._client.run(core.have_map(session.timeout))
        routes = self.lanes.routes()
        self._send(self.lanes.gone(routes))
        for id in [id for id in self._calls if id not in self.lanes.lanes]:
            await self._drop(id)
        while self.lanes.room(routes):
            whole = self.lanes.old()
            if whole is None:
                batch = self._next_batch()
                if batch is END:
                    break
                whole = self.lanes.whole(batch)
            if not self.lanes.wholes:
                self._heard = clock.monotonic()
            self._send(self.lanes.give(whole, routes))
        for id in self.lanes.to_open(routes, clock.monotonic()):
            self._open(id)

    def _next_batch(self) -> Any:
        """The next batch that is there, or END."""
        if self._batches is not None:
            try:
                return next(self._batches)
            except StopIteration:
                self._batches = None
        if self._later is None:
            return END
        if self._pull is None:
            self._pull = asyncio.ensure_future(anext(self._later, END))
        if not self._pull.done():
            return END
        pull, self._pull = self._pull, None
        if (batch := pull.result()) is END:
            self._later = None
        return batch

    def _send(self, requests: list[tuple[str, pb.LearnRequest]]) -> None:
        for id, request in requests:
            if id in self._calls:  # else it goes with the others once a stream is open
                self._calls[id][1].put_nowait(request)

    def _open(self, id: str) -> None:
        lane, requests = self.lanes.opened(id), asyncio.Queue[pb.LearnRequest | None]()
        for request in lane.session.connect():
            requests.put_nowait(request)
        call = self._client.stub(lane.session.address, DATA).Learn(_sent(requests))
        self._calls[id] = call, requests, asyncio.ensure_future(self._read(id, call))

    async def _drop(self, id: str) -> None:
        call, requests, reading = self._calls.pop(id)
        requests.put_nowait(None)
        call.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    # Reading

    async def _read(self, id: str, call: Any) -> None:
        """Hands on every reply, and last why there are no more."""
        said: Any = None
        try:
            async for reply in call:
                self._events.put_nowait((id, call, reply))
        except grpc.RpcError as error:
            said = error
        except asyncio.CancelledError:
            pass  # the call was given up, and says it so
        self._events.put_nowait((id, call, said))

    async def _hear(self) -> None:
        """Waits for what happens next: in a stream, or that the source gives a batch that there is room for.

        Raises:
            Refused: nothing for longer than the timeout, or a stream ended for good.
        """
        now = clock.monotonic()
        if self._hearing is None:
            self._hearing = asyncio.ensure_future(self._events.get())
        waited: set[asyncio.Future[Any]] = {self._hearing}
        if self._pull is not None and not self._pull.done():
            waited.add(self._pull)
        wait = min(LOOK_SECONDS, max(0.001, self.lanes.next_open(now)))
        await asyncio.wait(waited, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
        if not self._hearing.done():
            if self.lanes.wholes and now - self._heard > self.lanes.session.timeout:
                raise no_reply(self.lanes.session.timeout)
            return
        hearing, self._hearing = self._hearing, None
        id, call, said = hearing.result()
        if id not in self._calls or self._calls[id][0] is not call:
            return  # of a stream that was given up
        cause = said
        if isinstance(said, pb.LearnReply):
            self._heard = clock.monotonic()
            cause = self.lanes.answer(id, said)
            if cause is None:
                return
        await self._drop(id)
        self.lanes.ended(id, cause, clock.monotonic())


async def _sent(requests: asyncio.Queue[pb.LearnRequest | None]) -> AsyncIterator[pb.LearnRequest]:
    while (request := await requests.get()) is not None:
        yield request
