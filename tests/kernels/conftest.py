"""Models and events for the kernels, built without anything above them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kernels.cpu import fold as cpu
from kernels.cpu.bound import Bound
from kernels.cpu.heads.linear import Linear
from kernels.cpu.layout import (
    ADAM,
    COUNTERS,
    HEAD,
    L_BODY,
    L_HELD,
    L_OUT_COLUMNS,
    L_OUT_ROWS,
    L_WIDTH,
    MULTICLASS,
    OBGD,
    PENDING_HEAD,
    REGRESSION,
    RMSPROP,
    SCALER,
    SGD,
    TARGET,
    TARGET_COLUMNS,
    Config,
    Events,
    Model,
    Out,
    Rows,
    Scratch,
    Shared,
    own_shapes,
)
from kernels.reference.cells import shapes
from tests.kernels.cell_cases import CASES, draw


def make_config(task: int, cell: str, units: int, features: int, **changes) -> Config:
    labels = changes.pop("label_inputs", (1, 8, 2)[task])
    age = changes.pop("age_input", 0)
    made = CASES[cell].make(units)
    plain = {
        "layers": 1,
        "units": made.units,
        "hidden": getattr(made, "channels", made.ORDER * made.units),
        "features": features,
        "width": features + labels + age + 1,
        "task": task,
        "label_inputs": labels,
        "age_input": age,
        "optimizer": ADAM,
        "rate": 1e-2,
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "kappa": 2.0,
        "decay": 0.0,
        "clip_norm": 0.0,
        "recurrent_rate": 1.0,
        "gap_unit": 0.0,
        "least_gap": 0.01,
        "forget_unit": 0.0,
        "scaled": 1,
        "window": 50.0,
        "clip": 5.0,
        "residual_clip": 3.0,
        "gradient_clip": 1.5,
        "ignore_out_of_order": 0,
        "pending": 0,
        "head_credit": 0,
        "horizon": 0.0,
        "horizon_time": 0.0,
        "defaults": 0,
        "default_label": 0.0,
        "max_classes": 6 if task == MULTICLASS else 0,
        "encoded": 0,
        "encoder_tanh": 0,
    }
    return Config(**{**plain, **changes})


def make_plan(cell, config: Config) -> np.ndarray:
    rows, weights, body, held = [], 0, 0, 0
    for layer in range(config.layers):
        below = config.hidden if layer else config.encoded
        width = below + 1 if below else config.width
        stage = cell.output_stage(width)
        stages = int(stage != (0, 0))
        sizes = [int(np.prod(shape)) for shape in shapes(cell, width)]
        out = weights + sum(sizes[: len(sizes) - stages])
        rows.append((width, weights, out, *stage, body, held))
        weights = out + stage[0] * stage[1]
        body += cell.ORDER * config.units * (1 + cell.MATRICES * width + cell.VECTORS)
        held += width + cell.MATRICES * cell.ORDER * config.units
    held += (config.width + config.features) * (config.encoded > 0)
    return np.array([*rows, (0, weights, weights, 0, 0, body, held)], np.int64)


def make_scratch(cell, config: Config, dtype=np.float64, fill: float = 0.0) -> Scratch:
    """Working memory; `fill` it with NaN and a read of what was not written shows."""
    plan, classes = make_plan(cell, config), max(1, config.max_classes)
    n, layers, order = config.units, config.layers, cell.ORDER
    widest, rows, columns = (int(plan[:-1, at].max()) for at in (L_WIDTH, L_OUT_ROWS, L_OUT_COLUMNS))
    shapes = {
        "x": (layers, widest),
        "work": (8, n),
        "h": (layers, order * n),
        "phi": (layers, config.hidden),
        "jac": (layers, order * order, n),
        "factor": (layers, cell.MATRICES * order, n),
        "vec": (layers, cell.VECTORS * order, n),
        "error": (layers, order * n),
        "d_phi": (layers, config.hidden),
        "out_inputs": (layers, rows),
        "out_gate": (layers, columns),
        "d_out": (layers, columns),
        "row": (max(n, config.hidden, config.width, widest, columns),),
    }
    arrays = {name: np.full(shape, fill, dtype) for name, shape in shapes.items()}
    return Scratch(
        plan=plan,
        **arrays,
        logits=np.full(max(2, classes), fill),
        spread=np.full(3, fill),
        unit=np.full(1, fill),
        d_logits=np.full(classes, fill),
        inputs=np.full(config.width, fill, dtype) if config.encoded else arrays["x"][0],
        tables=make_tables(config),
        code=np.full(config.features, -1),
        d_encoded=np.full(config.encoded, fill, dtype),
    )


def make_tables(config: Config) -> np.ndarray:
    """With an encoder every other feature is a category, one of four."""
    categories = np.where(np.arange(config.features) % 2, 4, 0) * (config.encoded > 0)
    return np.column_stack([categories, config.width + np.cumsum(categories) - categories])


def encoder_weights(config: Config, rng: np.random.Generator) -> list[np.ndarray]:
    rows = config.width + make_tables(config)[:, 0].sum()
    return [rng.normal(0, 0.4, int(rows) * config.encoded)] if config.encoded else []


def make_model(config: Config, cell: str, rng: np.random.Generator, keys: int = 1, dtype=np.float64) -> SimpleNamespace:
    """Random weights everywhere (a zero read-out would send no error to the cell), fresh rows."""
    case, classes = CASES[cell], max(1, config.max_classes)
    made = case.make(config.units)
    plan = make_plan(made, config)
    first, second = {SGD: (0, 0), ADAM: (1, 1), RMSPROP: (0, 1), OBGD: (0, 0)}[config.optimizer]
    widths = plan[:-1, L_WIDTH].tolist()
    weights = {
        "cell": np.concatenate(
            [draw(case, rng, width, config.units) for width in widths] + encoder_weights(config, rng)
        ),
        "out": rng.normal(0, 0.5, (classes, config.hidden)),
        "skip": rng.normal(0, 0.3, (classes, config.width)),
    }
    arrays = {}
    for name, weight in weights.items():
        shape = weight.shape[:-1]
        arrays[name] = weight.astype(dtype)
        arrays["m_" + name] = np.zeros((*shape, weight.shape[-1] * first), dtype)
        arrays["v_" + name] = np.zeros((*shape, weight.shape[-1] * second), dtype)
    shared = Shared(
        **arrays,
        scaler=np.zeros((config.features + TARGET_COLUMNS * (config.task == REGRESSION), SCALER)),
        target=np.zeros(TARGET),
        decay=np.ones(2),
        counters=np.zeros(COUNTERS, np.int64),
    )
    p, body, held = config.pending, plan[-1, L_BODY], plan[-1, L_HELD]
    rows = Rows(
        np.zeros((keys, HEAD)),
        np.zeros((keys, body), dtype),
        np.zeros((keys, p, 2), np.uint64),
        np.zeros((keys, p, PENDING_HEAD)),
        np.zeros((keys, p, (config.hidden + config.width if config.head_credit else held + body) * (p > 0)), dtype),
        *(np.zeros((keys, *shape)) for shape, _ in own_shapes(config.task).values()),
    )
    scratch = make_scratch(made, config, dtype)
    return SimpleNamespace(cell=made, config=config, shared=shared, rows=rows, scratch=scratch)


def make_out(n: int) -> Out:
    scored, expired = np.full((2, n, 5), np.nan)
    return Out(np.empty(n), np.empty(n, np.int32), np.empty(n, np.uint8), scored, expired)


def make_events(config: Config, rng: np.random.Generator, n: int, keys: int = 1, labelled: float = 0.7) -> Events:
    """Labelled events, observations and (where there is room for them) labels by id, late and unknown ones too."""
    x = rng.normal(0, 1, (n, config.features)).astype(np.float32) * 3 + 1
    if config.encoded:
        x[:, 1::2] = rng.integers(-1, 5, x[:, 1::2].shape)
        x[:, 1::2][rng.random(x[:, 1::2].shape) < 0.1] = 0.5
    x[rng.random(x.shape) < 0.05] = np.nan
    kind = (rng.random(n) < labelled).astype(np.uint8)
    slot = rng.integers(0, keys, n)
    id = np.zeros((n, 2), np.uint64)
    id[:, 0] = np.arange(1, n + 1)
    if config.pending:
        for t in range(1, n):
            earlier = np.flatnonzero((kind[:t] == 0) & (slot[:t] == slot[t]))
            if len(earlier) and rng.random() < 0.5:
                kind[t] = 2
                id[t] = id[rng.choice(earlier[-2 * config.pending :])] + np.uint64(1000 * (rng.random() < 0.1))
    if config.task == MULTICLASS:
        classes = config.max_classes + 1
        y = np.minimum(rng.integers(0, classes, n), np.arange(n) // 5).astype(np.float64)
        table = np.full(classes, -1, np.int64)
    elif config.task == REGRESSION:
        y, table = np.cumsum(rng.normal(0, 2, n)), np.zeros(0, np.int64)
    else:
        y, table = rng.integers(0, 2, n).astype(np.float64), np.zeros(0, np.int64)
    y[kind == 0] = np.nan
    time = np.arange(1, n + 1)
    if config.gap_unit > 0:
        time = np.cumsum(rng.choice([0, 1, 5, 20, 1000, 10**6], n, p=[0.2, 0.3, 0.3, 0.15, 0.03, 0.02])) + 6
    time -= 5 * (rng.random(n) < 0.1)
    time[rng.random(n) < 0.02] = 0
    return Events(x, kind, y, slot, np.maximum(time, 0), id, table)


def one(events: Events, t: int) -> Events:
    """Event t alone; the class table is shared."""
    return Events(*(column[t : t + 1] for column in events[:-1]), events.classes)


def fold(model, events: Events, out: Out) -> None:
    bound = Bound(Model(model.cell, Linear(), model.config, model.shared, model.scratch))
    cpu.fold(bound, Bound(model.rows), *events, *out)


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    return SimpleNamespace(
        config=make_config,
        model=make_model,
        scratch=make_scratch,
        out=make_out,
        events=make_events,
        one=one,
        fold=fold,
    )
