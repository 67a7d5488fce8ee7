"""Several shards behind one port, and the change of an owner."""

import os
import signal

import grpc
import pytest
from shard_harness import FEATURES, batch_of, columns, cut, digest, events, fold, spec_of, until

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.store.connect import connect
from service.store.ownership import OwnerRecord
from service.store.partition import Partition
from service.wire import Schema, key_hash

X = dict(zip(FEATURES, (0.5, -0.25, 1.0)))


def named(index, stem="m"):
    """A model name that belongs to this one of two shards."""
    return next(n for n in (f"{stem}{i}" for i in range(100)) if key_hash(n.encode()) % 2 == index)


def test_a_unary_call_reaches_the_owner_from_any_shard(two):
    for index, owner in enumerate(two):
        name, other = named(index), two[1 - index]
        with grpc.insecure_channel(other.shard.address) as channel:
            data, control = api.OnlineLearningStub(channel), api.ModelsStub(channel)
            control.Create(pb.CreateModelRequest(spec_json=spec_of(name).to_json()))
            assert (name, "0") in owner.shard.partitions
            assert (name, "0") not in other.shard.partitions
            event = pb.Event(id="one", features=X, label=pb.Label(text="UP"))
            predicted = data.Predict(pb.PredictRequest(model=name, event=event)).predictions
            updated = data.Update(pb.UpdateRequest(model=name, event=event)).predictions
            assert predicted.value == updated.value
            assert control.Get(pb.GetModelRequest(name=name)).position == 1
            assert control.Snapshot(pb.SnapshotRequest(name=name)).position == 1
            assert control.GetStatistics(pb.GetStatisticsRequest(name=name)).counts["events"] == 1
            assert name in {model.name for model in control.List(pb.ListModelsRequest()).models}
            event.features["a"] = float("inf")
            with pytest.raises(grpc.RpcError) as error:
                data.Update(pb.UpdateRequest(model=name, event=event))
            refused = from_rpc_error(error.value)
            assert (refused.reason, refused.violations[0].field) == ("NOT_FINITE", "event.features.a")
            with pytest.raises(grpc.RpcError) as error:  # one hop at most
                data.Predict(pb.PredictRequest(model=name, event=event), metadata=(("continual-hop", "1"),))
            assert from_rpc_error(error.value).reason == "WRONG_MAP"
            control.Delete(pb.DeleteModelRequest(name=name))
            assert (name, "0") not in owner.shard.partitions


def test_a_forwarded_reply_may_be_large(two):
    name = named(0)
    spec = spec_of(name, "multiclass", units=1)
    with grpc.insecure_channel(two[1].shard.address, [("grpc.max_receive_message_length", -1)]) as channel:
        api.ModelsStub(channel).Create(pb.CreateModelRequest(spec_json=spec.to_json()))
        with Client(two[0].target) as client:
            labels = {"x": [[0.0, 0.0, 0.0]] * 200, "y": list(range(200))}
            list(client.learn(name, [columns(spec, labels)]))
        many = columns(spec, {"x": [[0.0, 0.0, 0.0]] * 10_000})
        request = pb.PredictRequest(model=name, columns=many, probabilities=True)
        reply = api.OnlineLearningStub(channel).Predict(request)
        assert len(reply.predictions.probabilities) == 4 * 200 * 10_000


def test_a_stream_is_sent_to_the_owner_and_not_forwarded(two):
    for index in range(2):
        name = named(index, "s")
        spec = spec_of(name)
        given = events("binary", 300)
        with Client(two[0].target) as client:
            client.models.create(spec)
            request = pb.LearnRequest(model=name, producer="p", columns=columns(spec, given))
            other = two[1 - index]
            with grpc.insecure_channel(other.shard.address) as channel, pytest.raises(grpc.RpcError) as error:
                list(api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10))
            refused = from_rpc_error(error.value)
            assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_MAP")
            assert refused.detail(pb.PartitionMap).deployment == client.partition_map().deployment
            results = list(client.learn(name, cut(columns(spec, given), Schema.of(spec), [50] * 6), timeout=20))
            assert sum(result.rows for result in results) == 300
            assert digest(client, name) == fold(spec, batch_of(spec, given))[0].digest()


def test_clients_of_two_shards_see_models_made_by_each_other(two):
    with Client(two[0].shard.address) as one, Client(two[1].shard.address) as other:
        for index in range(2):
            name = named(index, "x")
            one.models.create(spec_of(name))
            assert one.update(name, X, "UP").position == 0
            assert other.update(name, X, "UP").position == 1
            entry = (name, f"shard-{index}")  # a shard looks for news of the map every second
            for client in (one, other):
                until(lambda: entry in {(p.model, p.shard) for p in client.partition_map().partitions})  # noqa: B023


def test_a_live_owner_is_not_replaced(start_shard, own_server, name):
    first = start_shard()
    with Client(first.target) as client:
        client.models.create(spec_of(name))
        store = Partition(connect(own_server.url), "continual", name)
        held = store.owner()
        with pytest.raises(Exception, match="confirmed within"):
            store.acquire(OwnerRecord.here("shard-0", "localhost:1"), timeout=2.0)
        assert store.owner() == held
        assert client.update(name, X, "UP").position == 0


def test_a_paused_owner_is_replaced_and_never_answers_from_what_it_had(start_shard, name):
    """SIGSTOP for longer than the lease; a second process takes over, learns on; then SIGCONT."""
    first = start_shard()
    spec = spec_of(name, slots=3)
    given = events("binary", 300)
    with Client(first.target) as client, grpc.insecure_channel(first.target) as channel:
        client.models.create(spec)
        list(client.learn(name, cut(columns(spec, given), Schema.of(spec), [100])[:1]))
        stub = api.OnlineLearningStub(channel)
        predict = pb.PredictRequest(model=name, event=pb.Event(features=X))
        assert stub.Predict(predict).predictions.position == 100
        os.kill(first.process.pid, signal.SIGSTOP)
        second = start_shard()
        with Client(second.target) as successor:
            rest = cut(columns(spec, given), Schema.of(spec), [100])[1]
            list(successor.learn(name, [rest]))
            waiting = [stub.Predict.future(predict, timeout=10) for _ in range(20)]
            waiting.append(stub.Update.future(pb.UpdateRequest(model=name, event=_event()), timeout=10))
            os.kill(first.process.pid, signal.SIGCONT)
            for call in waiting:
                assert call.code() is grpc.StatusCode.UNAVAILABLE
            assert first.process.wait(20) == 1
            assert successor.models.get(name).position == 300
            assert digest(successor, name) == fold(spec, batch_of(spec, given))[0].digest()


def _event():
    return pb.Event(id="late", features=X, label=pb.Label(text="UP"))


def test_a_killed_owner_is_replaced_at_once(start_shard, name):
    first = start_shard()
    spec = spec_of(name)
    with Client(first.target) as client:
        client.models.create(spec)
        client.update(name, X, "UP", id="one")
    first.end(signal.SIGKILL)
    second = start_shard()
    with Client(second.target) as client:
        assert client.update(name, X, "UP", id="one").duplicate
        assert client.models.get(name).position == 1
    with Client(first.target) as client, pytest.raises(Refused):
        client.health(timeout=1)
    until(lambda: first.process.poll() is not None)
