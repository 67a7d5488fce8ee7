"""Queues to read from: librdkafka's mock cluster in a process of its own, with producers that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from streams.batch import Batch

_CLUSTER = """
import sys
from confluent_kafka import Producer
settings = {"test.mock.num.brokers": int(sys.argv[1]), "bootstrap.servers": "", "log_level": 0}
cluster = Producer(settings)
brokers = cluster.list_topics(timeout=10).brokers.values()
print(",".join(f"{one.host}:{one.port}" for one in brokers), flush=True)
sys.stdin.read()
"""


class MockKafka:
    """A cluster of brokers on this machine; topics come into being when they are first written, with 4 partitions.

    Args:
        brokers: how many.
    """

    def __init__(self, brokers: int = 2) -> None:
        command = [sys.executable, "-c", _CLUSTER, str(brokers)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.bootstrap = self._process.stdout.readline().strip()
        self._producer: Any = None

    def produce(
        self, topic: str, values: Sequence[bytes | None], partition: Sequence[int] | int = 0, **options: Any
    ) -> None:
        """Writes messages, in order, and waits until all are there.

        Args:
            topic: of the messages.
            values: their payloads.
            partition: of each, or of all.
            **options: the same for all: `key`, `headers`, `timestamp`.
        """
        from confluent_kafka import Producer

        if self._producer is None:
            settings = {"bootstrap.servers": self.bootstrap, "linger.ms": 5, "log_level": 0, "enable.idempotence": True}
            self._producer = Producer(settings | {"queue.buffering.max.messages": 1_000_000})
        for index, value in enumerate(values):
            at = partition if isinstance(partition, int) else partition[index]
            self._producer.produce(topic, value=value, partition=at, **options)
            if index % 1000 == 0:
                self._producer.poll(0)
        left = self._producer.flush(60)
        if left:
            raise TimeoutError(f"{left} of {len(values)} messages were not written within 60 s")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Every broker takes connections and answers nothing, until the block ends."""
        os.kill(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends the cluster with everything in it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def json_messages(batch: Batch, names: Sequence[str]) -> list[bytes]:
    """Events as JSON objects: features by name, `label` (0, 1 or null), `card` (the key) and `n`, their number.

    Four digits of a feature: the mock cluster keeps 5 MB of a partition.
    """
    out = []
    for row, (x, y) in enumerate(zip(batch.x.astype(float).round(4).tolist(), batch.y.tolist())):
        label = None if np.isnan(y) else int(y)
        event = dict(zip(names, x)) | {"label": label, "card": batch.key[row].decode(), "n": row}
        out.append(json.dumps(event).encode())
    return out
