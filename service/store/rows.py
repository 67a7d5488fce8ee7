"""Keyed rows of a partition in the store: a version of each for recovery, and the newest.

A row carries the position up to which the log was folded when it last changed (the index of its last event
plus one), and recovery reads, per key, the newest version at or below the committed snapshot. A key has at
most one version in each span of positions:

    up to the committed snapshot | up to the snapshot being written | newer

and a put replaces the one in its own span. The middle span exists only from `begin_snapshot` to commit, when
there may be three: it keeps a row that the snapshot wrote safe from an eviction that comes after, and the
other way round.

Layout: three hashes, key to 8-byte big-endian position and blob. A version takes a free field in the first of
them that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import redis

from service.store.connect import socket_of
from service.store.errors import translated
from service.store.scripting import FENCE, PartitionBase, Script

CHUNK_BYTES = 256 * 1024
"""Most bytes of one write: other writers wait no longer than that takes."""
GET_CHUNK = 128
"""Keys of one reading script."""

# `struct` numbers are exact to 2**53 positions. ARGV: token, committed, then key and value of each row.
# A commit whose reply was lost is one that the owner does not know of: what the store says counts.
_PUT = Script(
    FENCE
    + """
local committed = math.max(tonumber(ARGV[2]), tonumber(redis.call('HGET', KEYS[2], 'position') or '-1'))
local pending = tonumber(redis.call('HGET', KEYS[2], 'pending') or '-1')
local function span(position)
  if position <= committed then return 1 elseif position <= pending then return 2 else return 3 end
end
for i = 3, #ARGV, 2 do
  local position = struct.unpack('>I8', ARGV[i + 1])
  local at, newest = {}, {-1, -1, -1}
  for slot = 1, 3 do
    local value = redis.call('HGET', KEYS[2 + slot], ARGV[i])
    at[slot] = value and struct.unpack('>I8', value)
    if value then newest[span(at[slot])] = math.max(newest[span(at[slot])], at[slot]) end
  end
  local own = span(position)
  if own ~= 1 or position >= newest[1] then
    newest[own] = position
    local target
    for slot = 1, 3 do if at[slot] == position then target = slot end end
    for slot = 1, 3 do
      local needed = at[slot] and at[slot] == newest[span(at[slot])]
      if not target and not needed then target = slot end
      if at[slot] and not needed and slot ~= target then redis.call('HDEL', KEYS[2 + slot], ARGV[i]) end
    end
    redis.call('HSET', KEYS[2 + target], ARGV[i], ARGV[i + 1])
  end
end
return {1}
"""
)
_GET = Script("""
local limit, found = tonumber(ARGV[1]), {}
for i = 2, #ARGV do
  local best, best_at = false, -1
  for slot = 1, 3 do
    local value = redis.call('HGET', KEYS[slot], ARGV[i])
    local at = value and struct.unpack('>I8', value)
    if value and at <= limit and at > best_at then best, best_at = value, at end
  end
  found[i - 1] = best
