"""Queues drained to the end on a starved machine: kills, partitions that change, and a broker that forgets.

Nothing here waits for a fixed time: a run ends when every queue is read and all of it is logged, and fails when nothing
has moved for long. Then every message is in the log once, or told: a dead letter, or what a source says it has lost.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from continual.bench._faults_served import Served
from continual.bench._faults_traffic import file_events
from continual.bench._streams_faults import FEATURES, KEPT, POISON, POISON_EVERY, actor_processes
from continual.bench._streams_peers import MockKafka, json_messages
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import Client, Refused
from service.shard.requests import LEARN, decode_learn
from service.shard.shard import DEPLOYMENT
from service.store.catalog import Catalog
from service.store.partition import Partition as Store
from service.wire import Schema
from streams.sources.folder import ROW_BITS
from streams.sources.redis_ids import number_of

NAME, STREAM, TOPIC = "backlog", "backlog-stream", "backlog-topic"
KAFKA_PARTITIONS = 2
KILLS = ("source", "shard", "both")
CHANGES = ("split", "move", "merge", "rebalance")
MOST_PARTITIONS = 4

BURST, PAD = 160, "x" * 60_000
"""Large messages written at once to a partition that nobody reads: a mock cluster keeps 5 MB of one."""

STANDSTILL_SECONDS = 120.0
"""Nothing moved for so long: the run is given up, and says what everything was waiting for."""


def spec_of(bootstrap: str, folder: Path) -> ModelSpec:
    """A model that reads a Redis Stream of its own store, a Kafka topic and a folder; the event time is its number."""
    fields = {"key": "card", "time": "n", "label": "label"}
    shared = {"fields": fields, "batch": 64}
    options = {"queued.max.messages.kbytes": 500, "fetch.message.max.bytes": 100_000}
    sources = [
        {"kind": "redis_stream", "stream": STREAM, "lost": "earliest", **shared},
        {"kind": "kafka", "bootstrap": bootstrap, "topic": TOPIC, "lost": "earliest", "options": options, **shared},
        {"kind": "folder", "path": str(folder), "settle": 0, **shared},
    ]
    return ModelSpec.model_validate(
        {
            "name": NAME,
            "features": list(FEATURES),
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": {"units": 4}},
            "deployment": {"sources": sources, "snapshot_every": 500, "slots": 64, **KEPT},
        }
    )


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        events: good messages that were written.
        logged: events in the logs of all partitions, present and past.
        missing: good messages that no log holds.
        told: positions that the sources say they passed over since they were not retained: at most so many, since
            the marks of several partitions may differ, and the lowest counts.
        doubled: events that are in logs more than once.
        disordered: events of a queue's partition that a log holds before an earlier one.
        poison: bad messages that were written.
        kept: how many of them are dead letters.
        elsewhere: of the missing, those of a queue that forgot nothing.
        kills: how many of each kind.
        changes: how many changes of partitions came about, of each kind.
        refused: changes that did not, since something was killed meanwhile.
        seconds: from the last message to the end of the backlog.
    """

    events: int = 0
    logged: int = 0
    missing: int = 0
    told: int = 0
    doubled: int = 0
    disordered: int = 0
    poison: int = 0
    kept: int = 0
    elsewhere: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    seconds: float = 0.0

    @property
    def untold(self) -> int:
        """Messages that are neither in a log, nor a dead letter, nor told."""
        return max(0, self.missing + self.poison - self.kept - self.told)

    @property
    def sound(self) -> bool:
        """Every message is there once, in order, or told."""
        return not (self.untold or self.doubled or self.disordered or self.elsewhere)


def queue_of(number: np.ndarray) -> np.ndarray:
    """Which queue an event goes to: 0 the stream, 1 and 2 the partitions of the topic, 3 the folder."""
    return number % 4


