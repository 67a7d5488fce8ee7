"""Learners whose fold is compiled: a map from inputs to features, a head, an optimizer, in one loop over the events.

    inputs      features standardised by running moments, the key's previous label, the constant 1
    map         a recurrence of `learners.cells`, or features of this event alone (`learners.methods.static`)
    head        one of `learners.heads`
    optimizer   one of `learners.optimizers`, one step per label, for heads and maps that learn by gradients

A kind of learner is a `CompiledSpec` that says what the map is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from typing import Annotated, Any, Literal, NamedTuple, cast

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator

from kernels.cpu import fold as kernel
from kernels.cpu import layout
from kernels.cpu.bound import Binding
from kernels.cpu.ekf import MOST_CLASSES
from kernels.cpu.layout import READ_OUT, Model, Out, Rows, Scratch, Shared
from learners import recurrence as build
from learners.base import ColdRows, Folded, MemoryRows, Predicted
from learners.cells.base import CellSpec
from learners.classes import note_learned, resolve
from learners.compiled_exchange import quantities, take_on
from learners.exchange import REFUSED, ROUND, Arrays, Exchange, Quantities, classes_of
from learners.heads.base import HeadSpec, SelfTaught, beside, state_arrays, with_room, with_state
from learners.keyed import Columns, KeyedLearner, KeyedRows
from learners.optimizers import EKF, Adam, Optimizer
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import Batch

MAX_ROW_BYTES = 64 << 20
"""Bound on the row of a key: it is written to the store, and read from it, in one piece."""

MAX_READ_OUT_BYTES = 256 << 20
"""Bound on the weights of the read-out with all classes."""

CAPACITY = {layout.BINARY: 2, layout.MULTICLASS: 8, layout.REGRESSION: 1}
"""Classes that there is room for at first; only those of a multi-class target become more."""

MAX_EXCHANGED_BYTES = 4 << 20
"""Bound on what partitions give each other at a time: it becomes one entry of a log, twice as large where a partition
was split."""


_ROWS = itemgetter(*Rows._fields)
"""Of columns by name those of `Rows`."""


class CompiledSpec(LearnerSpec):
    """What the specs of all compiled learners share. A subclass says what lies below the head."""

    head: Annotated[SerializeAsAny[HeadSpec], WrapValidator(HeadSpec.by_kind)] = Field(
        default_factory=lambda: HeadSpec.by_kind({}, None), description="From features to a prediction."
    )
    optimizer: Optimizer = Field(default_factory=Adam, description="How a gradient changes the weights.")
    weight_decay: float = Field(
        0.0, ge=0, le=10, description="Decay of read-out and output stages, decoupled; the recurrence has none."
    )
    clip_norm: float = Field(0.0, ge=0, description="Bound on the norm of the whole gradient; 0: none.")
    dtype: Literal["float32", "float64"] = Field("float32", description="Type of weights, moments and traces.")
    previous_label: bool = Field(
        True, description="The key's last label that has arrived is an input (with its age when labels are delayed)."
    )
    standardise: bool = Field(
        True,
        description="Features are standardised by running moments. Without it they are taken as they are, within "
        "`clip`: for those that are scaled already, so that a head in closed form does not hang on the order.",
    )
    window: int = Field(5000, ge=2, description="Events over which means and deviations run.")
    clip: float = Field(
        5.0, gt=0, le=1e3, description="Bound on an input: in deviations, or as it is without `standardise`."
    )
    residual_clip: float = Field(
        5.0, gt=0, description="Regression: residuals beyond this many running deviations count linearly (Huber)."
    )
    gradient_clip: float = Field(
        5.0,
        ge=0,
        description="Regression with a linear head: a label whose gradient is longer than this many times the mean of "
        "late counts as one of that length; 0: no bound.",
    )

    def map(self, model: ModelSpec) -> Any:
        """What lies below the head, as compiled code takes it: a named tuple of `kernels.cpu.cells`."""
        raise NotImplementedError(f"learner kind {self.kind!r} has no map")

    def initial(self, layer: int, width: int) -> np.ndarray:
        """float64: the weights of a layer with `width` inputs at the start, flat as in `kernels.cpu.cells`."""
        return np.zeros(0)

    def shape(self) -> build.Shape:
        """Layers, units and features of the map."""
        raise NotImplementedError(f"learner kind {self.kind!r} has no shape")

    def build(self, model: ModelSpec) -> CompiledLearner:
        """A fresh learner for `model`."""
        return CompiledLearner(model)

    def check(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`: the head fits the target, and what it holds is bounded.

        Raises:
            ValueError: the head cannot learn this kind of target, or the row of a key, the read-out of all classes or
                the head would be too large.
        """
        if model.target.kind not in self.head.targets:
            known = ", ".join(self.head.targets)
            raise ValueError(f"head {self.head.kind!r} cannot learn a {model.target.kind} target, only: {known}")
        c, size = build.config(model, self), np.dtype(self.dtype).itemsize
        row = self.row_bytes(model)
        if row > MAX_ROW_BYTES:
            raise ValueError(
                f"{c.features} features, {c.layers} layers of {c.units} units and {model.labels.pending} pending "
                f"observations with credit {model.labels.credit!r} take {row} bytes per key, at most {MAX_ROW_BYTES} "
                f"are accepted; credit 'head' holds {size * (c.hidden + c.width)} bytes of an observation"
            )
        read_out = size * max(1, c.max_classes) * (c.hidden + c.width)
        if read_out > MAX_READ_OUT_BYTES:
            raise ValueError(
                f"{c.max_classes} classes of {c.hidden} features and {c.width} inputs take {read_out} bytes, "
                f"at most {MAX_READ_OUT_BYTES} are accepted"
            )
        self.head.check(c)
        self._check_filter(model, c)

    def check_exchange(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`: every array says how it combines, and together they are bounded.

        Raises:
            ValueError: naming what cannot be exchanged.
        """
        if isinstance(self.optimizer, EKF):
            raise ValueError("optimizer 'ekf' keeps variances of weights, for which partitions have no exchange")
        c = build.config(model, self)
        weights, _, _ = build.ends(build.plan(self.map(model), c))
        weights += c.encoded * (c.width + sum(feature.categories for feature in model.features))
        classes = max(1, c.max_classes)
        weights += int(self.head.optimized) * classes * (c.hidden + c.width)
        item, policy = np.dtype(self.dtype).itemsize, model.deployment.exchange
        size = weights * (item * sum(build.MOMENTS[c.optimizer]) + (8 if policy and policy.weights == "sum" else item))
        if isinstance(self.head, SelfTaught):
            size += 8 * self.head.numbers(self.head.size(c), max(2, classes))
        if size > MAX_EXCHANGED_BYTES:
            raise ValueError(
                f"weights, moments and head with all classes take {size} bytes, and every exchange is written to the "
                f"log: at most {MAX_EXCHANGED_BYTES} are accepted"
            )
        if not hasattr(self.head.compiled(c, classes, self.seed), "EXCHANGED"):
            raise ValueError(f"head {self.head.kind!r} does not say how partitions exchange what it has learned")

    def row_bytes(self, model: ModelSpec) -> int:
        """Bytes of state, traces and pending observations of a key, but for a few counts."""
        c = build.config(model, self)
        plan = build.plan(self.map(model), c)
        return np.dtype(self.dtype).itemsize * (build.ends(plan)[1] + c.pending * build.held_for_label(c, plan))

    def _check_filter(self, model: ModelSpec, c: layout.Config) -> None:
        """Refuses what the optimizer `ekf` cannot do.

        Raises:
            ValueError: naming the field, its value, and what is accepted.
        """
        if not isinstance(self.optimizer, EKF):
            return
        if c.head_credit:
            raise ValueError("labels.credit 'head': optimizer 'ekf' moves all weights together, 'exact' is accepted")
        if self.head.kind != "linear":
            raise ValueError(f"optimizer 'ekf' trains a head of kind 'linear' only, head.kind is {self.head.kind!r}")
        if c.max_classes > MOST_CLASSES:
            raise ValueError(
                f"target.max_classes {c.max_classes}: optimizer 'ekf' accepts at most {MOST_CLASSES} classes"
            )
        below = self.map(model)
        if below.SHARED:
            kinds = {kind: cell().compiled() for kind, cell in CellSpec.known().items()}
            refused = ", ".join(kind for kind, cell in kinds.items() if type(cell) is type(below))
            accepted = ", ".join(sorted(kind for kind, cell in kinds.items() if not cell.SHARED))
            raise ValueError(
                f"cell.kind {refused!r}: a weight of it reaches several units, for which optimizer 'ekf' is not made; "
                f"accepted: {accepted}"
            )
        for name in ("weight_decay", "clip_norm"):
            if getattr(self, name) > 0:
                raise ValueError(f"{name} {getattr(self, name):g}: optimizer 'ekf' has no rate, 0 is accepted")


class _Said(NamedTuple):
    """What `predict` fills in, for n events."""

    value: np.ndarray
    code: np.ndarray
    table: np.ndarray
    spread: np.ndarray


class CompiledLearner(KeyedLearner):
    """See the module's docstring. State: `shared_arrays()` and the keyed rows."""

    def __init__(self, model: ModelSpec) -> None:
        spec = model.learner
        assert isinstance(spec, CompiledSpec)
        self.spec = model
        self._dtype = np.dtype(spec.dtype)
        config = build.config(model, spec)
        self._cell = spec.map(model)
        self._plan = build.plan(self._cell, config)
        self._config = config = build.with_filter(self._cell, config, self._plan, spec)
        self._rate = config.rate
        self._capacity = CAPACITY[config.task]
        self._classes: dict[int | str, int] = {}
        self.exchange = Exchange(config.window)
        self._head = spec.head.compiled(config, self._capacity, spec.seed)
        self._knows = spec.head.knows(config.task)
        self._tables = build.tables(model, config)
        rows = self._capacity if config.task == layout.MULTICLASS else 1
        self._shared = build.shared(config, self._plan, model, rows)
        self.rows = KeyedRows(self.row_shapes(), model.deployment.slots, MemoryRows())
        self._bound_rows = Binding(Rows)
        self._renew_work()

    def row_shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and dtype of each column of a key's row; see `kernels.cpu.layout.Rows`."""
        p, (_, body, _) = self._config.pending, build.ends(self._plan)
        return {
            "head": ((layout.HEAD,), np.dtype(np.float64)),
            "body": ((body,), self._dtype),
            "pending_id": ((p, 2), np.dtype(np.uint64)),
            "pending_head": ((p, layout.PENDING_HEAD), np.dtype(np.float64)),
            "pending_body": ((p, build.held_for_label(self._config, self._plan) if p else 0), self._dtype),
            **layout.own_shapes(self._config.task),
        }

    def _new_scratch(self) -> Scratch:
        return build.scratch(self._cell, self._config, self._plan, self._tables, self._capacity, self._dtype)

    # Folding

    @property
    def position(self) -> int:
        """Events folded so far."""
        return int(self._shared.counters[layout.C_POSITION])

    def classes(self) -> tuple[int | str, ...]:
        """The labels known; for a binary target the two of the spec."""
        if self.spec.target.kind == "binary":
            return self.spec.target.labels
        return tuple(self._classes)

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        return self.fold_rows(self.rows.columns, batch, slots)

    def fold_rows(self, columns: Columns, batch: Batch, slots: np.ndarray) -> Folded:
        """Folds events whose rows are in `columns` (as `row_shapes` says), in the slots int64 [n]."""
        n = len(batch)
        y, labels, classes = batch.y, batch.classes, np.zeros(0, np.int64)
        if self._config.task == layout.MULTICLASS:
            if (default := self.spec.labels.default_label) is not None:
                labels = (*labels, cast(int | str, default))
            y, classes, most = resolve(batch, labels, self._classes)
            self._reserve(min(self._config.max_classes, most))
        expired = np.empty((n if self._config.pending else 0, 5))
        out = Out(np.empty(n), np.empty(n, np.int32), np.empty(n, np.uint8), np.empty((n, 5)), expired)
        events = map(layout.plain, (batch.x, batch.kind, y, slots, batch.time, batch.id, classes))
        model = self._folding.of((self._cell, self._head, self._config, self._shared, self._scratch))
        kernel.fold(model, self._bound_rows.of(_ROWS(columns)), *events, *out)
        if len(classes):
            note_learned(labels, classes, self._classes)
        return Folded(*out)

    def _reserve(self, classes: int) -> None:
        """Room for `classes` logits; capacity is not state."""
        if classes <= self._capacity:
            return
        while self._capacity < classes:
            self._capacity *= 2
        grown = {}
        for name in READ_OUT:
            old = getattr(self._shared, name)
            grown[name] = layout.zeros((self._capacity, old.shape[1]), self._dtype)
            grown[name][: len(old)] = old
        self._shared = self._shared._replace(**grown)
        self._head = with_room(self._head, self._capacity)
        self._renew_work()

    def _renew_work(self) -> None:
        self._reader = beside(self._head)
        self._scratch, self._reading_scratch = self._new_scratch(), self._new_scratch()
        self._folding, self._reading = Binding(Model), Binding(Model)  # what was bound before is let go

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """See `learners.base.Learner`."""
        return self.predict_rows(self.rows.where(batch.key, self.position), batch, probabilities)

    def predict_rows(
        self, parts: list[tuple[Columns, np.ndarray, np.ndarray]], batch: Batch, probabilities: bool
    ) -> Predicted:
        """Predicts events whose rows are where `parts` says (see `KeyedRows.where`)."""
        n = len(batch)
        classes = len(self.classes()) if probabilities and self._config.task != layout.REGRESSION else 0
        said = _Said(np.empty(n), np.empty(n, np.int32), np.zeros((n, classes), np.float32), np.empty((n, 3)))
        if len(parts) == 1:
            self._predict_from(parts[0][0], batch.x, batch.time, parts[0][2], said)
        else:
            for source, rows, places in parts:
                part = _Said(*(np.ascontiguousarray(array[rows]) for array in said))
                self._predict_from(source, np.ascontiguousarray(batch.x[rows]), batch.time[rows], places, part)
                for whole, some in zip(said, part):
                    whole[rows] = some
        if self._config.task == layout.REGRESSION:
            said.spread[said.spread == np.inf] = np.nan  # a variance beyond float64 is one that is not known
        spread = (said.spread[:, k] if known else None for k, known in enumerate(self._knows))
        return Predicted(said.value, said.code, said.table if classes else None, *spread)

    def _predict_from(self, columns, x, time, slots, said: _Said) -> None:
        model = self._reading.of((self._cell, self._reader, self._config, self._shared, self._reading_scratch))
        rows = self._bound_rows.of(_ROWS(columns))
        kernel.predict_each(model, rows, layout.plain(x), layout.plain(time), slots, *said)

    # State

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """Shared state by name; logits trimmed to the classes known."""
        live = self._known_classes()
        arrays = {}
        for name, array in self._shared._asdict().items():
            arrays[name] = array[:live] if name.endswith(("out", "skip")) else array
        for name, array in state_arrays(self._head, self._known_classes()).items():
            arrays[f"head.{name}"] = array
        arrays["classes"] = np.frombuffer(json.dumps(list(self._classes)).encode(), np.uint8)
        return arrays | self.exchange.arrays() if self.spec.deployment.exchange else arrays

    def _known_classes(self) -> int:
        """Classes that arrays are trimmed to; of a binary target and a regression all that there are."""
        return max(1, len(self._classes)) if self._config.task == layout.MULTICLASS else self._capacity

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """See `learners.base.Learner`."""
        self._classes = {label: i for i, label in enumerate(json.loads(bytes(shared["classes"])))}
        self._capacity = CAPACITY[self._config.task]
        while self._capacity < len(self._classes):
            self._capacity *= 2
        target = shared["target"] if self._config.task == layout.REGRESSION else None
        scaler = layout.whole_scaler(shared["scaler"], target)
        shared = shared | {"scaler": scaler, "target": layout.whole_target(shared["target"])}
        arrays = {name: layout.on_lines(shared[name]) for name in Shared._fields}
        rows = len(self._shared.out) if self._config.task != layout.MULTICLASS else self._capacity
        for name in READ_OUT:
            padded = layout.zeros((rows, arrays[name].shape[1]), self._dtype)
            padded[: len(arrays[name])] = arrays[name]
            arrays[name] = padded
        for name, fresh in self._shared._asdict().items():
            if name not in READ_OUT and arrays[name].shape != fresh.shape:
                raise ValueError(f"array {name}: shape {arrays[name].shape}, this version holds {fresh.shape}")
        self._shared = Shared(**arrays)
        prefix = "head."
        state = {name.removeprefix(prefix): array for name, array in shared.items() if name.startswith(prefix)}
        self._head = with_state(with_room(self._head, self._capacity), state)
        if self.spec.deployment.exchange:
            self.exchange.load(shared)
        self._renew_work()
        self.rows.reset(cold)

    @property
    def clock(self) -> np.ndarray:
        """Of the partition: a view of the state of `kernels.cpu.clock`."""
        return self._shared.target[layout.T_CLOCK : layout.T_AWAY + 1]

    def begin_at(self, position: int, classes: tuple[int | str, ...], clock: np.ndarray) -> None:
        """A fresh learner goes on from `position`, by this clock; it numbers classes as one that knows `classes`."""
        self.pass_over(position)
        self.clock[:] = clock
        if self._config.task == layout.MULTICLASS:
            self._reserve(len(classes))
            self._know(classes)

    def _know(self, classes: Sequence[int | str]) -> None:
        self._classes = {label: code for code, label in enumerate(classes)}
        self._shared.counters[layout.C_CLASSES] = len(classes)

    # Exchange with other partitions: see `learners.exchange.Exchanging`

    def contribution(self) -> Arrays:
        """See `Exchanging`."""
        now = self._quantities(self._known_classes())
        classes = np.frombuffer(json.dumps(list(self.classes())).encode(), np.uint8)
        return {"classes": classes} | self.exchange.contribution(now, self._steps)

    def receive(self, received: Arrays) -> None:
        """See `Exchanging`; one that does not follow the last one was folded before."""
        if received["round"][0] != self.exchange.counts[ROUND] + 1:
            return
        known, classes = self._known_classes(), classes_of(received)
        self._reserve(len(classes))  # capacity is not state
        before = self._quantities(max(known, len(classes)))
        after, exchange = self.exchange.received(before, self._steps, known, received)
        if take_on(self._shared, self._head, before, after, self._config.window):
            self.exchange = exchange
            if self._config.task == layout.MULTICLASS and len(classes) > len(self._classes):
                self._know(classes)
        else:
            self.exchange.counts[REFUSED] += 1
        self.exchange.counts[ROUND] += 1

    def begin_apart(self, parent: str) -> None:
        """See `Exchanging`."""
        now = self._quantities(self._known_classes())
        self.exchange.begin_apart(now, self._steps, parent)

    def _quantities(self, classes: int) -> Quantities:
        policy = self.spec.deployment.exchange
        return quantities(self._shared, self._head, classes, policy.weights if policy else "mean")

    @property
    def _steps(self) -> int:
        return int(self._shared.counters[layout.C_STEPS])

    def scale_rate(self, factor: float) -> None:
        """The optimizer's rate is that of the spec times `factor` from now on."""
        self._config = self._config._replace(rate=factor * self._rate)

    @property
    def head_state(self) -> Any:
        """The state of a head that keeps more than weights, None of another; changed in place."""
        return getattr(self._head, "state", None)

    def pass_over(self, events: int) -> None:
        """See `learners.base.Learner`."""
        self._shared.counters[layout.C_POSITION] += events
