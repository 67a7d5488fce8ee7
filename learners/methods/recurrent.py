"""The recurrent learner: element-wise recurrences trained by exact RTRL, on every event, with a linear read-out.

    inputs      features standardised by running moments, the key's previous label, the constant 1
    cell        one of `learners.cells`: hidden state and traces per key, weights shared; one or several layers
    read-out    o = V phi + U x with phi the features of the top layer; V and U are zero at the start, so that a
                regression starts as the no-change forecast
    optimizer   one of `learners.optimizers`, one step per label

The gradient of every parameter is exact for frozen weights (element-wise recurrence); under online updates a trace
also carries terms of earlier weights, as in every online RTRL (Irie et al., ICLR 2024, arXiv 2305.19044). With
several layers that of the top one is exact, that of a lower one leaves out the paths through the past of the layers
above it (Zucchet et al., NeurIPS 2023, arXiv 2305.15947).
"""

from __future__ import annotations

import json
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, SerializeAsAny, WrapValidator

from kernels.cpu import fold as kernel
from kernels.cpu import layout
from kernels.cpu.layout import Events, Out, Rows, Scratch, Shared
from learners import recurrence as build
from learners.base import ColdRows, Folded, MemoryRows, Predicted, Row, hash_shared
from learners.cells.base import CellSpec, by_kind, cells
from learners.keyed import CaptureActive, KeyedRows
from learners.optimizers import Adam, Optimizer
from learners.spec import LearnerSpec, ModelSpec, Strict
from streams.batch import OBSERVATION, Batch, Keys

MAX_ROW_BYTES = 64 << 20
"""Bound on the row of a key: it is written to the store, and read from it, in one piece."""

MAX_WEIGHTS_BYTES = 256 << 20
"""Bound on the weights of the recurrence, of output stages and of the encoder with its tables."""

MAX_READ_OUT_BYTES = 256 << 20
"""Bound on the weights of the read-out with all classes."""


class Encoder(Strict):
    """A dense layer that the first recurrent layer sees instead of the inputs; its rows for a category embed it."""

    units: int = Field(32, ge=1, le=65_536, description="Outputs of the encoder.")
    activation: Literal["tanh", "linear"] = Field("tanh", description="What follows the weighted sum.")


