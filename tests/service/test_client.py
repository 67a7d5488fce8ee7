"""The clients against a real `grpc.aio` server over real channels, with faults."""

import asyncio
import threading

import grpc
import numpy as np
import pandas as pd
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service import errors
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import AsyncClient, Client, Refused
from service.client.core import Backoff
from service.wire import Schema, decode_columns, decode_event, predictions_to_proto, slice_columns

FEATURES = '[{"name": "a"}, {"name": "b", "missing": "mean"}]'
SPEC = '{"name": "m", "features": ' + FEATURES + ', "target": {"kind": "regression"}}'
FINAL = {"NO_REPLY", "STREAM_ENDED", "SEVERAL_PARTITIONS", "LOADING", "MODEL_NOT_FOUND"}
WHOLE = {"first_hash": 0, "last_hash": 2**64 - 1}


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

    async def _enter(self, method, context, route=None):
        self.calls.append(method)
        for fault in self.faults.get(method, [])[:1]:
            self.faults[method].pop(0)
            if isinstance(fault, Refused):
                await errors.abort(context, fault)
            await asyncio.sleep(fault)
        if route is not None and (route.deployment, route.map_version) != ("d", self.map.version):
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
            if request.route.map_version != self.map.version:
                await errors.abort(context, errors.wrong_map(self.map))
            reply = self._learn(request)
            replies += 1
            if self.drop_after and replies > self.drop_after[0]:
                self.drop_after.pop(0)
                await context.abort(grpc.StatusCode.UNAVAILABLE, "dropped")
            await self._enter("Learn reply", context)
            yield reply

    def _learn(self, request):
        mark, rows = self.marks.get(request.producer, 0), request.columns.rows
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
        server = grpc.aio.server()
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


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


@pytest.fixture
def servers(loop):
    running = []

    def start(servicer):
        running.append(Running(servicer, loop))
        return running[-1]

    yield start
    for server in running:
        server.kill()


@pytest.fixture
def service(servers):
    return servers(Server())


@pytest.fixture(params=[Blocking, Awaiting])
def connect(request):
    clients = []

    def connect(target, deployment=None):
        clients.append(request.param(target, deployment))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(service, connect):
    return connect(service.address)


def batches(count, rows=3, start=0):
    for i in range(start, start + count):
        numbers = np.arange(i * rows, (i + 1) * rows, dtype=float)
        yield {"x": np.stack([numbers, numbers], 1), "y": numbers, "key": numbers.astype(int)}


def applied(servicer):
    return [y for _, _, y in servicer.log]


def test_predict_takes_arrays_events_and_frames(client):
    assert client.predict("m", x=[[1, 2], [3, 4]]).value.tolist() == [3.0, 7.0]
    assert client.predict("m", x=[1, 2], key="k").value.tolist() == [3.0]
    assert client.predict("m", event={"a": 5.0}).value.tolist() == [5.0]
    frame = pd.DataFrame({"b": [1.0, 2.0], "a": [0.5, 0.5], "key": [1, 2]})
    assert client.predict("m", frame=frame).value.tolist() == [1.5, 2.5]
    with pytest.raises(ValueError, match="exactly one"):
        client.predict("m", x=[1, 2], event={"a": 1.0})


def test_predict_asks_for_the_uncertainty_where_it_is_wanted(client):
    sure = client.predict("m", x=[[1, 2], [3, 4]], uncertainty=True)
    assert (sure.variance, sure.epistemic, sure.interval.tolist()) == (None, None, [0.0, 1.0])
    assert client.predict("m", x=[[1, 2], [3, 4]]).interval is None


def test_a_refusal_arrives_whole(client):
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[[1, 2], [np.nan, 1]])
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MISSING_VALUE")
    assert caught.value.violations[0].field == "columns.x[1].a"
    with pytest.raises(Refused) as caught:
        client.predict("nobody", x=[1, 2])
    assert caught.value.reason == "MODEL_NOT_FOUND"


def test_update_and_label(client, service):
    reply = client.update("m", {"a": 1, "b": 2}, 7, key="k", time=5)
    assert (reply.position, reply.value.tolist(), reply.duplicate) == (0, [3.0], False)
    client.update("m", {"a": 1}, key="k", id="one")
    client.label("m", "one", "k", 2.5)
    assert [(key, y) for key, _, y in service.servicer.log][::2] == [(b"k", 7.0), (b"k", 2.5)]
    with pytest.raises(ValueError, match="features"):
        client.update("m", {}, 1.0)
    with pytest.raises(ValueError, match="id, label"):
        client.label("m", "", "k", 1.0)


def test_an_update_whose_reply_was_lost_counts_once(client, service):
    service.servicer.faults["Update after"] = [errors.unavailable("LOADING", "store is loading", 0.01)]
    reply = client.update("m", {"a": 1}, 1.0)
    assert reply.duplicate
    assert applied(service.servicer) == [1.0]
    assert service.servicer.calls.count("Update") == 2