class Queues:
    """Writes good and bad messages to all queues in turn; a file of the folder for each writing."""

    def __init__(self, served: Served, kafka: MockKafka, folder: Path, messages: list[bytes]) -> None:
        self._redis = served.store(NAME).client
        self._kafka = kafka
        self._folder = folder
        self._messages = messages
        self._files = 0
        self._written = [0] * KAFKA_PARTITIONS
        self.poison = 0
        self.at = 0

    def write(self, count: int) -> None:
        """The next `count` events."""
        rows = range(self.at, min(self.at + count, len(self._messages)))
        held: list[list[bytes]] = [[], [], [], []]
        for row in rows:
            queue = row % 4
            if row % POISON_EVERY == 0 and queue < 3:
                held[queue].append(POISON[self.poison % len(POISON)])
                self.poison += 1
            held[queue].append(self._messages[row])
        pipe = self._redis.pipeline(transaction=False)
        for value in held[0]:
            pipe.execute_command("XADD", STREAM, "*", "data", value)
        pipe.execute()
        for partition in range(KAFKA_PARTITIONS):
            self._kafka.produce(TOPIC, held[1 + partition], partition)
            self._written[partition] += len(held[1 + partition])
        if held[3]:
            made = self._folder / f".{self._files:06}.jsonl"
            made.write_bytes(b"\n".join(held[3]) + b"\n")
            made.rename(self._folder / made.name[1:])
            self._files += 1
        self.at = rows.stop

    def burst(self, numbers: range) -> None:
        """Events of these numbers, each in a large message, into one partition of the topic."""
        events = [json.loads(self._messages[number - numbers.start]) for number in numbers]
        values = [json.dumps(event | {"n": n, "pad": PAD}).encode() for n, event in zip(numbers, events)]
        self._kafka.produce(TOPIC, values, 0)
        self._written[0] += len(values)

    def ends(self) -> dict[str, int]:
        """By producer the number after its last message."""
        newest = self._redis.execute_command("XREVRANGE", STREAM, "+", "-", "COUNT", 1)[0][0]
        of_topic = {f"kafka:{TOPIC}/{partition}": count for partition, count in enumerate(self._written)}
        folder = {f"folder:{self._folder}": self._files << ROW_BITS}
        return of_topic | folder | {f"redis:{STREAM}": number_of(newest) + 1}


