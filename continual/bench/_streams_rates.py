"""How fast a queue is read: into the log of a model, and by a bare consumer that only parses the same messages.

As a module it is that bare consumer: `python -m continual.bench._streams_rates '<source as JSON>' EVENTS HOW URL`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from continual.bench._helpers import check, until
from continual.bench._served import cpu_seconds, line, module, processes
from continual.bench._streams_faults import FEATURES, read_log, spec_of
from continual.bench._streams_peers import MockKafka, json_messages
from learners.spec import source_mapping
from service.client import Client
from service.serve import Deployment
from service.store.connect import connect
from streams.batch import Batch
from streams.sources.messages import MessageParser
from streams.sources.reader import open_reader
from streams.sources.spec import Source

PARTITIONS = 4
PATIENCE = 120.0
HOWS = ("same parser", "json.loads")
"""What the bare consumer does with a message: into columns, as the source does, or one Python object at a time."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Events per second of one run, and the CPU seconds per event of those who took part."""

    events_per_second: float
    cpu: dict[str, float]


def fill(kind: str, name: str, batch: Batch, redis: Any, kafka: MockKafka) -> None:
    """Writes all events to a queue of this name."""
    values = json_messages(batch, FEATURES)
    if kind == "kafka":
        kafka.produce(name, values, [row % PARTITIONS for row in range(len(values))])
        return
    for at in range(0, len(values), 1000):
        pipe = redis.pipeline(transaction=False)
        for value in values[at : at + 1000]:
            pipe.execute_command("XADD", name, "*", "data", value)
        pipe.execute()


def source_of(kind: str, queue: str, bootstrap: str) -> dict[str, Any]:
    """The source that reads a queue."""
    fields = {"key": "card", "time": "n", "label": "label"}
    if kind == "kafka":
        return {"kind": "kafka", "bootstrap": bootstrap, "topic": queue, "fields": fields}
    return {"kind": "redis_stream", "stream": queue, "fields": fields}


def ingest(
    deployment: Deployment,
    client: Client,
    name: str,
    source: dict[str, Any],
    batch: Batch,
    sinks: Sequence[dict[str, Any]] = (),
) -> Rate:
    """Reads a queue into the log of a fresh model; from the first event in the log to the last.

    Raises:
        continual.bench._helpers.WrongResult: the log does not hold every event once, in order of its partition.
    """
    spec = spec_of("", name=name, sources=[source], sinks=sinks, snapshot_every=10_000_000, slots=65_536)
    client.models.create(spec)
    store = connect(deployment.redis_url)
    head = f"continual:{{continual/{name}/0}}:head"
    events = len(batch)
    first, began, spent = 0, 0.0, {}
    deadline = time.monotonic() + PATIENCE
    while (position := int(store.hget(head, "position") or 0)) < events:
        check(time.monotonic() < deadline, f"{events - position} events are not in the log after {PATIENCE:g} s")
        if position and not first:
            first, began = position, time.perf_counter()
            measured = processes(deployment)
            spent = cpu_seconds(measured)
        time.sleep(0.002)
    seconds = time.perf_counter() - began
    after = cpu_seconds(measured)
    cpu = {who: (after[who] - spent[who]) / (events - first) for who in after}
    until(lambda: client.models.statistics(name).position >= events, PATIENCE, "folding what is logged")
    until(lambda: all(sink.position >= events for sink in client.models.statistics(name).sinks), PATIENCE, "the sink")
    _check_log(deployment, spec, events)
    client.models.delete(name)
    return Rate((events - first) / seconds, cpu)


def _check_log(deployment: Deployment, spec: Any, events: int) -> None:
    class Held:
        """What `read_log` needs."""

        @staticmethod
        def store(name: str) -> Any:
            from service.store.partition import Partition

            return Partition(connect(deployment.redis_url), "continual", name)

    numbers = read_log(Held, spec).time  # type: ignore[arg-type]
    check(bool((np.bincount(numbers, minlength=events) == 1).all()), "the log does not hold every event once")


def bare(source: dict[str, Any], events: int, how: str, url: str) -> float:
    """Events per second of the bare consumer, in a process of its own, from its first message to its last."""
    with module("_streams_rates", json.dumps(source), str(events), how, url) as process:
        return float(line(process))


def main(source_json: str, events: int, how: str, url: str) -> None:
    """Reads and parses so many messages and prints how many in a second."""
    source = TypeAdapter(Source).validate_json(source_json)
    spec = spec_of("", name="bare", sources=[json.loads(source_json)], sinks=[])
    mapping = source_mapping(spec, source)
    parser = MessageParser(mapping)
    reader = open_reader(source, source.batch, "bare", url, mapping, None)
    for producer in reader.producers():
        reader.seek(producer, 0)
    read = began = first = 0
    while read < events:
        for messages in reader.read():
            if how == "json.loads":
                held = [json.loads(value) for value in messages.values]
                read += len(held)
            else:
                parsed = parser.parse(messages)
                read += 0 if parsed.batch is None else len(parsed.batch)
        if read and not began:
            first, began = read, time.perf_counter_ns()
    print((read - first) / ((time.perf_counter_ns() - began) / 1e9), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
