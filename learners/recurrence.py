"""The arrays of a recurrent learner: sizes, places and initial values, from its spec."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kernels.cpu import layout
from kernels.cpu.cells import sizes
from kernels.cpu.ekf import make_filter
from kernels.cpu.layout import Config, Scratch, Shared
from learners.cells.base import Draws
from learners.optimizers import EKF, Adam, ObGD, RMSprop
from learners.spec import BinaryTarget, LabelPolicy, ModelSpec, MulticlassTarget

if TYPE_CHECKING:
    from learners.compiled import CompiledSpec

CLASS_SLOTS = 8
"""Inputs that carry the previous label of a multi-class target: one-hot of its index modulo this."""

ENCODER = 1 << 20
"""Number of the encoder among the layers whose random numbers must differ."""

TASKS = {"binary": layout.BINARY, "multiclass": layout.MULTICLASS, "regression": layout.REGRESSION}
OPTIMIZERS = {"sgd": layout.SGD, "adam": layout.ADAM, "rmsprop": layout.RMSPROP, "obgd": layout.OBGD, "ekf": layout.EKF}
MOMENTS = {layout.SGD: (0, 0), layout.ADAM: (1, 1), layout.RMSPROP: (0, 1), layout.OBGD: (0, 0), layout.EKF: (0, 1)}
"""Whether an optimizer keeps a first and a second moment; the filter keeps its variances as the second."""


class Shape(NamedTuple):
    """What lies below the head; see `Config` for the fields."""

    layers: int = 1
    units: int = 0
    hidden: int = 0
    encoded: int = 0
    encoder_tanh: bool = False
    recurrent_rate: float = 0.0
    gap_unit: float = 0.0
    least_gap: float = 1.0


def config(model: ModelSpec, spec: CompiledSpec) -> Config:
    """The scalars of the fold."""
    task, optimizer, shape = TASKS[model.target.kind], spec.optimizer, spec.shape()
    labels = {layout.BINARY: 1, layout.MULTICLASS: CLASS_SLOTS, layout.REGRESSION: 2}[task]
    labels = labels if spec.previous_label else 0
    age = int(spec.previous_label and model.labels.arrive == "delayed")
    beta1, beta2 = optimizer.betas if isinstance(optimizer, Adam) else (0.0, 0.0)
    return Config(
        layers=shape.layers,
        units=shape.units,
        hidden=shape.hidden,
        features=len(model.features),
        width=len(model.features) + labels + age + 1,
        task=task,
        label_inputs=labels,
        age_input=age,
        optimizer=OPTIMIZERS[optimizer.kind],
        rate=0.0 if isinstance(optimizer, EKF) else optimizer.rate,
        beta1=beta1,
        beta2=optimizer.beta if isinstance(optimizer, RMSprop) else beta2,
        epsilon=optimizer.epsilon if isinstance(optimizer, Adam | RMSprop) else 0.0,
        kappa=optimizer.kappa if isinstance(optimizer, ObGD) else 0.0,
        decay=spec.weight_decay,
        clip_norm=spec.clip_norm,
        recurrent_rate=shape.recurrent_rate,
        gap_unit=shape.gap_unit,
        least_gap=shape.least_gap,
        forget_unit=spec.head.step_of_forgetting,
        scaled=int(spec.standardise),
        window=float(spec.window),
        clip=spec.clip,
        residual_clip=spec.residual_clip,
        gradient_clip=spec.gradient_clip,
        ignore_out_of_order=int(model.labels.out_of_order == "ignore"),
        pending=places(model.labels),
        head_credit=int(model.labels.credit == "head"),
        horizon=float(model.labels.horizon),
        horizon_time=float(model.labels.horizon_time),
        defaults=int(model.labels.default_label is not None),
        default_label=_default_label(model),
        max_classes=model.target.max_classes if isinstance(model.target, MulticlassTarget) else 0,
        encoded=shape.encoded,
        encoder_tanh=int(shape.encoder_tanh),
    )


def places(policy: LabelPolicy) -> int:
    """Places of a key's ring: a default label needs one more, as the oldest is learned after the newest is held."""
    return policy.pending + int(policy.default_label is not None)


def _default_label(model: ModelSpec) -> float:
    label, target = model.labels.default_label, model.target
    if isinstance(target, BinaryTarget):
        return float(label == target.labels[1])
    return float(label) if label is not None and target.kind == "regression" else 0.0


def with_filter(cell: Any, c: Config, places: np.ndarray, spec: CompiledSpec) -> Config:
    """The scalars of the fold, with what its optimizer needs beside."""
    optimizer = spec.optimizer
    if not isinstance(optimizer, EKF):
        return c
    recurrent = c.recurrent_rate * optimizer.prior
    settings = (int(optimizer.form == "variational"), optimizer.prior, recurrent, optimizer.gamma**2, optimizer.floor)
    columns = int(places[:-1, layout.L_OUT_COLUMNS].max())
    sizes = (max(1, c.max_classes), c.layers, cell.ORDER * c.units, columns, c.encoded, longest_row(c, places))
    return c._replace(filter=make_filter(settings, sizes, np.dtype(spec.dtype)))


def longest_row(c: Config, places: np.ndarray) -> int:
    """Weights of the longest row of any array."""
    return max(c.units, c.hidden, c.width, *places[:-1, [layout.L_WIDTH, layout.L_OUT_COLUMNS]].max(0).tolist())


