"""Peers: other people's learners, and the trivial ones, on the same events in the same process.

Every peer is run test-then-train: an event is predicted, then learned if it has a label. What a peer is timed
on is its own predict and learn calls; its examples are built before the clock starts (River's dictionaries,
Vowpal Wabbit's text), unless it is asked to build them inside.
"""

from __future__ import annotations

import importlib.util
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streams.batch import LABEL, Batch
from streams.mapping import TargetKind
from streams.metrics import Classification, KeyCodes, Regression


@dataclass(frozen=True)
class Result:
    """What a peer did.

    Attributes:
        peer: its name.
        predicted: float64 [n]; a number, or the index of a class (0 or 1 for a binary target).
        probability: float64 [n], what was given to the label that came (NaN without a label); None from a
            peer that gives no probabilities.
        seconds: spent in predicting and learning.
        unavailable: why the peer did not run; "" when it did.
    """

    peer: str
    predicted: np.ndarray
    probability: np.ndarray | None
    seconds: float
    unavailable: str = ""

    def values(self, batch: Batch, target: TargetKind) -> dict[str, float]:
        """The prequential metrics; log_loss is NaN without probabilities; empty when the peer did not run."""
        if self.unavailable:
            return {}
        key = KeyCodes()(batch.key)
        if target == "regression":
            numbers = Regression()
            numbers.update(self.predicted, batch.y, key=key)
            return numbers.values()
        metrics = Classification()
        probability = np.zeros(len(batch)) if self.probability is None else self.probability
        classes = batch.classes or (0, 1)
        metrics.update(
            self.predicted.astype(np.int64), batch.y, np.nan_to_num(probability), classes=classes, key=key
        )
        values = metrics.values()
        return values if self.probability is not None else {**values, "log_loss": float("nan")}


class Peer(ABC):
    """A learner to compare with.

    Attributes:
        name: shown in tables.
        target: what it predicts.
        previous: whether it is given the previous label of the event's key as one more input (0 for none; of
            a multi-class target its index).
        requires: the module that it needs.
        install: the package that holds the module.
    """

    requires = "river"
    install = "river"

    def __init__(self, name: str, target: TargetKind, *, previous: bool = False) -> None:
        self.name, self.target, self.previous = name, target, previous

    def run(self, batch: Batch) -> Result:
        """Folds a fresh model over the events.

        Raises:
            ValueError: the batch holds labels for earlier events, which peers cannot learn from.
        """
        if (batch.kind == LABEL).any():
            raise ValueError(
                "peers learn from events with their label; the batch holds labels for earlier events"
            )
        if importlib.util.find_spec(self.requires) is None:
            reason = f"{self.install} is not installed: pip install {self.install}"
            return Result(self.name, np.full(len(batch), np.nan), None, float("nan"), reason)
        return self._fold(with_previous(batch) if self.previous else batch)

    @abstractmethod
    def _fold(self, batch: Batch) -> Result:
        """Runs the model; the module that it requires is there."""


def with_previous(batch: Batch) -> Batch:
    """The batch with the previous label of each event's key as a last feature, 0 where there is none."""
    labelled = ~np.isnan(batch.y)
    key = KeyCodes()(batch.key)
    # Unlabelled events see the last label too: labels are carried forward over them, key by key.
    order = np.argsort(key, kind="stable")
    held = np.where(labelled[order], np.arange(len(order)), -1)
    starts = np.append(True, key[order][1:] != key[order][:-1])[: len(order)]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    before = np.append(-1, np.maximum.accumulate(held)[:-1])[: len(order)]
    values = np.where(before >= first, batch.y[order][before], 0.0)
    previous = np.empty(len(order), np.float32)
    previous[order] = values
    return replace(batch, x=np.column_stack([batch.x, previous]))


class NoChange(Peer):
    """Predicts the last label of the event's key; at first class 0, or the number 0."""

    requires = install = "numpy"

    def _fold(self, batch: Batch) -> Result:
        start = time.perf_counter()
        predicted = with_previous(batch).x[:, -1].astype(np.float64)
        return Result(self.name, predicted, None, time.perf_counter() - start)


