from __future__ import annotations

from collections.abc import Callable

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.store.ownership import OwnerRecord
from service.store.partition import Partition
from service.store.rows import CHUNK_BYTES, GET_CHUNK
from service.store.snapshot import SnapshotWriter

HERE = OwnerRecord.here("shard", "localhost:1")
KEYS = [b"a", b"b", b"c\x00\xff"]


def versions(partition: Partition, client: redis.Redis, key: bytes) -> list[int]:
    values = [client.hget(rows, key) for rows in partition.keys.rows]  # type: ignore[arg-type]
    return sorted(int.from_bytes(value[:8], "big") for value in values if value is not None)


def test_the_newest_version_at_or_below(partition: Partition, token: str) -> None:
    partition.put_rows(token, [(b"k", 5, b"five")], -1)
    partition.put_rows(token, [(b"k", 9, b"nine")], 5)
    assert [partition.get_rows([b"k"], at)[0] for at in (4, 5, 8, 9, 100)] == [
        None,
        (5, b"five"),
        (5, b"five"),
        (9, b"nine"),
        (9, b"nine"),
    ]


def test_the_version_recovery_would_read_is_never_overwritten(
    partition: Partition, token: str, client: redis.Redis
) -> None:
    partition.put_rows(token, [(b"k", 5, b"five")], -1)
    for position in (7, 8, 6):
        partition.put_rows(token, [(b"k", position, b"new")], 5)
        assert versions(partition, client, b"k") == [5, position]
    partition.put_rows(token, [(b"k", 9, b"nine")], 8)
    assert versions(partition, client, b"k") == [6, 9]


def test_the_same_position_is_rewritten_in_place(
    partition: Partition, token: str, client: redis.Redis
) -> None:
    partition.put_rows(token, [(b"k", 5, b"one"), (b"k", 5, b"two")], 9)
    partition.put_rows(token, [(b"k", 12, b"x"), (b"k", 12, b"y"), (b"k", 5, b"three")], 9)
    assert versions(partition, client, b"k") == [5, 12]
    assert partition.get_rows([b"k"], 9) == [(5, b"three")]
    assert partition.get_rows([b"k"], 12) == [(12, b"y")]


def test_a_row_evicted_while_a_snapshot_is_written_leaves_the_snapshot_its_own(
    partition: Partition, token: str, client: redis.Redis
) -> None:
    partition.append(token, 0, 100, [b"x"])
    partition.put_rows(token, [(key, 30, b"old") for key in KEYS], -1)
    partition.begin_snapshot(token, 40).commit({})
    writer = partition.begin_snapshot(token, 60)
    partition.put_rows(token, [(b"a", 55, b"snap"), (b"a", 70, b"evicted")], 40)
    partition.put_rows(token, [(b"b", 70, b"evicted"), (b"b", 55, b"snap"), (b"b", 71, b"again")], 40)
    for key in (b"a", b"b"):
        assert partition.get_rows([key], 40) == [(30, b"old")]
        assert partition.get_rows([key], 60) == [(55, b"snap")]
    assert partition.get_rows([b"a", b"b"], 99) == [(70, b"evicted"), (71, b"again")]
    writer.commit({})
    partition.put_rows(token, [(b"a", 80, b"later"), (b"b", 80, b"later")], 60)
    assert versions(partition, client, b"a") == versions(partition, client, b"b") == [55, 80]


def test_a_commit_that_its_owner_does_not_know_of_protects_its_rows(
    partition: Partition, token: str, client: redis.Redis
) -> None:
    partition.append(token, 0, 100, [b"x"])
    writer = partition.begin_snapshot(token, 60)
    partition.put_rows(token, [(b"k", 55, b"snap")], -1)
    writer.commit({})  # its reply is lost: the owner goes on from the snapshot before, -1
    partition.put_rows(token, [(b"k", 70, b"evicted")], -1)
    assert partition.get_rows([b"k"], 60) == [(55, b"snap")]
    assert versions(partition, client, b"k") == [55, 70]


def test_many_rows_and_large_ones_in_chunks(partition: Partition, token: str) -> None:
    rows = [(b"%d" % index, index + 1, bytes([index % 251]) * 2000) for index in range(3 * GET_CHUNK + 7)]
    rows.append((b"large", 7, b"z" * (CHUNK_BYTES + 1)))
    written = partition.put_rows(token, iter(rows), -1)
    assert written == (len(rows), sum(len(key) + 8 + len(blob) for key, _, blob in rows))
    asked = [b"absent", *(key for key, _, _ in rows), b"absent", b"0"]
    found = [(position, blob) for _, position, blob in rows]
    assert partition.get_rows(asked, 10**6) == [None, *found, None, found[0]]
    assert partition.get_rows([], 5) == []
    assert partition.put_rows(token, [], -1) == (0, 0)


