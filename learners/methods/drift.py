"""A learner that notices drift and does something about it: any compiled learner, a detector, a reaction.

    fold        as the learner itself folds, in blocks that end with every `every`-th label that met its prediction
    detect      the losses that it met, or the inputs, in order, by one of River's detectors
    react       at the end of a block in which a drift was seen

Blocks are counted in labels, so that no delivery of the log, no event without effect, and no label that comes by id in
place of with its event, moves one. A challenger has rows of its own beside those of the learner that serves, in two
lanes; a row says for which of the learners that came and went in a lane it was written, and is empty for every other.

Detectors are Python objects of River: they are held as its estimators are (see `learners.methods.river`), in one form,
signed, and never loaded unsigned. All else is arrays.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator, field_validator

from kernels.cpu.heads import _filter
from kernels.cpu.layout import H_POSITION, H_SEEN, H_TIME, HEAD, OBSERVED, OUT_OF_ORDER, UNKNOWN_ID
from learners.base import SIGNALS, ColdRows, Folded, MemoryRows, Predicted
from learners.compiled import MAX_ROW_BYTES, CompiledLearner, CompiledSpec
from learners.drift.detectors import MOST_INPUTS, Adwin, AnyDetector, better_by, feed, is_better, losses
from learners.drift.reactions import Challenger, Forget, Rate, Reaction, Signal
from learners.keyed import Columns, KeyedLearner, KeyedRows
from learners.optimizers import EKF
from learners.river import pickles, signing
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import OBSERVATION, Batch

DRIFT, RAISED, FORGOTTEN, STARTED, PROMOTED, DROPPED = range(len(SIGNALS))


class DriftSpec(LearnerSpec):
    """A compiled learner with a detector of drift and a reaction to it."""

    kind: Literal["drift"] = "drift"
    learner: Annotated[SerializeAsAny[CompiledSpec], WrapValidator(LearnerSpec.by_kind)] = Field(
        default_factory=lambda: LearnerSpec.by_kind({}, None),
        description="What learns: one whose fold is compiled. Its seed is added to that of this spec.",
    )
    detector: AnyDetector = Field(default_factory=Adwin, description="What sees a drift.")
    reaction: Reaction = Field(default_factory=Signal, description="What is done about it.")
    every: int = Field(32, ge=1, le=1_000_000, description="Labels in a block; reactions take effect at its end.")

    signed: ClassVar[bool] = True

    @field_validator("learner")
    @classmethod
    def _is_compiled(cls, value: Any) -> Any:
        if not isinstance(value, CompiledSpec):
            kinds = sorted(kind for kind, one in LearnerSpec.known().items() if issubclass(one, CompiledSpec))
            raise ValueError(f"kind {value.kind!r} cannot be watched for drift; these can: {', '.join(kinds)}")
        return value

    def inner(self, model: ModelSpec, number: int = 0) -> ModelSpec:
        """The model of the learner alone; each challenger, by number, has a seed of its own."""
        seed = (self.seed + self.learner.seed + number) % 2**63
        return model.model_copy(update={"learner": self.learner.model_copy(update={"seed": seed})})

    def build(self, model: ModelSpec) -> DriftLearner:
        """A fresh learner for `model`."""
        return DriftLearner(model)

    def uses_seed(self) -> bool:
        """See `LearnerSpec`."""
        return self.learner.uses_seed() or self.detector.random

    def numerics(self) -> dict[str, str]:
        """See `LearnerSpec`."""
        return self.learner.numerics() | pickles.numerics()

    def check(self, model: ModelSpec) -> None:
        """See `LearnerSpec`.

        Raises:
            ValueError: the learner does not fit the model, or the detector or the reaction does not fit the learner.
        """
        inner = self.inner(model)
        self.learner.check(inner)
        task, learner = model.target.kind, self.learner
        if self.detector.binary and task == "regression":
            raise ValueError(f"detector {self.detector.kind!r} takes errors of 0 and 1, of which a regression has none")
        if self.detector.kind == "kswin" and 2 * self.detector.latest > self.detector.window:
            raise ValueError(
                f"detector.latest {self.detector.latest}: accepted: at most half of window {self.detector.window}"
            )
        features = len(model.features)
        if self.detector.on == "inputs" and features > MOST_INPUTS:
            raise ValueError(f"detector.on 'inputs': {features} features, at most {MOST_INPUTS} are accepted")
        if isinstance(self.reaction, Rate) and isinstance(learner.optimizer, EKF):
            raise ValueError("reaction 'rate': optimizer 'ekf' has none")
        if isinstance(self.reaction, Rate) and not (learner.head.optimized or learner.shape().units):
            raise ValueError(f"reaction 'rate': head {learner.head.kind!r} of learner {learner.kind!r} has none")
        if isinstance(self.reaction, Forget) and learner.head.kind != "kalman":
            raise ValueError(f"reaction 'forget' is for head 'kalman', learner.head.kind is {learner.head.kind!r}")
        if isinstance(self.reaction, Challenger):
            self._check_challenger(model, learner.row_bytes(inner))

    def _check_challenger(self, model: ModelSpec, row: int) -> None:
        if 2 * row > MAX_ROW_BYTES:
            raise ValueError(
                f"reaction 'challenger' takes two rows of {row} bytes per key, {MAX_ROW_BYTES} together are accepted"
            )
        if model.labels.pending:
            raise ValueError(
                "reaction 'challenger': an observation that waits for its label when a challenger starts would be lost "
                f"when that is promoted; labels.pending 0 is accepted, got {model.labels.pending}"
            )


@dataclass
class _Marks:
    """Where the learner stands: as one array, part of the state."""

    labels: int = 0
    """Labels that met their prediction so far."""
    lead: int = 0
    """The lane that serves."""
    challenged: int = 0
    """1 while the other lane is folded too."""
    seen: int = 0
    """1 when a drift was seen in this block."""
    until: int = 0
    """Labels up to which the rate is raised."""
    started: int = 0
    """Labels when the challenger started."""
    learners: int = 1
    """Learners there were; each has a number from 1."""
    first: int = 1
    """Number of the learner in lane 0, and in lane 1."""
    second: int = 0

    def number(self, lane: int) -> int:
        """The number of the learner in a lane."""
        return self.second if lane else self.first


class DriftLearner(KeyedLearner):
    """See the module's docstring."""

    OUTSIDE_DIGEST: ClassVar[tuple[str, ...]] = ("signature",)

    def __init__(self, model: ModelSpec) -> None:
        spec = model.learner
        assert isinstance(spec, DriftSpec)
        self.spec, self._spec = model, spec
        self._marks = _Marks()
        self._test = np.zeros(2)  # of the challenger: sum and sum of squares of the differences
        self._watched = self._fresh_detectors()
        self._lanes: dict[int, CompiledLearner] = {0: self._fresh(0)}
        self._names = tuple(self._lanes[0].row_shapes())
        self._both = 2 if isinstance(spec.reaction, Challenger) else 1
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "head": ((HEAD,), np.dtype(np.float64)),
            "learner": ((self._both,), np.dtype(np.int64)),
        }
        for lane in range(self._both):
            shapes |= {f"{lane}.{name}": shape for name, shape in self._lanes[0].row_shapes().items()}
        self.rows = KeyedRows(shapes, model.deployment.slots, MemoryRows())

    def _fresh(self, number: int) -> CompiledLearner:
        inner = self._spec.inner(self.spec, number)
        return inner.learner.build(inner)

    def _fresh_detectors(self) -> list[Any]:
        watched = len(self.spec.features) if self._spec.detector.on == "inputs" else 1
        return [self._spec.detector.build(self._spec.seed + column) for column in range(watched)]

    @property
    def _leader(self) -> CompiledLearner:
        return self._lanes[self._marks.lead]

    @property
    def position(self) -> int:
        """Events folded so far."""
        return self._leader.position

    def classes(self) -> tuple[int | str, ...]:
        """See `learners.base.Learner`."""
        return self._leader.classes()

    # Folding

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        if isinstance(self._spec.reaction, Signal):
            return self._fold_piece(batch, slots)
        parts: list[Folded] = []
        start, every = 0, self._spec.every
        defaults = self.spec.labels.default_label is not None  # then an event may bring two labels, or one unasked
        bringing = np.arange(len(batch)) if defaults else np.flatnonzero(batch.kind != OBSERVATION)
        while start < len(batch) or not parts:
            left = every - self._marks.labels % every
            most = max(1, left // 2) if defaults else left  # so many events end the block at the earliest
            ahead = bringing[np.searchsorted(bringing, start) :][:most]
            stop = int(ahead[-1]) + 1 if len(ahead) == most else len(batch)
            parts.append(self._fold_piece(batch.slice(start, stop), slots[start:stop]))
            start = stop
        return Folded.concat(parts)

    def _fold_piece(self, batch: Batch, slots: np.ndarray) -> Folded:
        """Folds events of one block, and reacts if they are its last."""
        marks, before, labels = self._marks, self.position, self._marks.labels
        stale = [self._make_empty(lane, slots) for lane in self._active()]
        folded = self._leader.fold_rows(self._columns(marks.lead), batch, slots)
        if marks.challenged:
            for d in better_by(self.spec.target.kind, folded, self._challenge(folded, batch, slots)).tolist():
                self._test += (d, d * d)  # one after the other: no cut of the events changes a bit
        self._note_rows(slots)
        for lane, kept in zip(self._active(), stale):
            self._put_back(lane, kept, before)
        signals = self._watch(batch, folded, before)
        marks.labels += int(np.count_nonzero(~np.isnan(folded.met()[:, 3])))
        if marks.labels // self._spec.every > labels // self._spec.every:
            signals += self._react()
        columns = (folded.value, folded.code, folded.outcome, folded.scored, folded.expired)
        return Folded(*columns, np.array(signals, np.int64).reshape(-1, 3))

    def _challenge(self, folded: Folded, batch: Batch, slots: np.ndarray) -> Folded:
        """Folds the challenger: the same events, but for those that the learner which serves has ignored."""
        lane = 1 - self._marks.lead
        challenger, columns = self._lanes[lane], self._columns(lane)
        ignored = (folded.outcome & (OUT_OF_ORDER | OBSERVED | UNKNOWN_ID)) == OUT_OF_ORDER
        edges = [0, *(np.flatnonzero(np.diff(ignored)) + 1).tolist(), len(batch)]
        parts = []
        for start, stop in pairwise(edges):
            if start < stop and ignored[start]:
                challenger.pass_over(stop - start)
                parts.append(Folded.passed_over(stop - start, OUT_OF_ORDER))
            else:
                parts.append(challenger.fold_rows(columns, batch.slice(start, stop), slots[start:stop]))
        return Folded.concat(parts)

    def _watch(self, batch: Batch, folded: Folded, before: int) -> list[tuple[int, int, int]]:
        """Shows the detectors what there is to see."""
        detector, met = self._spec.detector, 1
        if detector.on == "inputs":
            seen = (folded.outcome & OBSERVED) > 0
            values = np.where(seen[:, None], batch.x.astype(np.float64), np.nan)
        else:
            met = 2 if len(folded.expired) else 1
            values = losses(self.spec.target.kind, detector.on, folded.met())[:, None]
        found = feed(detector, self._watched, values)
        if not isinstance(self._spec.reaction, Signal):
            self._marks.seen |= int(bool(found))
        return [(before + row // met + 1, DRIFT, column if detector.on == "inputs" else -1) for row, column in found]

    # Rows

    def _active(self) -> tuple[int, ...]:
        return (0, 1) if self._marks.challenged else (self._marks.lead,)

    def _columns(self, lane: int) -> Columns:
        return {name: self.rows.columns[f"{lane}.{name}"] for name in self._names}

    def _make_empty(self, lane: int, slots: np.ndarray) -> tuple[np.ndarray, Columns]:
        """Empties what another learner than that of the lane wrote to rows; returns their slots and what was there.

        The time of the key's last event stays: which events are out of order does not depend on who serves.
        """
        number, owner = self._marks.number(lane), self.rows.columns["learner"]
        stale = np.unique(slots[owner[slots, lane] != number])
        kept = {name: column[stale] for name, column in self._columns(lane).items()}
        kept["learner"] = owner[stale, lane]
        for column in self._columns(lane).values():
            column[stale] = 0
        self._columns(lane)["head"][stale, H_TIME] = self.rows.columns["head"][stale, H_TIME]
        owner[stale, lane] = number
        return stale, kept

    def _note_rows(self, slots: np.ndarray) -> None:
        """Tells the rows, which know of no lanes, that they exist and when they last changed."""
        head = self.rows.columns["head"]
        for lane in self._active():
            column = self.rows.columns[f"{lane}.head"]
            for place in (H_SEEN, H_POSITION):
                head[slots, place] = np.maximum(head[slots, place], column[slots, place])
        head[slots, H_TIME] = self._columns(self._marks.lead)["head"][slots, H_TIME]

    def _put_back(self, lane: int, kept: tuple[np.ndarray, Columns], before: int) -> None:
        """Leaves rows as they were that no event changed: a row that is not written may not change either."""
        stale, columns = kept
        same = self.rows.columns["head"][stale, H_POSITION] <= before
        for name, column in self._columns(lane).items():
            column[stale[same]] = columns[name][same]
        self.rows.columns["learner"][stale[same], lane] = columns["learner"][same]

    # Reacting

    def _react(self) -> list[tuple[int, int, int]]:
        """What takes effect at the end of a block; returns what is to be told of it."""
        marks, reaction, told = self._marks, self._spec.reaction, []
        if isinstance(reaction, Rate):
            if marks.seen:
                marks.until = marks.labels + reaction.span
                told.append(RAISED)
            self._set_rate()
        elif isinstance(reaction, Forget) and marks.seen:
            _forget(self._leader.head_state, reaction.gamma)
            told.append(FORGOTTEN)
        elif isinstance(reaction, Challenger):
            told += self._judge(reaction)
        marks.seen = 0
        return [(self.position, what, -1) for what in told]

    def _set_rate(self) -> None:
        if isinstance(self._spec.reaction, Rate):
            block = self._marks.labels - self._marks.labels % self._spec.every
            raised = block < self._marks.until
            self._leader.scale_rate(self._spec.reaction.factor if raised else 1.0)

    def _judge(self, reaction: Challenger) -> list[int]:
        """Promotes or drops the challenger, or starts one."""
        marks, other = self._marks, 1 - self._marks.lead
        if marks.challenged:
            if is_better(float(self._test[0]), float(self._test[1]), reaction.alpha):
                del self._lanes[marks.lead]
                marks.lead, marks.challenged = other, 0
                return [PROMOTED]
            if marks.labels - marks.started >= reaction.span:
                del self._lanes[other]
                marks.challenged = 0
                return [DROPPED]
        elif marks.seen:
            self._lanes[other] = self._fresh(marks.learners)
            self._lanes[other].begin_at(self.position, self.classes(), self._leader.clock)
            marks.learners += 1
            marks.first, marks.second = (marks.first, marks.learners) if other else (marks.learners, marks.second)
            marks.started, marks.challenged = marks.labels, 1
            self._test[:] = 0.0
            return [STARTED]
        return []

    # Predicting

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """See `learners.base.Learner`."""
        lead, number = self._marks.lead, self._marks.number(self._marks.lead)
        parts = []
        for columns, rows, places in self.rows.where(batch.key, self.position):
            own = {name: columns[f"{lead}.{name}"][:0] for name in self._names}
            own |= {name: columns[f"{lead}.{name}"][places] for name in ("head", "body", "unit")}
            stale = columns["learner"][places, lead] != number
            for name in ("head", "body", "unit"):
                own[name][stale] = 0
            own["head"][stale, H_TIME] = columns["head"][places][stale, H_TIME]
            parts.append((own, rows, np.arange(len(rows))))
        return self._leader.predict_rows(parts, batch, probabilities)

    # State

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """Shared state by name: that of each learner, marks, the test of the challenger, the pickled detectors."""
        data = pickles.dump(self._watched)
        arrays: dict[str, np.ndarray] = {
            "marks": np.array(astuple(self._marks), np.int64),
            "test": self._test,
            "detectors": np.frombuffer(data, np.uint8),
            "signature": np.frombuffer(signing.sign(self._purposes(self.position)[0], data), np.uint8),
        }
        for lane in self._active():
            arrays |= {f"{lane}.{name}": array for name, array in self._lanes[lane].shared_arrays().items()}
        return arrays

    def _purposes(self, position: int) -> list[bytes]:
        """What the signature is for, then what versions before this one called it."""
        return [f"drift detectors of {digest} at {position}".encode() for digest in self.spec.digests()]

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """See `learners.base.Learner`.

        Raises:
            learners.river.signing.Unsigned: the detectors are not signed by this deployment; nothing was changed.
            learners.river.pickles.NotRestorable: they cannot be read, or name what no detector needs; the same.
        """
        marks = _Marks(*shared["marks"].tolist())
        lanes = {}
        for lane in (0, 1) if marks.challenged else (marks.lead,):
            prefix = f"{lane}."
            lanes[lane] = self._fresh(marks.number(lane) - 1)
            own = {name.removeprefix(prefix): array for name, array in shared.items() if name.startswith(prefix)}
            lanes[lane].load(own, MemoryRows())
        data = shared["detectors"].tobytes()
        signature = shared["signature"].tobytes() if "signature" in shared else b""
        signing.verify(self._purposes(lanes[marks.lead].position), data, signature)
        self._watched = pickles.load(data)
        self._marks, self._lanes, self._test = marks, lanes, np.array(shared["test"])
        self._set_rate()
        self.rows.reset(cold)

    def pass_over(self, events: int) -> None:
        """See `learners.base.Learner`."""
        for lane in self._active():
            self._lanes[lane].pass_over(events)


def _forget(bank: Any, gamma: float) -> None:
    """One transition of every filter of a Kalman head with `gamma`; see `kernels.cpu.heads.kalman`."""
    row, column = _filter.places(bank.mean.shape[-1])
    bank.mean[:] *= gamma
    bank.cov[:] *= gamma**2
    bank.cov[:, row == column] += (1.0 - gamma**2) * bank.prior[:, None]