class Majority(Peer):
    """Predicts the most frequent label so far, of equals the one that came first; at first class 0.

    For regression: the mean so far, at first 0.
    """

    requires = install = "numpy"

    def _fold(self, batch: Batch) -> Result:
        start = time.perf_counter()
        here = ~np.isnan(batch.y)
        predicted = np.zeros(len(batch))
        if self.target == "regression":
            total = np.cumsum(np.where(here, batch.y, 0.0))
            predicted[1:] = total[:-1] / np.maximum(1, np.cumsum(here)[:-1])
        else:
            counts: dict[float, int] = {}
            place: dict[float, int] = {}
            best = 0.0
            for row, label in enumerate(batch.y.tolist()):
                predicted[row] = best
                if not math.isnan(label):
                    counts[label] = counts.get(label, 0) + 1
                    place.setdefault(label, len(place))
                    best = max(best, label, key=lambda one: (counts.get(one, 0), -place.get(one, 0)))
        return Result(self.name, predicted, None, time.perf_counter() - start)


class River(Peer):
    """A River model; its features are dictionaries built before the clock starts."""

    def __init__(
        self, name: str, target: TargetKind, build: Callable[[], Any], *, previous: bool = False
    ) -> None:
        super().__init__(name, target, previous=previous)
        self.build = build

    def _fold(self, batch: Batch) -> Result:
        model = self.build()
        rows = [
            {index: value for index, value in enumerate(row) if not math.isnan(value)}
            for row in batch.x.tolist()
        ]
        labels: list[Any] = [None if math.isnan(label) else label for label in batch.y.tolist()]
        if self.target == "regression":
            return self._numbers(model, rows, labels)
        kind = bool if self.target == "binary" else int
        return self._classes(model, rows, [None if label is None else kind(label) for label in labels])

    def _numbers(self, model: Any, rows: list[dict], labels: list[Any]) -> Result:
        predict, learn, out = model.predict_one, model.learn_one, []
        start = time.perf_counter()
        for x, y in zip(rows, labels):
            out.append(predict(x))
            if y is not None:
                learn(x, y)
        seconds = time.perf_counter() - start
        return Result(self.name, np.nan_to_num(np.array(out, np.float64)), None, seconds)

    def _classes(self, model: Any, rows: list[dict], labels: list[Any]) -> Result:
        predict, learn, out = model.predict_proba_one, model.learn_one, []
        start = time.perf_counter()
        for x, y in zip(rows, labels):
            out.append(predict(x))
            if y is not None:
                learn(x, y)
        seconds = time.perf_counter() - start
        guesses = np.array([max(given, key=given.__getitem__) if given else 0 for given in out], np.float64)
        # A model that has seen nothing gives an empty distribution: no label is likelier than another.
        none = 0.5 if self.target == "binary" else 0.0
        pairs = zip(out, labels)
        of_label = [np.nan if y is None else (given.get(y, 0.0) if given else none) for given, y in pairs]
        return Result(self.name, guesses, np.clip(np.array(of_label, np.float64), 0, 1), seconds)


VW_LOSSES: dict[TargetKind, str] = {
    "binary": "--loss_function logistic --link logistic",
    "multiclass": "--oaa {classes} --probabilities --loss_function logistic",
    "regression": "--loss_function squared",
}


def vw_options(target: TargetKind, classes: int = 2, options: str = "--coin") -> str:
    """The whole command line of a learner, for a fresh one as for one that is loaded.

    A model that is saved and loaded with `-i` keeps `--coin` and `--link` but not its loss function: it would go on
    with the squared loss, so these options are stated again then.
    """
    return f"{options} {VW_LOSSES[target].format(classes=max(2, classes))}"


