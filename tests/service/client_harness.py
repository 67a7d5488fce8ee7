"""A service that can be told to fail, and both clients driven by the same calls."""

import asyncio

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service import channels, errors
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import AsyncClient, Client, Refused
from service.wire import Schema, decode_columns, decode_event, predictions_to_proto, slice_columns

FEATURES = '[{"name": "a"}, {"name": "b", "missing": "mean"}]'
SPEC = '{"name": "m", "features": ' + FEATURES + ', "target": {"kind": "regression"}}'
FINAL = {"NO_REPLY", "STREAM_ENDED", "LOADING", "MODEL_NOT_FOUND"}
WHOLE = {"first_hash": 0, "last_hash": 2**64 - 1, "id": "0", "map_version": 1}


class Server(api.OnlineLearningServicer, api.ModelsServicer):
    """A service whose fold is a list: it predicts the sum of a row's features, and can be told to fail.

    Attributes:
        log: (key, x, y) of every event that was applied, in order.
        faults: raised or run, the first one at a time, before the next call of a method.
        drop_after: the Learn stream is aborted after so many replies, once.
    """

    def __init__(self):
        self.schema = Schema.from_json(SPEC)
        self.log, self.marks, self.ids = [], {}, {}
        self.calls, self.faults, self.drop_after = [], {}, []
        self.map = pb.PartitionMap(deployment="d", version=1)
        self.models = {"m": SPEC}
        self.received, self.address = 0, ""

    @property
    def version(self):
        return self.map.partitions[0].map_version

    async def _enter(self, method, context, route=None):
        self.calls.append(method)
        for fault in self.faults.get(method, [])[:1]:
            self.faults[method].pop(0)
            if isinstance(fault, Refused):
                await errors.abort(context, fault)
            await asyncio.sleep(fault)
        if route is not None and (route.deployment, route.map_version) not in (("d", self.version), ("d", 0)):
            await errors.abort(context, errors.wrong_map(self.map))

    def _apply(self, batch):
        position = len(self.log)
        self.log += [(batch.key[i], batch.x[i].tolist(), batch.y[i]) for i in range(len(batch))]
        return self._predict(batch, position)

    def _predict(self, batch, position):
        value = np.nansum(batch.x, axis=1).astype(float)
        return predictions_to_proto(position, value, outcome=np.ones(len(batch), np.uint8))

    async def Predict(self, request, context):
        await self._enter("Predict", context, request.route)
        if request.model not in self.models:
            await errors.abort(context, errors.model_not_found(request.model))
        try:
            if request.HasField("event"):
                batch = decode_event(request.event, self.schema)
            else:
                batch = decode_columns(request.columns, self.schema)
        except Refused as refused:
            await errors.abort(context, refused)
        predictions = self._predict(batch, len(self.log))
        if request.uncertainty:
            predictions.interval = np.arange(predictions.rows, dtype=float).tobytes()
        return pb.PredictReply(predictions=predictions)

    async def Update(self, request, context):
        await self._enter("Update", context, request.route)
        event = request.event
        identity = (event.id, bool(event.features))  # a label has the id of its observation
        duplicate = identity in self.ids
        if not duplicate:
            self.ids[identity] = self._apply(decode_event(event, self.schema))
        await self._enter("Update after", context)
        return pb.UpdateReply(predictions=self.ids[identity], duplicate=duplicate)

    async def Learn(self, requests, context):
        await self._enter("Learn", context)
        if self.address and self.map.partitions[0].address != self.address:
            await errors.abort(context, errors.wrong_map(self.map))
        replies = 0
        async for request in requests:
            self.received += 1
            if request.route.map_version != self.version:
                await errors.abort(context, errors.wrong_map(self.map))
            reply = self._learn(request)
            replies += 1
            if self.drop_after and replies > self.drop_after[0]:
                self.drop_after.pop(0)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
            await self._enter("Learn reply", context)
            yield reply

    async def LearnMany(self, messages, context):
        async def requests():
            async for message in messages:
                for raw in message.requests:
                    yield pb.LearnRequest.FromString(raw)

        async for reply in self.Learn(requests(), context):
            yield pb.LearnReplies(replies=[reply])

    def _learn(self, request):
        mark, rows = self.marks.get(request.producer, 0), request.columns.rows
        if not rows and request.HasField("next_sequence"):  # a stamp
            self.marks[request.producer] = max(mark, request.next_sequence)
            reply = pb.LearnReply(sequence=request.sequence, next_sequence=request.next_sequence)
            reply.accepted.SetInParent()
            return reply
        applied = min(max(mark - request.sequence, 0), rows)
        reply = pb.LearnReply(sequence=request.sequence, duplicate=applied == rows)
        try:
            if not reply.duplicate:
                columns = slice_columns(request.columns, applied, self.schema)
                reply.accepted.CopyFrom(self._apply(decode_columns(columns, self.schema)))
                self.marks[request.producer] = request.sequence + rows
        except Refused as refused:
            reply.refused.CopyFrom(refused.to_status())
        if reply.duplicate:
            reply.accepted.SetInParent()
        reply.next_sequence = self.marks.get(request.producer, 0)
        return reply

    async def GetPartitionMap(self, request, context):
        await self._enter("GetPartitionMap", context)
        return self.map

    async def Create(self, request, context):
        await self._enter("Create", context, None)
        name = Schema.from_json(request.spec_json).model
        if name in self.models and not request.exist_ok:
            await errors.abort(context, errors.model_exists(name))
        self.models[name] = request.spec_json
        return pb.Model(name=name, spec_json=request.spec_json)

    async def Get(self, request, context):
        await self._enter("Get", context, request.route)
        if request.name not in self.models:
            await errors.abort(context, errors.model_not_found(request.name))
        return pb.Model(name=request.name, spec_json=self.models[request.name], position=len(self.log))

    async def List(self, request, context):
        return pb.ListModelsReply(models=[pb.Model(name=name) for name in self.models])

    async def Delete(self, request, context):
        await self._enter("Delete", context, request.route)
        del self.models[request.name]
        return pb.DeleteModelReply()

    async def Snapshot(self, request, context):
        return pb.SnapshotReply(position=len(self.log), digest="x")

    async def GetStatistics(self, request, context):
        return pb.Statistics(name=request.name, counts={"events": len(self.log)}, digest="d" * request.digest)


