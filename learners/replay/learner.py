"""A learner that takes a step every `batch` labels of the log; every event is predicted by the weights as they stand.

    stretch     events up to the label that completes the mini-batch: predicted, noted, their labels gathered
    step        the model learns the mini-batch

The boundary is a count of labels that were learned, so it does not depend on how the log was delivered, and what waits
for the next step is state. A labelled event is an observation followed by its label: a label by id joins the mini-batch
with the inputs of its observation, which are kept with the key for `labels.pending` observations.

Inputs are bounded before anything sees or keeps them: standardised ones by `clip`, others by twice the largest input
of late (`kernels.cpu.replay.bounds`).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from kernels.cpu import layout
from kernels.cpu.layout import C_CLASSES, C_POSITION, Events, Out, Rows, plain
from kernels.cpu.replay import bounds
from kernels.cpu.replay import events as kernel
from kernels.cpu.replay.events import C_LABELS, C_SKIPPED, C_STEPS
from learners.base import ColdRows, Folded, MemoryRows, Predicted
from learners.classes import note_learned, resolve
from learners.keyed import KeyedLearner, KeyedRows
from learners.spec import ModelSpec, MulticlassTarget
from streams.batch import Batch

if TYPE_CHECKING:
    from learners.replay.spec import MiniBatchSpec

MOST = 256
"""Events of a stretch: what they need besides is held in memory."""


class MiniBatchLearner(KeyedLearner):
    """See the module's docstring. State: the model's arrays, counters, moments, the mini-batch, and the keyed rows."""

    def __init__(self, model: ModelSpec) -> None:
        spec: MiniBatchSpec = model.learner  # type: ignore[assignment]
        self.spec = model
        self._own = spec
        features, labels = len(model.features), model.labels
        self._features, self._dtype = features, np.dtype(spec.dtype)
        multiclass = isinstance(model.target, MulticlassTarget)
        self._config = kernel.Config(
            task=layout.MULTICLASS if multiclass else layout.BINARY,
            ignore_out_of_order=int(labels.out_of_order == "ignore"),
            pending=labels.pending,
            horizon=float(labels.horizon),
            horizon_time=float(labels.horizon_time),
            max_classes=model.target.max_classes if isinstance(model.target, MulticlassTarget) else 2,
            scaled=int(spec.standardise),
            window=float(spec.window),
            clip=spec.clip,
        )
        self._classes: dict[int | str, int] = {}
        self._model, self._encode = spec.model(features), spec.encoder()
        measured = spec.standardise or any(feature.missing == "mean" for feature in model.features)
        width = spec.encoded(features)
        self._shared = kernel.Shared(
            counters=np.zeros(layout.COUNTERS, np.int64),
            scaler=np.zeros((features if measured else 0, layout.SCALER)),
            clock=np.zeros(layout.TARGET),
            x=np.zeros((spec.batch, width), self._dtype),
            y=np.zeros(spec.batch, np.int64),
        )
        self._bound = np.zeros(2)
        if not multiclass:
            self._shared.counters[C_CLASSES] = 2
        self._capacity = 2
        p = labels.pending
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "head": ((layout.HEAD,), np.dtype(np.float64)),
            "body": ((0,), self._dtype),
            "pending_id": ((p, 2), np.dtype(np.uint64)),
            "pending_head": ((p, layout.PENDING_HEAD), np.dtype(np.float64)),
            "pending_body": ((p, width if p else 0), self._dtype),
            **layout.own_shapes(layout.MULTICLASS),
        }
        self.rows = KeyedRows(shapes, model.deployment.slots, MemoryRows())

    @property
    def position(self) -> int:
        """Events folded so far."""
        return int(self._shared.counters[C_POSITION])

    def classes(self) -> tuple[int | str, ...]:
        """The labels known; for a binary target the two of the spec."""
        return self.spec.target.labels if self.spec.target.kind == "binary" else tuple(self._classes)

    # Folding

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        n = len(batch)
        y, classes = batch.y, np.zeros(0, np.int64)
        if self._config.task == layout.MULTICLASS:
            y, classes, most = resolve(batch, batch.classes, self._classes)
            self._reserve(min(self._config.max_classes, most))
        expired = np.empty((n if self._config.pending else 0, 5))
        out = Out(np.empty(n), np.empty(n, np.int32), np.empty(n, np.uint8), np.empty((n, 5)), expired)
        events = Events._make(map(plain, (batch.x, batch.kind, y, slots, batch.time, batch.id, classes)))
        self._fold_stretches(events, out)
        note_learned(batch.classes, classes, self._classes)
        return Folded(*out)

    def _fold_stretches(self, events: Events, out: Out) -> None:
        n, size = len(events.kind), self._own.batch
        counters, config, rows = self._shared.counters, self._config, Rows(**self.rows.columns)
        scratch, commit, latest = np.empty(self._capacity), np.empty(MOST, np.uint8), np.empty(MOST)
        start = 0
        while start < n:
            stop = kernel.stretch(events.kind, start, size - int(counters[C_LABELS]) % size, MOST)
            known = config.ignore_out_of_order, events.kind, events.time, events.slot, rows.head
            kernel.in_order(*known, self._shared.clock.copy(), latest, start, stop, commit)
            x = self._inputs(events.x[start:stop], commit)
            logits = self._logits(x)
            labels = int(counters[C_LABELS])
            kernel.settle(config, self._shared, rows, events, start, stop, x, logits, scratch, out)
            if counters[C_LABELS] > labels and counters[C_LABELS] % size == 0:
                self._step(out, start, stop)
            start = stop

    def _step(self, out: Out, start: int, stop: int) -> None:
        """The model learns the mini-batch. Where that was not finite, the label that completed it says so."""
        counters = self._shared.counters
        if not self._own.standardise:  # what was observed before there was a bound, or when it was higher
            bounds.limit(self._bound, self._shared.x)
            if counters[C_LABELS] <= 2 * bounds.YOUNG:
                self._model.limit(self._bound)
        done = self._model.step(self._shared.x, self._shared.y, int(counters[C_CLASSES]))
        counters[C_STEPS if done else C_SKIPPED] += 1
        if not done:
            last = start + int(np.flatnonzero(out.outcome[start:stop] & layout.LEARNED)[-1])
            out.outcome[last] ^= layout.LEARNED | layout.NONFINITE

    def _inputs(self, features: np.ndarray, commit: np.ndarray) -> np.ndarray:
        """What is learned from events, [n, J]."""
        prepared = np.empty((len(features), self._features), self._dtype)
        kernel.prepare(self._config, self._shared.scaler, features, commit, prepared)
        x = self._encode(prepared)
        if not self._own.standardise:
            bounds.hold(self._bound, self._config.window, commit, x)
        return x

    def _logits(self, x: np.ndarray) -> np.ndarray:
        """[n, capacity]: logits of every class that there is room for."""
        logits = np.zeros((len(x), self._capacity), self._dtype)
        self._model.logits(x, self._capacity, logits)
        return logits

    def _reserve(self, classes: int) -> None:
        """Room for so many classes; it is no state."""
        if classes > self._capacity:
            self._capacity = min(self._config.max_classes, max(classes, 2 * self._capacity))
            self._model.reserve(self._capacity)

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """See `learners.base.Learner`."""
        n, known = len(batch), int(self._shared.counters[C_CLASSES])
        value, code = np.empty(n), np.empty(n, np.int32)
        table = np.zeros((n, known if probabilities else 0), np.float32)
        scratch, untouched = np.empty(self._capacity), np.zeros(MOST, np.uint8)
        features = plain(batch.x)
        for start in range(0, n, MOST):
            some = slice(start, start + MOST)
            logits = self._logits(self._inputs(features[some], untouched))
            kernel.predict(self._config, logits, known, scratch, value[some], code[some], table[some])
        variance = value * (1.0 - value)
        return Predicted(value, code, table if probabilities and known else None, variance)

    # State

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """Shared state by name; of the mini-batch the labels that wait."""
        counters = self._shared.counters
        waiting = int(counters[C_LABELS]) % self._own.batch
        return {
            "counters": counters,
            "scaler": self._shared.scaler,
            "bound": self._bound,
            "clock": self._shared.clock,
            "waiting.x": self._shared.x[:waiting],
            "waiting.y": self._shared.y[:waiting],
            "classes": np.frombuffer(json.dumps(list(self._classes)).encode(), np.uint8),
            **{f"model.{name}": array for name, array in self._model.arrays(int(counters[C_CLASSES])).items()},
        }

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """See `learners.base.Learner`.

        Raises:
            ValueError: an array has not the shape that this version holds.
        """
        shared = shared | {"scaler": layout.whole_scaler(shared["scaler"])}
        for name in ("counters", "scaler"):
            mine = getattr(self._shared, name)
            if shared[name].shape != mine.shape:
                raise ValueError(f"array {name}: shape {shared[name].shape}, this version holds {mine.shape}")
            mine[:] = shared[name]
        self._bound[:] = shared.get("bound", 0)  # a state of earlier versions has neither this nor a clock
        self._shared.clock[:] = layout.whole_target(shared.get("clock", np.zeros(0)))
        self._classes = {label: i for i, label in enumerate(json.loads(bytes(shared["classes"])))}
        waiting = len(shared["waiting.y"])
        self._shared.x[:waiting], self._shared.y[:waiting] = shared["waiting.x"], shared["waiting.y"]
        known = int(self._shared.counters[C_CLASSES])
        self._reserve(known)
        prefix = "model."
        own = {name.removeprefix(prefix): array for name, array in shared.items() if name.startswith(prefix)}
        self._model.load(own, known)
        self.rows.reset(cold)

    def pass_over(self, events: int) -> None:
        """See `learners.base.Learner`."""
        self._shared.counters[C_POSITION] += events
