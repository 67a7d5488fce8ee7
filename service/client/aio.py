"""The asyncio client: the same calls as `service.client.sync`, awaited."""

from __future__ import annotations

import asyncio
import datetime
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import grpc

from service import channels
from service.api import continual_v1_pb2 as pb
from service.client.core import (
    CREATE_SECONDS,
    DATA,
    MODELS,
    Attempt,
    Backoff,
    Core,
    Plan,
    labelled_event,
    late_label,
)
from service.client.lanes_aio import END, AsyncLaneStreams
from service.client.session import LearnResult, LearnSession, Packing, Restart, Several
from service.client.sync import STUBS
from service.wire import PredictionBatch

T = TypeVar("T")


class AsyncClient:
    """A client for asyncio; belongs to the event loop that first uses it. See `service.client.Client`."""

    def __init__(self, target: str, deployment: str | None = None) -> None:
        self.core = Core(target, deployment)
        self.models = AsyncModels(self)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._stubs: dict[tuple[str, str], Any] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels; calls that are under way end as cancelled."""
        for channel in self._channels.values():
            await channel.close()

    def stub(self, address: str, service: str) -> Any:
        """The stub of a service at an address, over the one channel kept for it."""
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, channels.CLIENT)
        if (address, service) not in self._stubs:
            self._stubs[address, service] = STUBS[service](self._channels[address])
        return self._stubs[address, service]

    async def run(self, plan: Plan[T]) -> T:
        """Carries out a plan of `Core`."""
        try:
            action = next(plan)
            while True:
                if isinstance(action, Attempt):
                    method = getattr(self.stub(action.address, action.service), action.method)
                    try:
                        reply = await method(action.request, timeout=action.timeout)
                    except grpc.RpcError as error:
                        action = plan.throw(error)
                    else:
                        action = plan.send(reply)
                else:
                    await asyncio.sleep(action.seconds)
                    action = next(plan)
        except StopIteration as done:
            return done.value

    async def predict(
        self,
        model: str,
        x: Any = None,
        *,
        event: Mapping[str, float | None] | None = None,
        frame: Any = None,
        key: Any = None,
        time: Any = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """See `Client.predict`."""
        given: dict[str, Any] = {"x": x, "event": event, "frame": frame, "key": key, "time": time}
        wanted: dict[str, Any] = {"probabilities": probabilities, "uncertainty": uncertainty}
        return await self.run(self.core.predict(model, **given, **wanted, timeout=timeout))

    async def update(
        self,
        model: str,
        features: Mapping[str, float | None],
        label: Any = None,
        *,
        key: str | bytes | int = "",
        time: int | datetime.datetime | None = None,
        id: str | None = None,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """See `Client.update`."""
        return await self.run(
            self.core.update(model, labelled_event(features, label, key, time, id), timeout)
        )

    async def label(
        self,
        model: str,
        id: str,
        key: str | bytes | int,
        label: Any,
        *,
        time: int | datetime.datetime | None = None,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """See `Client.label`."""
        return await self.run(self.core.update(model, late_label(id, key, label, time), timeout))

    def learn(
        self,
        model: str,
        batches: Iterable[Any] | AsyncIterable[Any],
        *,
        producer: str | None = None,
        first_sequence: int = 0,
        in_flight: int = 8,
        on_refused: Literal["raise", "yield"] = "raise",
        timeout: float = 60.0,
    ) -> AsyncLearnStream:
        """See `Client.learn`; an async iterator may also be given, and replies come while it pauses."""
        options: dict[str, Any] = {"producer": producer, "first_sequence": first_sequence, "timeout": timeout}
        session = LearnSession(self.core, model, in_flight=in_flight, on_refused=on_refused, **options)
        return AsyncLearnStream(self, session, batches)

    async def producer(self, model: str, name: str, timeout: float = 10.0) -> pb.Producer:
        """See `Client.producer`."""
        return await self.run(self.core.producer(model, name, timeout))

    async def partition_map(self, timeout: float = 10.0) -> pb.PartitionMap:
        """See `Client.partition_map`."""
        return await self.run(self.core.partition_map(timeout))

    async def health(self, service: str = "", timeout: float = 5.0) -> str:
        """See `Client.health`."""
        return await self.run(self.core.health(service, timeout))


class AsyncLearnStream(AsyncIterator[LearnResult]):
    """The replies of `AsyncClient.learn`; close it (or use `async with`) if it is not read to its end."""

    def __init__(
        self, client: AsyncClient, session: LearnSession, batches: Iterable[Any] | AsyncIterable[Any]
    ) -> None:
        self.session = session
        self._client = client
        self._later: AsyncIterator[Any] | None = None
        self._batches: Iterator[Any] | None = None
        if isinstance(batches, AsyncIterable):
            self._later = aiter(batches)
        else:
            self._batches = iter(batches)
        self._pull: asyncio.Future[Any] | None = None
        self._message: asyncio.Future[Any] | None = None
        self._call: Any = None
        self._messages: Any = None
        self._replies: deque[pb.LearnReply] = deque()  # read, not yet returned
        self._answered = asyncio.Event()
        self._answered.set()
        self._requests: asyncio.Queue[pb.LearnRequest | None] = asyncio.Queue()
        self._closed = False
        self._lanes: AsyncLaneStreams | None = None

    async def __aenter__(self) -> AsyncLearnStream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    @property
    def unanswered(self) -> int:
        """Batches that are sent and not answered."""
        return len(self.session.unanswered if self._lanes is None else self._lanes.lanes.wholes)

    async def __anext__(self) -> LearnResult:
        if self._lanes is None:
            try:
                return await self._next()
            except Several:
                await self._drop()
                source = self._batches, self._later, self._pull
                self._pull = None
                self._lanes = AsyncLaneStreams(self._client, self.session, *source)
        result = None if self._closed else await self._lanes.next()
        if result is None:
            await self.close()
            raise StopAsyncIteration
        return result

    async def _next(self) -> LearnResult:
        while not self._closed:
            await self._fill()
            if not self.session.unanswered:
                break
            cause: grpc.RpcError | Restart | None = None
            try:
                if self._call is None:
                    await self._open()
                reply = await self._read()
                if reply is not None:
                    self._answered.set()
                    if (result := self.session.answer(reply)) is not None:
                        return result
                    continue
            except (grpc.RpcError, Restart) as error:
                cause = error
            await self._drop()
            self._answered.clear()
            await asyncio.sleep(self.session.fault(cause))
        await self.close()
        raise StopAsyncIteration

    async def close(self) -> None:
        """Ends the stream; batches that are not answered may or may not have been applied."""
        self._closed = True
        if self._pull is not None:
            self._pull.cancel()
        await self._drop()
        if self._lanes is not None:
            await self._lanes.close()

    async def _fill(self) -> None:
        """Sends batches until the window is full; from an async source only if nothing is unanswered."""
        if self.session.model not in self._client.core.schemas:
            await self._client.run(self._client.core.schema(self.session.model, self.session.timeout))
        while self._batches is not None and self.session.room:
            try:
                batch = next(self._batches)
            except StopIteration:
                self._batches = None
                return
            self._offer(batch)
        while self._later is not None and not self.session.unanswered:
            await asyncio.wait([self._pulling()])
            self._take()

    def _offer(self, batch: Any) -> None:
        for request in self.session.offer(batch):
            self._requests.put_nowait(request)

    def _pulling(self) -> asyncio.Future[Any]:
        if self._pull is None:
            assert self._later is not None
            self._pull = asyncio.ensure_future(anext(self._later, END))
        return self._pull

    def _take(self) -> None:
        """Sends the batch that the async source has given."""
        assert self._pull is not None
        pull, self._pull = self._pull, None
        if (batch := pull.result()) is END:
            self._later = None
        else:
            self._offer(batch)

    async def _open(self) -> None:
        await self._client.run(self._client.core.need_map(Backoff(self.session.timeout)))
        requests = self._requests = asyncio.Queue()
        for request in self.session.connect():
            requests.put_nowait(request)
        self._call = self._client.stub(self.session.address, DATA).LearnMany(self._send(requests))
        self._messages = aiter(self._call)

    async def _send(self, requests: asyncio.Queue[pb.LearnRequest | None]) -> AsyncIterator[pb.LearnRequests]:
        """What goes into the stream. After a fault one message probes: a write that fails hides the status."""
        packing = Packing(requests.get_nowait, asyncio.QueueEmpty, self.session.together)
        while not packing.ended:
            request = packing.held or await requests.get()
            if request is None:
                return
            yield packing.message(request)
            await self._answered.wait()

    async def _read(self) -> pb.LearnReply | None:
        """The next reply, None at the end of the stream; meanwhile an async source may fill the window."""
        while not self._replies:
            message = await self._read_message()
            if message is None:
                return None
            self._replies.extend(message.replies)
        return self._replies.popleft()

    async def _read_message(self) -> pb.LearnReplies | None:
        try:
            async with asyncio.timeout(self.session.timeout):
                if self._later is None and self._message is None:
                    return await anext(self._messages, None)
                return await self._read_and_pull()
        except TimeoutError:
            self.session.timed_out = True
            return None

    async def _read_and_pull(self) -> pb.LearnReplies | None:
        if self._message is None:
            self._message = asyncio.ensure_future(anext(self._messages, None))
        while not self._message.done():
            waited = {self._message}
            if self._later is not None and self.session.room:
                waited.add(self._pulling())
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if self._pull is not None and self._pull.done():
                self._take()
        message, self._message = self._message, None
        return message.result()

    async def _drop(self) -> None:
        if self._call is not None:
            self._requests.put_nowait(None)
            self._call.cancel()
            if self._message is not None:
                await asyncio.gather(self._message, return_exceptions=True)  # cancelled: nobody reads it
            self._call = self._messages = self._message = None
            self._replies.clear()


class AsyncModels:
    """Management of models: `client.models`. See `service.client.sync.Models`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def create(self, spec: Any, exist_ok: bool = False, timeout: float = CREATE_SECONDS) -> pb.Model:
        """See `Models.create`."""
        return await self._client.run(self._client.core.create(spec, exist_ok, timeout))

    async def get(self, name: str, timeout: float = 10.0) -> pb.Model:
        """See `Models.get`."""
        return await self._client.run(self._client.core.model(pb.GetModelRequest(name=name), "Get", timeout))

    async def list(self, timeout: float = 10.0) -> list[pb.Model]:
        """See `Models.list`."""
        request = pb.ListModelsRequest()
        return [*(await self._client.run(self._client.core.call(MODELS, "List", request, timeout))).models]

    async def delete(self, name: str, timeout: float = 30.0) -> None:
        """See `Models.delete`."""
        await self._client.run(self._client.core.delete(name, timeout))

    async def snapshot(self, name: str, timeout: float = 60.0) -> pb.SnapshotReply:
        """See `Models.snapshot`."""
        request = pb.SnapshotRequest(name=name)
        return await self._client.run(self._client.core.model(request, "Snapshot", timeout))

    async def dead_letters(
        self, name: str, after: str = "", count: int = 100, timeout: float = 10.0
    ) -> pb.ListDeadLettersReply:
        """See `Models.dead_letters`."""
        request = pb.ListDeadLettersRequest(name=name, after=after, count=count)
        return await self._client.run(self._client.core.model(request, "ListDeadLetters", timeout))

    async def drop_dead_letter(self, name: str, id: str, timeout: float = 10.0) -> bool:
        """See `Models.drop_dead_letter`."""
        request = pb.DropDeadLetterRequest(name=name, id=id)
        return (await self._client.run(self._client.core.model(request, "DropDeadLetter", timeout))).dropped

    async def statistics(self, name: str, digest: bool = False, timeout: float = 60.0) -> pb.Statistics:
        """See `Models.statistics`."""
        request = pb.GetStatisticsRequest(name=name, digest=digest)
        return await self._client.run(self._client.core.model(request, "GetStatistics", timeout))

    async def split(
        self, name: str, partition: str = "", into: int = 2, shards: Sequence[str] = (), timeout: float = 300.0
    ) -> pb.ReshardReply:
        """See `Models.split`."""
        request = pb.SplitRequest(name=name, partition=partition, into=into, shards=shards)
        return await self._client.run(self._client.core.reshard(request, "Split", timeout))

    async def move(
        self, name: str, partition: str, shard: str = "", timeout: float = 300.0
    ) -> pb.ReshardReply:
        """See `Models.move`."""
        request = pb.MoveRequest(name=name, partition=partition, shard=shard)
        return await self._client.run(self._client.core.reshard(request, "Move", timeout))

    async def merge(self, name: str, first: str, second: str, timeout: float = 300.0) -> pb.ReshardReply:
        """See `Models.merge`."""
        request = pb.MergeRequest(name=name, partitions=[first, second])
        return await self._client.run(self._client.core.reshard(request, "Merge", timeout))

    async def rebalance(self, name: str = "", timeout: float = 600.0) -> pb.ReshardReply:
        """See `Models.rebalance`."""
        request = pb.RebalanceRequest(name=name)
        return await self._client.run(self._client.core.reshard(request, "Rebalance", timeout))