def test_an_empty_blob_is_a_row(partition: Partition, token: str) -> None:
    partition.put_rows(token, [(b"", 3, b"")], -1)
    assert partition.get_rows([b""], 3) == [(3, b"")]


def test_keys_come_once_each_and_in_order(partition: Partition, token: str) -> None:
    names = sorted(b"%d" % (index * 7919) for index in range(500))
    for committed, position in ((-1, 5), (5, 9)):
        partition.put_rows(token, [(name, position, b"x" * 100) for name in names], committed)
    assert list(partition.iter_keys(batch=50)) == names


def test_discard_newer_leaves_what_recovery_reads(partition: Partition, token: str) -> None:
    names = [b"%d" % index for index in range(300)]
    partition.put_rows(token, [(name, 5, b"x" * 100) for name in names], -1)
    partition.put_rows(token, [(name, 9, b"y" * 100) for name in [*names[:100], b"new"]], 5)
    assert partition.discard_newer(token, 5) == 101
    assert partition.get_rows([*names, b"new"], 99) == [(5, b"x" * 100)] * 300 + [None]


class Fold:
    """A toy shard: a key's row is the positions of its events; any row may be evicted at any time."""

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.token = partition.acquire(HERE)
        self.recover()

    def recover(self) -> None:
        self.resident: dict[bytes, tuple[int, bytes]] = {}
        self.dirty: set[bytes] = set()
        self.writer: SnapshotWriter | None = None
        self.copied: list[tuple[bytes, int, bytes]] = []
        self.committed = self.partition.snapshot_position()
        self.position = max(self.committed, 0)
        for entry in self.partition.read(self.position):
            self.fold(entry.messages[0])

    def row(self, key: bytes) -> tuple[int, bytes]:
        if key not in self.resident:
            self.resident[key] = self.partition.get_rows([key], self.position)[0] or (0, b"")
        return self.resident[key]

    def event(self, key: bytes) -> None:
        self.partition.append(self.token, self.position, 1, [key])
        self.fold(key)

    def fold(self, key: bytes) -> None:
        _, blob = self.row(key)
        self.position += 1
        self.resident[key] = self.position, blob + b"%d," % self.position
        self.dirty.add(key)

    def evict(self, key: bytes) -> None:
        if key in self.resident:
            row = self.resident.pop(key)
            if key in self.dirty:
                self.partition.put_rows(self.token, [(key, *row)], self.committed)
                self.dirty.discard(key)

    def begin(self) -> None:
        self.writer = self.partition.begin_snapshot(self.token, self.position)
        self.copied = [(key, *self.resident[key]) for key in sorted(self.dirty)]

    def write(self) -> None:
        """Writes one copied row; it is clean from then on, unless it changed since."""
        if self.copied:
            key, position, blob = self.copied.pop()
            self.partition.put_rows(self.token, [(key, position, blob)], self.committed)
            if self.resident.get(key) == (position, blob):
                self.dirty.discard(key)

    def commit(self) -> None:
        if self.writer is not None:
            while self.copied:
                self.write()
            self.writer.commit({})
            self.committed, self.writer = self.writer.position, None


OPERATIONS = st.one_of(
    st.tuples(st.just("event"), st.sampled_from(KEYS)),
    st.tuples(st.just("event"), st.sampled_from(KEYS)),
    st.tuples(st.just("evict"), st.sampled_from(KEYS)),
    st.tuples(st.sampled_from(["begin", "write", "commit", "crash"]), st.none()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operations=st.lists(OPERATIONS, min_size=10, max_size=60))
def test_any_order_of_eviction_snapshot_and_crash_gives_the_same_state(
    new_partition: Callable[[], Partition], client: redis.Redis, operations: list[tuple[str, bytes | None]]
) -> None:
    shard, log = Fold(new_partition()), []
    for name, key in operations:
        if name == "crash":
            shard.recover()
        elif key is None:
            getattr(shard, name)()
        else:
            getattr(shard, name)(key)
            log += [key] * (name == "event")
        most = 3 if shard.writer is not None else 2
        for each in KEYS:
            if (
                name == "evict"
                and each == key
                and not client.hexists(shard.partition.keys.snapshots, "pending")
            ):
                assert len(versions(shard.partition, client, each)) <= most
            assert len(versions(shard.partition, client, each)) <= 3
    for _ in range(2):
        for key in KEYS:
            expected = b"".join(b"%d," % (index + 1) for index, each in enumerate(log) if each == key)
            assert shard.row(key)[1] == expected
        shard.recover()
