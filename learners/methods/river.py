"""Any classifier or regressor of River, or a pipeline that ends in one, given by import path and parameters.

    x           the features by name, without those that are missing, and the key's last label, without it at first
    predict     probabilities as River gives them; a number, or the change since the key's last label
    last label  of a regression kept near the level of all labels, so that one bad label is no input of any size
    learn       `learn_one` for every label, with the features as they stood at the prediction

River's estimators can only be pickled. The pickle is part of the shared state, in a form that depends on the state
alone (`learners.river.pickles`), signed (`learners.river.signing`), and never loaded unsigned.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, field_validator

from kernels.cpu import clock, layout
from kernels.cpu.layout import H_LABEL, H_LABEL_AT, H_LABELS, H_PENDING, H_POSITION, H_SEEN, H_TIME
from learners.base import ColdRows, Folded, MemoryRows, Predicted
from learners.keyed import KeyedLearner, KeyedRows
from learners.recurrence import places
from learners.river import estimators, pickles, signing, trial
from learners.river.level import Level
from learners.river.served import Said, Served
from learners.spec import BinaryTarget, LearnerSpec, ModelSpec, MulticlassTarget
from streams.batch import LABEL, OBSERVATION, Batch, Keys

LAST, AGE = "last_label", "last_label_age"
"""Inputs beside the features: the key's last label (of a multi-class target its number in order of appearance), and
where labels are delayed its age of a events of the key, as a / (a + 10)."""

NOTE = 7
"""What is kept of a pending observation beside its inputs: position + 1 (0: free; negative: it has expired), base,
value and class of its prediction and whether River's was finite, the key's count of observations, and its time."""

MAX_ROW_BYTES = 64 << 20
"""Bound on the row of a key: it is written to the store, and read from it, in one piece."""


class RiverSpec(LearnerSpec):
    """An estimator of River, or a pipeline."""

    kind: Literal["river"] = "river"
    estimator: tuple[estimators.Step, ...] = Field(
        min_length=1, description="Import path and parameters, or a list of such steps: a pipeline."
    )
    previous_label: bool = Field(True, description=f"The key's last label that has arrived is an input, {LAST!r}.")
    predicts: Literal["level", "change"] = Field(
        "level",
        description="Regression: what River learns and predicts: the target itself, or its change since the key's last "
        "label (for a new key since the mean of all labels).",
    )

    signed: ClassVar[bool] = True

    @field_validator("estimator", mode="before")
    @classmethod
    def _one_step(cls, value: Any) -> Any:
        """A single step may be written without the list."""
        return value if isinstance(value, (list, tuple)) else [value]

    def build(self, model: ModelSpec) -> RiverLearner:
        """A fresh learner for `model`."""
        return RiverLearner(model)

    def numerics(self) -> dict[str, str]:
        """See `learners.spec.LearnerSpec`."""
        return pickles.numerics()

    def inputs(self, model: ModelSpec) -> tuple[str, ...]:
        """Names of what River is given, of which some may be missing."""
        extra = (LAST, AGE) if model.labels.arrive == "delayed" else (LAST,)
        return (*(feature.name for feature in model.features), *(extra if self.previous_label else ()))

    def whole(self, model: ModelSpec) -> frozenset[str]:
        """Those of the inputs that are whole numbers."""
        categories = {feature.name for feature in model.features if feature.categories}
        return frozenset(categories | ({LAST} if self.previous_label and model.target.kind == "multiclass" else set()))

    def check(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`: the estimator is tried on a few events like those of the model.

        Raises:
            ValueError: River refuses it, it does not fit the target, its state cannot be stored, or names collide.
        """
        names = self.inputs(model)
        if len(set(names)) < len(names):
            raise ValueError(
                f"features {LAST!r} and {AGE!r} are the learner's own: rename, or set previous_label: false"
            )
        if model.labels.credit != "exact":
            raise ValueError(f"labels.credit {model.labels.credit!r}: River's estimators accept 'exact' only")
        row = 8 * (layout.HEAD + places(model.labels) * (2 + NOTE + len(names)))
        if row > MAX_ROW_BYTES:
            raise ValueError(
                f"{len(names)} inputs and {model.labels.pending} pending observations take {row} bytes per key, at "
                f"most {MAX_ROW_BYTES} are accepted"
            )
        missing = {feature.name for feature in model.features if feature.missing != "refuse"}
        absent = frozenset(missing | ({LAST} if self.previous_label else set()))
        steps = TypeAdapter(estimators.Steps).dump_json(self.estimator).decode()
        reason = trial.refusal(steps, self.seed, model.target.kind, names, self.whole(model), absent)
        if reason:
            raise ValueError(f"learner.estimator: {reason}")


