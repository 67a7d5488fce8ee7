from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.store.connect import Link, check_external, connect, durability
from service.store.embedded import EmbeddedRedis
from service.store.errors import StoreRefused, StoreUnavailable, unavailable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition

HERE = OwnerRecord.here("shard", "localhost:1")


@pytest.fixture
def own(data_dir: Path) -> Iterator[redis.Redis]:
    """A server whose settings the test may change."""
    with EmbeddedRedis(data_dir) as server:
        client = connect(server.url)
        yield client
        client.close()


def test_durability_is_read_and_compared(own: redis.Redis) -> None:
    assert check_external(own) == "fsync"
    own.config_set("appendfsync", "everysec")
    assert check_external(own, "everysec") == "everysec"
    with pytest.raises(StoreRefused, match="offers everysec; accepted: at least fsync"):
        check_external(own)
    own.config_set("appendfsync", "no")
    assert durability(own) == "memory"
    own.config_set("appendfsync", "always")
    own.config_set("appendonly", "no")
    assert check_external(own, "memory") == "memory"


def test_a_server_that_hides_its_settings_is_taken_at_the_lower_bound(own: redis.Redis) -> None:
    own.acl_setuser("default", commands=["-config"])
    assert durability(own) == "everysec"


def test_a_server_that_evicts_is_refused(own: redis.Redis) -> None:
    own.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(StoreRefused, match="got allkeys-lru; accepted: noeviction"):
        check_external(own)


def test_a_full_server_writes_nothing_and_says_oom(own: redis.Redis) -> None:
    partition = Partition(own, "test", "m")
    token = partition.acquire(HERE)
    partition.append(token, 0, 1, [b"x"])
    own.config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable) as caught:
        partition.append(token, 1, 1, [b"y" * 1_000_000])
    assert caught.value.reason == "OOM"
    own.config_set("maxmemory", "0")
    assert partition.head().position == 1
    assert partition.append(token, 1, 1, [b"z"]) == 2


def test_a_replica_says_readonly(own: redis.Redis) -> None:
    partition = Partition(own, "test", "m")
    token = partition.acquire(HERE)
    own.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreUnavailable) as caught:
        partition.append(token, 0, 1, [b"x"])
    assert caught.value.reason == "READONLY"
    own.replicaof("no", "one")
    assert partition.append(token, 0, 1, [b"x"]) == 1


def test_no_server_is_a_connection_that_failed(tmp_path: Path) -> None:
    partition = Partition(connect(f"unix://{tmp_path}/nothing"), "test", "m")
    for call in (partition.head, lambda: partition.get_rows([b"k"] * 300, 1), lambda: partition.confirm("t")):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert caught.value.reason == "CONNECTION"


def test_nothing_is_repeated_in_hiding(tmp_path: Path) -> None:
    """A server that takes each command and hangs up instead of answering sees it once."""
    path, seen = str(tmp_path / "s"), []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while not any(b"LAST" in received for received in seen):
                connection, _ = listener.accept()
                with connection, connection.makefile("rwb", buffering=0) as stream:
                    while b"CLIENT" in (received := stream.read(4096)):
                        stream.write(b"+OK\r\n" * received.count(b"CLIENT"))
                    seen.append(received)

        thread = threading.Thread(target=serve)
        thread.start()
        for word in ("INCR", "LAST"):
            with pytest.raises(redis.exceptions.ConnectionError):
                connect(f"unix://{path}").execute_command(word, "x")
        thread.join()
    assert [b"INCR" in received for received in seen] == [True, False]


def test_every_command_of_a_link_gets_its_own_reply_also_after_one_that_was_given_up(own: redis.Redis) -> None:
    async def scenario() -> None:
        link = Link(f"unix://{own.get_connection_kwargs()['path']}")
        try:
            said = await asyncio.gather(*(link.execute_command("ECHO", number) for number in range(100)))
            assert said == [b"%d" % number for number in range(100)]
            own.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await link.execute_command("SET", "a", 1)
            own.execute_command("CLIENT", "UNPAUSE")
            assert await link.execute_command("ECHO", "mine") == b"mine"
        finally:
            await link.aclose()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (redis.exceptions.TimeoutError("slow"), "TIMEOUT"),
        (redis.exceptions.BusyLoadingError("loading"), "LOADING"),
        (redis.exceptions.AuthenticationError("who"), "AUTH"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left"), "MISCONF"),
        (redis.ResponseError("Error running script (call to f_1): @user_script:7: -OOM command not"), "OOM"),
        (redis.ResponseError("ERR value is not an integer: see FLOOM"), None),
        (redis.DataError("wrong"), None),
    ],
)
def test_passing_states_are_told_from_mistakes(error: redis.RedisError, reason: str | None) -> None:
    found = unavailable(error)
    assert (found.reason if found else None) == reason
