"""Models and events for the kernels, built without anything above them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from kernels.cpu.layout import (
    ADAM,
    HEAD,
    MULTICLASS,
    PENDING_HEAD,
    REGRESSION,
    Config,
    Events,
    Out,
    Rows,
    Scratch,
    Shared,
)


def make_config(task: int, units: int, features: int, **changes) -> Config:
    labels = changes.pop("label_inputs", (1, 8, 2)[task])
    age = changes.pop("age_input", 0)
    plain = {
        "units": units,
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
        "window": 50.0,
        "clip": 5.0,
        "residual_clip": 3.0,
        "ignore_out_of_order": 0,
        "pending": 0,
        "horizon": 0.0,
        "max_classes": 6 if task == MULTICLASS else 0,
    }
    return Config(**{**plain, **changes})


def make_model(config: Config, rng: np.random.Generator, keys: int = 1, dtype=np.float64) -> SimpleNamespace:
    """Random weights everywhere (a zero read-out would send no error to the cell), fresh rows."""
    n, j, k = config.units, config.width, max(1, config.max_classes)
    cell = 2 * j * n

    def zeros(*shape):
        return np.zeros(shape, dtype)

    shared = Shared(
        rng.normal(0, 0.7, cell).astype(dtype),
        zeros(cell),
        zeros(cell),
        rng.normal(0, 0.5, (k, n)).astype(dtype),
        zeros(k, n),
        zeros(k, n),
        rng.normal(0, 0.3, (k, j)).astype(dtype),
        zeros(k, j),
        zeros(k, j),
        np.zeros((config.features + (config.task == REGRESSION), 3)),
        np.zeros(4),
        np.ones(2),
        np.zeros(3, np.int64),
    )
    p = config.pending
    rows = Rows(
        np.zeros((keys, HEAD)),
        zeros(keys, n + cell),
        np.zeros((keys, p, 2), np.uint64),
        np.zeros((keys, p, PENDING_HEAD)),
        zeros(keys, p, (j + n + cell) if p else 0),
    )
    scratch = Scratch(zeros(j), *(zeros(n) for _ in range(7)), np.zeros(k), np.zeros(k))
    return SimpleNamespace(config=config, shared=shared, rows=rows, scratch=scratch)


def make_out(n: int) -> Out:
    return Out(np.empty(n), np.empty(n, np.int32), np.empty(n, np.uint8), np.full((n, 4), np.nan))


def make_events(config: Config, rng: np.random.Generator, n: int, keys: int = 1, labelled: float = 0.7) -> Events:
    """Labelled events, observations and (where there is room for them) labels by id, late and unknown ones too."""
    x = rng.normal(0, 1, (n, config.features)).astype(np.float32) * 3 + 1
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
    time = np.arange(1, n + 1) - 5 * (rng.random(n) < 0.1)
    return Events(x, kind, y, slot, np.maximum(time, 0), id, table)


def one(events: Events, t: int) -> Events:
    """Event t alone; the class table is shared."""
    return Events(*(column[t : t + 1] for column in events[:-1]), events.classes)


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    return SimpleNamespace(config=make_config, model=make_model, out=make_out, events=make_events, one=one)
