"""Events of sources that do not fit, kept with the reason and their bytes; and what the sources say of themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.store.scripting import PartitionBase, Script

# Not fenced: who reads a source owns no partition. A message that is read again after a crash is kept once, since the
# numbers of a producer rise. They are compared as text: a number of Lua is exact only up to 2^53.
_KEEP = Script("""
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
local mark = redis.call('HGET', KEYS[2], ARGV[1]) or ''
local kept = 0
for at = 3, #ARGV, 4 do
  local number = ARGV[at]
  if #number > #mark or (#number == #mark and number > mark) then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*',
      'producer', ARGV[1], 'number', ARGV[at], 'reason', ARGV[at + 1], 'payload', ARGV[at + 2], 'beside', ARGV[at + 3])
    mark = number
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[at])
    kept = kept + 1
  end
end
return kept
""")
# What outlives its model would be met by the next one of that name.
_SAY = Script("""
if redis.call('EXISTS', KEYS[2]) == 1 then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
""")
_AT_ONCE = 500
MAX_PAYLOAD = 1 << 20
"""Bytes kept of one message."""


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that did not fit.

    Attributes:
        id: of the letter; pass it to `letters` to read on after it.
        producer: the partition of the source that it came from.
        number: its number there (an offset; of a Redis Stream see `streams.sources.redis_ids`).
        reason: what is wrong with it.
        payload: its bytes as they came.
        beside: JSON of what came with it (`key`, `time`, `headers`), "{}" for nothing.
    """

    id: str
    producer: str
    number: int
    reason: str
    payload: bytes
    beside: str = "{}"


class Letters(PartitionBase):
    """The dead letters of a model's sources."""

    def keep(self, producer: str, most: int, letters: Sequence[tuple[int, str, bytes, str]]) -> int:
        """Keeps messages of one producer, each once however often it is read; returns how many are new.

        Of a model that is gone nothing is kept.

        Args:
            producer: the partition of a source.
            most: letters of the model to keep, about; the oldest go.
            letters: number, reason, payload and what came beside it of each, in rising order.

        Raises:
            StoreUnavailable: if Redis cannot serve now; some may have been kept.
        """
        kept = 0
        for at in range(0, len(letters), _AT_ONCE):
            args: list[Any] = [producer, most]
            for number, reason, payload, beside in letters[at : at + _AT_ONCE]:
                args += [number, reason, payload[:MAX_PAYLOAD], beside]
            kept += _KEEP.run(self.client, (self.keys.letters, self.keys.letter_marks, self.keys.owner), args)
        return kept

    def letters(self, start: str = "", count: int = 100) -> list[Letter]:
        """Returns up to `count` letters after the one with id `start`, oldest first."""
        return self._read(f"({start}" if start else "-", "+", count)

    def letter(self, id: str) -> Letter | None:
        """Returns one letter, or None."""
        found = self._read(id, id, 1)
        return found[0] if found else None

    def drop_letter(self, id: str) -> bool:
        """Removes one letter; returns whether it was there."""
        return self._command("XDEL", self.keys.letters, id) == 1

    def count_letters(self) -> int:
        """Returns how many letters are kept."""
        return self._command("XLEN", self.keys.letters)

    def _read(self, first: str, last: str, count: int) -> list[Letter]:
        reply = self._command(b"XRANGE", self.keys.letters, first, last, "COUNT", count)
        return [
            Letter(id.decode(), f[1].decode(), int(f[3]), f[5].decode(), f[7], f[9].decode()) for id, f in reply
        ]

    def say(self, producer: str, state: dict[str, Any]) -> None:
        """Leaves what a source says of itself, unless the model is gone."""
        _SAY.run(self.client, (self.keys.sources, self.keys.owner), (producer, json.dumps(state)))

    def said(self) -> dict[str, dict[str, Any]]:
        """Returns what each source said of itself last."""
        reply = iter(self._command(b"HGETALL", self.keys.sources))
        return {name.decode(): json.loads(state) for name, state in zip(reply, reply)}
