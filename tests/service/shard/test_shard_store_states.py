"""What keeps the store from taking writes is named, shown by health, and over for the shard when it is over there."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import pytest
from shard_harness import FEATURES, LocalShard, spec_of, until

from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused, from_rpc_error
from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from service.store.errors import MEANING
from service.wire import event_from

VALUES = dict.fromkeys(FEATURES, 0.5)


@contextmanager
def setting(server: EmbeddedRedis, name: str, value: str) -> Iterator[None]:
    with connect(server.url) as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        yield
        client.config_set(name, before)


@contextmanager
def replica(server: EmbeddedRedis) -> Iterator[None]:
    with connect(server.url) as client:
        client.replicaof("127.0.0.1", "1")
        yield
        client.replicaof("no", "one")


@contextmanager
def paused(server: EmbeddedRedis) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def stopped(server: EmbeddedRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def full(server: EmbeddedRedis) -> Iterator[None]:
    """Until its disk is full; a server that syncs every append ends at the next one, and again when it is started."""
    filling = server.data_dir / "filling"
    with filling.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    yield
    filling.unlink()


STATES: dict[str, tuple[str, Callable]] = {
    "out-of-memory": ("OOM", lambda server: setting(server, "maxmemory", "100kb")),
    "replicas-missing": ("NOREPLICAS", lambda server: setting(server, "min-replicas-to-write", "1")),
    "made-a-replica": ("READONLY", replica),
    "paused": ("TIMEOUT", paused),
    "stopped": ("CONNECTION", stopped),
    "disk-full": ("MISCONF", full),
    "disk-full-everysec": ("MISCONF", full),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("state", STATES)
def test_a_store_that_takes_no_writes(state: str, name: str, request: pytest.FixtureRequest) -> None:
    reason, enter = STATES[state]
    folder = request.getfixturevalue("disk" if state.startswith("disk") else "tmp_path")
    sync = "everysec" if state.endswith("everysec") else "always"
    with EmbeddedRedis(folder / "store", appendfsync=sync) as server:
        shard = LocalShard(server.url)
        try:
            durability = "everysec" if sync == "everysec" else "fsync"
            spec = spec_of(name, units=1, durability=durability)
            goes_on_by_itself(shard, spec, reason, lambda: enter(server))
        finally:
            shard.stop()
        assert not shard.failures


def goes_on_by_itself(shard: LocalShard, spec: ModelSpec, reason: str, enter: Callable) -> None:
    name = spec.name
    with Client(shard.target) as client, grpc.insecure_channel(shard.target) as channel:
        client.models.create(spec)
        for _ in range(3):
            client.update(name, VALUES, "UP", key="a")
        assert client.health() == "SERVING"
        writer = shard.partition(name).writer
        with enter():
            raw = api.OnlineLearningStub(channel)
            def refused() -> Refused | None:
                """Why an update is refused, once the reason is known; what was under way is refused without it."""
                event = event_from(VALUES, "UP", key="a", id=uuid.uuid4().hex)
                try:
                    raw.Update(pb.UpdateRequest(model=name, event=event), timeout=20)
                except grpc.RpcError as error:
                    said = from_rpc_error(error)
                    return said if reason in said.message else None
                return None

            said = until(refused)
            assert said.code == grpc.StatusCode.UNAVAILABLE
            assert said.retry_seconds
            assert MEANING[reason] in said.message
            until(lambda: client.health() == "NOT_SERVING")
            writer._confirmed += 3600  # as within the lease, however slow this machine is
            assert client.predict(name, event=VALUES, key="a").position == shard.learner(name).position
            with pytest.raises(Refused) as error:
                client.models.create({**spec.model_dump(), "name": name + "2"}, timeout=3)
            assert error.value.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            writer._confirmed -= 3600
        until(lambda: client.health() == "SERVING", 60)
        before = shard.learner(name).position
        assert client.update(name, VALUES, "UP", key="a", timeout=30).position >= before
        assert client.models.get(name).position == shard.learner(name).position


def test_a_store_that_was_never_there_is_named(tmp_path: Path) -> None:
    from service.store.catalog import Catalog
    from service.store.errors import StoreUnavailable

    with pytest.raises(StoreUnavailable, match=r"\(CONNECTION\): it cannot be reached: it is stopped, or starting"):
        Catalog(connect(f"unix://{tmp_path}/nothing"), "d").list()
