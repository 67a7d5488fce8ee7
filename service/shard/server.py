"""gRPC in front of a shard: `continual.v1`, health, reflection.

Requests arrive as bytes: they are parsed here (a malformed one is INVALID_ARGUMENT, never INTERNAL) and the very
bytes go into the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from service import channels, errors
from service.api import continual_v1_pb2 as pb
from service.shard import models
from service.shard.admission import Answer
from service.shard.letters import drop_letter, list_letters
from service.shard.maps import home
from service.shard.partition import Partition
from service.shard.predict import predict
from service.shard.shard import HOP, Shard
from service.shard.specs import name_in
from service.store.errors import StoreError
from service.store.partition_map import Range
from service.wire import UNCERTAIN, first_key, key_hash, parse, predictions_to_proto

log = logging.getLogger(__name__)

DATA = "continual.v1.OnlineLearning"
CONTROL = "continual.v1.Models"
IN_FLIGHT = 64
"""Batches of one stream between admission and answer, at most; beyond it the stream is not read (back-pressure)."""

TOGETHER_BYTES = 1 << 20
"""Replies that are ready together travel in one message until it is as large."""

Handler = Callable[[bytes, grpc.aio.ServicerContext], Awaitable[bytes]]


class Server:
    """The servers of a shard: its own port from the start, the node's public port once it serves."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self._health = health_aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []
        shard.on_health = lambda serving: _spawn(self._set_health(serving))

    async def start(self) -> str:
        """Listens on a port of its own and returns host:port; health says NOT_SERVING."""
        await self._set_health(False)
        config = self._shard.config
        server = self._new()
        port = server.add_insecure_port(f"{config.host}:0")
        await server.start()
        return f"{config.advertise}:{port}"

    async def open_public(self) -> None:
        """Listens on the node's public port too, beside its other shards."""
        config = self._shard.config
        server = self._new([("grpc.so_reuseport", 1)])
        server.add_insecure_port(f"{config.host}:{config.port}")
        await server.start()

    def _new(self, options: list[tuple[str, int]] | None = None) -> grpc.aio.Server:
        server = grpc.aio.server(options=channels.SERVER + (options or [("grpc.so_reuseport", 0)]))
        server.add_generic_rpc_handlers(tuple(_handlers(self._shard)))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (DATA, CONTROL, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME), server
        )
        self._servers.append(server)
        return server

    async def _set_health(self, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", DATA, CONTROL):
            await self._health.set(service, status)

    async def stop(self, grace: float = 2.0) -> None:
        """Refuses new calls, lets running ones end within `grace` seconds."""
        await self._set_health(False)
        await asyncio.gather(*(server.stop(grace) for server in self._servers))


def _spawn(work: Any) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _TASKS.add(task)
    task.add_done_callback(_TASKS.discard)


_TASKS: set[asyncio.Task] = set()


def _handlers(shard: Shard) -> list[grpc.GenericRpcHandler]:
    data = {
        "Predict": _unary(_OfPartition(shard, DATA, "Predict", pb.PredictRequest, _predict)),
        "Update": _unary(_OfPartition(shard, DATA, "Update", pb.UpdateRequest, _update)),
        "Learn": _learn(shard),
        "LearnMany": _learn_many(shard),
        "GetProducer": _unary(_OfPartition(shard, DATA, "GetProducer", pb.GetProducerRequest, _producer)),
        "GetPartitionMap": _unary(_Local(shard, pb.GetPartitionMapRequest, _map)),
    }
    control = {
        "Create": _unary(_Forwarding(shard, CONTROL, "Create", pb.CreateModelRequest, models.create)),
        "List": _unary(_Local(shard, pb.ListModelsRequest, models.list_models)),
        "Rebalance": _unary(_Local(shard, pb.RebalanceRequest, models.rebalance)),
        **{
            name: _unary(_Forwarding(shard, CONTROL, name, request, work))
            for name, request, work in (
                ("Get", pb.GetModelRequest, models.get),
                ("Delete", pb.DeleteModelRequest, models.delete),
                ("Snapshot", pb.SnapshotRequest, models.snapshot),
                ("GetStatistics", pb.GetStatisticsRequest, models.statistics),
                ("Split", pb.SplitRequest, models.split),
                ("Move", pb.MoveRequest, models.move),
                ("Merge", pb.MergeRequest, models.merge),
                ("ListDeadLetters", pb.ListDeadLettersRequest, list_letters),
                ("DropDeadLetter", pb.DropDeadLetterRequest, drop_letter),
            )
        },
    }
    return [
        grpc.method_handlers_generic_handler(DATA, data),
        grpc.method_handlers_generic_handler(CONTROL, control),
    ]


def _unary(handler: Handler) -> grpc.RpcMethodHandler:
    """Bytes in, bytes out; refusals become statuses."""

    async def call(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline passed before work began")
        try:
            return await handler(raw, context)
        except errors.Refused as refused:
            await errors.abort(context, refused)
        except StoreError as error:
            await errors.abort(context, errors.unavailable("STORE_UNAVAILABLE", str(error), 0.25))
        raise AssertionError

    return grpc.unary_unary_rpc_method_handler(call)


class _Local:
    """A call that any shard answers."""

    def __init__(self, shard: Shard, request: type[Message], work: Callable[..., Awaitable[Message]]) -> None:
        self.shard = shard
        self.request = request
        self.work = work

    async def __call__(self, raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return (await self.work(self.shard, parse(self.request, raw), raw)).SerializeToString()


class _Forwarding(_Local):
    """A call for the owner of a partition: answered here, or forwarded once."""

    def __init__(self, shard: Shard, service: str, method: str, request: type[Message], work: Any) -> None:
        super().__init__(shard, request, work)
        self.path = f"/{service}/{method}"

    async def __call__(self, raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        request: Any = parse(self.request, raw)
        model = await _model_of(request)
        await self.shard.maps.check(request.route, model)
        try:
            part = _part_of(self.shard, model, request)
        except errors.Refused:  # it may be new
            await self.shard.maps.look()
            part = _part_of(self.shard, model, request)
        if self.shard.maps.is_mine(part):
            return (await self.answer(part, request, raw)).SerializeToString()
        if any(key == HOP[0] for key, _ in context.invocation_metadata() or ()):
            await self.shard.maps.look()
            if not self.shard.maps.is_mine(part := _part_of(self.shard, model, request)):
                raise self.shard.maps.refusal(f"model {model!r} is not here, and was forwarded before")
            return (await self.answer(part, request, raw)).SerializeToString()
        call = self.shard.channel_to(part.shard).unary_unary(self.path)
        try:
            return await call(raw, timeout=context.time_remaining(), metadata=(HOP,))
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error

    async def answer(self, part: Range, request: Any, raw: bytes) -> Message:
        """The answer of this shard, which owns the partition that was asked for."""
        return await self.work(self.shard, request, raw)


class _OfPartition(_Forwarding):
    """A call that concerns one partition, and is answered with it."""

    async def answer(self, part: Range, request: Any, raw: bytes) -> Message:
        return await self.work(await self.shard.serving(request.model, part.id), request, raw)


async def _model_of(request: Any) -> str:
    if isinstance(request, pb.CreateModelRequest):
        return await name_in(request.spec_json)
    return request.model if hasattr(request, "model") else request.name


def _part_of(shard: Shard, model: str, request: Any) -> Range:
    """The partition that a request is about: it names one or a key, or else means the first."""
    if isinstance(request, pb.CreateModelRequest):
        return Range("0", shard=home(model, shard.config.shards))
    if isinstance(request, pb.UpdateRequest):
        return shard.find(model, key_hash(request.event.key))
    if isinstance(request, pb.PredictRequest):
        return shard.find(model, key_hash(first_key(request)))
    if isinstance(request, pb.MergeRequest):
        return shard.find(model, 0, request.partitions[0] if request.partitions else "")
    if isinstance(request, pb.SplitRequest) and not request.partition:
        return models.widest(shard, model)
    return shard.find(model, 0, getattr(request, "partition", ""))


# The data plane


async def _predict(partition: Partition, request: pb.PredictRequest, raw: bytes) -> Message:
    position, predicted, classes = await predict(partition, request)
    labels = classes if partition.spec.target.kind != "regression" else ()
    code = predicted.code if labels or partition.spec.target.kind == "multiclass" else None
    sure = {name: getattr(predicted, name) for name in UNCERTAIN} if request.uncertainty else {}
    message = predictions_to_proto(position, predicted.value, code, labels, predicted.probabilities, **sure)
    return pb.PredictReply(predictions=message)


async def _update(partition: Partition, request: pb.UpdateRequest, raw: bytes) -> Message:
    answer = await partition.update(request, raw)
    return pb.UpdateReply(predictions=_predictions(answer), duplicate=answer.duplicate)


def _predictions(answer: Answer) -> pb.Predictions:
    code = answer.code if answer.classes else None
    return predictions_to_proto(answer.position, answer.value, code, answer.classes, outcome=answer.outcome)


def _learn(shard: Shard) -> grpc.RpcMethodHandler:
    """The bidirectional stream: one reply for each request, in order; the reader runs ahead of the answers."""

    async def learn(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async with _LearnStream(shard, requests, lambda raw: (raw,)) as stream:
            async for ready in stream.replies(context):
                for reply in ready:
                    yield reply.SerializeToString()

    return grpc.stream_stream_rpc_method_handler(learn)


def _learn_many(shard: Shard) -> grpc.RpcMethodHandler:
    """The same with several requests in a message, and in one whatever replies are ready together."""

    async def learn(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async with _LearnStream(shard, requests, lambda raw: parse(pb.LearnRequests, raw).requests) as stream:
            async for ready in stream.replies(context):
                yield pb.LearnReplies(replies=ready).SerializeToString()

    return grpc.stream_stream_rpc_method_handler(learn)


class _LearnStream:
    """One open stream of `LearnRequest`, read while in `async with`.

    Args:
        shard: that owns the model.
        messages: what comes.
        unpack: the requests in a message.
    """

    def __init__(
        self, shard: Shard, messages: AsyncIterator[bytes], unpack: Callable[[bytes], Sequence[bytes]]
    ) -> None:
        self._shard = shard
        self._messages = messages
        self._unpack = unpack
        self._queue: asyncio.Queue[Any] = asyncio.Queue(IN_FLIGHT)
        self._last: tuple[str, str, str, int] | None = None
        self._ended = False

    async def __aenter__(self) -> _LearnStream:
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
            outcome: Any = await self._admit(request, raw)
        except errors.Refused as refused:
            outcome = refused
        except StoreError as error:
            outcome = errors.unavailable("STORE_UNAVAILABLE", str(error), 0.25)
        self._last = (request.model, request.partition, request.producer, _end(request))
        await self._queue.put((request, outcome))
        # A later batch must not pass the mark of one that the client will send again.
        return not (isinstance(outcome, errors.Refused) and outcome.code in _ENDS_THE_STREAM)

    async def replies(self, context: grpc.aio.ServicerContext) -> AsyncIterator[list[pb.LearnReply]]:
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
                await errors.abort(context, refused)
            yield ready
            if entry is _NONE_YET:
                entry = await self._queue.get()

    async def _admit(self, request: pb.LearnRequest, raw: bytes) -> asyncio.Future[Answer]:
        await self._shard.maps.check(request.route, request.model)
        part = self._shard.find(request.model, _learn_hash(self._shard, request), request.partition)
        if not self._shard.maps.is_mine(part):
            raise self._shard.maps.refusal(f"model {request.model!r} is served by another shard")
        answer = await (await self._shard.serving(request.model, part.id)).learn(request, raw)
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
                    accepted=_predictions(answer),
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


async def _producer(partition: Partition, request: pb.GetProducerRequest, raw: bytes) -> Message:
    return await partition.producer(request.producer)


async def _map(shard: Shard, request: pb.GetPartitionMapRequest, raw: bytes) -> Message:
    if request.version:
        await shard.maps.look_for(request.model, request.version)
    if request.make_ready:
        await shard.make_ready(request.model)
    return shard.maps.message()