class VowpalWabbit(Peer):
    """Vowpal Wabbit's Python binding, one line of text for each event.

    Events have no importance weights: every one counts once. With `--coin` a weight of 2 is not the same as the event
    twice, nor is it without (there by the update that is invariant to importance).

    Args:
        options: the command line, as `--coin`; the loss is set by the target (see `vw_options`).
        single_call: read the prediction that learning made before its update, in place of a call of `predict`
            before that of `learn`. The predictions are the same to the bit; it is the binding's fastest way
            where the label is known when the event comes.
        build_inside: whether the text of the examples is built while the clock runs.
    """

    requires = "vowpalwabbit"
    install = "vowpalwabbit"

    def __init__(
        self,
        name: str,
        target: TargetKind,
        *,
        options: str = "--coin",
        previous: bool = False,
        single_call: bool = False,
        build_inside: bool = False,
    ) -> None:
        super().__init__(name, target, previous=previous)
        self.options, self.single_call, self.build_inside = options, single_call, build_inside

    def _fold(self, batch: Batch) -> Result:
        from vowpalwabbit import pyvw

        options = vw_options(self.target, len(batch.classes), self.options)
        model = pyvw.Workspace(f"{options} --quiet --no_stdin")
        many = self.target == "multiclass"
        read = pyvw.Example.get_scalars if many else pyvw.Example.get_simplelabel_prediction
        run = self._single_call if self.single_call else self._two_calls
        start = time.perf_counter()
        lines = vw_lines(batch, self.target)
        if not self.build_inside:
            start = time.perf_counter()
        out = run(model, lines, read)
        seconds = time.perf_counter() - start
        model.finish()
        return self._result(np.array(out, np.float64), batch, seconds)

    @staticmethod
    def _two_calls(model: Any, lines: list[str], read: Callable[[Any], Any]) -> list[Any]:
        parse, predict, learn, finish = model.parse, model.predict, model.learn, model.finish_example
        out = []
        for line in lines:
            example = parse(line)
            predict(example)
            out.append(read(example))
            learn(example)
            finish(example)
        return out

    @staticmethod
    def _single_call(model: Any, lines: list[str], read: Callable[[Any], Any]) -> list[Any]:
        parse, learn, finish = model.parse, model.learn, model.finish_example
        out = []
        for line in lines:
            example = parse(line)
            learn(example)
            out.append(read(example))
            finish(example)
        return out

    def _result(self, out: np.ndarray, batch: Batch, seconds: float) -> Result:
        if self.target == "regression":
            return Result(self.name, out, None, seconds)
        given = out if self.target == "multiclass" else np.column_stack([1 - out, out])
        label = np.nan_to_num(batch.y).astype(np.int64)
        of_label = np.where(np.isnan(batch.y), np.nan, given[np.arange(len(batch)), label])
        return Result(self.name, given.argmax(axis=1).astype(np.float64), np.clip(of_label, 0, 1), seconds)


VW_LABELS: dict[TargetKind, Callable[[float], str]] = {
    "binary": lambda label: "1" if label == 1 else "-1",
    "multiclass": lambda label: str(int(label) + 1),
    "regression": lambda label: f"{label:.9g}",
}


def vw_lines(batch: Batch, target: TargetKind) -> list[str]:
    """The events as Vowpal Wabbit's text: labels -1 and 1, or 1 to K, or the number, or none."""
    label = VW_LABELS[target]
    heads = ["" if math.isnan(y) else label(y) for y in batch.y.tolist()]
    rows = batch.x.tolist()
    bodies = [" ".join(f"{i}:{v:.7g}" for i, v in enumerate(row) if not math.isnan(v)) for row in rows]
    return [f"{head} | {body}" for head, body in zip(heads, bodies)]


def baselines(target: TargetKind) -> list[Peer]:
    """The trivial peers: no change, and majority (for regression: the mean so far)."""
    return [NoChange("no change", target), Majority("majority" if target != "regression" else "mean", target)]


def river_linear(target: TargetKind, *, previous: bool = False) -> Peer:
    """River's standard scaler and logistic, softmax or linear regression, at their defaults."""

    def build() -> Any:
        from river import linear_model, preprocessing

        head = {
            "binary": linear_model.LogisticRegression,
            "multiclass": linear_model.SoftmaxRegression,
            "regression": linear_model.LinearRegression,
        }[target]
        return preprocessing.StandardScaler() | head()

    return River("River linear" + _given(previous), target, build, previous=previous)


def river_tree(target: TargetKind, *, previous: bool = False) -> Peer:
    """River's Hoeffding tree at its defaults."""

    def build() -> Any:
        from river import tree

        return tree.HoeffdingTreeRegressor() if target == "regression" else tree.HoeffdingTreeClassifier()

    return River("River Hoeffding tree" + _given(previous), target, build, previous=previous)


def river_forest(target: TargetKind, *, previous: bool = False, seed: int = 1) -> Peer:
    """River's adaptive random forest of 10 trees."""

    def build() -> Any:
        from river import forest

        kind = forest.ARFRegressor if target == "regression" else forest.ARFClassifier
        return kind(n_models=10, seed=seed)

    return River("River adaptive random forest" + _given(previous), target, build, previous=previous)


def vowpal_wabbit(
    target: TargetKind, *, previous: bool = False, single_call: bool = False, build_inside: bool = False
) -> Peer:
    """Vowpal Wabbit with `--coin`; see `VowpalWabbit` for what is timed."""
    how = (", learn only" if single_call else "") + (", text built inside" if build_inside else "")
    name = f"Vowpal Wabbit --coin{how}{_given(previous)}"
    return VowpalWabbit(name, target, previous=previous, single_call=single_call, build_inside=build_inside)


def _given(previous: bool) -> str:
    return " + last label" if previous else ""
