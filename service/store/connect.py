"""Clients of Redis, and what an external Redis must offer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import hiredis
import redis

from service.store.errors import StoreRefused, StoreUnavailable, translated
from streams.redis_client import redis_client, redis_connection

T = TypeVar("T")

Durability = Literal["fsync", "everysec", "memory"]
"""What an acknowledged write survives: power loss; all but the last second or so of it; nothing."""

RANK: dict[Durability, int] = {"memory": 0, "everysec": 1, "fsync": 2}
MIN_VERSION = (6, 2)

_FSYNC: dict[str, Durability] = {"always": "fsync", "everysec": "everysec", "no": "memory"}


def connect(url: str) -> redis.Redis:
    """Returns a client of the store that never repeats a command by itself; see `streams.redis_client`.

    Every write of the store says what it expects, so callers may repeat it.
    """
    return redis_client(url)


class Link:
    """One asyncio connection to a Redis, for appends: its commands go one after the other.

    A client of redis-py would do the same, and take half as long again for its retries, pool and telemetry. There is
    no timeout per read and write either: `Script.run_async` bounds the whole call. Nothing is sent before the first
    command, and a connection that broke is opened anew by the next.

    Args:
        url: see `connect`.

    Attributes:
        socket: path of its unix socket; None where it has none.

    Raises:
        ValueError: if the scheme is not one of the three.
    """

    def __init__(self, url: str) -> None:
        self._connection = redis_connection(url)
        self.socket: str | None = getattr(self._connection, "path", None)
        self._turn = asyncio.Lock()

    async def execute_command(self, *args: bytes | str | int) -> Any:
        """Sends a command and returns the reply.

        Raises:
            redis.RedisError: Redis says so, or cannot be reached; in that case it may have been carried out.
        """
        async with self._turn:
            if not self._connection.is_connected:
                await self._connection.connect()
            packed = hiredis.pack_command(args)  # type: ignore[arg-type] # its types know a single argument only
            await self._connection.send_packed_command(packed, check_health=False)
            return await self._connection.read_response(disable_decoding=True)

    async def aclose(self) -> None:
        """Ends the connection."""
        await self._connection.disconnect()


def socket_of(client: redis.Redis) -> str | None:
    """Path of a client's unix socket; None where it has none."""
    return client.get_connection_kwargs().get("path")


def durability(client: redis.Redis) -> Durability:
    """Reads what the server's settings promise about an acknowledged write.

    A server that hides its settings (CONFIG refused) is taken at the lower bound of what INFO shows:
    `everysec` with an append-only file, else `memory`.

    Raises:
        StoreUnavailable: if Redis cannot serve now.
    """
    try:
        if not client.info("persistence").get("aof_enabled"):
            return "memory"
        try:
            return _FSYNC[str(client.config_get("appendfsync")["appendfsync"])]
        except (redis.exceptions.NoPermissionError, redis.ResponseError, KeyError):
            return "everysec"
    except redis.RedisError as error:
        raise translated(error, socket_of(client)) from error


def check_external(client: redis.Redis, needed: Durability = "fsync") -> Durability:
    """Checks that a Redis we did not start can hold a deployment, and returns the durability it offers.

    Raises:
        StoreRefused: if its version is too old, it is one of several nodes of a cluster, it may evict keys, or it
            promises less than `needed`.
        StoreUnavailable: if Redis cannot serve now.
    """
    try:
        server, memory = client.info("server"), client.info("memory")
    except redis.RedisError as error:
        raise translated(error, socket_of(client)) from error
    version = tuple(int(part) for part in server["redis_version"].split(".")[:2])
    if version < MIN_VERSION:
        raise StoreRefused(f"redis version: got {server['redis_version']}; accepted: 6.2 or newer")
    mode = server.get("redis_mode", server.get("server_mode"))  # Valkey's name for it
    if mode == "cluster" and (nodes := _nodes(client)) > 1:
        raise StoreRefused(
            f"redis: got a cluster whose slots are on {nodes} nodes; accepted: one server, with replicas or without, "
            "or a cluster with all slots on one node"
        )
    if memory["maxmemory_policy"] != "noeviction":
        raise StoreRefused(
            f"maxmemory-policy: got {memory['maxmemory_policy']}; accepted: noeviction (others drop state)"
        )
    offered = durability(client)
    if RANK[offered] < RANK[needed]:
        raise StoreRefused(
            f"durability: redis offers {offered}; accepted: at least {needed} "
            "(fsync: appendonly yes and appendfsync always; everysec: appendonly yes)"
        )
    return offered


def _nodes(client: redis.Redis) -> int:
    """How many nodes of a cluster hold slots."""
    try:
        return int(client.execute_command("CLUSTER INFO")["cluster_size"])
    except redis.RedisError as error:
        raise translated(error, socket_of(client)) from error


def until_served(function: Callable[[], T], seconds: float = 10.0) -> T:
    """Repeats a first call to a store that is still starting.

    Raises:
        service.store.errors.StoreUnavailable: it did not answer within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return function()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
