"""The log of a partition: one Redis Stream, one entry per micro-batch.

The stream id of an entry is `<position of its first event>-0` (Redis has no id 0-0: the first entry of a log
is `0-1`). Its fields are `n`, the number of events, then one `m` per request, as the bytes that came. An entry
may hold requests without events, stamps alone: entries that stand at one position count up the second half of
the id. Beside it `head` holds the next position, how many stamps stand there, and a hash of the last entry; one
script writes both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from service.store.connect import Link
from service.store.errors import LogMismatch
from service.store.scripting import FENCE, PartitionBase, Script, unfenced

MAX_MESSAGES = 3000
"""Requests in one entry: a script can hand that many fields to one command."""

_APPEND = Script(
    FENCE
    + """
local head = redis.call('HMGET', KEYS[2], 'position', 'hash', 'stamps')
local position = head[1] or '0'
if position ~= ARGV[2] then
  if position == ARGV[3] and head[2] == ARGV[4] then return {0, position} end
  return {-2, position}
end
local id = ARGV[5]
local stamps = tonumber(head[3] or '0')
if stamps > 0 then id = position .. '-' .. (position == '0' and stamps + 1 or stamps) end
if ARGV[6] == '0' then
  if head[2] == ARGV[4] then return {0, position} end
  redis.call('HSET', KEYS[2], 'stamps', stamps + 1)
elseif stamps > 0 then
  redis.call('HDEL', KEYS[2], 'stamps')
end
redis.call('XADD', KEYS[3], id, 'n', unpack(ARGV, 6))
redis.call('HSET', KEYS[2], 'position', ARGV[3], 'hash', ARGV[4])
return {1, ARGV[3]}
"""
)
_BEGIN = Script(
    FENCE
    + """
if redis.call('EXISTS', KEYS[2]) == 1 then return {-2, redis.call('HGET', KEYS[2], 'position')} end
redis.call('HSET', KEYS[2], 'position', ARGV[2], 'hash', '')
return {1}
"""
)
_TRIM = Script(
    FENCE
    + """
local last = redis.call('XREVRANGE', KEYS[2], ARGV[2], '-', 'COUNT', 1)[1]
if not last then return {1, 0} end
local first = string.match(last[1], '^%d+')
local keep = ARGV[3]
if first + last[2][2] > tonumber(keep) then keep = first end
return {1, redis.call('XTRIM', KEYS[2], 'MINID', '=', keep)}
"""
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the log.

    Attributes:
        position: of its first event.
        count: of its events.
        messages: the requests, as they came.
    """

    position: int
    count: int
    messages: list[bytes]

    @property
    def end(self) -> int:
        """Position after its last event."""
        return self.position + self.count


@dataclass(frozen=True, slots=True)
class Head:
    """Where the log ends.

    Attributes:
        position: of the next event.
        hash: xxh64 (8 bytes) of the last entry's body; empty for an empty log.
    """

    position: int
    hash: bytes


def body_hash(position: int, messages: Sequence[bytes]) -> bytes:
    """xxh64 (8 bytes) of an entry: its position, and each request after its length."""
    digest = xxhash.xxh64(seed=position)
    for message in messages:
        digest.update(len(message).to_bytes(8, "little"))
        digest.update(message)
    return digest.digest()


