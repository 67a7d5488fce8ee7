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


class _WhileRunning:
    """As `asyncio.timeout`, but in four parts: time in which the event loop did not run counts as one of them.

    A machine that has no time for this process is no sign that the store is silent: its answer may have come long ago.

    Args:
        seconds: until `TimeoutError`.
    """

    def __init__(self, seconds: float) -> None:
        self._part = seconds / 4
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._part, self._passed, 3)

    async def __aexit__(self, *exception: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*exception)  # raises TimeoutError in place of what it cancelled

    def _passed(self, left: int) -> None:
        if left:
            self._timer = self._loop.call_later(self._part, self._passed, left - 1)
        else:
            self._limit.reschedule(self._loop.time())


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
            async with _WhileRunning(CALL_SECONDS):
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
