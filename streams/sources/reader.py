"""What reads a source: positions in, messages out; nothing is remembered between two runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from streams.batch import Batch
from streams.mapping import BadRow, Mapping
from streams.reach import CLOSED, Reach
from streams.sources.messages import Messages, Parsed
from streams.sources.spec import FolderSource, KafkaSource, RedisStreamSource

READ_SECONDS = 0.05
"""How long a reading waits for the first message."""


class Unavailable(Exception):  # noqa: N818 (a state that passes)
    """The source cannot be read now; the same may be tried again."""


class Lost(Exception):  # noqa: N818 (says what is the case)
    """What comes next is not there any more.

    Attributes:
        producer: the partition.
        wanted: the number that comes next.
        first: the first number retained.
        end: the number after the last message.
        missed: how many messages (of a folder: files) are passed over by going on from `first`.
        anew: whether the source was made anew: its numbers do not go on from those that are logged.
    """

    def __init__(
        self,
        producer: str,
        wanted: int,
        first: int,
        end: int,
        *,
        why: str = "",
        missed: int | None = None,
        anew: bool = False,
    ) -> None:
        self.producer, self.wanted, self.first, self.end = producer, wanted, first, end
        self.anew = anew or wanted > end
        self.missed = first - wanted if missed is None else missed
        if why:
            super().__init__(why)
            return
        if wanted > end:
            why = f"lies beyond the end, {end}: the source was made anew; give it another `name`"
        else:
            why = f"is no longer retained, the first that is: {first}; `lost` says what to do then"
        super().__init__(f"{producer}: position {wanted} {why}")

@dataclass(slots=True)
class Rows:
    """Consecutive events of a source, parsed.

    Attributes:
        producer: the source's identity.
        first: the number that it goes on with before these.
        end: the one after them.
        batch: the events among them; None where there is none.
        ids: the id of each event, "" for none; None where the mapping has no ids.
        bad: of each of the others its number, what is wrong with it, and what came beside it (see `Messages.beside`).
        numbers: uint64 [n], of each event.
    """

    producer: str
    first: int
    end: int
    batch: Batch | None
    ids: list[str] | None
    bad: list[tuple[int, BadRow, str]]
    numbers: np.ndarray

    @classmethod
    def of(cls, messages: Messages, parsed: Parsed) -> Rows:
        """What messages of one event each hold."""
        bad = [(messages.numbers[index], fault, messages.beside(index)) for index, fault in parsed.bad]
        unfit = [index for index, _ in parsed.bad]
        numbers = np.delete(np.fromiter(messages.numbers, np.uint64, len(messages.values)), unfit)
        return cls(messages.producer, messages.first, messages.end, parsed.batch, parsed.ids, bad, numbers)


class Reader(Protocol):
    """One source, read from one thread. Every method may raise `Unavailable`."""

    def producers(self) -> list[str]:
        """The identities of its partitions, as they are now."""

    def begin(self, producer: str) -> int:
        """The number at which the start policy begins to read a partition."""

    def seek(self, producer: str, number: int) -> None:
        """Reads a partition from this number on; raises `Lost` where that cannot be."""

    def bounds(self, producer: str) -> tuple[int, int]:
        """The first number retained, and the one after the last message."""

    def read(self) -> Sequence[Messages | Rows]:
        """The next messages or rows, by partition; none after `READ_SECONDS`. Raises `Lost` where some went unread."""

    def lag(self) -> dict[str, int]:
        """Messages not read yet, by partition, where known; of a Redis Stream an upper bound, of a folder its files."""

    def acknowledged(self, producer: str, number: int) -> None:
        """Everything before this number is logged: a sign for those who watch the lag."""

    def tails(self) -> dict[str, list[int]]:
        """By which the last logged message of each partition is known again, where a partition can lose its end."""

    def recall(self, tails: dict[str, list[int]]) -> None:
        """Takes `tails` of an earlier reader: whoever finds another message in such a place has `Lost` its source."""

    def trouble(self) -> str:
        """What the source reports against itself, "" for nothing."""

    def close(self) -> None:
        """Lets go of connections."""


def check_open(one: Any, reach: Reach) -> None:
    """Refuses a source or sink that names what it may not open, or an option that is not accepted any more.

    Raises:
        Unavailable: saying what to do; the operator may allow it at the next start.
    """
    try:
        reach.check(one)
        if not isinstance(one, FolderSource):
            one.check_options()
    except ValueError as error:
        raise Unavailable(str(error)) from error


def open_reader(
    source: KafkaSource | RedisStreamSource | FolderSource,
    rows: int,
    group: str,
    store: str,
    mapping: Mapping,
    table: Any,
    reach: Reach = CLOSED,
) -> Any:
    """A reader for a source.

    Args:
        source: of the spec.
        rows: messages at a time, at most.
        group: name under which positions are shown to those who watch.
        store: URL of the deployment's store, for a source without one.
        mapping: which field is what.
        table: a `streams.sources.folder.FileTable`, for a folder.
        reach: what it may open.

    Raises:
        Unavailable: it names what it may not open.
    """
    check_open(source, reach)
    if isinstance(source, FolderSource):
        from streams.sources.folder import FolderReader

        return FolderReader(source, rows, mapping, table, reach)
    wants = {name for name in (mapping.key, mapping.time, mapping.id) if name and name.startswith("$")}
    if isinstance(source, KafkaSource):
        from streams.sources.kafka import KafkaReader

        return KafkaReader(source, rows, group, wants)
    from streams.sources.redis_stream import RedisReader

    return RedisReader(source, rows, store, wants)