class Log(PartitionBase):
    """Appending to, reading and trimming the log of a partition."""

    def append(self, token: str, position: int, count: int, messages: Sequence[bytes]) -> int:
        """Appends one entry and returns the position after it. Repeating the last append changes nothing.

        Args:
            token: of the owner.
            position: where the owner expects the log to end.
            count: number of events; 0 where every request is a stamp.
            messages: 1 to `MAX_MESSAGES` requests.

        Raises:
            ValueError: if `count` or the number of messages is out of range.
            Fenced: if another owner holds the partition; nothing was written.
            LogMismatch: if the log ends elsewhere; nothing was written.
            StoreUnavailable: if Redis cannot serve now; it may have been written: repeat the same append.
        """
        keys, args = self.append_call(token, position, count, messages)
        return self.append_result(_APPEND.run(self.client, keys, args), token, position)

    async def append_async(
        self, client: Link, token: str, position: int, count: int, messages: Sequence[bytes]
    ) -> int:
        """Does what `append` does through an asyncio client."""
        keys, args = self.append_call(token, position, count, messages)
        return self.append_result(await _APPEND.run_async(client, keys, args), token, position)

    def append_call(
        self, token: str, position: int, count: int, messages: Sequence[bytes]
    ) -> tuple[tuple[str, ...], list[Any]]:
        """Returns keys and arguments of the append script."""
        if count < 0 or position < 0 or not 1 <= len(messages) <= MAX_MESSAGES:
            raise ValueError(
                f"append: got position {position}, {count} events in {len(messages)} messages; accepted: "
                f"position >= 0, events >= 0, 1 to {MAX_MESSAGES} messages"
            )
        entry_id = f"{position}-0" if position else "0-1"
        args = [token, position, position + count, body_hash(position, messages), entry_id, count]
        for message in messages:
            args += (b"m", message)
        return (self.keys.owner, self.keys.head, self.keys.log), args

    def append_result(self, reply: list[Any], token: str, position: int) -> int:
        """Returns the position after the append, or raises what the script's reply means."""
        status, found = unfenced(token, reply)
        if status == -2:
            raise LogMismatch(position, int(found), f"append to {self.keys.log} refused")
        return int(found)

    def begin_log(self, token: str, position: int) -> None:
        """Lets a log that never began begin at a position other than 0.

        Raises:
            LogMismatch: if it has begun.
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        status, *found = self._fenced(_BEGIN, (self.keys.head,), token, position)
        if status == -2:
            raise LogMismatch(position, int(found[0]), f"{self.keys.log} has begun")

    def head(self) -> Head:
        """Returns where the log ends; position 0 and an empty hash if it never began."""
        position, digest = self._command("HMGET", self.keys.head, "position", "hash")
        return Head(int(position or 0), digest or b"")

    def first_position(self) -> int:
        """Returns the position of the oldest event that the log holds; where it ends if it holds none."""
        entries = self._entries("XRANGE", "-", "+", 1)
        return entries[0].position if entries else self.head().position

    def read(self, start: int, stop: int | None = None, batch: int = 64) -> Iterator[Entry]:
        """Yields the entries that hold the events `start` to `stop`, in order.

        The first and the last may reach beyond that range: entries are never cut. Entries without events come with
        those at their position, and where the log is read to its end also those that stand there.

        Args:
            start: first position wanted.
            stop: position after the last one wanted; where the log ends at the call if None.
            batch: entries fetched at a time.

        Raises:
            LogMismatch: if an entry does not begin where the one before ended, or the log does not reach
                from `start` to `stop`.
            StoreUnavailable: if Redis cannot serve now.
        """
        last = None if stop is None else str(stop - 1)
        stop = self.head().position if stop is None else stop
        if start > stop:
            raise LogMismatch(start, stop, f"{self.keys.log} ends before the first position wanted")
        holding = self._entries("XREVRANGE", str(start), "-", 1) if start < stop else []
        at = holding[0].position if holding and holding[0].end > start else start
        after = str(at)
        while at < stop or last is None:
            entries = self._named("XRANGE", after, last or str(stop), batch)
            if not entries and at < stop:
                raise LogMismatch(stop, at, f"{self.keys.log} ends too early")
            for name, entry in entries:
                if entry.position != at:
                    raise LogMismatch(at, entry.position, f"{self.keys.log} has a gap")
                if at == stop and entry.count:
                    return  # logged after the call
                after, at = f"({name.decode()}", entry.end
                yield entry
            if len(entries) < batch and at >= stop:
                return

    def trim(self, token: str, before: int) -> int:
        """Drops the whole entries that end at or before position `before`; returns how many.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        if before <= 0:
            return 0
        return self._fenced(_TRIM, (self.keys.log,), token, before - 1, before)[1]

    def _entries(self, command: str, first: str, last: str, count: int) -> list[Entry]:
        return [entry for _, entry in self._named(command, first, last, count)]

    def _named(self, command: str, first: str, last: str, count: int) -> list[tuple[bytes, Entry]]:
        # Named in bytes: under its text name redis-py turns the fields into a dict, which holds one `m`.
        reply = self._command(command.encode(), self.keys.log, first, last, "COUNT", count)
        return [(name, Entry(int(name.split(b"-")[0]), int(fields[1]), fields[3::2])) for name, fields in reply]
