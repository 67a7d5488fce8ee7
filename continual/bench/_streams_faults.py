"""Sources killed, the shard that they fill, and its sinks: every message is in the log once, and in every sink."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import psutil

from continual.bench._faults_audit import fold
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import file_events
from continual.bench._streams_peers import MockKafka, json_messages
from continual.bench._streams_sinks import Topic, compare, redis_records
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import decode_learn
from service.store.partition import Partition as Store
from service.wire import Schema
from streams.batch import Batch

T = TypeVar("T")
KINDS = ("source", "shard", "sink", "both")
"""What is killed; both: a source and the shard."""

HANG_EVERY, HANG_SECONDS = 5, 1.0
"""Every so many kills no broker answers for a while."""

NAME, STREAM, TOPIC = "queues", "bench-stream", "bench-topic"
OUT_STREAM, OUT_TOPIC = "bench-stream-out", "bench-topic-out"
FEATURES = tuple(f"f{number}" for number in range(8))
POISON = (b"", b"{", b"[1, 2]", b'{"f0": "one"}', b"\xff\xfe\x00", b'{"f0": 1}', b'{"f0": 1e39}')
POISON_EVERY = 97
KEPT = {"dedupe_window": 10_000_000}
"""The log is kept for as long: it is read to its beginning."""
PATIENCE = 90.0


def spec_of(bootstrap: str, features: Sequence[str] = FEATURES, name: str = NAME, **more: object) -> ModelSpec:
    """A model that reads a Redis Stream of its own store and a Kafka topic, and writes predictions to another of each.

    The event time is the event's number.
    """
    fields = {"key": "card", "time": "n", "label": "label"}
    sources = [
        {"kind": "redis_stream", "stream": STREAM, "fields": fields},
        {"kind": "kafka", "bootstrap": bootstrap, "topic": TOPIC, "fields": fields},
    ]
    sinks = [
        {"kind": "redis_stream", "stream": OUT_STREAM},
        {"kind": "kafka", "bootstrap": bootstrap, "topic": OUT_TOPIC},
    ]
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": list(features),
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": {"units": 4}},
            "deployment": {"sources": sources, "sinks": sinks, "snapshot_every": 1000, "slots": 64, **KEPT, **more},
        }
    )


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        events: good messages that were written.
        logged: events in the log.
        lost: of the written, how many the log does not hold.
        doubled: events that the log holds more than once.
        disordered: events of a partition that the log holds before an earlier one.
        poison: bad messages that were written.
        kept: how many of those are dead letters, each once and with its bytes.
        digest: whether the served state is the uninterrupted fold of the log.
        sinks: of each sink, positions without a record, with several, and records that are not what the fold says.
        hangs: how often the brokers did not answer.
        kills: how many of each kind.
        seconds: from each kill to the next event in the log.
    """

    events: int = 0
    logged: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    poison: int = 0
    kept: int = 0
    digest: bool = False
    sinks: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    hangs: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Everything is there once, in order, and nothing else."""
        exact = not (self.lost or self.doubled or self.disordered) and self.digest and self.kept == self.poison
        return exact and not any(any(counts) for counts in self.sinks.values())


class Writer:
    """Writes good and bad messages to both queues in turn.

    Args:
        served: whose store holds the Redis Stream.
        kafka: the brokers.
        messages: good ones, in order.
    """

    def __init__(self, served: Served, kafka: MockKafka, messages: list[bytes]) -> None:
        self._redis = served.store(NAME).client
        self._kafka = kafka
        self._messages = messages
        self.poison: list[bytes] = []
        self.at = 0

    def write(self, count: int) -> None:
        """The next `count` events: even ones go to the stream, odd ones to two partitions of the topic."""
        stream, topic, partitions = [], [], []
        for row in range(self.at, min(self.at + count, len(self._messages))):
            values = [self._messages[row]]
            if row % POISON_EVERY == 0:
                values.insert(0, POISON[len(self.poison) % len(POISON)])
                self.poison.append(values[0])
            if row % 2:
                topic += values
                partitions += [row // 2 % 2] * len(values)
            else:
                stream += values
        pipe = self._redis.pipeline(transaction=False)
        for value in stream:
            pipe.execute_command("XADD", STREAM, "*", "data", value)
        pipe.execute()
        self._kafka.produce(TOPIC, topic, partitions)
        self.at = min(self.at + count, len(self._messages))


def run_source_kills(
    served: Served,
    kafka: MockKafka,
    *,
    kills: int,
    events: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda logged: None,
) -> Outcome:
    """Writes `events` events to two queues while what reads and folds them is killed, then reads the log.

    Args:
        served: a running deployment without the model.
        kafka: brokers without the topic.
        kills: how many, one in each of equal spans, of a source, the shard, a sink, or source and shard, at random.
        events: good messages, half of them in each queue.
        seed: of events and kills.
        progress: called with the events that the log holds.
    """
    rng = np.random.default_rng(seed)
    batch = file_events(events, seed)
    spec = spec_of(kafka.bootstrap)
    outcome = Outcome(events=events)
    writer = Writer(served, kafka, json_messages(batch, FEATURES))
    store = served.store(NAME)
    with served.client() as client, closing(Topic(kafka.bootstrap, OUT_TOPIC)) as topic:
        client.models.create(spec)
        span = int(events / (1.125 * kills + 1))  # an eighth of it follows each kill
        for index in range(kills):
            writer.write(span)
            threshold = span * index + int(rng.integers(1, span))
            _reaches(store, threshold, "progress")
            kind = KINDS[index] if index < len(KINDS) else str(rng.choice(KINDS))
            hang = index % HANG_EVERY == HANG_EVERY - 1
            with kafka.hanging() if hang else nullcontext():
                before = _kill(served, kind, index)
                began = time.monotonic()
                time.sleep(HANG_SECONDS * hang)
            outcome.kills[kind] += 1
            outcome.hangs += hang
            writer.write(span // 8)  # the queues fill while nobody reads
            _reaches(store, before + 1, f"recovery from the kill of {kind}")
            outcome.seconds.append(time.monotonic() - began)
            topic.read()
            progress(store.head().position)
        writer.write(events)
        _reaches(store, events, "the end")
        outcome.poison = len(writer.poison)
        _until(lambda: store.count_letters() >= outcome.poison, "the last dead letter", 10.0, fail=False)
        outcome.kept = _kept(store.letters(count=10 * outcome.poison + 10), writer.poison)
        time.sleep(0.2)  # what is logged twice would be by now
        _until(lambda: client.models.statistics(NAME).position >= store.head().position, "the last fold")
        _until(lambda: _written(client.models.statistics(NAME)), "the last record", fail=False)
        statistics = client.models.statistics(NAME, digest=True)
        sinks = {"Redis Stream": redis_records(store.client, OUT_STREAM), "Kafka": topic.read()}
    _account(outcome, served, spec, statistics, sinks)
    return outcome


def _written(statistics: pb.Statistics) -> bool:
    return len(statistics.sinks) == 2 and all(sink.position >= statistics.position for sink in statistics.sinks)


def _reaches(store: Store, position: int, what: str) -> None:
    _until(lambda: store.head().position >= position, what)


def _kill(served: Served, kind: str, index: int) -> int:
    """SIGKILLs; returns the position of the log then."""
    pids = []
    actor = {"source": "SourceActor", "both": "SourceActor", "sink": "SinkActor"}.get(kind)
    if actor is not None:
        found = _until(lambda: actor_processes(served, actor), f"a process of a {actor}")
        pids.append(found[index // 2 % len(found)])
    if kind in ("shard", "both"):
        pids.append(_until(lambda: _alive(served.owner(NAME).pid), "a shard"))
    ended = [psutil.Process(pid) for pid in pids]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    psutil.wait_procs(ended, timeout=10)
    time.sleep(0.05)  # an append that was on its way may still arrive
    return served.store(NAME).head().position


def _alive(pid: int) -> int:
    return pid if psutil.pid_exists(pid) else 0


def actor_processes(served: Served, actor: str) -> list[int]:
    """Process ids of the actors of this class."""
    assert served._process is not None
    found = []
    for process in psutil.Process(served._process.pid).children(recursive=True):
        try:
            if any(actor in part for part in process.cmdline()):
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return sorted(found)


def _kept(letters: list[Any], poison: list[bytes]) -> int:
    """How many bad messages are dead letters, less those that are there too often."""
    there, wanted = Counter(letter.payload for letter in letters), Counter(poison)
    return sum((there & wanted).values()) - sum((there - wanted).values())


def read_log(served: Served, spec: ModelSpec) -> Batch:
    """Every event in the log."""
    batches = []
    for entry in served.store(spec.name).read(0):
        for message in entry.messages:
            batch = decode_learn(pb.LearnRequest.FromString(message[1:]), Schema.of(spec))
            if len(batch):
                batches.append(batch)
    return Batch.concat(batches)


def _account(
    outcome: Outcome, served: Served, spec: ModelSpec, statistics: pb.Statistics, sinks: dict[str, list[dict[str, Any]]]
) -> None:
    logged = read_log(served, spec)
    numbers = logged.time
    counts = np.bincount(numbers, minlength=outcome.events)
    outcome.logged = len(logged)
    outcome.lost = int((counts[: outcome.events] == 0).sum())
    outcome.doubled = int(np.maximum(counts - 1, 0).sum())
    for part in (numbers % 2 == 0, numbers % 4 == 1, numbers % 4 == 3):
        outcome.disordered += int((np.diff(numbers[part]) < 0).sum())
    learner, folded, _ = fold(spec, [logged], [])
    outcome.sinks = {name: compare([logged], folded.value, records) for name, records in sinks.items()}
    outcome.digest = learner.digest() == statistics.digest and statistics.position == len(logged)


def _until(done: Callable[[], T], what: str, seconds: float = PATIENCE, fail: bool = True) -> T:
    """Waits for a value that is true.

    Raises:
        TimeoutError: it did not come.
    """
    deadline = time.monotonic() + seconds
    while not (value := done()):
        if time.monotonic() > deadline:
            if fail:
                raise TimeoutError(f"{what}: not within {seconds:g} s")
            break
        time.sleep(0.005)
    return value
