"""Reading a Redis Stream by plain reads, without a consumer group, and seeing where it was trimmed."""

from __future__ import annotations

import logging
import os
from collections import deque
from itertools import chain
from typing import Any

import redis

from streams.redis_client import redis_client
from streams.sources.messages import Messages
from streams.sources.reader import READ_SECONDS, Lost, Unavailable
from streams.sources.redis_ids import SEQ_BITS, id_of, number_of
from streams.sources.spec import TRANSPORT_KEY, TRANSPORT_TIME, AtPosition, AtTime, RedisStreamSource

log = logging.getLogger(__name__)

ADDED = b"entries-added"
"""What servers of version 7 and later say of a stream: how many entries it was ever given."""
MARKS = 80
"""Readings that are remembered: more than are ever on their way to the log."""


class RedisReader:
    """See `streams.sources.reader.Reader`; `streams.sources.redis_ids` says how entries are numbered."""

    def __init__(self, source: RedisStreamSource, rows: int, store: str, wants: set[str]) -> None:
        self._source = source
        self._rows = rows
        self._wants = wants
        self._next = 0
        self._lag: int | None = None
        self._trouble = ""
        self._count: int | None = None  # entries ever added before `_next`; None: not known
        self._marks: deque[tuple[int, int]] = deque(maxlen=MARKS)  # the two after each reading
        password = os.environ.get(source.password_env, "") if source.password_env else None
        self._client = redis_client(source.url or store, password=password, waits=READ_SECONDS)
        self._payload = None if source.payload is None else source.payload.encode()

    def _run(self, *command: Any) -> Any:
        # Named in bytes: under its text name redis-py would parse the reply into its own shape.
        return self._guarded(lambda: self._client.execute_command(*command))

    def _guarded(self, work: Any) -> Any:
        try:
            return work()
        except redis.RedisError as error:
            raise Unavailable(f"{self._source.producer}: {error}") from error

    def producers(self) -> list[str]:
        """See `Reader`."""
        self._run(b"PING")
        return [self._source.producer]

    def bounds(self, producer: str) -> tuple[int, int]:
        """See `Reader`."""
        return self._extent(self._look())

    def _look(self) -> dict[bytes, Any]:
        """What the server says of the stream; nothing where there is none."""
        exists = self._run(b"EXISTS", self._source.stream)
        return _pairs(self._run(b"XINFO", b"STREAM", self._source.stream)) if exists else {}

    def _extent(self, info: dict[bytes, Any]) -> tuple[int, int]:
        """First number retained, and the one after the last entry ever."""
        if not info:
            return 0, 0
        end = _number(info[b"last-generated-id"]) + 1
        return _number(info[b"first-entry"][0]) if info[b"first-entry"] else end, end

    def begin(self, producer: str) -> int:
        """See `Reader`."""
        start = self._source.start
        if isinstance(start, AtTime):
            return max(0, int(start.time.timestamp() * 1000)) << SEQ_BITS
        if isinstance(start, AtPosition):
            return number_of(str(start.position))
        return self.bounds(producer)[1] if start == "latest" else 0

    def seek(self, producer: str, number: int) -> None:
        """See `Reader`."""
        info = self._look()
        first, end = self._extent(info)
        self._next, self._count = number, dict(self._marks).get(number)
        if not info:
            self._count = 0
        elif number in (0, first, end) and ADDED in info:  # 0: from the first that is there
            self._count = info[ADDED] - (0 if number == end else info[b"length"])
            if not number and self._count:
                log.warning("%s: %d entries were removed before the first reading", producer, self._count)
        self._check(info)

    def _check(self, info: dict[bytes, Any]) -> None:
        """Raises `Lost` if entries that come next are gone.

        They are not where an older entry is still there: a stream is trimmed from its beginning. Otherwise a server of
        version 7 or later tells how many entries were ever added, and those that were read are counted here. (What it
        says of the last deletion is of no use: trimming does not count as one.) Where that is not known, an entry may
        be missing, and it counts as lost.
        """
        first, end = self._extent(info)
        if not info:
            return
        if end < self._next and not self._at_start():
            raise Lost(self._source.producer, self._next, first, end)
        if first <= self._next:
            return
        missed = self._missed(info)
        if missed == 0 or (missed is None and (not self._next or self._at_start())):
            return
        many = "an unknown number of entries" if missed is None else f"{missed} entries"
        why = (
            f"{self._source.producer}: position {id_of(self._next)} is no longer retained: {many} from there on were "
            f"trimmed or deleted before they were read. The first that is there: {id_of(first)}; `lost` says what to do"
        )
        raise Lost(self._source.producer, self._next, first, end, why=why, missed=missed or 1)

    def _missed(self, info: dict[bytes, Any]) -> int | None:
        """How many entries were removed unread, where all that are there come next; None: not known."""
        if ADDED not in info:
            return None
        removed = info[ADDED] - info[b"length"]
        if self._count is not None and self._count > info[ADDED]:
            self._count = 0  # the stream was deleted, and is counted from its new beginning
        if not removed:
            return 0
        return None if self._count is None else max(0, removed - self._count)

    def _at_start(self) -> bool:
        """Whether the start itself lies ahead of the stream, or before it (a time, or an id)."""
        start = self._source.start
        return isinstance(start, AtTime | AtPosition) and self.begin(self._source.producer) == self._next

    def read(self) -> list[Messages]:
        """See `Reader`."""
        after = id_of(self._next - 1) if self._next else "0-0"
        reading = (b"XREAD", b"COUNT", self._rows, b"STREAMS", self._source.stream, after)
        pipe = self._client.pipeline(transaction=True)
        pipe.execute_command(*reading)
        pipe.execute_command(b"XINFO", b"STREAM", self._source.stream)
        reply, info = self._guarded(lambda: pipe.execute(raise_on_error=False))
        if isinstance(reply, Exception):
            raise Unavailable(f"{self._source.producer}: {reply}")
        if isinstance(info, Exception):
            missing = f"stream {self._source.stream!r} does not exist"
            self._trouble = missing if "no such key" in str(info) else str(info)
            info = None
        else:
            self._trouble = ""
            info = _pairs(info)
            self._check(info)
        entries = reply[0][1] if reply else []
        self._lag = info[b"length"] if info and len(entries) == self._rows else 0
        self._note(info, len(entries))
        if not entries:
            self._run(*reading[:3], b"BLOCK", int(READ_SECONDS * 1000), *reading[3:])
            return []
        messages = self._messages(entries)
        if self._count is not None:
            self._marks.append((self._next, self._count))
        return [messages]

    def _note(self, info: dict[bytes, Any] | None, read: int) -> None:
        """Counts the entries before those that come after these."""
        before = self._count
        self._count = None if before is None else before + read
        if not info or ADDED not in info or read == self._rows:
            return
        if before is not None and info[ADDED] > before + read:
            gone = info[ADDED] - before - read
            log.warning("%s: %d entries were deleted before they were read", self._source.producer, gone)
        self._count = info[ADDED]

    def _messages(self, entries: list[Any]) -> Messages:
        numbers = [_number(id) for id, _ in entries]
        first, self._next = self._next, numbers[-1] + 1
        # An entry that is deleted while it is read comes without fields.
        fields = [dict(zip(flat[::2], flat[1::2])) if flat else {} for _, flat in entries]
        times = [(number >> SEQ_BITS) * 1000 for number in numbers] if TRANSPORT_TIME in self._wants else None
        if self._payload is None:
            return Messages(self._source.producer, first, self._next, numbers, fields, times=times)
        headers = None
        if self._source.envelope == "auto" and any(len(held) > 1 for held in fields):
            headers = [{k.decode(errors="replace").lower(): v for k, v in held.items()} for held in fields]
        keys = [held.get(b"key") for held in fields] if TRANSPORT_KEY in self._wants else None
        values = [held.get(self._payload) for held in fields]
        return Messages(self._source.producer, first, self._next, numbers, values, headers, keys, times)

    def lag(self) -> dict[str, int]:
        """See `Reader`."""
        return {} if self._lag is None else {self._source.producer: self._lag}

    def acknowledged(self, producer: str, number: int) -> None:
        """See `Reader`; a plain reader leaves no sign."""

    def tails(self) -> dict[str, list[int]]:
        """See `Reader`: after each of the last readings, what comes next and how many entries were ever before it."""
        return {self._source.producer: list(chain.from_iterable(self._marks.copy()))}

    def recall(self, tails: dict[str, list[int]]) -> None:
        """See `Reader`."""
        held = tails.get(self._source.producer, [])
        self._marks.extend(zip(held[::2], held[1::2]))

    def trouble(self) -> str:
        """See `Reader`."""
        return self._trouble

    def close(self) -> None:
        """See `Reader`."""
        self._client.close()


def _pairs(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2]))


def _number(id: bytes) -> int:
    """The number of an entry.

    Raises:
        Unavailable: it has an id that cannot be numbered; someone chose it.
    """
    try:
        return number_of(id)
    except ValueError as error:
        raise Unavailable(str(error)) from error
