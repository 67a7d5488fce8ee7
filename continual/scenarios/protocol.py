"""How a learner is run on a scenario, and what is read while it learns.

    before      accuracy on every test set (for forward transfer)
    during      every event is predicted, then learned; every `every` events all test sets are asked, and for the first
                `beta` batches of an experience its own
    after each  all test sets: a row of the accuracy matrix
    at the end  probabilities of all test sets: log-loss, Brier score, calibration

Asking changes nothing in the learner. Its time is not counted, learning's is. Where only a choice is made by a run, as
of a rate, all test sets are asked once, after the last event.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from continual.metrics import cost, curves, matrix, probabilities, stream
from continual.metrics.curves import Curve
from continual.scenarios.scenario import Events, Scenario
from continual.scenarios.subjects import Said, Subject
from streams.metrics import Classification, Regression

PIECE = 1000
"""Events that are learned, or asked, at a time; no figure depends on it."""


@dataclass(frozen=True)
class Protocol:
    """What is read, and when.

    Attributes:
        every: events between two evaluations; 0: a tenth of the shortest experience, 100 of a stream.
        batch: events of a mini-batch: the unit of `beta` and of the stream that does not wait.
        beta: batches of an experience for the area of the learning curve; 0: it is not read.
        window: evaluations within which falls and rises are looked for.
        shift: S of near-future accuracy; None: a stream's smallest that removes the repetition of labels.
        cost: of a method relative to the reference; above 1 the stream does not wait and batches are passed over.
    """

    every: int = 0
    batch: int = 10
    beta: int = 10
    window: int = 10
    shift: int | None = None
    cost: float = 1.0

    def points(self, scenario: Scenario) -> int:
        """Events between two evaluations, a multiple of the batch."""
        shortest = min(len(one.train) for one in scenario.experiences)
        wished = self.every or (shortest // 10 if scenario.tested else 100)
        return max(self.batch, wished - wished % self.batch)


@dataclass
class Run:
    """What one method did on one scenario with one seed; plain values, as they go to disk.

    Attributes:
        untrained: accuracy on each test set before the first event.
        matrix: accuracy on each test set after each experience; NaN where it was not read.
        points: events, experience and accuracies at each evaluation.
        first: accuracy on each experience's test before its first batch and after each of the first `beta`.
        blocks: accuracy (of a regression the mean absolute error) on the stream, before learning, block by block.
        prequential: the metrics of `streams.metrics` over the whole stream.
        near_future: {"shift": S, "accuracy": NFA}; empty: not read.
        final: log-loss, Brier score and calibration error over all test sets at the end.
        predictions: SHA-256 of every class predicted in the last evaluation.
        state: SHA-256 of the state.
        cost: microseconds per event learned, bytes of state, share of batches learned.
    """

    untrained: list[float] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    points: dict[str, list[Any]] = field(default_factory=lambda: {"events": [], "during": [], "accuracy": []})
    first: list[list[float]] = field(default_factory=list)
    blocks: dict[str, list[float]] = field(default_factory=lambda: {"events": [], "score": []})
    prequential: dict[str, float] = field(default_factory=dict)
    near_future: dict[str, float] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    predictions: str = ""
    state: str = ""
    cost: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, `Run(**values)` again."""
        return asdict(self)

    def curve(self) -> Curve:
        """The evaluations."""
        held = self.points
        return Curve(np.array(held["events"]), np.array(held["during"]), np.array(held["accuracy"]))


