"""Every cell as the tests use it: random weights of use, and its recurrence in real numbers for the complex step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.cells.elstm import ELSTM
from kernels.cpu.cells.hgrn import HGRN
from kernels.cpu.cells.lru import LRU
from kernels.cpu.cells.mingru import MinGRU
from kernels.cpu.cells.minlstm import MinLSTM
from kernels.cpu.cells.rtu import RTU, NonlinearRTU
from kernels.cpu.cells.s5 import BEST, DIRECT, EXP, S5, SOFTPLUS
from kernels.cpu.cells.ssm import SSM
from kernels.reference.cells import shapes


class Case(NamedTuple):
    """A cell of `units` units (or just enough more), its vectors [V, N], and a step of it in numpy.

    `step(a, v, h, gap)` takes the pre-activations `a` [M (2 if TIED), N], the vectors and the state [ORDER, N] to the
    next state. Its numbers are complex where a derivative is taken, so complex ones of the cell are pairs here.
    """

    make: Callable[[int], Any]
    vectors: Callable[[np.random.Generator, int], np.ndarray]
    step: Callable[[np.ndarray, np.ndarray, np.ndarray, float], Any]
    unit: float = 10.0
    """Unit of time in which the random gaps (up to 1e6) let no state reach the bound that is kept on it."""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def times(a, b):
    """The product of two pairs."""
    return np.array([a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]])


def over(a, b):
    return times(a, [b[0], -b[1]]) / (b[0] * b[0] + b[1] * b[1])


def turn(real, imaginary):
    """The exponential of a pair."""
    return np.exp(real) * np.array([np.cos(imaginary), np.sin(imaginary)])


def mingru(a, v, h, gap):
    z = sigmoid(a[0])
    return (1 - z) * h + z * np.tanh(a[1])


def minlstm(a, v, h, gap):
    f, i = sigmoid(a[0]), sigmoid(a[1])
    return (f * h + i * np.tanh(a[2])) / (f + i)


def elstm(a, v, h, gap):
    f = sigmoid(a[0] + v[0] * h)
    return f * h + (1 - f) * np.tanh(a[1] + v[1] * h)


def lru(a, v, h, gap):
    return times(turn(-np.exp(v[0]), np.exp(v[1])), h) + np.exp(v[2]) * a


def rtu(a, v, h, gap):
    radius = np.exp(-np.exp(v[0]))
    return times(turn(-np.exp(v[0]), np.exp(v[1])), h) + np.sqrt(1 - radius**2) * a


def hgrn(a, v, h, gap):
    forget = 0.2 + 0.8 * sigmoid(a[0])
    return forget * times(turn(0, v[0]), h) + (1 - forget) * a[1:] * sigmoid(a[1:])


RATES = {
    EXP: (np.exp, np.log),
    SOFTPLUS: (lambda w: np.log(1 + np.exp(w)), lambda r: np.log(np.expm1(r))),
    BEST: (lambda w: 1 / (w * w + 0.1), lambda r: np.sqrt(1 / r - 0.1)),
    DIRECT: (lambda w: -w, lambda r: -r),
}
"""Of each parametrisation the decay rate by its weight, and the weight by the rate."""


def s5(kind):
    def step(a, v, h, gap):
        d, decay = np.exp(v[2]) * gap, RATES[kind][0](v[0])
        e = turn(-decay * d, v[1] * d)
        return times(e, h) + times(over([e[0] - 1, e[1]], [-decay, v[1]]), a)

    def vectors(rng, n):
        decay = RATES[kind][1](rng.uniform(0.1, 2.0, n))
        return np.array([decay, rng.uniform(-3, 3, n), np.log(rng.uniform(0.02, 1, n))])

    return Case(lambda n: S5(n, kind), vectors, step)


def eigenvalues(rng, n):
    """nu and theta of LRU and RTU: radius 0.3 to 0.999, any phase up to 3."""
    return [np.log(-np.log(rng.uniform(0.3, 0.999, n))), np.log(rng.uniform(0.05, 3, n))]


def none(rng, n):
    return np.zeros((0, n))


def ssm(a, v, h, gap):
    d, b, u = np.log(1 + np.exp(a[0])) * gap, a[1], a[2]
    decay = -np.exp(v[0])
    return np.exp(d * decay) * h + np.expm1(d * decay) / decay * u * b


CASES = {
    "mingru": Case(MinGRU, none, mingru),
    "minlstm": Case(MinLSTM, none, minlstm),
    "elstm": Case(ELSTM, lambda rng, n: rng.normal(0, 0.5, (2, n)), elstm),
    "lru": Case(LRU, lambda rng, n: np.array([*eigenvalues(rng, n), rng.normal(-0.5, 0.5, n)]), lru),
    "rtu": Case(RTU, lambda rng, n: np.array(eigenvalues(rng, n)), rtu),
    "rtu-tanh": Case(NonlinearRTU, lambda rng, n: np.array(eigenvalues(rng, n)), lambda *at: np.tanh(rtu(*at))),
    "hgrn": Case(lambda n: HGRN(n, 0.2), lambda rng, n: rng.uniform(-3, 3, (1, n)), hgrn),
    "s5": s5(EXP),
    "s5-softplus": s5(SOFTPLUS),
    "s5-best": s5(BEST),
    "s5-direct": s5(DIRECT),
    "ssm": Case(lambda n: SSM(n + n % 2, (n + 1) // 2, 2), lambda rng, n: rng.normal(0, 0.7, (1, n)), ssm),
}

IN_FLOAT32 = ("mingru", "s5")
"""What is tested in float32 too: each cell and type takes its time to compile."""


def draw(case: Case, rng: np.random.Generator, width: int, units: int) -> np.ndarray:
    """float64: random weights of a layer, flat: pre-activations near 1 whatever the inputs, so no gradient is small."""
    cell = case.make(units)
    parts = [rng.normal(0, 1 / np.sqrt(shape[0]), shape) for shape in shapes(cell, width) if len(shape) == 2]
    matrices = cell.MATRICES * (1 + cell.TIED)
    vectors = case.vectors(rng, cell.units)
    return np.concatenate([part.reshape(-1) for part in (*parts[:matrices], vectors, *parts[matrices:])])