class _Events(NamedTuple):
    """A batch as Python's values."""

    x: list[list[float]]
    kind: list[int]
    y: list[float]
    time: list[int]
    id: np.ndarray
    classes: tuple[int | str, ...]


class RiverLearner(KeyedLearner):
    """See the module's docstring.

    River gets labels as bool for a binary target, as the number of the class in order of appearance for a multi-class
    one, and as float for a regression. The signature, which depends on the key, is outside the digest.
    """

    OUTSIDE_DIGEST: ClassVar[tuple[str, ...]] = ("signature",)
    MISSING: ClassVar[tuple[str, ...]] = (*KeyedLearner.MISSING, "pending_x")

    def __init__(self, model: ModelSpec) -> None:
        spec = model.learner
        assert isinstance(spec, RiverSpec)
        self.spec = model
        self._task = model.target.kind
        self._limit = model.target.max_classes if isinstance(model.target, MulticlassTarget) else 0
        self._policy, self._default = model.labels, model.labels.default_label
        self._names, self._whole = spec.inputs(model), spec.whole(model)
        self._categories = {feature.name: feature.categories for feature in model.features if feature.categories}
        self._previous, self._aged = spec.previous_label, self._names[len(model.features) :] == (LAST, AGE)
        change = self._task == "regression" and spec.predicts == "change"
        self._model = Served(estimators.build(spec.estimator, spec.seed), self._task, change)
        self._model.prime(self._names, self._whole)
        self._pickled: bytes | None = None  # the estimator, where it was written or read after it last learned
        self._position = 0
        self._labels, self._level = 0, Level()  # of a regression
        self._clock = np.zeros(layout.TARGET)  # of its entries those of `kernels.cpu.clock`
        self._classes: dict[int | str, int] = {}
        self._places = p = places(model.labels)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "head": ((layout.HEAD,), np.dtype(np.float64)),
            "pending_id": ((p, 2), np.dtype(np.uint64)),
            "pending_head": ((p, NOTE), np.dtype(np.float64)),
            "pending_x": ((p, len(self._names)), np.dtype(np.float64)),
        }
        self.rows = KeyedRows(shapes, model.deployment.slots, MemoryRows())

    def classes(self) -> tuple[int | str, ...]:
        """The labels known; for a binary target the two of the spec."""
        return self.spec.target.labels if self.spec.target.kind == "binary" else tuple(self._classes)

    # Folding

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        """Folds events whose keys are in memory; the heads of their rows are lists meanwhile."""
        out = Folded.passed_over(len(batch), 0)
        if self._places:
            out = replace(out, expired=np.full_like(out.scored, np.nan))
        column, places = self.rows.columns["head"], slots.tolist()
        heads = {slot: column[slot].tolist() for slot in set(places)}
        x, kind, y, time = (column.tolist() for column in (batch.x, batch.kind, batch.y, batch.time))
        events = _Events(x, kind, y, time, batch.id, batch.classes)
        for t, slot in enumerate(places):
            self._position += 1
            step = self._late_label if events.kind[t] == LABEL else self._observe
            out.outcome[t] = step(events, t, heads[slot], slot, out)
        for slot, head in heads.items():
            column[slot] = head
        return out

    def _observe(self, events: _Events, t: int, head: list[float], slot: int, out: Folded) -> int:
        """An event with features, with or without its label; returns its outcome."""
        time, latest = clock.times(self._clock, events.time[t], head[H_TIME])
        base = self._base(head)
        values = self._inputs(events.x[t], head, base)
        x = self._named(values)
        said = self._model.say(x, base, len(self._classes))
        out.value[t], out.code[t] = said.value, said.code
        late = layout.OUT_OF_ORDER if 0 < time < latest else 0
        if late and self._policy.out_of_order == "ignore":
            return late
        head[H_SEEN] += 1
        head[H_TIME] = max(latest, float(time))
        head[H_POSITION] = self.position
        outcome = late | (layout.OBSERVED if time == events.time[t] else layout.AWAY)
        clock.keep(self._clock, events.time[t])
        if events.kind[t] == OBSERVATION:
            if self._places:
                self._hold(slot, head, events, t, time, values, said, base, out)
        elif (y := self._target(events, t)) < 0 and self._task == "multiclass":
            outcome |= layout.CLASS_LIMIT
        else:
            given = said.share(int(y)) if self._task == "multiclass" else said.value
            out.scored[t] = given, said.code, base, y, self._sureness(said.value)
            outcome |= self._learn(said.finite, x, y, base, head, head[H_SEEN])
        if self._default is not None:
            self._expire(head, slot, float(time), out, t)
        return outcome

    def _late_label(self, events: _Events, t: int, head: list[float], slot: int, out: Folded) -> int:
        """A label for an earlier observation, learned with the inputs of then; returns its outcome."""
        place = self._find(slot, events.id[t])
        if place < 0:
            return layout.UNKNOWN_ID
        note = self.rows.columns["pending_head"][slot, place]
        time, latest = clock.times(self._clock, events.time[t], head[H_TIME])
        if note[0] < 0 or self._is_past(note, max(latest, float(time))):
            if note[0] > 0 and self._default is not None:
                head[H_POSITION] = self.position
                self._learn_default(head, slot, place, out, t)
            return layout.LATE
        note[0] = 0.0
        head[H_POSITION] = self.position
        return self._teach(head, slot, place, self._target(events, t), out.scored, t)

    def _teach(self, head: list[float], slot: int, place: int, y: float, scored: np.ndarray, at: int) -> int:
        """Learns a label with what was held at its prediction, which is scored as it was made; returns the outcome."""
        if y < 0 and self._task == "multiclass":
            return layout.CLASS_LIMIT
        note = self.rows.columns["pending_head"][slot, place]
        scored[at] = self._as_made(note, y)
        _, base, _, _, finite, seen, _ = note.tolist()
        x = self._named(self.rows.columns["pending_x"][slot, place].tolist())
        return self._learn(finite > 0, x, y, base, head, seen)

    def _as_made(self, note: np.ndarray, y: float) -> tuple[float, ...]:
        """A row of `Folded.scored` for a pending observation."""
        _, base, value, code, *_ = note.tolist()
        return math.nan if self._task == "multiclass" else value, code, base, y, self._sureness(value)

    def _expire(self, head: list[float], slot: int, time: float, out: Folded, at: int) -> None:
        """Learns the key's oldest pending observation with the default label, if it has expired or must make room."""
        first, notes = int(head[H_PENDING]), self.rows.columns["pending_head"][slot]
        waiting = np.flatnonzero(np.roll(notes[:, 0], -first) > 0)
        if len(waiting):
            place = (first + int(waiting[0])) % self._places
            if place == first or self._is_past(notes[place], max(head[H_TIME], time)):
                self._learn_default(head, slot, place, out, at)

    def _learn_default(self, head: list[float], slot: int, place: int, out: Folded, at: int) -> None:
        note = self.rows.columns["pending_head"][slot, place]
        note[0] *= -1
        out.expired[at] = self._as_made(note, math.nan)
        assert self._default is not None
        self._teach(head, slot, place, self._code_of(self._default), out.expired, at)

    def _is_past(self, note: np.ndarray, time: float) -> bool:
        """Whether a pending observation is past the horizon when the key's time is `time`."""
        by_log, by_time = self._policy.horizon, self._policy.horizon_time
        if by_log and self.position - note[0] > by_log:
            return True
        return bool(by_time and note[6] > 0 and time - note[6] > by_time)

    def _sureness(self, value: float) -> float:
        """The probability of the predicted class; River knows no interval of a regression."""
        if self._task == "regression":
            return math.nan
        return max(value, 1.0 - value) if self._task == "binary" else value

    def _learn(self, finite: bool, x: dict, y: float, base: float, head: list[float], seen: float) -> int:
        """Teaches a label and notes it as the key's last; NONFINITE where River could not predict or learn it."""
        self._pickled = None
        outcome = layout.LEARNED if self._model.learn(x, y, base) and finite else layout.NONFINITE
        if self._task == "regression":
            self._labels += 1
            self._level.learn(y)
        head[H_LABEL] = y
        head[H_LABELS] += 1
        head[H_LABEL_AT] = seen
        return outcome

    def _target(self, events: _Events, t: int) -> float:
        """The label; for a multi-class target its number, the next one for a new label, -1 where no more are held."""
        return self._code_of(events.classes[int(events.y[t])]) if self._task == "multiclass" else events.y[t]

    def _code_of(self, label: Any) -> float:
        """A label, which may be the default one, as River learns it."""
        if isinstance(self.spec.target, BinaryTarget):
            return float(label == self.spec.target.labels[1])
        if self._task == "regression":
            return float(label)
        if label not in self._classes and len(self._classes) < self._limit:
            self._classes[label] = len(self._classes)
        return self._classes.get(label, -1)

    def _hold(
        self,
        slot: int,
        head: list[float],
        events: _Events,
        t: int,
        time: int,
        values: list[float],
        said: Said,
        base: float,
        out: Folded,
    ) -> None:
        """Keeps an observation for its label: a ring per key, so the oldest goes first."""
        place, columns = int(head[H_PENDING]), self.rows.columns
        head[H_PENDING] = (place + 1) % self._places
        note = columns["pending_head"][slot, place]
        if note[0] > 0:
            out.expired[t] = self._as_made(note, math.nan)
        note[:] = self.position, base, said.value, said.code, said.finite, head[H_SEEN], time
        columns["pending_id"][slot, place] = events.id[t]
        columns["pending_x"][slot, place] = values

    def _find(self, slot: int, id: np.ndarray) -> int:
        """The ring place of the observation with this id, of two the one that still waits; or -1."""
        at = self.rows.columns["pending_head"][slot, :, 0]
        same = (self.rows.columns["pending_id"][slot] == id).all(axis=1)
        found = [*np.flatnonzero(same & (at > 0)), *np.flatnonzero(same & (at < 0))[::-1], -1]
        return int(found[0])

    # What River is given

    def _base(self, head: list[float]) -> float:
        """The key's last label, of a regression kept near its level, for a new key the mean of all; else NaN."""
        if head[H_LABELS] > 0:
            return self._level.near(head[H_LABEL]) if self._task == "regression" else head[H_LABEL]
        return self._level.mean if self._task == "regression" else math.nan

    def _inputs(self, features: list[float], head: list[float], base: float) -> list[float]:
        """Features, last label, which is `base` where there is one, and its age; NaN where there is none."""
        if not self._previous:
            return features
        labelled = head[H_LABELS] > 0
        last = base if labelled else math.nan
        if not self._aged:
            return [*features, last]
        age = head[H_SEEN] - head[H_LABEL_AT]
        return [*features, last, age / (age + 10.0) if labelled else 1.0]

    def _named(self, values: list[float]) -> dict[str, float]:
        """Inputs by name, as River wants them: what is missing is left out."""
        x = {name: value for name, value in zip(self._names, values) if value == value}  # noqa: PLR0124 (not NaN)
        for name, count in self._categories.items():
            if name in x and not (x[name].is_integer() and 0 <= x[name] < count):
                del x[name]
        for name in self._whole & x.keys():
            x[name] = int(x[name])
        return x

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """See `learners.base.Learner`."""
        n, known = len(batch), len(self.classes())
        value, code, table = np.empty(n), np.empty(n, np.int32), np.zeros((n, known), np.float32)
        for t, (features, head) in enumerate(zip(batch.x.tolist(), self._heads(batch.key))):
            base = self._base(head)
            said = self._model.say(self._named(self._inputs(features, head, base)), base, len(self._classes))
            value[t], code[t] = said.value, said.code
            if probabilities and self._task == "multiclass":
                table[t] = [said.share(k) for k in range(known)]
        if self._task == "binary":
            table = np.column_stack([1.0 - value, value]).astype(np.float32)
        return Predicted(value, code, table if probabilities and known else None)

    def _heads(self, keys: Keys) -> list[list[float]]:
        """The head of each key's row, wherever it is."""
        heads = np.empty((len(keys), layout.HEAD))
        for columns, rows, slots in self.rows.where(keys, self.position):
            heads[rows] = columns["head"][slots]
        return heads.tolist()

    # State

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """Shared state by name: counts, classes, the pickled estimator and its signature."""
        if self._pickled is None:
            self._pickled = self._model.settled(self._names, self._whole)
        seed = self.spec.learner.seed
        return {
            "counters": np.array([self.position, self._labels, seed], np.int64),
            "level": self._level.scaler.copy(),
            "clock": self._clock.copy(),
            "classes": _bytes(json.dumps(list(self._classes)).encode()),
            "estimator": _bytes(self._pickled),
            "signature": _bytes(signing.sign(self._purposes(self.position)[0], self._pickled)),
        }

    def _purposes(self, position: int) -> list[bytes]:
        """What the signature is for, then what versions before this one called it."""
        return [f"River estimator of {digest} at {position}".encode() for digest in self.spec.digests()]

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """See `learners.base.Learner`.

        Raises:
            learners.river.signing.Unsigned: the estimator is not signed by this deployment; nothing was changed.
            learners.river.pickles.NotRestorable: it cannot be read, or names what no estimator needs; the same.
        """
        counters = shared["counters"].tolist()
        data = shared["estimator"].tobytes()
        signature = shared["signature"].tobytes() if "signature" in shared else b""
        signing.verify(self._purposes(counters[0]), data, signature)
        self._model.estimator = pickles.load(data)
        self._pickled = data
        self._position, self._labels, _ = counters
        self._level.load(shared, self._labels)
        self._clock[:] = layout.whole_target(shared.get("clock", np.zeros(0)))  # earlier versions had none
        self._classes = {label: i for i, label in enumerate(json.loads(shared["classes"].tobytes()))}
        self.rows.reset(cold)

    @property
    def position(self) -> int:
        """Events folded so far."""
        return self._position

    def pass_over(self, events: int) -> None:
        """See `learners.base.Learner`."""
        self._position += events


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)
