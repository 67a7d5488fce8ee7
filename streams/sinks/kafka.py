"""Writing a Kafka topic: transactions of one producer, and every message says the position that it is of.

Which partition a message goes to follows from its key and from how many there were at the first writing, so a sender
that takes over knows from the last message of each partition which positions are there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import xxhash

from streams.sinks.spec import KafkaSink
from streams.sinks.target import Foreign, Record
from streams.sources.kafka import silent_logger
from streams.sources.reader import Unavailable

CALL_SECONDS = 10.0
POSITION, MODEL = "continual-position", "continual-model"
TYPE = "continual.prediction.v1"

T = TypeVar("T")


class KafkaTarget:
    """See `streams.sinks.target.Target`.

    A producer that begins with the same transactional id makes brokers refuse whatever an older one still sends.
    """

    def __init__(self, sink: KafkaSink, model: str) -> None:
        try:
            import confluent_kafka
        except ImportError as error:
            raise Unavailable("confluent-kafka is not installed: pip install 'continual[kafka]'") from error
        self._kafka = confluent_kafka
        self._sink = sink
        self._model = model
        self._producer: Any = None
        self._partitions = 0
        self._last: dict[int, int] = {}

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {**self._sink.options, "bootstrap.servers": self._sink.bootstrap}
        if self._sink.password_env:
            settings["sasl.password"] = os.environ.get(self._sink.password_env, "")
        return settings | {"logger": silent_logger()}

    def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return function(*args, **options)
        except self._kafka.KafkaException as error:
            self._producer = None  # its transaction is in doubt: the next one begins anew
            raise Unavailable(f"{self._sink.identity}: {error.args[0].str()}") from error

    def resume(self, mark: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """See `Target`; everything before the mark is there, and what is there beyond it is not written again."""
        identity = f"continual-{self._model}-{self._sink.identity}"
        settings = self._settings() | {"transactional.id": identity, "linger.ms": 5}
        self._producer = self._call(self._kafka.Producer, settings)
        self._call(self._producer.init_transactions, CALL_SECONDS)
        found = self._call(self._producer.list_topics, self._sink.topic, timeout=CALL_SECONDS)
        topic = found.topics.get(self._sink.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            why = topic.error.str() if topic is not None and topic.error is not None else "it does not exist"
            raise Unavailable(f"topic {self._sink.topic!r}: {why}")
        self._partitions = len(topic.partitions) if mark is None else int(mark["partitions"])
        self._last = self._last_positions(sorted(topic.partitions))
        if mark is None and self._last:
            raise Foreign(f"topic {self._sink.topic!r} holds messages that this sink did not write; name another one")
        return (0 if mark is None else int(mark["position"])), {"partitions": self._partitions}

    def _last_positions(self, partitions: list[int]) -> dict[int, int]:
        """The position of the last message of each partition that has one."""
        settings = self._settings() | {"group.id": "continual-unused", "enable.auto.commit": False}
        settings |= {"isolation.level": "read_committed", "enable.partition.eof": True, "fetch.wait.max.ms": 50}
        consumer = self._call(self._kafka.Consumer, settings)
        try:
            last = {partition: self._last_position(consumer, partition) for partition in partitions}
        finally:
            consumer.close()
        return {partition: position for partition, position in last.items() if position is not None}

    def _last_position(self, consumer: Any, partition: int) -> int | None:
        """Of one partition: the end of a transaction takes an offset too, so that the last one may be no message."""
        at = self._kafka.TopicPartition(self._sink.topic, partition)
        low, high = self._call(consumer.get_watermark_offsets, at, timeout=CALL_SECONDS)
        back, newest = 2, None
        while high > low and newest is None:
            start = max(low, high - back)
            self._call(consumer.assign, [self._kafka.TopicPartition(self._sink.topic, partition, start)])
            newest = self._read_to_end(consumer, start, high)
            if start == low:
                break
            back *= 4
        return None if newest is None else self._position_of(newest)

    def _read_to_end(self, consumer: Any, start: int, end: int) -> Any:
        newest = None
        at = start
        while at < end:
            message = self._call(consumer.poll, CALL_SECONDS)
            if message is None:
                raise Unavailable(f"{self._sink.identity}: no answer within {CALL_SECONDS:g} s")
            if message.error() is None:
                newest, at = message, message.offset() + 1
            elif message.error().code() == self._kafka.KafkaError._PARTITION_EOF:
                break
            else:
                raise Unavailable(f"{self._sink.identity}: {message.error().str()}")
        return newest

    def _position_of(self, message: Any) -> int:
        headers = dict(message.headers() or ())
        if headers.get(MODEL) != self._model.encode() or POSITION not in headers:
            raise Foreign(f"topic {self._sink.topic!r} holds messages that this sink did not write; name another one")
        return int(headers[POSITION])

    def write(self, records: Sequence[Record]) -> None:
        """See `Target`."""
        if self._producer is None:
            raise Unavailable(f"{self._sink.identity}: the producer has to begin anew")
        self._call(self._producer.begin_transaction)
        failed: list[str] = []

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                failed.append(error.str())

        for one in records:
            partition = xxhash.xxh3_64_intdigest(one.key) % self._partitions
            if one.position <= self._last.get(partition, -1):
                continue
            sending = {"partition": partition, "key": one.key, "value": one.body, "headers": self._headers(one)}
            self._produce(sending | {"on_delivery": delivered})
        self._call(self._producer.commit_transaction, CALL_SECONDS)
        if failed:
            self._producer = None
            raise Unavailable(f"{self._sink.identity}: {failed[0]}")

    def _produce(self, sending: dict[str, Any]) -> None:
        """Gives a message to the library, waiting while its queue is full."""
        while True:
            try:
                self._producer.produce(self._sink.topic, **sending)
                self._producer.poll(0)
                return
            except BufferError:
                self._producer.poll(0.1)
            except self._kafka.KafkaException as error:
                self._producer = None
                raise Unavailable(f"{self._sink.identity}: {error.args[0].str()}") from error

    def _headers(self, one: Record) -> list[tuple[str, str]]:
        headers = [(MODEL, self._model), (POSITION, str(one.position)), ("content-type", "application/json")]
        if self._sink.envelope == "cloudevents":
            headers += [
                ("ce_specversion", "1.0"),
                ("ce_id", str(one.position)),
                ("ce_source", f"/continual/models/{self._model}"),
                ("ce_type", TYPE),
            ]
            if one.key:
                headers.append(("ce_partitionkey", one.key.decode(errors="backslashreplace")))
            if one.time_us:
                headers.append(("ce_time", datetime.fromtimestamp(one.time_us / 1e6, UTC).isoformat()))
        return headers

    def close(self) -> None:
        """See `Target`."""
        self._producer = None
