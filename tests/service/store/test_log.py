from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.store.connect import Link
from service.store.embedded import EmbeddedRedis
from service.store.errors import Fenced, LogMismatch
from service.store.log import MAX_MESSAGES, Entry, body_hash
from service.store.ownership import OwnerRecord
from service.store.partition import Partition

HERE = OwnerRecord.here("shard", "localhost:1")


def fill(partition: Partition, token: str, *counts: int) -> int:
    at = partition.head().position
    for count in counts:
        at = partition.append(token, at, count, [f"m{at}".encode()])
    return at


def test_an_entry_comes_back_as_it_was_appended(partition: Partition, token: str) -> None:
    assert partition.append(token, 0, 3, [b"one", b"", b"one"]) == 3
    assert partition.append(token, 3, 1, [bytes(range(256))]) == 4
    assert list(partition.read(0)) == [Entry(0, 3, [b"one", b"", b"one"]), Entry(3, 1, [bytes(range(256))])]
    assert partition.head().position == 4
    assert partition.head().hash == body_hash(3, [bytes(range(256))])


def test_stream_ids_name_positions(partition: Partition, token: str, client: redis.Redis) -> None:
    fill(partition, token, 3, 2, 1)
    names = [name for name, _ in client.xrange(partition.keys.log)]
    assert names == [b"0-1", b"3-0", b"5-0"]


def test_the_hash_tells_messages_from_their_concatenation() -> None:
    assert body_hash(0, [b"ab", b"c"]) != body_hash(0, [b"a", b"bc"])
    assert body_hash(0, [b"a"]) != body_hash(1, [b"a"])


def test_repeating_an_append_whose_reply_was_lost_changes_nothing(partition: Partition, token: str) -> None:
    assert partition.append(token, 0, 2, [b"a"]) == 2
    assert partition.append(token, 0, 2, [b"a"]) == 2
    assert partition.append(token, 2, 2, [b"b"]) == 4
    assert partition.append(token, 2, 2, [b"b"]) == 4
    assert [entry.position for entry in partition.read(0)] == [0, 2]


@pytest.mark.parametrize(("position", "messages"), [(0, [b"other"]), (1, [b"a"]), (3, [b"a"])])
def test_an_append_elsewhere_is_refused(
    partition: Partition, token: str, position: int, messages: list[bytes]
) -> None:
    partition.append(token, 0, 2, [b"a"])
    with pytest.raises(LogMismatch) as caught:
        partition.append(token, position, 2, messages)
    assert (caught.value.expected, caught.value.found) == (position, 2)
    assert list(partition.read(0)) == [Entry(0, 2, [b"a"])]


def test_a_store_that_lost_its_tail_is_noticed(partition: Partition, token: str, client: redis.Redis) -> None:
    fill(partition, token, 2)
    state = client.dump(partition.keys.head)
    fill(partition, token, 2)
    client.restore(partition.keys.head, 0, state, replace=True)
    with pytest.raises(LogMismatch) as caught:
        partition.append(token, 4, 1, [b"x"])
    assert (caught.value.expected, caught.value.found) == (4, 2)


def test_arguments_out_of_range_are_refused(partition: Partition, token: str) -> None:
    for count, messages in [(-1, [b"a"]), (1, []), (1, [b""] * (MAX_MESSAGES + 1))]:
        with pytest.raises(ValueError, match="accepted"):
            partition.append(token, 0, count, messages)
    assert partition.head().position == 0


def test_the_largest_entry_fits(partition: Partition, token: str) -> None:
    messages = [b"%d" % index for index in range(MAX_MESSAGES)]
    partition.append(token, 0, MAX_MESSAGES, messages)
    assert next(partition.read(0)).messages == messages


def test_a_second_owner_fences_the_first_amid_its_writes(partition: Partition, token: str) -> None:
    fill(partition, token, 1, 1)
    partition.put_rows(token, [(b"k", 1, b"before")], -1)
    writer = partition.begin_snapshot(token, 2)
    second = partition.acquire(HERE, lease=0)
    writes = [
        lambda: partition.append(token, 2, 1, [b"x"]),
        lambda: partition.append(token, 1, 1, [b"m1"]),
        lambda: partition.trim(token, 1),
        lambda: partition.put_rows(token, [(b"k", 2, b"after")], -1),
        lambda: partition.discard_newer(token, -1),
        lambda: partition.begin_snapshot(token, 2),
        lambda: writer.commit({}),
        writer.abort,
        lambda: partition.mark_replay(token),
        lambda: partition.clear_replay(token),
        lambda: partition.quarantine(token, 0, "bad", b"x"),
        lambda: partition.confirm(token),
        lambda: partition.release(token),
        lambda: partition.delete(token),
    ]
    for write in writes:
        with pytest.raises(Fenced) as caught:
            write()
        assert (caught.value.token, caught.value.holder) == (token, second)
    assert [entry.messages for entry in partition.read(0)] == [[b"m0"], [b"m1"]]
    assert partition.get_rows([b"k"], 9) == [(1, b"before")]
    assert partition.load_snapshot() is None
    assert partition.quarantined() == {}
    assert partition.append(second, 2, 1, [b"x"]) == 3


def test_reading_may_begin_and_end_inside_an_entry(partition: Partition, token: str) -> None:
    fill(partition, token, 3, 2, 4, 1)
    assert [entry.position for entry in partition.read(4)] == [3, 5, 9]
    assert [entry.position for entry in partition.read(3, 6)] == [3, 5]
    assert [entry.position for entry in partition.read(9, 10, batch=1)] == [9]
    assert list(partition.read(10)) == []
    assert list(partition.read(5, 5)) == []


