"""Scripts that Redis runs, and the base of the classes that call them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

import redis

from service.store.connect import Link, socket_of
from service.store.errors import Fenced, translated
from service.store.keys import PartitionKeys

FENCE = """
local holder = redis.call('HGET', KEYS[1], 'token')
if holder ~= ARGV[1] then return {-1, holder or ''} end
"""
"""Opens every script that writes for an owner: KEYS[1] is the owner's key, ARGV[1] its token."""


CALL_SECONDS = 1.0
"""After this long an asyncio call counts as unanswered: what it wrote is in doubt."""


class Script:
    """A Lua script, called by its SHA-1; a server that does not know it (it restarted) gets the text."""

    def __init__(self, text: str) -> None:
        self.text = text.strip().encode()
        self.sha = hashlib.sha1(self.text).hexdigest().encode()

    def run(self, client: redis.Redis, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Runs it and returns the reply.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        try:
            try:
                return client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                return client.execute_command("EVAL", self.text, len(keys), *keys, *args)
        except redis.RedisError as error:
            raise translated(error, socket_of(client)) from error

    async def run_async(self, client: Link, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """The same on an asyncio client, within `CALL_SECONDS`."""
        try:
            async with asyncio.timeout(CALL_SECONDS):
                try:
                    return await client.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
                except redis.exceptions.NoScriptError:
                    return await client.execute_command("EVAL", self.text, len(keys), *keys, *args)
        except TimeoutError as error:
            late = redis.exceptions.TimeoutError(f"no answer within {CALL_SECONDS} s")
            raise translated(late) from error
        except redis.RedisError as error:
            raise translated(error, client.socket) from error


class PartitionBase:
    """What the parts of a partition share: a client and the names of its keys.

    Args:
        client: returns bytes (`decode_responses=False`), does not retry by itself; see `connect`.
        deployment: name of the deployment.
        model: name of the model.
        partition: name of the partition.

    Raises:
        ValueError: if a name cannot be part of a key.
    """

    def __init__(self, client: redis.Redis, deployment: str, model: str, partition: str = "0") -> None:
        self.client = client
        self.deployment = deployment
        self.keys = PartitionKeys(deployment, model, partition)

    def _command(self, *args: Any) -> Any:
        """A plain command, with the errors of Redis translated."""
        try:
            return self.client.execute_command(*args)
        except redis.RedisError as error:
            raise translated(error, socket_of(self.client)) from error

    def _fenced(self, script: Script, keys: Sequence[str], token: str, *args: Any) -> list[Any]:
        """Runs a script that begins with `FENCE`.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        return unfenced(token, script.run(self.client, (self.keys.owner, *keys), (token, *args)))


def unfenced(token: str, reply: list[Any]) -> list[Any]:
    """Returns the reply of a fenced script.

    Raises:
        Fenced: if the reply says that the token is not the holder's.
    """
    if reply[0] == -1:
        raise Fenced(token, reply[1].decode())
    return reply