def test_an_update_that_hangs_is_sent_again_with_its_id(client, service):
    service.servicer.faults["Update after"] = [30.0]
    assert client.update("m", {"a": 1}, 1.0, timeout=6.0).duplicate
    assert applied(service.servicer) == [1.0]


def test_waits_grow_and_are_never_shorter_than_the_server_asks():
    backoff = Backoff(1000.0)
    assert backoff.after(errors.unavailable("LOADING", "store", 7.5)) == 7.5
    waits = [backoff.after(errors.unavailable("LOADING", "store", 0.0)) for _ in range(20)]
    assert min(waits[10:]) >= 1.0 > waits[0]
    assert max(waits) <= 2.0


def test_a_delay_beyond_the_deadline_is_not_waited_for(client, service):
    service.servicer.faults["Predict"] = [errors.unavailable("LOADING", "store is loading", 100)]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=5)
    assert (caught.value.reason, caught.value.retry_seconds) == ("LOADING", 100)


@pytest.mark.parametrize("refused", [errors.conflict("i"), errors.exhausted("FULL", "full", 0.01)])
def test_nothing_else_is_retried(client, service, refused):
    service.servicer.faults["Predict"] = [refused]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2])
    assert caught.value.reason == refused.reason
    assert service.servicer.calls.count("Predict") == 1


def test_a_deadline_ends_a_predict(client, service):
    client.partition_map()
    service.servicer.faults["Predict"] = [30.0]
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_nobody_there(connect):
    client = connect("127.0.0.1:1")
    with pytest.raises(Refused) as caught:
        client.predict("m", x=[1, 2], timeout=0.5)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    with pytest.raises(Refused):
        client.health(timeout=0.5)


def test_calls_outlive_a_restart_of_the_server(client, service):
    client.update("m", {"a": 1}, 1.0)
    service.kill()
    threading.Timer(0.5, service.start).start()
    client.update("m", {"a": 1}, 2.0, timeout=20)
    assert applied(service.servicer) == [1.0, 2.0]


def test_a_new_map_in_a_refusal_is_taken(client, service):
    client.predict("m", x=[1, 2])
    service.servicer.map.version = 2
    client.predict("m", x=[1, 2])
    assert client.core.map.version == 2
    assert service.servicer.calls.count("GetPartitionMap") == 1


def test_another_deployment_is_refused(service, connect):
    with pytest.raises(Refused) as caught:
        connect(service.address, "elsewhere").predict("m", x=[1, 2])
    assert caught.value.reason == "WRONG_MAP"


def test_calls_go_to_the_owner_and_fall_back_to_the_target(servers, connect):
    target, owner = Server(), Server()
    door, home = servers(target), servers(owner)
    target.map.partitions[0].address = owner.map.partitions[0].address = home.address
    client = connect(door.address)
    client.predict("m", x=[1, 2])
    client.update("m", {"a": 1}, 1.0)
    client.models.snapshot("m")
    assert [call for call in target.calls if call != "GetPartitionMap"] == []
    assert owner.calls == ["Predict", "Update", "Update after"]
    home.kill()
    client.update("m", {"a": 1}, 2.0)
    assert applied(target) == [2.0]
    home.start()


def test_management(client):
    other = SPEC.replace('"m"', '"other"')
    assert client.models.create(other).name == "other"
    with pytest.raises(Refused) as caught:
        client.models.create(other)
    assert caught.value.reason == "MODEL_EXISTS"
    client.models.create(other, exist_ok=True)
    assert client.models.get("other").spec_json == other
    assert [model.name for model in client.models.list()] == ["m", "other"]
    client.models.delete("other")
    with pytest.raises(Refused):
        client.models.get("other")
    assert client.models.snapshot("m").digest == "x"
    assert client.models.statistics("m", digest=True).digest == "d"
    assert client.partition_map().deployment == "d"
    assert client.health() == "SERVING"


@pytest.mark.parametrize("in_flight", [1, 8, 100])
def test_learn_answers_every_batch_in_order(client, service, in_flight):
    got = client.collect("m", batches(20), in_flight=in_flight)
    assert [(one.sequence, one.rows) for one in got] == [(3 * i, 3) for i in range(20)]
    assert [one.predictions.position for one in got] == [3 * i for i in range(20)]
    assert got[1].predictions.value.tolist() == [6.0, 8.0, 10.0]
    assert applied(service.servicer) == list(range(60))
    assert service.servicer.calls.count("Learn") == 1


def test_learn_of_nothing_is_nothing(client):
    assert client.collect("m", []) == []


def test_learn_keeps_the_window_open(client, service):
    service.servicer.faults["Learn reply"] = [0.5]
    seen = []

    def source():
        for batch in batches(10):
            seen.append(service.servicer.received)
            yield batch

    got = client.collect("m", source(), in_flight=5)
    assert len(got) == 10
    assert seen[:5] == [0] * 5  # all of the window is offered before the first answer is needed
    assert seen[5] >= 1