class Examination:
    """One run: a subject, a scenario, a protocol.

    Args:
        subject: learns and answers.
        scenario: what is learned.
        protocol: what is read.
        say: is told the events learned so far.
        end: test sets are asked after the last event only.
    """

    def __init__(
        self,
        subject: Subject,
        scenario: Scenario,
        protocol: Protocol,
        say: Callable[[int], None] = lambda _: None,
        *,
        end: bool = False,
    ) -> None:
        self.subject, self.scenario, self.protocol, self.say = subject, scenario, protocol, say
        self._during = scenario.tested and not end
        self.run = Run()
        self.shift = self._shift()
        self._metrics: Any = Regression() if scenario.target == "regression" else Classification()
        self._learned = 0
        self._skipped = self._arrived = 0
        self._ahead: list[np.ndarray] = []
        self._tests = [one.test for one in scenario.experiences]
        self._asked: dict[int, np.ndarray] = {}

    def __call__(self) -> Run:
        """Runs the whole scenario."""
        every = self.protocol.points(self.scenario)
        if self._during:
            self.run.untrained = self._accuracies()
        taken = self._taken()
        for number, one in enumerate(self.scenario.experiences):
            self._experience(number, one.train, every, taken)
            if self._during:
                self.run.matrix.append(self.run.points["accuracy"][-1])
        if self.scenario.tested and not self._during:
            tests = len(self._tests)
            self.run.matrix = [[math.nan] * tests for _ in range(tests - 1)] + [self._accuracies()]
        self._finish()
        return self.run

    def _shift(self) -> int | None:
        """S of near-future accuracy; None: it is not read."""
        if self.protocol.shift is not None or self.scenario.tested or self.scenario.target == "regression":
            return self.protocol.shift
        labels = self.scenario.experiences[0].train.labels()
        return stream.least_shift(labels, len(labels) // 10)

    def _taken(self) -> np.ndarray | None:
        """Which batches are learned where the stream does not wait; None: all."""
        if self.protocol.cost <= 1:
            return None
        batches = sum(-(-len(one.train) // self.protocol.batch) for one in self.scenario.experiences)
        return cost.learned_in_time(batches, self.protocol.cost)

    def _experience(self, number: int, train: Events, every: int, taken: np.ndarray | None) -> None:
        """Learns the events of an experience; its last evaluation is after the last of them."""
        early = self.protocol.beta if self._during else 0
        stops = {min(len(train), k * self.protocol.batch) for k in range(1, early + 1)}
        marks = set(range(every, len(train) + 1, every)) | {len(train)}
        first = [self.accuracy(number)] if early else []
        start = 0
        for stop in sorted(stops | marks):
            self._learn(train, start, stop, taken)
            if stop in stops:
                first.append(self.accuracy(number))
            if stop in marks and self._during:
                self.run.points["events"].append(self._learned + stop)
                self.run.points["during"].append(number)
                self.run.points["accuracy"].append(self._accuracies())
            self.say(self._learned + stop)
            start = stop
        if early:
            self.run.first.append(first + first[-1:] * (early + 1 - len(first)))
        self._learned += len(train)

    def _learn(self, train: Events, start: int, stop: int, taken: np.ndarray | None) -> None:
        """Predicts and learns events of one experience, up to an evaluation."""
        size = PIECE if taken is None else self.protocol.batch
        for at in range(start, stop, size):
            batch = train.batch(at, min(at + size, stop))
            if taken is None or taken[self._arrived]:
                said = self.subject.learn(batch)
            else:
                code, table = self.subject.predict(batch)
                given = table[np.arange(len(batch)), batch.y.astype(int)]
                said, self._skipped = Said(table.max(axis=1), code, given), self._skipped + len(batch)
            self._arrived += 1
            self._score(batch.y, said, batch.classes)
        self._look_ahead(self._learned + stop, stop - start)

    def _score(self, y: np.ndarray, said: Said, classes: tuple[Any, ...]) -> None:
        run, metrics = self.run, self._metrics
        if self.scenario.target == "regression":
            metrics.update(said.value, y)
            score = float(np.abs(said.value - y).mean())
        else:
            # The code of no class stands for one that never comes: an error.
            labels = (*self.scenario.labels, "none")
            code = np.where(said.code < 0, len(self.scenario.labels), said.code)
            score = float((code == y).mean())
            sure = np.maximum(said.value, 1 - said.value) if self.scenario.target == "binary" else said.value
            given = np.clip(np.nan_to_num(said.given), 0, 1)
            metrics.update(code, y, given, classes=labels, confidence=np.clip(sure, 0, 1))
        done = (run.blocks["events"][-1] if run.blocks["events"] else 0) + len(y)
        run.blocks["events"].append(done)
        run.blocks["score"].append(score)

    def _look_ahead(self, learned: int, count: int) -> None:
        """Near-future accuracy: of the events from S after those learned on, as many as were just learned."""
        if self.shift is None or self.scenario.target == "regression":
            return
        begin, end, before = learned + self.shift, learned + self.shift + count, 0
        for one in self.scenario.experiences:
            start, stop = max(begin - before, 0), min(end - before, len(one.train))
            if start < stop:
                batch = one.train.batch(start, stop)
                self._ahead.append(self.subject.predict(batch)[0] == batch.y)
            before += len(one.train)

    def _accuracies(self) -> list[float]:
        return [self.accuracy(number) for number in range(len(self._tests))]

    def accuracy(self, number: int) -> float:
        """Share of a test set that is right, with the model as it stands."""
        test = self._tests[number]
        assert test is not None
        parts = [self._answer(number, test, at) for at in range(0, len(test), PIECE)]
        self._asked[number] = np.concatenate([code for code, _ in parts])
        return float((self._asked[number] == test.labels()).mean())

    def _answer(self, number: int, test: Events, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes and probabilities of up to `PIECE` examples; with a given task only its classes are chosen among."""
        code, table = self.subject.predict(test.batch(at, min(at + PIECE, len(test))))
        if not self.scenario.task_given:
            return code, table
        classes = np.array(self.scenario.experiences[number].classes)
        masked = np.zeros_like(table)
        masked[:, classes] = table[:, classes]
        total = masked.sum(axis=1, keepdims=True)
        own = classes[masked[:, classes].argmax(axis=1)]
        return np.where(total[:, 0] > 0, own, -1), np.divide(masked, total, out=np.zeros_like(masked), where=total > 0)

    def _finish(self) -> None:
        run, subject = self.run, self.subject
        run.prequential = {name: float(value) for name, value in self._metrics.values().items()}
        run.blocks = _joined(run.blocks)
        if self._ahead:
            accuracy = stream.near_future_accuracy(np.concatenate(self._ahead))
            run.near_future = {"shift": float(self.shift or 0), "accuracy": accuracy}
        if self.scenario.tested:
            tables, labels = [], []
            for number, test in enumerate(self._tests):
                assert test is not None
                tables += [self._answer(number, test, at)[1] for at in range(0, len(test), PIECE)]
                labels.append(test.labels().astype(np.int64))
            run.final = probabilities.scores(np.concatenate(tables), np.concatenate(labels))
            asked = np.concatenate([self._asked[number] for number in range(len(self._tests))])
            run.predictions = hashlib.sha256(asked.astype("<i4").tobytes()).hexdigest()
        learned = self._learned - self._skipped
        held = subject.state_bytes()
        run.state = subject.digest()
        run.cost = {
            "us_per_event": 1e6 * subject.seconds / learned,
            "learned": learned / self._learned,
            **({} if held is None else {"state_bytes": float(held)}),
        }


def _joined(blocks: dict[str, list[float]], most: int = 100) -> dict[str, list[float]]:
    """At most so many blocks, each the mean over its events."""
    ends, score = np.array(blocks["events"]), np.array(blocks["score"])
    sizes = np.diff(np.append(0, ends))
    groups = np.array_split(np.arange(len(ends)), min(most, len(ends)))
    return {
        "events": [int(ends[group[-1]]) for group in groups],
        "score": [float(np.average(score[group], weights=sizes[group])) for group in groups],
    }


def figures(run: Run, scenario: Scenario, protocol: Protocol, joint: bool = False) -> dict[str, float]:
    """Every figure of a run by name; those that need an order of experiences are left out where there was none.

    Of a run whose end alone was read there are those of the end and of the stream.
    """
    out = {f"prequential_{name}": value for name, value in run.prequential.items()}
    if run.near_future:
        out["near_future_accuracy"] = run.near_future["accuracy"]
    if scenario.tested:
        table = np.array(run.matrix)
        out["average_accuracy"] = matrix.average_accuracy(table)
        out |= {f"final_{name}": value for name, value in run.final.items()}
        if not joint and run.points["events"]:
            curve = run.curve()
            out |= {
                "average_anytime_accuracy": curves.average_anytime_accuracy(curve),
                "average_incremental_accuracy": matrix.average_incremental_accuracy(table),
                "forgetting": matrix.forgetting(table),
                "backward_transfer": matrix.backward_transfer(table),
                "forward_transfer": matrix.forward_transfer(table, run.untrained),
                "min_accuracy": curves.min_accuracy(curve),
                "worst_case_accuracy": curves.worst_case_accuracy(curve),
                "windowed_forgetting": curves.windowed_forgetting(curve, protocol.window),
                "windowed_plasticity": curves.windowed_plasticity(curve, protocol.window),
            }
            if run.first:
                out["learning_curve_area"] = curves.learning_curve_area(np.array(run.first))
    return out | run.cost
