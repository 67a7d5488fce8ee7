"""What takes records: each position once, in order, whatever is repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from streams.reach import Reach
from streams.sinks.spec import KafkaSink, RedisStreamSink
from streams.sources.reader import check_open


class Foreign(Exception):  # noqa: N818 (says what is the case)
    """The target holds what this sink did not write."""


@dataclass(frozen=True, slots=True)
class Record:
    """One event and what was said of it.

    Attributes:
        position: in the log.
        key: of the event.
        time_us: of the event; 0 where the stream has no clock.
        body: JSON.
    """

    position: int
    key: bytes
    time_us: int
    body: bytes


class Target(Protocol):
    """Where records go; used from one thread. Methods may raise `streams.sources.reader.Unavailable`."""

    def resume(self, mark: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """The position to go on with, and what the mark has to hold beside it.

        Args:
            mark: as it was left last; None if nothing was ever written: then the target must be empty.

        Raises:
            Foreign: it is not, or holds what is not of this model.
        """

    def write(self, records: Sequence[Record]) -> None:
        """Writes records with rising positions; those that are there are not written again. Returns once all are."""

    def close(self) -> None:
        """Lets go of connections."""


def open_target(sink: KafkaSink | RedisStreamSink, model: str, store: str, reach: Reach) -> Any:
    """The target of a sink.

    Args:
        sink: of the spec.
        model: whose records it takes.
        store: URL of the deployment's store, for a sink without one.
        reach: what it may open.

    Raises:
        streams.sources.reader.Unavailable: it names what it may not open.
    """
    check_open(sink, reach)
    if isinstance(sink, KafkaSink):
        from streams.sinks.kafka import KafkaTarget

        return KafkaTarget(sink, model)
    from streams.sinks.redis_stream import RedisTarget

    return RedisTarget(sink, model, store)
