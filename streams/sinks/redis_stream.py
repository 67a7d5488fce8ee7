"""Writing a Redis Stream whose entry ids are positions: a repetition is refused by Redis itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import redis

from streams.redis_client import redis_client
from streams.sinks.spec import RedisStreamSink
from streams.sinks.target import Foreign, Record
from streams.sources.reader import Unavailable

AT_ONCE = 1000
REPEATED = "equal or smaller than the target stream top item"


class RedisTarget:
    """See `streams.sinks.target.Target`.

    Positions are written without gaps and in order, so many at once or none of them. So whichever of two writers comes
    second finds each of its ids taken or passed, and none is ever missing before one that is there.
    """

    def __init__(self, sink: RedisStreamSink, model: str, store: str) -> None:
        self._sink = sink
        self._model = model
        password = os.environ.get(sink.password_env, "") if sink.password_env else None
        self._client = redis_client(sink.url or store, password=password)
        self._bound = () if sink.keep is None else (b"MAXLEN", b"~", sink.keep)

    def _run(self, *command: Any) -> Any:
        try:
            return self._client.execute_command(*command)
        except redis.RedisError as error:
            raise Unavailable(f"{self._sink.identity}: {error}") from error

    def resume(self, mark: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """See `Target`; what the stream holds counts, the mark only where it was emptied or lost."""
        newest = self._run(b"XREVRANGE", self._sink.stream, b"+", b"-", b"COUNT", 1)
        if not newest:
            return (0 if mark is None else int(mark["position"])), {}
        id, fields = newest[0]
        position, _, second = id.partition(b"-")
        if mark is None or second != b"1" or dict(zip(fields[::2], fields[1::2])).get(b"model") != self._model.encode():
            raise Foreign(f"stream {self._sink.stream!r} holds entries that this sink did not write; name another one")
        return int(position) + 1, {}

    def write(self, records: Sequence[Record]) -> None:
        """See `Target`."""
        for start in range(0, len(records), AT_ONCE):
            pipe = self._client.pipeline(transaction=True)
            for one in records[start : start + AT_ONCE]:
                fields = (b"model", self._model, b"data", one.body)
                pipe.execute_command(b"XADD", self._sink.stream, *self._bound, f"{one.position}-1", *fields)
            try:
                replies = pipe.execute(raise_on_error=False)
            except redis.RedisError as error:
                raise Unavailable(f"{self._sink.identity}: {error}") from error
            for reply in replies:
                if isinstance(reply, Exception) and REPEATED not in str(reply):
                    raise Unavailable(f"{self._sink.identity}: {reply}")

    def close(self) -> None:
        """See `Target`."""
        self._client.close()
