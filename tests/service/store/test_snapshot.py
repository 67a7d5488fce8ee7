from __future__ import annotations

import numpy as np
import pytest
import redis

from service.store.errors import LogMismatch, SnapshotReplaced, SnapshotUnreadable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition
from service.store.rows import CHUNK_BYTES


def some_arrays(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "weights": rng.normal(size=(300, 200)),
        "view": rng.normal(size=(40, 50)).astype(np.float32).T,
        "count": np.array(7, np.uint64),
        "empty": np.zeros((0, 3), np.int32),
        "flags": rng.integers(0, 2, 9).astype(bool),
    }


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == np.ascontiguousarray(array).tobytes()


def array_keys(partition: Partition, client: redis.Redis) -> set[bytes]:
    return set(client.keys(partition.keys.prefix + "snapshot:*"))


@pytest.fixture
def filled(partition: Partition, token: str) -> Partition:
    partition.append(token, 0, 1000, [b"x"])
    return partition


def test_arrays_and_manifest_come_back(filled: Partition, token: str) -> None:
    assert filled.load_snapshot() is None
    assert filled.snapshot_position() == filled.oldest_snapshot_position() == -1
    arrays = some_arrays(1)
    assert arrays["weights"].nbytes > CHUNK_BYTES
    writer = filled.begin_snapshot(token, 10)
    writer.write({"weights": arrays["weights"]})
    writer.write({name: array for name, array in arrays.items() if name != "weights"})
    manifest = writer.commit({"digest": "ab", "producers": {"p": 9}})
    snapshot = filled.load_snapshot()
    assert snapshot is not None
    assert_same(snapshot.arrays, arrays)
    assert snapshot.manifest == manifest
    assert (snapshot.position, manifest["digest"], manifest["producers"]) == (10, "ab", {"p": 9})


def test_the_last_two_are_kept(filled: Partition, token: str, client: redis.Redis) -> None:
    for position in (0, 10, 10, 30):
        writer = filled.begin_snapshot(token, position)
        writer.write(some_arrays(position))
        writer.commit({"at": position})
    latest, previous = filled.load_snapshot(), filled.load_snapshot("previous")
    assert latest is not None
    assert previous is not None
    assert (latest.position, previous.position) == (30, 10)
    assert_same(latest.arrays, some_arrays(30))
    assert_same(previous.arrays, some_arrays(10))
    assert (filled.snapshot_position(), filled.oldest_snapshot_position()) == (30, 10)
    assert len(array_keys(filled, client)) == 2


def test_a_snapshot_at_position_zero_is_one(filled: Partition, token: str) -> None:
    filled.begin_snapshot(token, 0).commit({})
    assert filled.snapshot_position() == 0
    assert filled.load_snapshot() is not None


def test_a_crash_before_the_commit_leaves_the_one_before(
    filled: Partition, token: str, client: redis.Redis
) -> None:
    first = filled.begin_snapshot(token, 10)
    first.write(some_arrays(1))
    first.commit({})
    crashed = filled.begin_snapshot(token, 20)
    crashed.write(some_arrays(2))
    assert len(array_keys(filled, client)) == 2
    snapshot = filled.load_snapshot()
    assert snapshot is not None
    assert snapshot.position == 10
    second = filled.acquire(OwnerRecord.here("shard-1", "localhost:2"), lease=0)
    filled.begin_snapshot(second, 15)
    assert len(array_keys(filled, client)) == 1
    snapshot = filled.load_snapshot()
    assert snapshot is not None
    assert_same(snapshot.arrays, some_arrays(1))


def test_a_replaced_or_aborted_writer_cannot_go_on(
    filled: Partition, token: str, client: redis.Redis
) -> None:
    old = filled.begin_snapshot(token, 20)
    new = filled.begin_snapshot(token, 20)
    for act in (lambda: old.write(some_arrays(1)), lambda: old.commit({})):
        with pytest.raises(SnapshotReplaced):
            act()
    old.abort()
    new.write(some_arrays(2))
    new.abort()
    assert array_keys(filled, client) == set()
    with pytest.raises(SnapshotReplaced):
        new.commit({})
    assert filled.load_snapshot() is None


def test_a_commit_whose_reply_was_lost_may_be_repeated(filled: Partition, token: str) -> None:
    filled.begin_snapshot(token, 5).commit({})
    writer = filled.begin_snapshot(token, 10)
    writer.write(some_arrays(1))
    writer.commit({})
    writer.commit({})
    previous, latest = filled.load_snapshot("previous"), filled.load_snapshot()
    assert previous is not None
    assert latest is not None
    assert previous.position == 5
    assert_same(latest.arrays, some_arrays(1))


def test_positions_beyond_the_log_or_before_the_last_are_refused(filled: Partition, token: str) -> None:
    with pytest.raises(LogMismatch) as caught:
        filled.begin_snapshot(token, 1001)
    assert (caught.value.expected, caught.value.found) == (1001, 1000)
    filled.begin_snapshot(token, 10).commit({})
    with pytest.raises(ValueError, match="got 9; accepted: 10"):
        filled.begin_snapshot(token, 9)


def test_names_are_written_once(filled: Partition, token: str) -> None:
    writer = filled.begin_snapshot(token, 10)
    writer.write({"a": np.zeros(2)})
    with pytest.raises(ValueError, match="'a'"):
        writer.write({"a": np.zeros(2)})
    with pytest.raises(ValueError, match="position"):
        writer.commit({"position": 3})
    with pytest.raises(ValueError, match="JSON"):
        writer.commit({"loss": float("nan")})


@pytest.mark.parametrize("damage", ["missing", "altered", "format"])
def test_damage_is_noticed(filled: Partition, token: str, client: redis.Redis, damage: str) -> None:
    writer = filled.begin_snapshot(token, 10)
    writer.write(some_arrays(1))
    writer.commit({})
    (key,) = array_keys(filled, client)
    if damage == "missing":
        client.hdel(key, "0:1")  # type: ignore[arg-type]
    elif damage == "altered":
        chunk = client.hget(key, "0:1")  # type: ignore[arg-type]
        client.hset(key, "0:1", chunk[:-1] + bytes([chunk[-1] ^ 1]))  # type: ignore[arg-type,index]
    else:
        manifest = client.hget(filled.keys.snapshots, "manifest")
        client.hset(filled.keys.snapshots, "manifest", manifest.replace(b'"format":1', b'"format":99'))  # type: ignore[union-attr]
    with pytest.raises(SnapshotUnreadable):
        filled.load_snapshot()
