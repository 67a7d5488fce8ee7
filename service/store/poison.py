"""Events that stop the fold: how often each was reached, and where they went."""

from __future__ import annotations

from dataclasses import dataclass

from service.store.scripting import FENCE, PartitionBase, Script

# Positions before this one were got past in this start, so they are not what stops the partition.
_ATTEMPT = Script(
    FENCE
    + """
for _, position in ipairs(redis.call('HKEYS', KEYS[2])) do
  if tonumber(position) < tonumber(ARGV[2]) then redis.call('HDEL', KEYS[2], position) end
end
return {1, redis.call('HINCRBY', KEYS[2], ARGV[2], 1)}
"""
)
_CLEAR = Script(FENCE + "redis.call('UNLINK', KEYS[2]) return {1}")
_QUARANTINE = Script(
    FENCE
    + """
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 0 then return {0} end
redis.call('XADD', KEYS[3], '*', 'position', ARGV[2], 'reason', ARGV[3], 'payload', ARGV[4])
redis.call('HDEL', KEYS[4], ARGV[2])
return {1}
"""
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that was moved out of the way.

    Attributes:
        id: in the dead-letter stream; pass it to `dead_letters` to read on after it.
        position: of its first event.
        reason: why.
        payload: the original bytes.
    """

    id: str
    position: int
    reason: str
    payload: bytes


class Poison(PartitionBase):
    """Counting attempts and keeping what is quarantined."""

    def record_attempt(self, token: str, position: int) -> int:
        """Counts a start that is about to fold the entry at `position`; returns how many in a row reached it.

        Call it before the fold, in rising order of position: reaching one forgets those before.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        return self._fenced(_ATTEMPT, (self.keys.attempts,), token, position)[1]

    def attempts(self) -> dict[int, int]:
        """Returns how often the positions that lost starts reached last were reached."""
        reply = iter(self._command(b"HGETALL", self.keys.attempts))
        return {int(position): int(count) for position, count in zip(reply, reply)}

    def clear_attempts(self, token: str) -> None:
        """Forgets all counts: the replay is over.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._fenced(_CLEAR, (self.keys.attempts,), token)

    def quarantine(self, token: str, position: int, reason: str, payload: bytes) -> bool:
        """Marks the entry at `position` as one to skip and keeps its bytes as a dead letter.

        Rows that a lost fold wrote may hold part of the entry: recover with `discard_newer` after this.

        Returns:
            Whether it is new; a position that is quarantined already is left as it is.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        keys = (self.keys.quarantine, self.keys.dead, self.keys.attempts)
        return self._fenced(_QUARANTINE, keys, token, position, reason, payload)[0] == 1

    def quarantined(self) -> dict[int, str]:
        """Returns the reason by position of every entry that replay skips."""
        reply = iter(self._command(b"HGETALL", self.keys.quarantine))
        return {int(position): reason.decode() for position, reason in zip(reply, reply)}

    def dead_letters(self, start: str = "", count: int = 100) -> list[DeadLetter]:
        """Returns up to `count` dead letters after the one with id `start`, oldest first.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        reply = self._command(b"XRANGE", self.keys.dead, f"({start}" if start else "-", "+", "COUNT", count)
        return [
            DeadLetter(name.decode(), int(fields[1]), fields[3].decode(), fields[5]) for name, fields in reply
        ]