@contextmanager
def hogs(count: int, niceness: int = 5) -> Iterator[None]:
    """Keeps the processors busy until the block ends: so many processes, a little behind what is not measured here."""
    code = "import os, sys; os.nice(int(sys.argv[1])); parent = os.getppid()\nwhile os.getppid() == parent: pass"
    running = [subprocess.Popen([sys.executable, "-c", code, str(niceness)]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def run(
    served: Served,
    kafka: MockKafka,
    folder: Path,
    *,
    kills: int,
    events: int,
    seed: int = 0,
    forget: bool = True,
    busy: int = 0,
    progress: Callable[[int], None] = lambda logged: None,
) -> Outcome:
    """Fills three queues of one model while what reads and folds them is killed and cut in pieces; drains them.

    Args:
        served: a running deployment of two shards without the model, that may read the folder.
        kafka: brokers without the topic.
        folder: empty.
        kills: how many, each together with a change of the model's partitions.
        events: good messages.
        seed: of events, kills and changes.
        forget: once, in the middle, the broker is given more than it retains while nobody reads.
        busy: processes that keep the processors busy.
        progress: called with the events that are logged.
    """
    rng = np.random.default_rng(seed)
    messages = json_messages(file_events(events, seed), FEATURES)
    queues = Queues(served, kafka, folder, messages)
    outcome = Outcome(events=events + BURST * forget)
    with hogs(busy), served.client() as client:
        spec = spec_of(kafka.bootstrap, folder)
        client.models.create(spec)
        span = events // (kills + 1)
        for index in range(kills):
            queues.write(span)
            _moving(_beyond(client, _events(_said(client))), client)
            change = threading.Thread(target=_change, args=(client, rng.integers(2**31), outcome))
            change.start()
            time.sleep(float(rng.random()) * 0.2)
            kind = KILLS[index] if index < len(KILLS) else str(rng.choice(KILLS))
            _kill(served, kind, rng)
            outcome.kills[kind] += 1
            if forget and index == kills // 2:
                _moving(lambda: client.producer(NAME, f"kafka:{TOPIC}/0", STANDSTILL_SECONDS).known, client)
                for pid in actor_processes(served, "SourceActor"):
                    _end(pid)
                queues.burst(range(events, events + BURST))
            change.join()
            progress(_events(_said(client)))
        queues.write(events)
        outcome.poison = queues.poison
        began = time.monotonic()
        ends = queues.ends()
        _moving(lambda: _drained(client, ends), client)
        outcome.seconds = time.monotonic() - began
        said = _said(client)
        outcome.told = sum(source.lost for source in said.sources)
        outcome.kept = client.models.dead_letters(NAME, "", 1).total
        _audit(outcome, served, spec)
    return outcome


def _said(client: Client) -> pb.Statistics:
    """The statistics of the model, as soon as every shard that has a part of it answers."""
    deadline = time.monotonic() + STANDSTILL_SECONDS
    while True:
        try:
            return client.models.statistics(NAME)
        except Refused:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _events(said: pb.Statistics) -> int:
    """Events that are folded; the position of a partition that was merged is that of the longer part."""
    return said.counts["events"]


def _beyond(client: Client, events: int) -> Callable[[], bool]:
    """Whether more is folded than that."""
    return lambda: _events(_said(client)) > events


def _drained(client: Client, ends: dict[str, int]) -> bool:
    """Whether the logs have come to the end of every queue."""
    logged: dict[str, int] = {}
    for one in _said(client).sources:
        logged |= one.next if one.state == "reading" and not any(one.lag.values()) else {}
    return all(logged.get(producer) == end for producer, end in ends.items())


def _moving(done: Callable[[], bool], client: Client) -> None:
    """Waits for as long as anything moves.

    Raises:
        TimeoutError: nothing did for `STANDSTILL_SECONDS`; with what the sources say.
    """
    last: Any = None
    since = time.monotonic()
    while not done():
        said = _said(client)
        now = (_events(said), [(one.lost, sorted(one.next.items())) for one in said.sources])
        if now != last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since > STANDSTILL_SECONDS:
            states = [f"{one.name}: {one.state} {one.detail} lag {dict(one.lag)}" for one in said.sources]
            raise TimeoutError(f"nothing moved for {STANDSTILL_SECONDS:g} s at {_events(said)}: {'; '.join(states)}")
        time.sleep(0.1)


def _kill(served: Served, kind: str, rng: np.random.Generator) -> None:
    for actor in ("SourceActor", "ShardActor"):
        found = actor_processes(served, actor)
        if found and kind in ("both", actor.removesuffix("Actor").lower()):
            _end(int(rng.choice(found)))


def _end(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        process.kill()
        process.wait(10)
    except psutil.NoSuchProcess:
        pass  # it had ended by itself


def _change(client: Client, draw: int, outcome: Outcome) -> None:
    """Splits, moves or merges partitions of the model; what is killed meanwhile may prevent it."""
    rng = np.random.default_rng(draw)
    try:
        ids = [part.id for part in client.models.get(NAME).partitions]
        kind = "split" if len(ids) == 1 else str(rng.choice(CHANGES[len(ids) >= MOST_PARTITIONS :]))
        at = int(rng.integers(len(ids)))
        if kind == "split":
            client.models.split(NAME, ids[at], timeout=60)
        elif kind == "move":
            client.models.move(NAME, ids[at], timeout=60)
        elif kind == "merge":
            at = min(at, len(ids) - 2)
            client.models.merge(NAME, ids[at], ids[at + 1], timeout=60)
        else:
            client.models.rebalance(NAME, timeout=60)
        outcome.changes[kind] += 1
    except Refused:
        outcome.refused += 1


def logs(served: Served, spec: ModelSpec) -> list[np.ndarray]:
    """The numbers of the events in the log of every partition, present and past."""
    connection, schema = served.store(spec.name).client, Schema.of(spec)
    held = Catalog(connection, DEPLOYMENT).map_of(spec.name)
    assert held is not None
    out = []
    for id in [*held.retired, *(part.id for part in held.partitions)]:
        store = Store(connection, DEPLOYMENT, spec.name, id)
        batches = [
            decode_learn(pb.LearnRequest.FromString(message[1:]), schema)
            for entry in store.read(store.first_position())
            for message in entry.messages
            if message[:1] == LEARN
        ]
        out.append(np.concatenate([np.zeros(0, np.int64), *(batch.time for batch in batches if len(batch))]))
    return out


def _audit(outcome: Outcome, served: Served, spec: ModelSpec) -> None:
    held = logs(served, spec)
    numbers = np.concatenate(held).astype(np.int64)
    counts = np.bincount(numbers, minlength=outcome.events)
    outcome.logged = len(numbers)
    outcome.doubled = int(np.maximum(counts - 1, 0).sum()) + int(counts[outcome.events :].sum())
    missing = np.flatnonzero(counts[: outcome.events] == 0)
    outcome.missing = len(missing)
    regular = outcome.events - BURST * (outcome.told > 0)
    forgot = (missing >= regular) | (queue_of(missing) == 1)
    outcome.elsewhere = int((~forgot).sum())
    for log in held:
        regular_ones = log[log < regular]
        for queue in range(4):
            outcome.disordered += int((np.diff(regular_ones[queue_of(regular_ones) == queue]) < 0).sum())