class Running:
    """A server in a thread of its own; `kill` ends it at once, `start` brings it back on the same port."""

    def __init__(self, servicer, loop):
        self.servicer, self.loop, self.port = servicer, loop, 0
        self.start()
        servicer.address = self.address
        if not servicer.map.partitions:
            servicer.map.partitions.add(model="m", address=self.address, shard="s", **WHOLE)

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        self.server = self._run(self._start())

    def kill(self):
        self._run(self.server.stop(None))

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    async def _start(self):
        server = grpc.aio.server(options=channels.SERVER)
        api.add_OnlineLearningServicer_to_server(self.servicer, server)
        api.add_ModelsServicer_to_server(self.servicer, server)
        checks = health.aio.HealthServicer()
        await checks.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(checks, server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        await server.start()
        return server


class Blocking:
    """Drives a `Client` as the tests want it."""

    def __init__(self, target, deployment=None):
        self.client = Client(target, deployment)
        self.core, self.models = self.client.core, self.client.models

    def __getattr__(self, name):
        return getattr(self.client, name)

    def collect(self, *args, **options):
        """Reads `learn` to its end; refusals that are raised stand in the list as they are."""
        stream, got = self.client.learn(*args, **options), []
        with stream:
            while True:
                try:
                    got.append(next(stream))
                except StopIteration:
                    return got
                except Refused as refused:
                    got.append(refused)
                    if refused.reason in FINAL:
                        return got

    def close(self):
        self.client.close()


class Awaiting:
    """Drives an `AsyncClient` by the same calls."""

    def __init__(self, target, deployment=None):
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(target, deployment)
        self.core = self.client.core
        self.models = Awaited(self.client.models, self.loop)

    def __getattr__(self, name):
        return getattr(Awaited(self.client, self.loop), name)

    def collect(self, *args, **options):
        return self.loop.run_until_complete(self._collect(*args, **options))

    async def _collect(self, *args, **options):
        got = []
        async with self.client.learn(*args, **options) as stream:
            while True:
                try:
                    got.append(await anext(stream))
                except StopAsyncIteration:
                    return got
                except Refused as refused:
                    got.append(refused)
                    if refused.reason in FINAL:
                        return got

    def close(self):
        self.loop.run_until_complete(self.client.close())
        self.loop.close()


class Awaited:
    def __init__(self, object, loop):
        self.object, self.loop = object, loop

    def __getattr__(self, name):
        method = getattr(self.object, name)
        return lambda *args, **options: self.loop.run_until_complete(method(*args, **options))


def batches(count, rows=3, start=0):
    for i in range(start, start + count):
        numbers = np.arange(i * rows, (i + 1) * rows, dtype=float)
        yield {"x": np.stack([numbers, numbers], 1), "y": numbers, "key": numbers.astype(int)}


def applied(servicer):
    return [y for _, _, y in servicer.log]
