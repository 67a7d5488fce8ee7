"""gRPC in front of a shard: `continual.v1`, health, reflection.

Requests arrive as bytes: they are parsed here (a malformed one is INVALID_ARGUMENT, never INTERNAL) and the very
bytes go into the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from service import channels, errors
from service.api import continual_v1_pb2 as pb
from service.shard import models
from service.shard.letters import drop_letter, list_letters
from service.shard.maps import home
from service.shard.partition import Partition
from service.shard.predict import predict
from service.shard.shard import HOP, Shard
from service.shard.specs import name_in
from service.shard.stream import LearnStream, predictions_of
from service.store.errors import StoreError
from service.store.partition_map import Range
from service.wire import UNCERTAIN, first_key, key_hash, parse, predictions_to_proto

log = logging.getLogger(__name__)

DATA = "continual.v1.OnlineLearning"
CONTROL = "continual.v1.Models"

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
        except Exception as error:  # gRPC would tell the whole of it, however long
            log.exception("a call failed")
            await errors.abort(context, errors.internal(error))
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
    code = predicted.code if partition.spec.target.kind != "regression" else None
    sure = {name: getattr(predicted, name) for name in UNCERTAIN} if request.uncertainty else {}
    message = predictions_to_proto(position, predicted.value, code, labels, predicted.probabilities, **sure)
    return pb.PredictReply(predictions=message)


async def _update(partition: Partition, request: pb.UpdateRequest, raw: bytes) -> Message:
    answer = await partition.update(request, raw)
    return pb.UpdateReply(predictions=predictions_of(answer, partition.spec.target.kind), duplicate=answer.duplicate)


def _learn(shard: Shard) -> grpc.RpcMethodHandler:
    """The bidirectional stream: one reply for each request, in order; the reader runs ahead of the answers."""

    async def learn(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async with LearnStream(shard, requests, context, lambda raw: (raw,)) as stream:
            async for ready in stream.replies():
                for reply in ready:
                    yield reply.SerializeToString()

    return grpc.stream_stream_rpc_method_handler(learn)


def _learn_many(shard: Shard) -> grpc.RpcMethodHandler:
    """The same with several requests in a message, and in one whatever replies are ready together."""

    async def learn(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        async with LearnStream(shard, requests, context, lambda raw: parse(pb.LearnRequests, raw).requests) as stream:
            async for ready in stream.replies():
                yield pb.LearnReplies(replies=ready).SerializeToString()

    return grpc.stream_stream_rpc_method_handler(learn)


async def _producer(partition: Partition, request: pb.GetProducerRequest, raw: bytes) -> Message:
    return await partition.producer(request.producer)


async def _map(shard: Shard, request: pb.GetPartitionMapRequest, raw: bytes) -> Message:
    if request.version:
        await shard.maps.look_for(request.model, request.version)
    if request.make_ready:
        await shard.make_ready(request.model)
    return shard.maps.message()
