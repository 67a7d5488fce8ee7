from __future__ import annotations

import uuid

import pytest
import redis

from service.store.catalog import Catalog, MapRecord
from service.store.errors import MapConflict, ModelExists


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
    assert catalog.partition_map() == MapRecord(0, b"")
    assert catalog.set_partition_map(0, b"one") == 1
    with pytest.raises(MapConflict) as caught:
        catalog.set_partition_map(0, b"other")
    assert (caught.value.expected, caught.value.found) == (0, 1)
    assert catalog.set_partition_map(1, b"two") == 2
    assert catalog.partition_map() == MapRecord(2, b"two")


def test_the_identity_stays(catalog: Catalog, client: redis.Redis) -> None:
    assert catalog.deployment_id() == catalog.deployment_id()
    assert Catalog(client, "other").deployment_id() != catalog.deployment_id()
