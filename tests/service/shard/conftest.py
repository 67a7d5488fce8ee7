from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from shard_harness import LocalShard, ShardOfItsOwn

from learners.river import signing
from service.client import Client
from service.store.embedded import EmbeddedRedis


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def session_shard(server: EmbeddedRedis) -> Iterator[LocalShard]:
    shard = LocalShard(server.url)
    yield shard
    shard.stop()


@pytest.fixture
def shard(session_shard: LocalShard) -> Iterator[LocalShard]:
    """One shard for all tests, in this process; a test that makes it fail has failed."""
    yield session_shard
    assert not session_shard.failures


@pytest.fixture
def client(shard: LocalShard) -> Iterator[Client]:
    with Client(shard.target) as client:
        yield client


@pytest.fixture
def channel(shard: LocalShard) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(shard.target, options) as channel:
        yield channel


@pytest.fixture
def name() -> str:
    """A model name of the test's own."""
    return "m" + uuid.uuid4().hex[:12]


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key file; this process has its own key back after the test."""
    monkeypatch.setattr(signing, "_key", signing._key)
    monkeypatch.setattr(signing, "_given", signing._given)
    return str(signing.make_key(tmp_path))


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A store for one test: its deployment is alone in it."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def two(own_server: EmbeddedRedis) -> Iterator[list[LocalShard]]:
    """Two shards in this process, on a store and behind a port of their own."""
    shards = [LocalShard(own_server.url, index=0, shards=2)]
    shards.append(LocalShard(own_server.url, index=1, shards=2, port=shards[0].config.port))
    yield shards
    for shard in shards:
        shard.stop()
        assert not shard.failures


@pytest.fixture
def start_shard(own_server: EmbeddedRedis) -> Iterator[Callable[..., ShardOfItsOwn]]:
    """Starts shards as processes, on a store of their own; ends them after the test."""
    shards: list[ShardOfItsOwn] = []

    def start(**config: object) -> ShardOfItsOwn:
        shards.append(ShardOfItsOwn(own_server.url, **config))
        return shards[-1]

    yield start
    for shard in shards:
        shard.close()


@pytest.fixture
def local(own_server: EmbeddedRedis) -> Iterator[LocalShard]:
    """A shard of the test's own in this process."""
    shard = LocalShard(own_server.url)
    yield shard
    shard.stop()
    assert not shard.failures