def test_learn_survives_streams_that_drop(client, service):
    service.servicer.drop_after = [4, 0, 2]
    got = client.collect("m", batches(20), timeout=20)
    assert applied(service.servicer) == list(range(60))
    assert [one.sequence for one in got] == [3 * i for i in range(20)]
    assert any(one.duplicate for one in got)
    assert service.servicer.calls.count("Learn") == 4


def test_learn_survives_a_restart_of_the_server(client, service):
    def source():
        for i, batch in enumerate(batches(20)):
            if i == 10:
                service.kill()
                threading.Timer(0.3, service.start).start()
            yield batch

    got = client.collect("m", source(), timeout=20, in_flight=4)
    assert len(got) == 20
    assert applied(service.servicer) == list(range(60))


@pytest.mark.parametrize(
    "refused", [errors.unavailable("LOADING", "store", 0.01), errors.exhausted("FULL", "queue", 0.01)]
)
def test_learn_waits_where_the_server_asks_for_it(client, service, refused):
    service.servicer.faults["Learn"] = [refused, refused]
    assert len(client.collect("m", batches(5))) == 5
    assert applied(service.servicer) == list(range(15))


def test_learn_goes_to_the_owner_and_never_past_it(servers, connect):
    target, owner = Server(), Server()
    door, home = servers(target), servers(owner)
    target.map.partitions[0].address = home.address
    owner.drop_after = [3]
    assert len(connect(door.address).collect("m", batches(10), timeout=20)) == 10
    assert applied(owner) == list(range(30))
    assert applied(target) == []


def test_learn_of_several_partitions_is_refused(client, service):
    service.servicer.map.partitions.add(model="m", address=service.address)
    got = client.collect("m", batches(1))
    assert got[0].reason == "SEVERAL_PARTITIONS"


def test_learn_takes_a_new_map(client, service):
    client.partition_map()
    service.servicer.map.version = 7
    assert len(client.collect("m", batches(5))) == 5
    assert applied(service.servicer) == list(range(15))


def spoiled(at, count):
    for i, batch in enumerate(batches(count)):
        if i == at:
            batch["x"] = np.full_like(batch["x"], np.inf)
        yield batch


@pytest.mark.parametrize("on_refused", ["raise", "yield"])
def test_a_refused_batch_does_not_disturb_later_ones(client, service, on_refused):
    got = client.collect("m", spoiled(2, 6), on_refused=on_refused)
    refused = got[2] if on_refused == "raise" else got[2].refused
    assert refused.reason == "NOT_FINITE"
    assert [one.sequence for i, one in enumerate(got) if i != 2] == [0, 3, 9, 12, 15]
    assert applied(service.servicer) == [y for y in range(18) if y not in (6, 7, 8)]
    assert service.servicer.calls.count("Learn") == 1


def test_a_producer_that_sends_again_adds_nothing(client, service):
    client.collect("m", batches(4), producer="p")
    got = client.collect("m", batches(6), producer="p")
    assert [one.duplicate for one in got] == [True] * 4 + [False] * 2
    client.collect("m", batches(2, start=6), producer="p", first_sequence=18)
    assert applied(service.servicer) == list(range(24))


def test_learn_gives_up_on_a_server_that_is_silent(client, service):
    service.servicer.faults["Learn reply"] = [30.0]
    (refused,) = client.collect("m", batches(3), timeout=1.0)
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "NO_REPLY")


def test_learn_gives_up_when_the_time_for_retries_is_over(client, service):
    service.servicer.faults["Learn"] = [errors.unavailable("LOADING", "store", 0.05)] * 100
    got = client.collect("m", batches(3), timeout=1.0)
    assert got[0].code is grpc.StatusCode.UNAVAILABLE


def test_learn_of_an_unknown_model_is_refused(client):
    got = client.collect("nobody", batches(1), timeout=2.0)
    assert got[0].reason == "MODEL_NOT_FOUND"


def test_an_async_source_that_pauses_holds_no_reply_back(service):
    async def main():
        answered = asyncio.Event()

        async def source():
            for i, batch in enumerate(batches(6)):
                if i == 3:  # waits for an answer to what was sent before: would hang if it were held back
                    await asyncio.wait_for(answered.wait(), 10)
                yield batch

        got = []
        async with AsyncClient(service.address) as client:
            async for one in client.learn("m", source()):
                got.append(one.sequence)
                answered.set()
        return got

    assert asyncio.run(main()) == [0, 3, 6, 9, 12, 15]
    assert applied(service.servicer) == list(range(18))


def test_an_async_source_survives_streams_that_drop(service):
    service.servicer.drop_after = [2, 1]

    async def source():
        for batch in batches(8):
            await asyncio.sleep(0)
            yield batch

    async def main():
        async with AsyncClient(service.address) as client:
            return [one.sequence async for one in client.learn("m", source(), in_flight=3)]

    assert asyncio.run(main()) == [3 * i for i in range(8)]
    assert applied(service.servicer) == list(range(24))


def test_a_fault_of_the_source_is_the_callers(client):
    def source():
        yield from batches(2)
        raise KeyError("source")

    with pytest.raises(KeyError):
        client.collect("m", source())
