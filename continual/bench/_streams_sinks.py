"""What the sinks of a model hold, read back and compared with the fold of its log."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from continual.bench._faults_audit import fold
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import LEARN, UPDATE, decode_learn
from service.store.partition import Partition as Store
from service.wire import Schema, decode_event

CALL_SECONDS = 10.0


def redis_records(redis: Any, stream: str) -> list[dict[str, Any]]:
    """Every record of a Redis Stream, in its order; the id of each entry is its position."""
    reply = redis.execute_command(b"XRANGE", stream, "-", "+")
    records = [json.loads(dict(zip(fields[::2], fields[1::2]))[b"data"]) for _, fields in reply]
    wrong = [id for (id, _), one in zip(reply, records) if id != b"%d-1" % one["position"]]
    if wrong:
        raise ValueError(f"{stream}: {len(wrong)} entries are of another position than their id, first {wrong[0]!r}")
    return records


class Topic:
    """A Kafka topic, read from its beginning; a mock cluster keeps 5 MB of a partition, so a long run reads on and on.

    Attributes:
        records: so far; those of a partition in its order.
        headers: of the last one.
    """

    def __init__(self, bootstrap: str, name: str) -> None:
        from confluent_kafka import Consumer, TopicPartition

        settings = {"bootstrap.servers": bootstrap, "group.id": "audit", "enable.partition.eof": True, "log_level": 0}
        settings |= {"isolation.level": "read_committed", "fetch.wait.max.ms": 50, "allow.auto.create.topics": True}
        self.name = name
        self.records: list[dict[str, Any]] = []
        self.headers: dict[str, bytes] = {}
        self._consumer = Consumer(settings | {"enable.auto.commit": False})
        partitions: list[int] = []
        deadline = time.monotonic() + CALL_SECONDS
        while not partitions:  # the first who asks makes the topic of a mock cluster
            partitions = sorted(self._consumer.list_topics(name, timeout=CALL_SECONDS).topics[name].partitions)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: no partitions within {CALL_SECONDS:g} s")
        self._next = [TopicPartition(name, partition, 0) for partition in partitions]

    def read(self) -> list[dict[str, Any]]:
        """Reads to the present end of every partition; returns every record so far."""
        from confluent_kafka import KafkaError

        for at in self._next:
            self._consumer.assign([at])
            while True:
                message: Any = self._consumer.poll(CALL_SECONDS)
                if message is None:
                    raise TimeoutError(f"{self.name}: no message and no end within {CALL_SECONDS:g} s")
                error = message.error()
                if error is None:
                    self.records.append(json.loads(message.value() or b""))
                    self.headers = dict(message.headers() or ())
                    at.offset = message.offset() + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    break
                else:
                    raise ValueError(f"{self.name}: {error.str()}")
        return self.records

    def close(self) -> None:
        """Lets go of the brokers."""
        self._consumer.close()


def kafka_records(bootstrap: str, topic: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Every record of a Kafka topic, partition by partition; and the headers of the last one."""
    reading = Topic(bootstrap, topic)
    try:
        return reading.read(), reading.headers
    finally:
        reading.close()


def audit(spec: ModelSpec, store: Store, records: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """How many positions of the log have no record, how many have several, and how many say something else.

    A record says the value that an uninterrupted fold of the log gives, bit for bit (labels by id, which have none
    there, aside), and key and time of the event at its position.
    """
    schema = Schema.of(spec)
    batches = []
    for entry in store.read(0):
        for message in entry.messages:
            if message[:1] == UPDATE:
                batches.append(decode_event(pb.UpdateRequest.FromString(message[1:]).event, schema))
            elif message[:1] == LEARN:
                batches.append(decode_learn(pb.LearnRequest.FromString(message[1:]), schema))
    batches = [batch for batch in batches if len(batch)]
    _, values, _ = fold(spec, batches, sorted(store.quarantined()))
    return compare(batches, values.value, records)


def compare(batches: Sequence[Any], values: np.ndarray, records: Sequence[dict[str, Any]]) -> tuple[int, int, int]:
    """See `audit`; `values` are those of the fold."""
    keys = [batch.key[row].decode() for batch in batches for row in range(len(batch))]
    times = np.concatenate([batch.time for batch in batches]).tolist()
    counts = Counter(one["position"] for one in records)
    missing = sum(position not in counts for position in range(len(keys)))
    doubled = sum(counts.values()) - len(counts)
    different = 0
    for one in records:
        at = one["position"]
        said = np.nan if one["value"] is None else one["value"]
        same_value = one["kind"] == "label" or said == values[at] or (np.isnan(said) and np.isnan(values[at]))
        different += not (same_value and one["key"] == keys[at] and one.get("time_us", 0) == times[at])
    return missing, doubled, different
