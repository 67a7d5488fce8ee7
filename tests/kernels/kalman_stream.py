"""A compiled Kalman head with what it needs to be fed a stream, and what its state is compared by."""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import pytest
import torch

from kernels.cpu.cells.mingru import MinGRU
from kernels.cpu.heads import _filter, error, predict, step, weight
from kernels.cpu.heads.kalman import Kalman
from kernels.cpu.layout import BINARY, C_CLASSES, MULTICLASS, REGRESSION, SGD, T_CHANGE_SQ
from kernels.cpu.numerics import JIT
from tests.kernels.conftest import make_config, make_model, make_scratch

TOLERANCE = 1e-9


class Said(NamedTuple):
    """What a stream left, one row per event."""

    value: np.ndarray
    code: np.ndarray
    logits: np.ndarray
    spread: np.ndarray
    weight: np.ndarray
    d_phi: np.ndarray
    finite: np.ndarray


@nb.njit(**JIT)
def fold(head, config, shared, phi, x, y, elapsed, learn, first, said, s):
    """Predicts each event and, from `learn` = 1, takes the gradient, from 2, learns its label; classes join as met."""
    for t in range(len(y)):
        draw, gap = first + t, elapsed[t]
        value, code = predict(head, config, shared, 0.0, phi[t], x[t], draw, gap, s)
        said.value[t] = value
        said.code[t] = code
        for k in range(len(s.logits)):
            said.logits[t, k] = s.logits[k]
        for k in range(3):
            said.spread[t, k] = s.spread[k]
        if learn > 0:
            if config.task == MULTICLASS and y[t] >= shared.counters[C_CLASSES]:
                shared.counters[C_CLASSES] = int(y[t]) + 1
                predict(head, config, shared, 0.0, phi[t], x[t], draw, gap, s)
            said.weight[t] = weight(head, config, shared, 0.0, y[t], s)
            rows, finite = error(head, config, shared, 0.0, y[t], phi[t], x[t], draw, gap, said.d_phi[t], s)
            said.finite[t] = finite and rows == 0
            if learn > 1 and finite:
                step(head, config, shared, 0.0, y[t], phi[t], x[t], gap, rows, 0.0, 0.0, s)


@nb.njit(**JIT)
def product_of(cov, z, out):
    _filter.symmetric_product(cov, z, out)


@nb.njit(**JIT)
def moved_by(cov, u, scale, factor, ridge):
    _filter.rank_one(cov, scale, u, factor, ridge)


@nb.njit(**JIT)
def normals_of(seed, draw, classes, samples, lanes, out):
    _filter.normals(seed, draw, classes, samples, lanes, out)


@nb.njit(**JIT)
def logs_of(x, out):
    for i in range(len(x)):
        out[i] = _filter.log(x[i])


class Stream:
    """A head over streams of its own features; the inputs of the events are the constant only."""

    def __init__(self, task: int, hidden: int, room: int, **settings) -> None:
        plain = {"label_inputs": 0, "optimizer": SGD, "max_classes": room if task == MULTICLASS else 0}
        self.config = make_config(task, "mingru", hidden, 0, residual_clip=settings.pop("clip", 1e9), **plain)
        self.room = {BINARY: 2, REGRESSION: 1}.get(task, room)
        self.head = Kalman.make(features=hidden + 1, classes=self.room, **settings)
        for array in self.head.work:
            array.fill(np.nan)
        self.shared = make_model(self.config, "mingru", np.random.default_rng(0)).shared
        self.shared.target[T_CHANGE_SQ] = 1.0
        self.at = 0

    def run(self, phi: np.ndarray, y: np.ndarray, elapsed: np.ndarray | None = None, learn: int = 2) -> Said:
        n = len(y)
        gaps = np.ones(n) if elapsed is None else elapsed
        scratch = make_scratch(MinGRU(self.config.hidden), self.config, np.float64, np.nan)
        scratch.unit[0] = self.shared.target[T_CHANGE_SQ] ** 0.5
        said = Said(
            np.empty(n), np.empty(n, np.int64), np.empty((n, len(scratch.logits))), np.empty((n, 3)), np.ones(n),
            np.full(phi.shape, np.nan), np.zeros(n, bool),
        )  # fmt: skip
        x = np.ones((n, 1))
        fold(self.head, self.config, self.shared, phi, x, y.astype(float), gaps, learn, self.at, said, scratch)
        self.at += n * (learn > 1)
        return said

    def cov(self, member: int = 0) -> np.ndarray:
        m = self.config.hidden + 1
        row, column = _filter.places(m)
        full = np.zeros((_filter.whole(m), _filter.whole(m)))
        full[row, column] = full[column, row] = self.head.state.cov[member]
        return full[:m, :m]

    def mean(self, member: int = 0) -> np.ndarray:
        return self.head.state.mean[member, :, : self.config.hidden + 1]

    def eps(self, draw: int, classes: int) -> torch.Tensor:
        samples = self.head.samples
        out = np.zeros((classes, max(4, samples + -samples % 4)))
        if samples:
            normals_of(self.head.seed, draw, classes, samples, np.empty((2, 5)), out)
        return torch.from_numpy(out[:, : max(1, samples)])


def with_constant(phi: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.column_stack([phi, np.ones(len(phi))]))


def far(a, b, least: float = 1e-12) -> float:
    """Relative error; `least` is a size beside which rounding is no error."""
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / (np.linalg.norm(b) + least))


def onehot(y: np.ndarray, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.from_numpy(y.astype(np.int64)), classes).double()


SEEDS = pytest.mark.parametrize("seed", range(4))


def features(rng: np.random.Generator, n: int, hidden: int, condition: float = 1.0) -> np.ndarray:
    """Correlated features whose scales span `condition`^(1/2)."""
    turn = np.linalg.qr(rng.normal(size=(hidden, hidden)))[0]
    return rng.normal(size=(n, hidden)) * np.geomspace(1.0, condition**-0.5, hidden) @ turn
