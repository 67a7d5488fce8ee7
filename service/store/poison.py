"""Events that stop the fold: the mark of a replay under way, and what was set aside."""

from __future__ import annotations

from dataclasses import dataclass

from service.store.scripting import FENCE, PartitionBase, Script

_MARK = Script(FENCE + "redis.call('HSET', KEYS[2], 'replay', ARGV[1]) return {1}")
_CLEAR = Script(FENCE + "redis.call('UNLINK', KEYS[2]) return {1}")
_QUARANTINE = Script(
    FENCE
    + """
if redis.call('HSETNX', KEYS[2], ARGV[2], ARGV[3]) == 0 then return {0} end
redis.call('XADD', KEYS[3], '*', 'position', ARGV[2], 'reason', ARGV[3], 'payload', ARGV[4])
return {1}
"""
)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that was set aside.

    Attributes:
        id: in the dead-letter stream; pass it to `dead_letters` to read on after it.
        position: in the log.
        reason: why.
        payload: the logged request that it came with, without other events.
    """

    id: str
    position: int
    reason: str
    payload: bytes


class Poison(PartitionBase):
    """The mark of a replay under way, and what is quarantined."""

    def mark_replay(self, token: str) -> None:
        """Notes that a process is about to replay the log: a mark that the next start finds is of one that died.

        It stands in the store, for the next start may be on another node. What the store loses with its power costs
        one more start, no more.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._fenced(_MARK, (self.keys.attempts,), token)

    def suspect(self) -> bool:
        """Whether a process died while it replayed the log. Counts that an earlier build left there say the same.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        return bool(self._command("EXISTS", self.keys.attempts))

    def clear_replay(self, token: str) -> None:
        """Takes the mark away: the replay is over, or was given up by a process that lives.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._fenced(_CLEAR, (self.keys.attempts,), token)

    def quarantine(self, token: str, position: int, reason: str, payload: bytes) -> bool:
        """Marks the event at `position` as one to pass over and keeps its bytes as a dead letter.

        Rows that a lost fold wrote may hold part of the event: recover with `discard_newer` after this.

        Returns:
            Whether it is new; a position that is quarantined already is left as it is.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        keys = (self.keys.quarantine, self.keys.dead)
        return self._fenced(_QUARANTINE, keys, token, position, reason, payload)[0] == 1

    def quarantined(self) -> dict[int, str]:
        """Returns the reason by position of every event that a replay passes over."""
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
