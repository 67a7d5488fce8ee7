from __future__ import annotations

import uuid

import pytest
import redis

from service.store.catalog import Catalog
from service.store.errors import MapConflict, ModelExists
from service.store.partition_map import ModelMap


@pytest.fixture
def catalog(client: redis.Redis) -> Catalog:
    return Catalog(client, f"d{uuid.uuid4().hex}")


def test_a_model_is_created_once(catalog: Catalog) -> None:
    assert catalog.create("b", '{"x":1}') is True
    assert catalog.create("b", '{"x":1}') is False
    assert catalog.create("a", "{}") is True
    with pytest.raises(ModelExists, match="'b'"):
        catalog.create("b", '{"x":2}')
    assert catalog.get("b") == '{"x":1}'
    assert catalog.get("c") is None
    assert list(catalog.list().items()) == [("a", "{}"), ("b", '{"x":1}')]


def test_delete(catalog: Catalog) -> None:
    catalog.create("a", "{}")
    assert catalog.delete("a", "another spec") is False
    assert catalog.delete("a", "{}") is True
    assert catalog.delete("a") is False
    assert catalog.list() == {}


def test_the_partition_map_is_compared_before_it_is_set(catalog: Catalog) -> None:
    assert catalog.map_of("m") is None
    first = ModelMap.whole("shard-0")
    catalog.set_map("m", None, first)
    catalog.set_map("m", None, first)  # a reply was lost
    second = first.with_owner("0", "shard-1")
    with pytest.raises(MapConflict) as caught:
        catalog.set_map("m", None, second)
    assert (caught.value.expected, caught.value.found) == (0, 1)
    catalog.set_map("m", first, second)
    with pytest.raises(MapConflict):
        catalog.set_map("m", first, first.with_owner("0", "shard-2"))
    assert catalog.map_of("m") == second


def test_routing_is_read_when_it_changed(catalog: Catalog) -> None:
    catalog.announce("shard-0", "here:1")
    before = catalog.routing()
    assert before is not None
    assert (before.maps, before.shards) == ({}, {"shard-0": "here:1"})
    assert catalog.routing(before.generation) is None
    catalog.announce("shard-0", "here:1")
    assert catalog.routing(before.generation) is None
    catalog.create("m", "{}")
    whole = ModelMap.whole("shard-0")
    catalog.set_map("m", None, whole)
    after = catalog.routing(before.generation)
    assert after is not None
    assert after.maps == {"m": whole}
    catalog.delete("m")
    assert catalog.routing(after.generation).maps == {}  # type: ignore[union-attr]


def test_the_identity_stays(catalog: Catalog, client: redis.Redis) -> None:
    assert catalog.deployment_id() == catalog.deployment_id()
    assert Catalog(client, "other").deployment_id() != catalog.deployment_id()