def plan(cell: Any, c: Config) -> np.ndarray:
    """int64 [L + 1, 7]: see `Scratch.plan`."""
    rows = []
    weights = body = held = 0
    for layer in range(c.layers):
        below = c.encoded if layer == 0 else c.hidden
        width = below + 1 if below else c.width
        found = sizes(cell, width)
        out = weights + found.out
        rows.append((width, weights, out, found.out_rows, found.out_columns, body, held))
        weights += found.weights
        body += found.body
        held += width + cell.MATRICES * cell.ORDER * c.units
    held += (c.width + c.features) if c.encoded else 0
    return np.array([*rows, (0, weights, weights, 0, 0, body, held)], np.int64)


def tables(model: ModelSpec, c: Config) -> np.ndarray:
    """int64 [D, 2]: see `Scratch.tables`."""
    categories = np.array([feature.categories for feature in model.features], np.int64)
    return np.column_stack([categories, c.width + np.cumsum(categories) - categories])


def ends(places: np.ndarray) -> tuple[int, int, int]:
    """Numbers of weights, of state and traces per key, and of what is held beside those for a label, of a `plan`."""
    last = places[-1]
    return int(last[layout.L_WEIGHTS]), int(last[layout.L_BODY]), int(last[layout.L_HELD])


def held_for_label(c: Config, plan: np.ndarray) -> int:
    """Numbers that are held of an observation until its label comes."""
    _, body, held = ends(plan)
    return c.hidden + c.width if c.head_credit else held + body


def _encoder(c: Config, model: ModelSpec, seed: int) -> np.ndarray:
    """float64: the initial weights of the encoder and of its tables, flat."""
    draws, rows = Draws(seed, ENCODER), sum(feature.categories for feature in model.features)
    embeddings = draws.uniform(1, rows, c.encoded, low=-1.0) * math.sqrt(3.0)
    return np.concatenate([draws.inputs(0, c.width, c.encoded), embeddings]).reshape(-1)


def shared(c: Config, places: np.ndarray, model: ModelSpec, classes: int) -> Shared:
    """The arrays that all keys share, at their initial values, with room for `classes` logits."""
    spec: Any = model.learner
    dtype = np.dtype(spec.dtype)
    widths = places[:-1, layout.L_WIDTH].tolist()
    weights = np.concatenate([spec.initial(k, width) for k, width in enumerate(widths)])
    if c.encoded:
        weights = np.concatenate([weights, _encoder(c, model, spec.seed)])
    first, second = MOMENTS[c.optimizer]
    linear = int(spec.head.optimized)

    def zeros(rows: int, columns: int, kept: int = 1) -> np.ndarray:
        return np.zeros((rows, columns * kept), dtype)

    made = Shared(
        cell=weights.astype(dtype),
        m_cell=np.zeros(len(weights) * first, dtype),
        v_cell=np.zeros(len(weights) * second, dtype),
        out=zeros(classes, linear * c.hidden),
        m_out=zeros(classes, linear * c.hidden, first),
        v_out=zeros(classes, linear * c.hidden, second),
        skip=zeros(classes, linear * c.width),
        m_skip=zeros(classes, linear * c.width, first),
        v_skip=zeros(classes, linear * c.width, second),
        scaler=np.zeros((c.features + layout.TARGET_COLUMNS * int(c.task == layout.REGRESSION), layout.SCALER)),
        target=np.zeros(layout.TARGET),
        decay=np.ones(2),
        counters=np.zeros(layout.COUNTERS, np.int64),
    )
    return Shared(*map(layout.on_lines, made))


def scratch(cell: Any, c: Config, places: np.ndarray, categories: np.ndarray, classes: int, dtype: np.dtype) -> Scratch:
    """Working memory of a call, with room for `classes` logits."""
    n, layers, order = c.units, c.layers, cell.ORDER
    inputs = int(places[:-1, layout.L_WIDTH].max())
    rows = int(places[:-1, layout.L_OUT_ROWS].max())
    columns = int(places[:-1, layout.L_OUT_COLUMNS].max())

    def zeros(*shape: int) -> np.ndarray:
        return layout.zeros(shape, dtype)

    x = zeros(layers, inputs)
    return Scratch(
        plan=places,
        x=x,
        work=zeros(layout.WORK_ROWS, cell.room()),
        h=zeros(layers, order * n),
        phi=zeros(layers, c.hidden),
        jac=zeros(layers, order * order, n),
        factor=zeros(layers, cell.MATRICES * order, n),
        vec=zeros(layers, cell.VECTORS * order, n),
        error=zeros(layers, order * n),
        d_phi=zeros(layers, c.hidden),
        out_inputs=zeros(layers, rows),
        out_gate=zeros(layers, columns),
        d_out=zeros(layers, columns),
        row=zeros(longest_row(c, places)),
        logits=np.zeros(max(2, classes)),
        spread=np.full(3, np.nan),
        unit=np.zeros(1),
        d_logits=np.zeros(classes),
        inputs=zeros(c.width) if c.encoded else x[0],
        tables=categories,
        code=np.full(c.features, -1, np.int64),
        d_encoded=zeros(c.encoded),
    )