def test_a_hole_in_the_log_is_noticed(partition: Partition, token: str, client: redis.Redis) -> None:
    fill(partition, token, 2, 2, 2)
    client.xdel(partition.keys.log, "2-0")
    reader = partition.read(0)
    assert next(reader).position == 0
    with pytest.raises(LogMismatch) as caught:
        next(reader)
    assert (caught.value.expected, caught.value.found) == (2, 4)


def test_a_missing_end_and_a_missing_start_are_noticed(
    partition: Partition, token: str, client: redis.Redis
) -> None:
    fill(partition, token, 2, 2, 2)
    with pytest.raises(LogMismatch, match="before the first position"):
        list(partition.read(7))
    client.xdel(partition.keys.log, "4-0")
    with pytest.raises(LogMismatch, match="too early"):
        list(partition.read(0))
    partition.trim(token, 2)
    with pytest.raises(LogMismatch, match="gap"):
        list(partition.read(0, 4))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=12), cut=st.integers(0, 60))
def test_trim_drops_whole_entries_only(
    new_partition: Callable[[], Partition], counts: list[int], cut: int
) -> None:
    partition = new_partition()
    token = partition.acquire(HERE)
    end = fill(partition, token, *counts)
    entries = list(partition.read(0))
    kept = [entry for entry in entries if entry.end > cut]
    assert partition.trim(token, cut) == len(entries) - len(kept)
    assert partition.first_position() == (kept[0].position if kept else end)
    assert list(partition.read(partition.first_position())) == kept
    assert partition.append(token, end, 1, [b"next"]) == end + 1


def test_the_asyncio_form_does_the_same(server: EmbeddedRedis, partition: Partition, token: str) -> None:
    async def scenario() -> None:
        client = Link(server.url)
        try:
            assert await partition.append_async(client, token, 0, 2, [b"a", b"b"]) == 2
            assert await partition.append_async(client, token, 0, 2, [b"a", b"b"]) == 2
            with pytest.raises(LogMismatch):
                await partition.append_async(client, token, 1, 2, [b"a"])
            await partition.confirm_async(client, token)
            with pytest.raises(Fenced):
                await partition.append_async(client, "1-no", 2, 2, [b"a"])
            with pytest.raises(Fenced):
                await partition.confirm_async(client, "1-no")
        finally:
            await client.aclose()

    asyncio.run(scenario())
    assert list(partition.read(0)) == [Entry(0, 2, [b"a", b"b"])]


def test_a_server_that_forgot_the_scripts_is_told_again(
    server: EmbeddedRedis, partition: Partition, token: str, client: redis.Redis
) -> None:
    fill(partition, token, 1)
    partition.put_rows(token, [(b"%d" % key, 1, b"row") for key in range(300)], -1)
    client.script_flush()
    assert partition.get_rows([b"%d" % key for key in range(300)], 1) == [(1, b"row")] * 300
    client.script_flush()
    assert partition.append(token, 1, 1, [b"x"]) == 2

    async def scenario() -> None:
        client.script_flush()
        fresh = Link(server.url)
        assert await partition.append_async(fresh, token, 2, 1, [b"y"]) == 3
        await fresh.aclose()

    asyncio.run(scenario())


def test_delete_leaves_nothing(partition: Partition, token: str, client: redis.Redis) -> None:
    fill(partition, token, 2)
    partition.put_rows(token, [(b"k", 1, b"x")], -1)
    for _ in range(3):
        partition.begin_snapshot(token, 2).commit({})
    partition.begin_snapshot(token, 2)
    partition.mark_replay(token)
    partition.quarantine(token, 0, "bad", b"x")
    partition.delete(token)
    assert client.keys(partition.keys.prefix.replace("[", "\\[") + "*") == []


def test_all_keys_of_a_partition_share_a_slot(partition: Partition, client: redis.Redis) -> None:
    keys = [*partition.keys.all(), partition.keys.arrays(7, "ab")]
    tags = {key[key.index("{") + 1 : key.index("}")] for key in keys}
    assert len(tags) == 1
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["", "a/b", "a}b", "a b", ".a", "a\n", "x" * 101])
def test_names_that_would_break_a_key_are_refused(client: redis.Redis, name: str) -> None:
    with pytest.raises(ValueError, match="model"):
        Partition(client, "test", name)


def test_entries_without_events_stand_beside_their_position(partition: Partition, token: str) -> None:
    wanted = []
    for position, count in [(0, 0), (0, 0), (0, 2), (2, 1), (3, 0), (3, 0), (3, 0), (3, 4), (7, 0), (7, 0)]:
        message = b"%d" % len(wanted)
        for _ in range(2):  # the second repeats the first, whose reply was lost
            assert partition.append(token, position, count, [message]) == position + count
        wanted.append(Entry(position, count, [message]))
    for batch in (1, 2, 3, 64):
        assert list(partition.read(0, batch=batch)) == wanted
        assert list(partition.read(3, batch=batch)) == wanted[4:]
        assert list(partition.read(7, batch=batch)) == wanted[8:]
        assert list(partition.read(2, 3, batch=batch)) == wanted[3:4]
        assert list(partition.read(0, 3, batch=batch)) == wanted[:4]
    assert partition.trim(token, 3) == 4
    assert list(partition.read(3)) == wanted[4:]
    with pytest.raises(LogMismatch):
        partition.append(token, 3, 0, [b"elsewhere"])


def test_the_end_of_a_reading_is_where_the_log_ended_at_the_call(partition: Partition, token: str) -> None:
    at = fill(partition, token, 1, 1)
    reading = partition.read(0, batch=1)
    assert next(reading).position == 0
    fill(partition, token, 1)
    assert [entry.position for entry in reading] == [1]
    assert at == 2
