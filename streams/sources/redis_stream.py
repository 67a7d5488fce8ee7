"""Reading a Redis Stream by plain reads, without a consumer group, and seeing where it was trimmed."""

from __future__ import annotations

import os
from typing import Any

import redis

from streams.redis_client import redis_client
from streams.sources.messages import Messages
from streams.sources.reader import READ_SECONDS, Lost, Unavailable
from streams.sources.redis_ids import SEQ_BITS, id_of, number_of
from streams.sources.spec import TRANSPORT_KEY, TRANSPORT_TIME, AtPosition, AtTime, RedisStreamSource


class RedisReader:
    """See `streams.sources.reader.Reader`; `streams.sources.redis_ids` says how entries are numbered."""

    def __init__(self, source: RedisStreamSource, rows: int, store: str, wants: set[str]) -> None:
        self._source = source
        self._rows = rows
        self._wants = wants
        self._next = 0
        self._lag: int | None = None
        self._trouble = ""
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
        first, end, _ = self._extent(self._info(self._run(b"EXISTS", self._source.stream)))
        return first, end

    def _info(self, exists: int) -> dict[bytes, Any]:
        return _pairs(self._run(b"XINFO", b"STREAM", self._source.stream)) if exists else {}

    def _extent(self, info: dict[bytes, Any]) -> tuple[int, int, int]:
        """First number retained, the one after the last entry ever, and the one after the last that was deleted."""
        if not info:
            return 0, 0, 0
        end = _number(info[b"last-generated-id"]) + 1
        first = _number(info[b"first-entry"][0]) if info[b"first-entry"] else end
        deleted = info.get(b"max-deleted-entry-id")  # since Redis 7; before it any may have been
        return first, end, first if deleted is None else _number(deleted) + 1

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
        self._next = number
        if number:
            self._check(self._info(self._run(b"EXISTS", self._source.stream)))

    def _check(self, info: dict[bytes, Any]) -> None:
        """Raises `Lost` if entries that come next may be gone.

        They are not where an older entry is still there: a stream is trimmed from its beginning. Otherwise a server
        that remembers the last deletion can tell; an older one cannot, and is not believed.
        """
        first, end, deleted = self._extent(info)
        if not info or not self._next:
            return
        if end < self._next and not self._starts_later():
            raise Lost(self._source.producer, self._next, first, end)
        if first > self._next and deleted > self._next:
            raise Lost(self._source.producer, self._next, first, end)

    def _starts_later(self) -> bool:
        """Whether the start itself lies ahead of the stream (a time or an id that is to come)."""
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
        if not entries:
            self._run(*reading[:3], b"BLOCK", int(READ_SECONDS * 1000), *reading[3:])
            return []
        return [self._messages(entries)]

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
