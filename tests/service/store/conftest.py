from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from service.store.ownership import OwnerRecord
from service.store.partition import Partition


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    client = connect(server.url)
    yield client
    client.close()


@pytest.fixture
def new_partition(client: redis.Redis) -> Callable[[], Partition]:
    return lambda: Partition(client, "test", f"m{uuid.uuid4().hex}", "0")


@pytest.fixture
def partition(new_partition: Callable[[], Partition]) -> Partition:
    return new_partition()


@pytest.fixture
def token(partition: Partition) -> str:
    return partition.acquire(OwnerRecord.here("shard-0", "localhost:1"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"
