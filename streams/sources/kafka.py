"""Reading a Kafka topic: every partition assigned by hand, from offsets that the caller names.

There is no consumer group to rebalance: one reader has all partitions, and the log of the model knows where it is. An
offset is committed for lag monitors only, and never read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import xxhash

from streams.sources.messages import Messages
from streams.sources.reader import READ_SECONDS, Lost, Rows, Unavailable
from streams.sources.spec import TRANSPORT_KEY, TRANSPORT_TIME, AtPosition, AtTime, KafkaSource

CALL_SECONDS = 5.0
COMMIT_SECONDS = 5.0
QUEUED_KIB = 16_384
"""Read ahead by the client library, at most, for all partitions."""

FAR = 65_536
"""Messages that are read again, at most, to see whether the last logged one is still the same."""

Tail = tuple[int, int, int]
"""Of a message: offset, time in milliseconds, and hash of the payload."""

T = TypeVar("T")


class KafkaReader:
    """See `streams.sources.reader.Reader`; an offset is its own number."""

    def __init__(self, source: KafkaSource, rows: int, group: str, wants: set[str]) -> None:
        self._source = source
        self._rows = rows
        self._wants = wants
        self._next: dict[int, int] = {}
        self._first: dict[int, int] = {}  # retained, when reading was set to `_next`
        self._moved = False
        self._trouble = ""
        self._committed = time.monotonic()
        self._logged: dict[int, int] = {}
        self._ends: dict[tuple[int, int], Tail] = {}  # of batches that are not logged yet, by the number after them
        self._tails: dict[int, Tail] = {}  # of what is logged
        self._unproven: set[int] = set()  # partitions whose tail is read again first
        try:
            import confluent_kafka
        except ImportError as error:
            raise Unavailable("confluent-kafka is not installed: pip install 'continual[kafka]'") from error
        self._kafka = confluent_kafka
        settings: dict[str, Any] = {
            "isolation.level": "read_committed",
            "queued.max.messages.kbytes": QUEUED_KIB,
            "allow.auto.create.topics": False,
            "socket.timeout.ms": 10_000,
            "reconnect.backoff.max.ms": 2_000,
            "fetch.wait.max.ms": 100,
            "group.id": group,
            **source.options,
            "bootstrap.servers": source.bootstrap,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "max.poll.interval.ms": 86_400_000,
            "error_cb": self._note,
            "logger": silent_logger(),
        }
        if source.password_env:
            settings["sasl.password"] = os.environ.get(source.password_env, "")
        try:
            self._consumer = confluent_kafka.Consumer(settings)
        except confluent_kafka.KafkaException as error:
            raise Unavailable(f"options of the source: {error.args[0]}") from error

    def _note(self, error: Any) -> None:
        self._trouble = error.str()

    def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return function(*args, **options)
        except self._kafka.KafkaException as error:
            raise Unavailable(f"{self._source.producer}: {error.args[0].str()}") from error

    def _partition(self, producer: str) -> Any:
        return self._kafka.TopicPartition(self._source.topic, int(producer.rpartition("/")[2]))

    def _name(self, partition: int) -> str:
        return f"{self._source.producer}/{partition}"

    def producers(self) -> list[str]:
        """See `Reader`."""
        found = self._call(self._consumer.list_topics, self._source.topic, timeout=CALL_SECONDS)
        topic = found.topics.get(self._source.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            why = topic.error.str() if topic is not None and topic.error is not None else "it does not exist"
            raise Unavailable(f"topic {self._source.topic!r}: {why}")
        self._trouble = ""
        return [self._name(partition) for partition in sorted(topic.partitions)]

    def bounds(self, producer: str) -> tuple[int, int]:
        """See `Reader`."""
        return self._call(self._consumer.get_watermark_offsets, self._partition(producer), timeout=CALL_SECONDS)

    def begin(self, producer: str) -> int:
        """See `Reader`."""
        start = self._source.start
        first, end = self.bounds(producer)
        if isinstance(start, AtTime):
            at = self._partition(producer)
            at.offset = int(start.time.timestamp() * 1000)
            found = self._call(self._consumer.offsets_for_times, [at], timeout=CALL_SECONDS)[0]
            if found.error is not None:
                raise Unavailable(f"{producer}: {found.error.str()}")
            return found.offset if found.offset >= 0 else end
        if isinstance(start, AtPosition):
            position = start.position
            if isinstance(position, dict):
                return position.get(self._partition(producer).partition, first)
            return int(position)
        return end if start == "latest" else first

    def seek(self, producer: str, number: int) -> None:
        """See `Reader`."""
        first, end = self.bounds(producer)
        if not first <= number <= end:
            raise Lost(producer, number, first, end)
        partition = self._partition(producer).partition
        self._next[partition], self._first[partition] = number, first
        self._moved = True

    def _begin_of(self, partition: int) -> int:
        """Where to read from, so that what comes first is the last message that was logged, if that may still be there.

        A broker that forgot its end gives its numbers again, to others.
        """
        number, tail = self._next[partition], self._tails.get(partition)
        if tail is None or not max(self._first[partition], number - FAR) <= tail[0] < number:
            return number
        return tail[0]

    def _prove(self, partition: int, message: Any) -> None:
        """Raises `Lost` if the first message that is read again is another one than it was."""
        self._unproven.discard(partition)
        tail = self._tails[partition]
        if message.offset() == tail[0] and _tail_of(message) != tail:
            why = f"{self._name(partition)}: message {tail[0]} is another one than was read there before: the broker "
            why += "forgot its end, or the topic was made anew; give the source another `name`"
            self._moved = True
            name = self._name(partition)
            raise Lost(name, self._next[partition], *self.bounds(name), why=why, anew=True)

    def read(self) -> list[Messages | Rows]:
        """See `Reader`."""
        if self._moved:
            begins = {partition: self._begin_of(partition) for partition in self._next}
            self._unproven = {partition for partition in begins if begins[partition] < self._next[partition]}
            at = [self._kafka.TopicPartition(self._source.topic, p, offset) for p, offset in begins.items()]
            self._call(self._consumer.assign, at)
            self._ends.clear()
            self._moved = False
        held: dict[int, list[Any]] = {}
        for message in self._call(self._consumer.consume, self._rows, READ_SECONDS):
            partition, error = message.partition(), message.error()
            if error is not None or partition is None:
                self._fault(partition or 0, error)
                continue
            held.setdefault(partition, []).append(message)
        if held:
            self._trouble = ""
        self._commit()
        after = self._positions()
        ready: list[Messages | Rows] = []
        for partition in self._unproven & held.keys():
            self._prove(partition, held[partition][0])
        for partition, got in held.items():
            messages = self._messages(partition, got, after.get(partition, 0))
            if messages.values:
                ready.append(messages)
        for partition, position in after.items():
            if position > self._next[partition]:  # marks of transactions and what was aborted, and nothing else
                name, first = self._name(partition), self._next[partition]
                self._next[partition] = position
                ready.append(Rows(name, first, position, None, None, [], np.zeros(0, np.uint64)))
        return ready

    def _positions(self) -> dict[int, int]:
        """The offset after all that was taken from each partition, where anything was.

        That is beyond the last message where the end of a transaction, which is no message, or messages of one that
        was aborted follow it.
        """
        asked = [self._kafka.TopicPartition(self._source.topic, partition) for partition in self._next]
        found = self._call(self._consumer.position, asked) if asked else []
        return {at.partition: at.offset for at in found if at.error is None and at.offset >= 0}

    def _fault(self, partition: int, error: Any) -> None:
        if error.code() == self._kafka.KafkaError._AUTO_OFFSET_RESET:
            # The partition stands still until it is assigned again; so do the others, at `_next`: what else this
            # reading took is not passed on if this raises.
            self._moved = True
            number, (first, end) = self._next[partition], self.bounds(self._name(partition))
            if not first <= number <= end:
                raise Lost(self._name(partition), number, first, end)
            self._first[partition] = first  # what was to be read again is gone, and what comes next is not
            self._trouble = error.str()
            return
        self._trouble = error.str()
        if not error.retriable() and error.code() in _GONE:
            raise Unavailable(f"{self._source.producer}: {error.str()}")

    def _messages(self, partition: int, got: list[Any], position: int) -> Messages:
        numbers = [message.offset() for message in got]
        if numbers[0] < self._next[partition]:  # left over from before a seek
            got = [message for message in got if message.offset() >= self._next[partition]]
            numbers = [message.offset() for message in got]
        if not got:
            at = self._next[partition]
            return Messages(self._name(partition), at, at, [], [])
        first, self._next[partition] = self._next[partition], max(numbers[-1] + 1, position)
        self._ends[partition, self._next[partition]] = _tail_of(got[-1])
        headers = [message.headers() for message in got] if self._source.envelope == "auto" else ()
        return Messages(
            self._name(partition),
            first,
            self._next[partition],
            numbers,
            [message.value() for message in got],
            [_headers(given) for given in headers] if any(headers) else None,
            [message.key() for message in got] if TRANSPORT_KEY in self._wants else None,
            [max(0, message.timestamp()[1]) * 1000 for message in got] if TRANSPORT_TIME in self._wants else None,
        )

    def lag(self) -> dict[str, int]:
        """See `Reader`."""
        lags = {}
        for partition, offset in self._next.items():
            at = self._kafka.TopicPartition(self._source.topic, partition)
            bounds = self._consumer.get_watermark_offsets(at, cached=True)
            if bounds and bounds[1] >= 0:
                lags[self._name(partition)] = max(0, bounds[1] - offset)
        return lags

    def acknowledged(self, producer: str, number: int) -> None:
        """See `Reader`."""
        partition = self._partition(producer).partition
        self._logged[partition] = number
        if tail := self._ends.pop((partition, number), None):
            self._tails[partition] = tail

    def tails(self) -> dict[str, list[int]]:
        """See `Reader`: offset, time and hash of a message."""
        return {self._name(partition): list(tail) for partition, tail in dict(self._tails).items()}

    def recall(self, tails: dict[str, list[int]]) -> None:
        """See `Reader`."""
        for producer, (offset, time_ms, content) in tails.items():
            self._tails[self._partition(producer).partition] = offset, time_ms, content

    def _commit(self) -> None:
        if self._logged and time.monotonic() - self._committed > COMMIT_SECONDS:
            logged, self._logged = self._logged, {}
            self._committed = time.monotonic()
            offsets = [self._kafka.TopicPartition(self._source.topic, p, offset) for p, offset in logged.items()]
            self._call(self._consumer.commit, offsets=offsets, asynchronous=True)

    def trouble(self) -> str:
        """See `Reader`."""
        return self._trouble

    def close(self) -> None:
        """See `Reader`."""
        self._consumer.close()


def _tail_of(message: Any) -> Tail:
    return message.offset(), message.timestamp()[1], xxhash.xxh3_64_intdigest(message.value() or b"")


_GONE = (3, -188, -190)
"""Error codes: unknown topic or partition, as the broker and as the library say it."""


def _headers(given: list[tuple[str, bytes | None]] | None) -> dict[str, bytes]:
    return {name.lower(): value or b"" for name, value in given or ()}


def silent_logger() -> Any:
    """For the client library, whose words go into the state of a source or sink, not to standard error."""
    import logging

    logger = logging.getLogger("continual.kafka")
    logger.setLevel(logging.CRITICAL)
    return logger
