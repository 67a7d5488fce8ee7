"""Who may write to a partition: a token, held under a lease of one second.

A new owner waits until the previous one has not confirmed for longer than the lease, by the clock of Redis,
and an owner that could not confirm for as long stops answering; so at most one answers at any time. Writes do
not depend on clocks: each carries the token and is refused once another token is there.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from service.store.connect import Link, socket_of
from service.store.errors import OwnedElsewhere, StoreError, translated
from service.store.scripting import FENCE, PartitionBase, Script, unfenced

LEASE_SECONDS = 1.0

# A clock that went back would keep a dead owner alive for as long as it went back: the lease starts anew.
_ACQUIRE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local held = redis.call('HMGET', KEYS[1], 'token', 'confirmed', 'record')
if held[1] and held[1] ~= ARGV[4] then
  local age = now - held[2]
  if age < 0 then
    redis.call('HSET', KEYS[1], 'confirmed', string.format('%d', now))
    age = 0
  end
  if age <= tonumber(ARGV[3]) then return {0, held[3]} end
end
local token = string.format('%d-%s', redis.call('HINCRBY', KEYS[1], 'counter', 1), ARGV[1])
redis.call('HSET', KEYS[1], 'token', token, 'record', ARGV[2], 'confirmed', string.format('%d', now))
return {1, token}
""")
_CONFIRM = Script(
    FENCE
    + """
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'confirmed', string.format('%d', time[1] * 1000000 + time[2]))
return {1}
"""
)
_RELEASE = Script(FENCE + "redis.call('HDEL', KEYS[1], 'token', 'record', 'confirmed') return {1}")


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """Who owns a partition.

    Attributes:
        shard: name of the shard.
        host: the machine and the process namespace, as `this_host` gives it.
        pid: process id there.
        started: start of that process, seconds since the epoch.
        address: host:port where it answers.
    """

    shard: str
    host: str
    pid: int
    started: float
    address: str

    @classmethod
    def here(cls, shard: str, address: str) -> OwnerRecord:
        """The record of the calling process."""
        return cls(shard, this_host(), os.getpid(), psutil.Process().create_time(), address)

    def dead_here(self) -> bool:
        """Whether this owner ran on this very host and is certainly gone."""
        if self.host != this_host():
            return False
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.started) > 1 or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


def this_host() -> str:
    """Host name, boot and process namespace: two hosts that share it share their process ids."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    if boot.exists():
        parts.append(boot.read_text().strip())
    if namespace.exists():
        parts.append(str(namespace.readlink()))
    return "/".join(parts)


class Ownership(PartitionBase):
    """Taking, confirming and giving up a partition."""

    def acquire(
        self,
        record: OwnerRecord,
        *,
        mine: str = "",
        timeout: float = 30.0,
        lease: float = LEASE_SECONDS,
        poll: float = 0.05,
    ) -> str:
        """Takes the partition and returns the token that every write must carry.

        A previous owner that is a dead process of this host is replaced at once; any other after it has not
        confirmed for longer than `lease`.

        Args:
            record: who takes it.
            mine: token of the caller's own that is replaced at once: what was sent with it is refused from then on.
            timeout: seconds to wait for a previous owner.
            lease: seconds an owner holds the partition without confirming.
            poll: seconds between looks.

        Raises:
            OwnedElsewhere: if the previous owner kept confirming for `timeout` seconds.
            StoreUnavailable: if Redis cannot serve now.
        """
        nonce, body = secrets.token_hex(8), json.dumps(asdict(record))
        deadline = time.monotonic() + timeout
        while True:
            held = self.owner()
            dead = held[0] if held is not None and (held[0] == mine or held[1].dead_here()) else ""
            args = (nonce, body, int(lease * 1e6), dead)
            taken, answer = _ACQUIRE.run(self.client, (self.keys.owner,), args)
            if taken:
                return answer.decode()
            if time.monotonic() >= deadline:
                raise OwnedElsewhere(
                    f"{self.keys.prefix} is owned by {answer.decode()}, which confirmed within {lease} s "
                    f"throughout {timeout} s"
                )
            time.sleep(poll)

    def owner(self) -> tuple[str, OwnerRecord] | None:
        """Returns token and record of the present owner, or None."""
        token, body = self._command("HMGET", self.keys.owner, "token", "record")
        return None if token is None else (token.decode(), OwnerRecord(**json.loads(body)))

    def confirm(self, token: str) -> None:
        """Renews the lease.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._fenced(_CONFIRM, (), token)

    async def confirm_async(self, client: Link, token: str) -> None:
        """Renews the lease through an asyncio client; raises as `confirm` does."""
        unfenced(token, await _CONFIRM.run_async(client, (self.keys.owner,), (token,)))

    def release(self, token: str) -> None:
        """Gives the partition up, so that the next owner need not wait.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._fenced(_RELEASE, (), token)


def confirm_all(client: redis.Redis, held: Sequence[tuple[Ownership, str]]) -> list[Exception | None]:
    """Renews leases in one round trip.

    Args:
        client: of the store that all are in.
        held: partitions, each with the token that owns it.

    Returns:
        For each None, or why it was not confirmed: `Fenced`, `StoreUnavailable`, or what else Redis says.
    """
    pipeline = client.pipeline(transaction=False)
    for one, token in held:
        pipeline.execute_command("EVALSHA", _CONFIRM.sha, 1, one.keys.owner, token)
    try:
        replies = pipeline.execute(raise_on_error=False)
    except redis.RedisError as error:
        return [translated(error, socket_of(client))] * len(held)
    return [_confirmed(one, token, reply) for (one, token), reply in zip(held, replies)]


def _confirmed(one: Ownership, token: str, reply: Any) -> Exception | None:
    try:
        if isinstance(reply, redis.exceptions.NoScriptError):
            one.confirm(token)
        elif isinstance(reply, redis.RedisError):
            raise translated(reply, socket_of(one.client))
        else:
            unfenced(token, reply)
    except (StoreError, redis.RedisError) as error:
        return error
    return None
