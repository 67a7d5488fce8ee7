"""The control plane: models, snapshots beside a running stream, statistics, health, reflection."""

import itertools
import os
import queue
import signal
import threading

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from shard_harness import (
    FEATURES,
    LocalShard,
    batch_of,
    columns,
    cut,
    digest,
    events,
    fold,
    same_answers,
    spec_of,
    until,
)

from learners.spec import ModelSpec
from service.client import Client
from service.errors import Refused
from service.shard import snapshots
from service.store.connect import connect
from service.store.partition import Partition
from service.wire import Schema

METHODS = {"Predict", "Update", "Learn", "LearnMany", "GetProducer", "GetPartitionMap"}
X = dict(zip(FEATURES, (0.5, -0.25, 1.0)))


def test_a_model_is_created_once(client, name):
    spec = spec_of(name, "multiclass")
    made = client.models.create(spec)
    assert (made.name, made.position, made.state) == (name, 0, "serving")
    assert ModelSpec.model_validate_json(made.spec_json) == spec
    with pytest.raises(Refused, match="MODEL_EXISTS") as error:
        client.models.create(spec)
    assert error.value.code is grpc.StatusCode.ALREADY_EXISTS
    client.update(name, X, "red")
    assert client.models.create(spec, exist_ok=True).position == 1
    with pytest.raises(Refused, match="MODEL_EXISTS"):
        client.models.create(spec_of(name, "multiclass", units=5), exist_ok=True)
    assert client.models.get(name).position == 1
    assert ModelSpec.model_validate_json(client.models.get(name).spec_json) == spec
    assert name in {model.name for model in client.models.list()}


def test_a_deleted_model_leaves_no_connection_behind(server, client, name):
    store = connect(server.url)
    counts = []
    for number in range(10):
        model = f"{name}-{number}"
        client.models.create(spec_of(model))
        client.update(model, X, "UP", id="one")
        client.models.delete(model)
        counts.append(len(store.client_list()))
    assert counts[-1] < counts[0] + 5  # the pools of the threads may grow a little, not by one for every model


def test_a_deleted_model_is_gone_and_begins_afresh(server, client, name):
    spec = spec_of(name, slots=2)
    client.models.create(spec)
    fresh = digest(client, name)
    list(client.learn(name, [columns(spec, events("binary", 200))], producer="p"))
    client.update(name, X, "UP", id="one")
    client.models.snapshot(name)
    client.models.delete(name)
    for call in (client.models.get, client.models.delete, client.models.snapshot, client.models.statistics):
        with pytest.raises(Refused, match="MODEL_NOT_FOUND"):
            call(name)
    with pytest.raises(Refused, match="MODEL_NOT_FOUND"):
        client.predict(name, event=X)
    assert name not in {model.name for model in client.models.list()}
    store = connect(server.url)
    assert {key for key in store.scan_iter() if name.encode() in key} <= {
        f"continual:{{continual/{name}/0}}:owner".encode()
    }
    client.models.create(spec)
    assert digest(client, name) == fresh
    assert not client.update(name, X, "UP", id="one").duplicate
    (result,) = client.learn(name, [columns(spec, events("binary", 200))], producer="p")
    assert not result.duplicate
    assert result.predictions.position == 1


def test_deleting_a_model_in_use(local, name):
    """Calls that are under way end with a status that says so; the shard goes on."""
    spec = spec_of(name, slots=4, snapshot_every=100)
    codes: queue.SimpleQueue = queue.SimpleQueue()
    stop = threading.Event()

    def hammer(call):
        with Client(local.target) as client:
            while not stop.is_set():
                try:
                    call(client)
                except Refused as refused:
                    codes.put((refused.code, refused.reason))

    batches = [columns(spec, events("binary", 50, keys=30, seed=seed)) for seed in range(4)]
    calls = [
        lambda client: client.predict(name, event=X, key="k5", timeout=5),
        lambda client: client.update(name, X, "UP", timeout=5),
        lambda client: list(client.learn(name, batches, timeout=5)),
        lambda client: client.models.snapshot(name, timeout=5),
        lambda client: client.models.statistics(name, digest=True, timeout=5),
    ]
    threads = [threading.Thread(target=hammer, args=(call,)) for call in calls]
    with Client(local.target) as client:
        for thread in threads:
            thread.start()
        for _ in range(8):
            client.models.create(spec)
            until(lambda: client.models.get(name).position > 300)
            client.models.delete(name)
        stop.set()
        for thread in threads:
            thread.join(30)
        client.models.create(spec)
        assert client.update(name, X, "UP").position == 0
    assert not local.failures
    seen = set()
    while not codes.empty():
        seen.add(codes.get())
    allowed = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION}
    assert {code for code, _ in seen} <= allowed, seen