class RecurrentSpec(LearnerSpec):
    """One recurrent layer with exact RTRL and a linear read-out with skip connection."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Annotated[SerializeAsAny[CellSpec], WrapValidator(by_kind)] = Field(
        default_factory=lambda: by_kind({"kind": "mingru"}, None), description="The recurrent map."
    )
    encoder: Encoder | None = Field(
        None, description="A trained dense layer between inputs and recurrence; features with categories need it."
    )
    layers: int = Field(
        1, ge=1, le=16, description="Layers of the cell; with more than one only the top one's gradient is exact."
    )
    optimizer: Optimizer = Field(default_factory=Adam, description="How a gradient changes the weights.")
    recurrent_rate: float = Field(
        1.0, ge=0, le=100, description="Rate of the recurrence's weights as a share of `rate`; 0 freezes them."
    )
    weight_decay: float = Field(
        0.0, ge=0, le=10, description="Decay of read-out and output stages, decoupled; the recurrence has none."
    )
    clip_norm: float = Field(0.0, ge=0, description="Bound on the norm of the whole gradient; 0: none.")
    gap_unit: float = Field(
        0.0, ge=0, description="Event time that counts as one step of a cell that knows time; 0: every step is one."
    )
    least_gap: float = Field(
        0.01, gt=0, description="Shorter gaps count as this many units, so that two events at one time are both heard."
    )
    dtype: Literal["float32", "float64"] = Field("float32", description="Type of weights, moments and traces.")
    previous_label: bool = Field(
        True, description="The key's last label that has arrived is an input (with its age when labels are delayed)."
    )
    window: int = Field(5000, ge=2, description="Events over which means and deviations run.")
    clip: float = Field(5.0, gt=0, le=1e3, description="Bound on a standardised input, in deviations.")
    residual_clip: float = Field(
        5.0, gt=0, description="Regression: residuals beyond this many running deviations count linearly (Huber)."
    )

    def build(self, model: ModelSpec) -> RecurrentLearner:
        """A fresh learner for `model`."""
        return RecurrentLearner(model)

    def check(self, model: ModelSpec) -> None:
        """See `learners.spec.LearnerSpec`: a key's row, the weights and the read-out of all classes are bounded.

        Raises:
            ValueError: they would take more than `MAX_ROW_BYTES`, `MAX_WEIGHTS_BYTES` and `MAX_READ_OUT_BYTES`; or
                time, or categories, are given to a learner that has no use for them.
        """
        timed = self.cell.timed
        if self.gap_unit > 0 and not timed:
            known = ", ".join(sorted(kind for kind, cell in cells().items() if cell.timed))
            raise ValueError(f"gap_unit {self.gap_unit:g}: cell {self.cell.kind!r} knows no time; these do: {known}")
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical and self.encoder is None:
            raise ValueError(
                f"features {categorical[:10]} have categories, which reach a recurrent learner through an encoder: "
                "set learner.encoder, e.g. {units: 32}"
            )
        c, size = build.config(model, self), np.dtype(self.dtype).itemsize
        weights, body, held = build.ends(build.plan(self.cell.compiled(), c))
        weights += c.encoded * (c.width + sum(feature.categories for feature in model.features))
        if size * weights > MAX_WEIGHTS_BYTES:
            raise ValueError(
                f"{c.features} features, {c.layers} layers of {c.units} units and an encoder of {c.encoded} take "
                f"{size * weights} bytes of weights, at most {MAX_WEIGHTS_BYTES} are accepted"
            )
        row = size * (body + c.pending * (held + body))
        if row > MAX_ROW_BYTES:
            raise ValueError(
                f"{c.features} features, {c.layers} layers of {c.units} units and {c.pending} pending observations "
                f"take {row} bytes per key, at most {MAX_ROW_BYTES} are accepted"
            )
        read_out = size * max(1, c.max_classes) * (c.hidden + c.width)
        if read_out > MAX_READ_OUT_BYTES:
            raise ValueError(
                f"{c.max_classes} classes of {c.hidden} features and {c.width} inputs take {read_out} bytes, "
                f"at most {MAX_READ_OUT_BYTES} are accepted"
            )


class RecurrentLearner:
    """See the module's docstring. State: `shared_arrays()` and the keyed rows."""

    def __init__(self, model: ModelSpec) -> None:
        spec = model.learner
        assert isinstance(spec, RecurrentSpec)
        self.spec = model
        self._dtype = np.dtype(spec.dtype)
        self._cell = spec.cell.compiled()
        self._config = config = build.config(model, spec)
        self._plan = build.plan(self._cell, config)
        self._capacity = 8 if config.task == layout.MULTICLASS else 1
        self._classes: dict[int | str, int] = {}
        self._tables = build.tables(model, config)
        self._shared = build.shared(self._cell, config, self._plan, model, self._capacity)
        p, (_, body, held) = config.pending, build.ends(self._plan)
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {
            "head": ((layout.HEAD,), np.dtype(np.float64)),
            "body": ((body,), self._dtype),
            "pending_id": ((p, 2), np.dtype(np.uint64)),
            "pending_head": ((p, layout.PENDING_HEAD), np.dtype(np.float64)),
            "pending_body": ((p, held + body if p else 0), self._dtype),
        }
        self.rows = KeyedRows(shapes, model.deployment.slots, MemoryRows())
        self._scratch = self._new_scratch()
        self._reading = self._new_scratch()

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

    def fold(self, batch: Batch) -> Folded:
        """See `learners.base.Learner`.

        Raises:
            learners.keyed.CaptureActive: a running snapshot must finish first; the events before the one that
                raised are folded (`CaptureActive.folded`), the rest are not.
        """
        parts: list[Folded] = []
        start = 0
        while start < len(batch):
            rest = batch.slice(start, len(batch)) if start else batch
            try:
                slots, rows = self.rows.admit(rest.key, self.position)
            except CaptureActive as stopped:
                stopped.folded = Folded.concat(parts) if parts else None
                raise
            piece = rest.slice(0, rows) if rows < len(rest) else rest
            self.rows.before_write(slots)
            parts.append(self._fold_resident(piece, slots))
            start += rows
        return Folded.concat(parts or [self._fold_resident(batch, np.zeros(0, np.int64))])

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        n = len(batch)
        y, classes = batch.y, np.zeros(0, np.int64)
        if self._config.task == layout.MULTICLASS:
            y, classes = self._class_indices(batch)
        new = classes < 0
        out = Out(np.empty(n), np.empty(n, np.int32), np.empty(n, np.uint8), np.empty((n, 4)))
        events = Events._make(map(layout.plain, (batch.x, batch.kind, y, slots, batch.time, batch.id, classes)))
        kernel.fold(self._cell, self._config, self._shared, Rows(**self.rows.columns), events, out, self._scratch)
        if len(classes):
            learned = np.flatnonzero(new & (classes >= 0))
            for code in learned[np.argsort(classes[learned])]:
                self._classes[batch.classes[code]] = int(classes[code])
        return Folded(*out)

    def _class_indices(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The labels as codes, and the model's index of each code, -1 where the fold may have to choose one.

        The fold chooses when it learns a label, so that a label without effect leaves no class behind.
        """
        y = batch.y
        indices = np.full(len(batch.classes), -1, np.int64)
        codes: dict[int | str, int] = {}
        for code in np.unique(y[batch.kind != OBSERVATION]).astype(np.int64):
            label = batch.classes[code]
            if label in codes:  # the batch lists this label twice
                y = np.where(y == code, codes[label], y)
                continue
            codes[label] = int(code)
            indices[code] = self._classes.get(label, -1)
        fresh = sum(indices[code] < 0 for code in codes.values())
        self._reserve(min(self._config.max_classes, len(self._classes) + fresh))
        return y, indices

    def _reserve(self, classes: int) -> None:
        """Room for `classes` logits; capacity is not state."""
        if classes <= self._capacity:
            return
        while self._capacity < classes:
            self._capacity *= 2
        grown = {}
        for name in ("out", "m_out", "v_out", "skip", "m_skip", "v_skip"):
            old = getattr(self._shared, name)
            grown[name] = np.zeros((self._capacity, old.shape[1]), self._dtype)
            grown[name][: len(old)] = old
        self._shared = self._shared._replace(**grown)
        self._scratch, self._reading = self._new_scratch(), self._new_scratch()

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """See `learners.base.Learner`."""
        n = len(batch)
        slots = self.rows.lookup(batch.key)
        value, code = np.empty(n), np.empty(n, np.int32)
        classes = len(self.classes()) if probabilities and self._config.task != layout.REGRESSION else 0
        table = np.zeros((n, classes) if classes else (0, 0), np.float32)
        resident = slots >= 0
        if resident.all():
            self._predict_from(self.rows.columns, batch.x, batch.time, slots, value, code, table)
        else:
            absent = np.flatnonzero(~resident)
            columns = self.rows.peek([batch.key[row] for row in absent.tolist()], self.position)
            parts = [(columns, absent, np.arange(len(absent)))]
            if resident.any():
                parts.append((self.rows.columns, np.flatnonzero(resident), slots[resident]))
            for source, rows, places in parts:
                v, c, t = np.empty(len(rows)), np.empty(len(rows), np.int32), table[rows] if classes else table
                self._predict_from(source, np.ascontiguousarray(batch.x[rows]), batch.time[rows], places, v, c, t)
                value[rows], code[rows] = v, c
                if classes:
                    table[rows] = t
        if classes and self._config.task == layout.BINARY:
            table = np.column_stack([1.0 - value, value]).astype(np.float32)
        return Predicted(value, code, table if classes else None)

    def _predict_from(self, columns, x, time, slots, value, code, table) -> None:
        wanted = table if self._config.task == layout.MULTICLASS else np.zeros((0, 0), np.float32)
        model, events = (self._cell, self._config, self._shared), (layout.plain(x), layout.plain(time), slots)
        kernel.predict_each(*model, Rows(**columns), *events, value, code, wanted, self._reading)

    # State

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """Shared state by name; logits trimmed to the classes known."""
        live = max(1, len(self._classes))
        arrays = {}
        for name, array in self._shared._asdict().items():
            arrays[name] = array[:live] if name.endswith(("out", "skip")) else array
        arrays["classes"] = np.frombuffer(json.dumps(list(self._classes)).encode(), np.uint8)
        return arrays

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """See `learners.base.Learner`."""
        self._classes = {label: i for i, label in enumerate(json.loads(bytes(shared["classes"])))}
        self._capacity = 8 if self._config.task == layout.MULTICLASS else 1
        arrays = {name: np.array(shared[name]) for name in Shared._fields}
        for name in ("out", "m_out", "v_out", "skip", "m_skip", "v_skip"):
            padded = np.zeros((self._capacity, arrays[name].shape[1]), self._dtype)
            live = min(len(arrays[name]), self._capacity)
            padded[:live] = arrays[name][:live]
            if len(arrays[name]) > self._capacity:
                padded = arrays[name].copy()
            arrays[name] = padded
        self._capacity = max(self._capacity, len(arrays["out"]))
        self._shared = Shared(**arrays)
        self._scratch, self._reading = self._new_scratch(), self._new_scratch()
        self.rows.reset(cold)

    def attach(self, cold: ColdRows) -> None:
        """Sends evictions to `cold` from now on (before the first event)."""
        self.rows.reset(cold)

    def pass_over(self, events: int) -> None:
        """See `learners.base.Learner`."""
        self._shared.counters[layout.C_POSITION] += events

    def digest(self) -> str:
        """See `learners.base.Learner`."""
        sha = hash_shared(self.shared_arrays())
        for key, content in self.rows.all_rows(self.position):
            sha.update(len(key).to_bytes(4, "little") + key + content)
        return sha.hexdigest()

    def begin_capture(self, since: int) -> dict[str, np.ndarray]:
        """See `learners.base.Learner`."""
        self.rows.begin_capture(since, self.position)
        return {name: np.array(array) for name, array in self.shared_arrays().items()}

    def capture(self, limit: int) -> list[Row] | None:
        """See `learners.base.Learner`."""
        return self.rows.capture(limit)

    def end_capture(self, written: int | None = None) -> None:
        """See `learners.keyed.KeyedRows.end_capture`."""
        self.rows.end_capture(written)

    def resident_keys(self) -> int:
        """Keys in memory."""
        return len(self.rows)

    def resident(self, keys: Keys) -> bool:
        """See `learners.base.Learner`."""
        return bool((self.rows.lookup(keys) >= 0).all())
