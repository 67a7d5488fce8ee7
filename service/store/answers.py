"""What the fold said of each event, kept beside the log until every sink has taken it; and how far the sinks are.

A Redis Stream as the log is: the id of an entry is `<position of its first event>-1`, its fields are `n`, the number of
events, and `b`, the columns. Positions are dense: an append that does not begin where the last one ended is refused,
one that is repeated changes nothing. Classes only ever become more, so their newest list tells what every code meant.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from learners.base import Folded
from service.store.connect import Link
from service.store.errors import LogMismatch
from service.store.scripting import FENCE, PartitionBase, Script, unfenced

SCORED = 5
_ROW = 8 + 4 + 1 + 8 * SCORED

_APPEND = Script(
    FENCE
    + """
local position = redis.call('HGET', KEYS[2], 'position') or '0'
if tonumber(position) >= tonumber(ARGV[3]) then return {0, position} end
if position ~= ARGV[2] then return {-2, position} end
redis.call('XADD', KEYS[3], ARGV[2] .. '-1', 'n', ARGV[4], 'b', ARGV[5])
redis.call('HSET', KEYS[2], 'position', ARGV[3])
if ARGV[6] ~= '' then redis.call('HSET', KEYS[2], 'classes', ARGV[6]) end
return {1, ARGV[3]}
"""
)
_TRIM = Script(
    FENCE
    + """
local last = redis.call('XREVRANGE', KEYS[2], ARGV[2], '-', 'COUNT', 1)[1]
if not last then return {1, 0} end
return {1, redis.call('XTRIM', KEYS[2], 'MINID', '=', last[1])}
"""
)
# Not fenced: a sink owns no partition. What outlives its model would be met by the next one of that name.
_MARK = Script("""
if redis.call('EXISTS', KEYS[2]) == 0 then return 0 end
local old = ARGV[3] == '0' and redis.call('HGET', KEYS[1], ARGV[1])
if old and cjson.decode(old).begun then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
""")


@dataclass(frozen=True, slots=True)
class Said:
    """What the fold said of consecutive events.

    Attributes:
        position: of the first.
        folded: of all of them.
    """

    position: int
    folded: Folded

    @property
    def end(self) -> int:
        """Position after the last."""
        return self.position + len(self.folded.value)


def pack(folded: Folded) -> bytes:
    """Columns one after the other, little-endian."""
    columns = (("<f8", folded.value), ("<i4", folded.code), ("u1", folded.outcome), ("<f8", folded.scored))
    return b"".join(np.ascontiguousarray(column, dtype).tobytes() for dtype, column in columns)


def unpack(rows: int, body: bytes) -> Folded:
    """The inverse of `pack`.

    Raises:
        ValueError: the bytes are not those of so many rows.
    """
    if len(body) != rows * _ROW:
        raise ValueError(f"answers: {len(body)} bytes for {rows} events; accepted: {_ROW} for each")
    ends = np.cumsum([8 * rows, 4 * rows, rows])
    parts = (body[: ends[0]], body[ends[0] : ends[1]], body[ends[1] : ends[2]], body[ends[2] :])
    value, code, outcome, scored = (np.frombuffer(p, d) for p, d in zip(parts, ("<f8", "<i4", "u1", "<f8")))
    return Folded(value, code, outcome, scored.reshape(rows, SCORED))


class Answers(PartitionBase):
    """Appending, reading and trimming the answers of a partition, and the marks of those who read them."""

    def append_answers(self, token: str, said: Said, classes: tuple[int | str, ...] | None) -> int:
        """Appends what was said of the events that come next; returns where the answers end then.

        Args:
            token: of the owner.
            said: beginning where the answers end, or lying before that end whole: then nothing changes.
            classes: all that are known, in order of appearance; None: those that are kept are all.

        Raises:
            Fenced: if another owner holds the partition.
            LogMismatch: if the answers end elsewhere.
            StoreUnavailable: if Redis cannot serve now.
        """
        return self._appended(token, said, _APPEND.run(self.client, *self._append_of(token, said, classes)))

    async def append_answers_async(
        self, client: Link, token: str, said: Said, classes: tuple[int | str, ...] | None
    ) -> int:
        """The same through an asyncio client."""
        return self._appended(token, said, await _APPEND.run_async(client, *self._append_of(token, said, classes)))

    def _append_of(self, token: str, said: Said, classes: Any) -> tuple[tuple[str, ...], list[Any]]:
        names = "" if classes is None else json.dumps(classes)
        args = [token, said.position, said.end, len(said.folded.value), pack(said.folded), names]
        return (self.keys.owner, self.keys.answered, self.keys.answers), args

    def _appended(self, token: str, said: Said, reply: list[Any]) -> int:
        status, found = unfenced(token, reply)
        if status == -2:
            raise LogMismatch(said.position, int(found), f"append to {self.keys.answers} refused")
        return int(found)

    def answered(self) -> int:
        """Returns the position after the last event that is answered."""
        return int(self._command("HGET", self.keys.answered, "position") or 0)

    def classes(self) -> list[int | str]:
        """Returns the classes that codes stand for."""
        return json.loads(self._command("HGET", self.keys.answered, "classes") or "[]")

    def first_answer(self) -> int:
        """Returns the position of the oldest answer kept; where they end if none is."""
        found = self._command(b"XRANGE", self.keys.answers, "-", "+", "COUNT", 1)
        return int(found[0][0].split(b"-")[0]) if found else self.answered()

    def read_answers(self, start: int, entries: int = 8) -> Iterator[Said]:
        """Yields up to so many entries, from the one that holds position `start` on; none if it is not answered yet.

        Raises:
            LogMismatch: if that one is no longer kept.
            StoreUnavailable: if Redis cannot serve now.
        """
        holding = self._command(b"XREVRANGE", self.keys.answers, f"{start}-1", "-", "COUNT", 1)
        first = holding[0][0] if holding else b"-"
        for id, fields in self._command(b"XRANGE", self.keys.answers, first, "+", "COUNT", entries):
            said = Said(int(id.split(b"-")[0]), unpack(int(fields[1]), fields[3]))
            if said.position > start:
                raise LogMismatch(start, said.position, f"{self.keys.answers} begins later, or has a gap")
            if said.end > start:
                yield said
                start = said.end

    def trim_answers(self, token: str, before: int) -> int:
        """Drops the whole entries that end at or before position `before`; returns how many.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        return self._fenced(_TRIM, (self.keys.answers,), token, f"{before}-1")[1] if before > 0 else 0

    def mark(self, sink: str, state: dict[str, Any]) -> None:
        """Leaves how far a sink is (`position`) and what it says of itself, unless the model is gone.

        The mark of a sender that has begun (`begun`) is not replaced by one that has not.
        """
        begun = str(int(bool(state.get("begun"))))
        _MARK.run(self.client, (self.keys.sinks, self.keys.owner), (sink, json.dumps(state), begun))

    def marks(self) -> dict[str, dict[str, Any]]:
        """Returns what each sink left last."""
        reply = iter(self._command(b"HGETALL", self.keys.sinks))
        return {name.decode(): json.loads(state) for name, state in zip(reply, reply)}