def test_a_snapshot_while_learning_with_few_slots_is_recovered(start_shard, own_server, name):
    """Rows are evicted and changed while they are captured; then SIGKILL; the state is the fold's to the bit."""
    shard = start_shard()
    spec = spec_of(name, slots=20, snapshot_every=700, units=16)
    given = events("binary", 6000, keys=400)
    learner, folded = fold(spec, batch_of(spec, given))
    store = Partition(connect(own_server.url), "continual", name)
    with Client(shard.target) as client:
        client.models.create(spec)
        pieces = iter(cut(columns(spec, given), Schema.of(spec), itertools.repeat(50)))
        results = []
        for piece in client.learn(name, pieces, timeout=60):
            results.append(piece)
            if len(results) in (20, 45, 70):
                shard.end(signal.SIGKILL)
                shard.start()
            if len(results) % 14 == 0:  # what is in flight goes on meanwhile
                client.models.snapshot(name)
        assert len(results) == 120
        assert client.models.get(name).snapshot_position >= 5000
        asked = client.models.snapshot(name)
        assert asked.position == 6000
        values = b"".join(r.predictions.value.tobytes() for r in results if r.predictions.value.size)
        if len(values) == 8 * 6000:
            same_answers(results, folded)
        assert digest(client, name) == learner.digest()
        before = client.models.statistics(name)
        shard.end(signal.SIGKILL)
        shard.start()
        assert digest(client, name) == learner.digest()
        after = client.models.statistics(name)
        assert (after.position, after.snapshot_position) == (6000, 6000)
        assert dict(after.metrics) == dict(before.metrics)
        assert {k: v for k, v in after.counts.items() if k != "duplicates"} == {
            k: v for k, v in before.counts.items() if k != "duplicates"
        }
        assert store.head().position == 6000


def test_the_log_is_kept_for_two_snapshots_and_the_window(local, own_server, name):
    spec = spec_of(name, dedupe_window=100)
    store = Partition(connect(own_server.url), "continual", name)
    with Client(local.target) as client:
        client.models.create(spec)
        positions = []
        for seed in range(6):
            list(client.learn(name, cut(columns(spec, events("binary", 300, seed=seed)), Schema.of(spec), [50] * 6)))
            positions.append(client.models.snapshot(name).position)
        assert positions == [300, 600, 900, 1200, 1500, 1800]
        assert store.first_position() == store.oldest_snapshot_position() == 1500
        again = client.models.snapshot(name)
        assert again.position == 1800
        wide = spec_of(name + "w", dedupe_window=10_000)
        client.models.create(wide)
        list(client.learn(wide.name, [columns(wide, events("binary", 300))]))
        client.models.snapshot(wide.name)
        assert Partition(connect(own_server.url), "continual", wide.name).first_position() == 0


@pytest.mark.parametrize("pause", [("PAUSE_SECONDS", 3600.0), ("PAUSE_SHARE", 1e9)])
def test_snapshots_that_events_call_for_pause(local, name, monkeypatch, pause):
    monkeypatch.setattr(snapshots, *pause)
    spec = spec_of(name, snapshot_every=100)
    with Client(local.target) as client:
        client.models.create(spec)  # the first one is at position 0

        def learn(seed):
            list(client.learn(name, cut(columns(spec, events("binary", 1000, seed=seed)), Schema.of(spec), [50] * 20)))

        learn(0)
        assert client.models.get(name).snapshot_position == 0
        monkeypatch.setattr(snapshots, "PAUSE_SECONDS", 0.0)
        monkeypatch.setattr(snapshots, "PAUSE_SHARE", 0.0)
        assert client.models.snapshot(name).position == 1000, "whoever asks for one does not wait"
        learn(1)
        until(lambda: client.models.get(name).snapshot_position > 1000)


def test_a_snapshot_writes_what_changed_since_the_one_before(client, name):
    spec = spec_of(name, slots=1000)
    client.models.create(spec)
    given = events("binary", 500, keys=100)
    list(client.learn(name, [columns(spec, given)]))
    first = client.models.snapshot(name)
    assert first.rows == len(set(given["key"]))
    for key in ("k1", "k2", "new"):
        client.update(name, X, "UP", key=key)
    second = client.models.snapshot(name)
    assert (second.position, second.rows) == (503, 3)
    assert second.bytes < first.bytes
    assert second.digest != first.digest
    statistics = client.models.statistics(name)
    assert (statistics.position, statistics.snapshot_position, statistics.keys_resident) == (503, 503, first.rows + 1)


def test_health_follows_the_shard(own_server, name):
    names = ("", "continual.v1.OnlineLearning", "continual.v1.Models")
    shard = LocalShard(own_server.url)
    with grpc.insecure_channel(shard.target) as channel, grpc.insecure_channel(shard.shard.address) as own:
        stubs = [health_pb2_grpc.HealthStub(c) for c in (channel, own)]
        for stub, service in itertools.product(stubs, names):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as error:
            stubs[0].Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stubs[0].Watch(health_pb2.HealthCheckRequest(service="nobody"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        watch = stubs[0].Watch(health_pb2.HealthCheckRequest(service=""))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        shard.stop()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not shard.failures


def test_a_starting_shard_is_not_serving_and_has_no_public_port(start_shard, name):
    """While it recovers: here it waits for an owner that went silent."""
    first = start_shard()
    with Client(first.target) as client:
        client.models.create(spec_of(name))
    os.kill(first.process.pid, signal.SIGSTOP)
    try:
        second = start_shard(wait=False)
        with Client(second.target) as client, pytest.raises(Refused):
            client.health(timeout=0.3)
        second.wait_ready()
        with Client(second.target) as client:
            assert client.health() == "SERVING"
            assert client.update(name, X, "UP").position == 0
    finally:
        os.kill(first.process.pid, signal.SIGCONT)


def test_reflection_names_the_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        "continual.v1.OnlineLearning",
        "continual.v1.Models",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    service = DescriptorPool(database).FindServiceByName("continual.v1.OnlineLearning")
    assert {one.name for one in service.methods} == METHODS