end
return found
""")
_SCAN = Script("""
local reply, keys = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}
for i = 1, #reply[2], 2 do keys[#keys + 1] = reply[2][i] end
return {reply[1], keys}
""")
_CHANGED = Script("""
local reply, keys = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), {}
for i = 1, #reply[2], 2 do
  local position = struct.unpack('>I8', reply[2][i + 1])
  if position > tonumber(ARGV[3]) and position <= tonumber(ARGV[4]) then keys[#keys + 1] = reply[2][i] end
end
return {reply[1], keys}
""")
_DISCARD = Script(
    FENCE
    + """
local reply, dropped = redis.call('HSCAN', KEYS[2], ARGV[2], 'COUNT', ARGV[3]), 0
for i = 1, #reply[2], 2 do
  if struct.unpack('>I8', reply[2][i + 1]) > tonumber(ARGV[4]) then
    dropped = dropped + redis.call('HDEL', KEYS[2], reply[2][i])
  end
end
return {1, reply[1], dropped}
"""
)


class Rows(PartitionBase):
    """Writing and reading keyed rows."""

    def put_rows(
        self, token: str, rows: Iterable[tuple[bytes, int, bytes]], committed: int
    ) -> tuple[int, int]:
        """Writes rows in chunks of at most 256 KB (a larger row goes alone); returns (rows, bytes) written.

        Each chunk is written whole or not at all; rows of earlier chunks stay when a later one fails, and the
        call may be repeated.

        Args:
            token: of the owner.
            rows: (key, position, blob): the log was folded up to `position` when the row last changed.
            committed: position of the committed snapshot, -1 if there is none.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        keys = (self.keys.snapshots, *self.keys.rows)
        total = count = size = 0
        args: list[Any] = []
        for key, position, blob in rows:
            row = len(key) + 8 + len(blob)
            if args and size + row > CHUNK_BYTES:
                self._fenced(_PUT, keys, token, committed, *args)
                args, size = [], 0
            args += (key, position.to_bytes(8, "big") + blob)
            size += row
            total += row
            count += 1
        if args:
            self._fenced(_PUT, keys, token, committed, *args)
        return count, total

    def get_rows(self, keys: Sequence[bytes], at: int) -> list[tuple[int, bytes] | None]:
        """Returns, per key, (position, blob) of the newest version at or below `at`, or None; one round trip.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        chunks = [keys[start : start + GET_CHUNK] for start in range(0, len(keys), GET_CHUNK)]
        if len(chunks) <= 1:
            replies = [_GET.run(self.client, self.keys.rows, (at, *chunk)) for chunk in chunks]
        else:
            replies = self._get_many(chunks, at)
        values = [value for reply in replies for value in reply]
        return [value and (int.from_bytes(value[:8], "big"), value[8:]) for value in values]

    def _get_many(self, chunks: list[Sequence[bytes]], at: int) -> list[list[bytes | None]]:
        try:
            for again in (False, True):
                pipeline = self.client.pipeline(transaction=False)
                if again:
                    pipeline.execute_command("SCRIPT LOAD", _GET.text)
                for chunk in chunks:
                    pipeline.execute_command("EVALSHA", _GET.sha, 3, *self.keys.rows, at, *chunk)
                try:
                    return pipeline.execute()[int(again) :]
                except redis.exceptions.NoScriptError:
                    if again:
                        raise
            raise AssertionError("unreachable")
        except redis.RedisError as error:
            raise translated(error, socket_of(self.client)) from error

    def iter_keys(self, batch: int = 1000) -> Iterator[bytes]:
        """Yields every key that has a row, once each, in order of the bytes; all keys are held in memory.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        found: set[bytes] = set()
        for rows in self.keys.rows:
            cursor: bytes | int = 0
            while cursor != b"0":
                cursor, keys = _SCAN.run(self.client, (rows,), (cursor, batch))
                found.update(keys)
        yield from sorted(found)

    def changed_keys(self, since: int, at: int, batch: int = 500) -> list[bytes]:
        """Returns the keys with a row of a position in (since, at], each once; all are held in memory.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        found: set[bytes] = set()
        for rows in self.keys.rows:
            cursor: bytes | int = 0
            while cursor != b"0":
                cursor, keys = _CHANGED.run(self.client, (rows,), (cursor, batch, since, at))
                found.update(keys)
        return sorted(found)

    def discard_newer(self, token: str, committed: int, batch: int = 100) -> int:
        """Drops every version newer than `committed`; returns how many.

        A replay that does not repeat what the lost fold did (an entry went to quarantine, or the numerics
        differ) must begin with this: a newer version that was left behind is state of the lost fold.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        dropped = 0
        for rows in self.keys.rows:
            cursor: bytes | int = 0
            while cursor != b"0":
                _, cursor, here = self._fenced(_DISCARD, (rows,), token, cursor, batch, committed)
                dropped += here
        return dropped
