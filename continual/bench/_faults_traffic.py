"""Events with a seed, and clients that keep what was acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from continual import data
from learners.spec import ModelSpec
from service.client import Client, Refused
from service.wire import PredictionBatch
from streams.batch import Batch, Keys

KEYS = 300
SLOTS = 64
IN_FLIGHT = 4
GIVE_UP_SECONDS = 120.0
"""A client that gets no answer for so long ends the benchmark: something hangs."""


def file_events(events: int, seed: int) -> Batch:
    """Labelled events of `KEYS` keys in random order: Elec2 where it is at hand and long enough, else generated."""
    rng = np.random.default_rng(seed)
    try:
        whole = data.elec2()
    except data.NoData:
        whole = None
    if whole is None or len(whole) < events:
        x = rng.normal(size=(events, 8)).astype(np.float32)
        y = (x[:, 0] + np.sin(x[:, 1]) + rng.normal(size=events) > 0).astype(float)
    else:
        x, y = whole.x[:events], whole.y[:events]
    return Batch.of(x, y, key=keys(events, rng))


def keys(events: int, rng: np.random.Generator) -> Keys:
    """A key for each event, the first ones more often than the last."""
    drawn = (KEYS * rng.random(events) ** 2).astype(int)
    return Keys.pack(b"key-%d" % number for number in drawn)


def spec_of(name: str, durability: str = "fsync", snapshot_every: int = 500, **other: Any) -> ModelSpec:
    """A small learner with few slots, so that rows are evicted all the time; its whole log is kept."""
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": [f"f{index}" for index in range(8)],
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": {"kind": "mingru", "units": 16}},
            "deployment": {
                "slots": SLOTS,
                "snapshot_every": snapshot_every,
                "dedupe_window": 10_000_000,
                "durability": durability,
            },
            **other,
        }
    )


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """An answer to a batch: its producer and sequence, its rows, and the predictions that came."""

    producer: str
    sequence: int
    rows: int
    predictions: PredictionBatch


@dataclass
class Ledger:
    """What clients of one model were told.

    Attributes:
        sent: events by producer.
        batches: answers to stream batches.
        updates: answers to unary updates by event id, one for every time it was sent.
    """

    sent: dict[str, int] = field(default_factory=dict)
    batches: list[Acknowledged] = field(default_factory=list)
    updates: dict[str, list[PredictionBatch]] = field(default_factory=dict)


class Stream:
    """Sends a batch of events in pieces over one `Learn` stream.

    Args:
        client: to send with.
        model: that learns.
        events: all of them.
        ledger: where answers are kept.
        largest: events of a piece, at most; pieces are of random length.
        seed: of those lengths.
        before: called with the number of events sent so far, before each piece is sent.
        after: called with an answer.

    Attributes:
        told: how often the client said that the store has lost what was acknowledged.
    """

    def __init__(
        self,
        client: Client,
        model: str,
        events: Batch,
        ledger: Ledger,
        *,
        largest: int,
        seed: int,
        before: Callable[[int], None] = lambda sent: None,
        after: Callable[[Acknowledged], None] = lambda answer: None,
    ) -> None:
        self.producer = f"{model}-file"
        self.sent = 0
        self.acknowledged = 0
        self.told = 0
        self._client, self._model, self._events, self._ledger = client, model, events, ledger
        self._largest, self._rng = largest, np.random.default_rng(seed)
        self._before, self._after = before, after

    def _pieces(self) -> Iterator[Batch]:
        while self.sent < len(self._events):
            self._before(self.sent)
            stop = min(len(self._events), self.sent + int(self._rng.integers(1, self._largest + 1)))
            piece = self._events.slice(self.sent, stop)
            self.sent = stop
            self._ledger.sent[self.producer] = stop
            yield piece

    def run(self) -> None:
        """Sends everything; what was acknowledged and is lost is not sent again.

        Raises:
            service.errors.Refused: a piece was refused, or nobody answered for two minutes.
        """
        while self.acknowledged < len(self._events):
            try:
                self._run()
            except Refused as refused:
                if refused.reason != "SEQUENCE_GAP":
                    raise
                self.told += 1
                self.sent = self.acknowledged

    def _run(self) -> None:
        options: dict[str, Any] = {"producer": self.producer, "in_flight": IN_FLIGHT, "timeout": GIVE_UP_SECONDS}
        options["first_sequence"] = self.sent
        for result in self._client.learn(self._model, self._pieces(), **options):
            assert result.predictions is not None
            answer = Acknowledged(self.producer, result.sequence, result.rows, result.predictions)
            self._ledger.batches.append(answer)
            self.acknowledged = result.sequence + result.rows
            self._after(answer)


class Updates:
    """Unary updates with ids, some sent twice by one caller, some by two callers at the same time.

    Args:
        client: to send with.
        model: that learns.
        events: one for each update.
        ledger: where answers are kept.
        progress: says how much of the run is over, 0 to 1; updates are spread over it.
    """

    CALLERS = 2

    def __init__(
        self, client: Client, model: str, events: Batch, ledger: Ledger, progress: Callable[[], float]
    ) -> None:
        self._client, self._model, self._events, self._ledger = client, model, events, ledger
        self._progress = progress
        ledger.updates.update((f"update-{row}", []) for row in range(len(events)))

    def run(self, caller: int) -> None:
        """Sends the part of one caller.

        Raises:
            service.errors.Refused: an update was refused, or nobody answered for two minutes.
        """
        names = [f"f{index}" for index in range(self._events.x.shape[1])]
        for row in range(len(self._events)):
            if row % self.CALLERS != caller and row % 5:
                continue
            while self._progress() < row / len(self._events):
                time.sleep(0.002)
            features = dict(zip(names, self._events.x[row].tolist()))
            for _ in range(2 if row % 3 == 0 else 1):
                answer = self._client.update(
                    self._model,
                    features,
                    int(self._events.y[row]),
                    key=self._events.key[row],
                    id=f"update-{row}",
                    timeout=GIVE_UP_SECONDS,
                )
                self._ledger.updates[f"update-{row}"].append(answer)
