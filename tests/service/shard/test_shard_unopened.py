"""A model that cannot be opened fails alone, and who lost a partition leaves it."""

from __future__ import annotations

import pytest
from shard_harness import LocalShard, columns, events, spec_of, until

from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.errors import Refused
from service.store.connect import connect
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store


def test_a_snapshot_that_cannot_be_read_fails_its_model_alone(own_server, name):
    spec, other = spec_of(name), spec_of(f"{name}-other")
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        for one in (spec, other):
            client.models.create(one)
            list(client.learn(one.name, [columns(one, events("binary", 50))], producer="p"))
    shard.stop()
    client = connect(own_server.url)
    keys = Store(client, "continual", name).keys
    (arrays,) = client.keys(keys.prefix.replace("{", "\\{") + "snapshot:50:*")
    client.hset(arrays, "0:0", b"damaged")
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        shown = client.models.get(name)
        assert shown.state == "failed"
        assert "incomplete or altered" in shown.partitions[0].reason
        with pytest.raises(Refused, match=r"MODEL_FAILED.*incomplete or altered"):
            client.predict(name, event={"a": 1.0, "b": 0.5, "c": 0.0})
        assert client.models.statistics(other.name).position == 50
        client.models.delete(name)  # it need not be mended for that
        client.models.create(spec)
        assert client.models.get(name).state == "serving"
    shard.stop()
    assert not shard.failures


def test_a_model_whose_learner_is_not_known_any_more_fails_alone(own_server, name, monkeypatch):
    shard = LocalShard(own_server.url)
    spec, other = spec_of(name), spec_of(f"{name}-other")
    with Client(shard.target) as client:
        client.models.create(spec)
        client.models.create(other)
    shard.stop()
    store = connect(own_server.url)
    store.hset("continual:{continual}:models", name, spec.to_json().replace('"recurrent"', '"no-more"'))
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        assert client.models.get(other.name).state == "serving"
        shown = client.models.get(name)
        assert shown.state == "failed"
        assert "unknown learner kind 'no-more'" in shown.partitions[0].reason
        with pytest.raises(Refused, match="MODEL_FAILED"):
            list(client.learn(name, [columns(spec, events("binary", 5))], timeout=5))
        client.models.delete(name)
        assert [model.name for model in client.models.list()] == [other.name]
    shard.stop()
    assert not shard.failures


@pytest.mark.parametrize("moved", [True, False])
def test_who_lost_a_partition_leaves_it_and_ends_only_where_its_name_is_taken(own_server, name, moved):
    spec, other = spec_of(name), spec_of(f"{name}-other")
    shard = LocalShard(own_server.url, shards=2)
    owner = "shard-1" if moved else "shard-0"
    with Client(shard.shard.address) as client:
        for one in (spec, other):
            shard.run(shard.shard.create(one.to_json(), False))
        catalog = shard.shard.catalog
        held = catalog.map_of(name)
        assert held is not None
        if moved:
            catalog.set_map(name, held, held.with_owner("0", owner))
        partition = shard.partition(name)
        Store(connect(own_server.url), "continual", name).acquire(OwnerRecord.here(owner, "nowhere:1"), lease=0.0)
        until(lambda: partition.state == "rebuilding")
        with pytest.raises(Refused):
            shard.run(partition.learn(pb.LearnRequest(producer="p"), b""))
        until(lambda: shard.failures or (name, "0") not in shard.shard.partitions)
        assert [type(failure).__name__ for failure in shard.failures] == ([] if moved else ["Fenced"])
        assert client.models.statistics(other.name).position == 0
    shard.stop()
