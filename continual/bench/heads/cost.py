"""What a Kalman head costs: its filter step against BLAS, and predicting and learning against a fold without a head."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numba as nb
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.heads._doubles import ConstantSpec
from continual.bench.heads.runs import RECURRENT
from continual.bench.report import publish
from kernels.cpu.heads import _bank, error, predict, step
from kernels.cpu.heads._filter import places
from kernels.cpu.heads.kalman import NOTHING, PREDICTIVE
from kernels.cpu.layout import C_CLASSES, Config, Scratch, Shared
from kernels.cpu.numerics import JIT
from learners import recurrence as build
from learners.base import Learner
from learners.methods.static import StaticSpec
from learners.spec import ModelSpec
from streams.batch import Batch

WIDE, CLASSES, SAMPLES, GAMMA, NOISE = 512, 100, 16, 0.999, 0.1
"""m, K, S, gamma and observation noise of the large filter."""

NARROW = 64
"""m of the small one."""

EVENTS, BATCH = 200, 1024
"""Timed at a time: of the large filter; of a learner, ten batches of this many."""

STEP, BOTH, FOLD = 1.0, 1.75, 3.0
"""At most so many times symv + syr for the filter step and for predict + learn; and so many times the empty fold."""


class Bare(NamedTuple):
    """A head with what a fold hands to it, for features that are given: phi float64 [n, H], and a constant."""

    head: Any
    config: Config
    shared: Shared
    scratch: Scratch

    @classmethod
    def of(cls, head: Any, hidden: int, classes: int) -> Bare:
        """A head by its spec, on [phi, 1], that knows so many classes from the start."""
        model = ModelSpec.model_validate(
            {
                "name": "bare",
                "features": ("x",),
                "target": {"kind": "multiclass", "max_classes": classes},
                "learner": {
                    "kind": "static",
                    "features": {"kind": "random", "units": hidden},
                    "previous_label": False,
                    "dtype": "float64",
                    "head": head,
                },
            }
        )
        spec = model.learner
        assert isinstance(spec, StaticSpec)
        config, cell = build.config(model, spec), spec.map(model)
        plan = build.plan(cell, config)
        shared = build.shared(config, plan, model, classes)
        shared.counters[C_CLASSES] = classes
        scratch = build.scratch(cell, config, plan, build.tables(model, config), classes, np.dtype(np.float64))
        return cls(spec.head.compiled(config, classes, 0), config, shared, scratch)

    def learn(self, phi: np.ndarray, y: np.ndarray) -> float:
        """Predicts and learns every event of phi float64 [n, H], y [n]; returns the seconds that it took."""
        x, label, d_phi = np.ones((len(y), self.config.width)), y.astype(np.float64), np.zeros(phi.shape[1])
        start = time.perf_counter()
        _learn_each(*self[:3], phi, x, label, d_phi, self.scratch)
        return time.perf_counter() - start


@nb.njit(**JIT)
def _filter_each(head, z, y, classes, noise):
    """The filter step alone: transition, A- z, M- z, update. `z` float64 [n, m], `y` int64 [n]."""
    state, work, m = head.state, head.work, z.shape[1]
    for t in range(len(y)):
        for i in range(m):
            work.z[i] = z[t, i]
        _bank.carry(state, work, m, classes, 1.0)
        for k in range(classes):
            work.d_output[0, k] = (1.0 if k == y[t] else 0.0) - work.output[0, k]
        _bank.update(state, work, classes, 0, noise)


@nb.njit(**JIT)
def _learn_each(head, config, shared, phi, x, y, d_phi, s):
    """Predicts and learns every event; `phi` float64 [n, H], `x` float64 [n, J], `y` float64 [n]."""
    for t in range(len(y)):
        predict(head, config, shared, 0.0, phi[t], x[t], t, 1.0, s)
        error(head, config, shared, 0.0, y[t], phi[t], x[t], t, 1.0, d_phi, s)
        step(head, config, shared, 0.0, y[t], phi[t], x[t], 1.0, 0, 0.0, 0.0, s)


def filtered(z: np.ndarray, y: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """The same filter on dense matrices: M [K, m] and A [m, m] after all events."""
    mean, cov = np.zeros((CLASSES, z.shape[1])), prior * np.eye(z.shape[1])
    square = GAMMA * GAMMA
    for row, label in zip(z, y):
        mean, cov = GAMMA * mean, square * cov + (1 - square) * prior * np.eye(len(row))
        u = cov @ row
        gain = u / (row @ u + NOISE)
        mean += np.outer(np.eye(CLASSES)[label] - mean @ row, gain)
        cov -= np.outer(gain, u)
    return mean, cov


class Large:
    """The filter of m = 512, K = 100 with its events, and the BLAS calls that it is held against."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._phi = rng.normal(size=(EVENTS, WIDE - 1)) / WIDE**0.5
        self._z = np.column_stack([self._phi, np.ones(EVENTS)])
        self._y = rng.integers(0, CLASSES, EVENTS)
        self._cov, self._u = np.asfortranarray(np.eye(WIDE)), np.zeros(WIDE)

    def bare(self, teaches: int = NOTHING) -> Bare:
        """A fresh head of one filter."""
        settings = {"gammas": (GAMMA,), "samples": SAMPLES, "noise": NOISE, "prior": WIDE, "inputs": False}
        made = Bare.of({"kind": "kalman", **settings}, WIDE - 1, CLASSES)
        return made._replace(head=made.head._replace(teaches=teaches))

    def filter(self, bare: Bare) -> float:
        """Seconds per event of the filter step."""
        start = time.perf_counter()
        _filter_each(bare.head, self._z, self._y, CLASSES, NOISE)
        return (time.perf_counter() - start) / EVENTS

    def learn(self, bare: Bare) -> float:
        """Seconds per event of predict and learn."""
        return bare.learn(self._phi, self._y) / EVENTS

    def blas(self) -> float:
        """Seconds per event of A z and of a rank-one change of A, one triangle each."""
        from scipy.linalg.blas import dsymv, dsyr

        start = time.perf_counter()
        for z in self._z:
            dsymv(1.0, self._cov, z, y=self._u, overwrite_y=1, lower=1)
            dsyr(-1e-9, z, a=self._cov, overwrite_a=1, lower=1)
        return (time.perf_counter() - start) / EVENTS

    def verify(self) -> None:
        """Holds what is timed against dense matrices.

        Raises:
            continual.bench._helpers.WrongResult: it differs.
        """
        mean, cov = filtered(self._z, self._y, prior=1.0)
        timed = (
            ("filter step", self.filter, NOTHING),
            ("learn", self.learn, NOTHING),
            ("learn", self.learn, PREDICTIVE),
        )
        for what, work, teaches in timed:
            bare = self.bare(teaches)
            work(bare)
            state = bare.head.state
            for name, ours, theirs in (
                ("mean", state.mean, mean),
                ("covariance", state.cov, cov[places(WIDE)]),
            ):
                off = float(np.linalg.norm(ours[0] - theirs) / np.linalg.norm(theirs))
                helpers.check(off < 1e-9, f"{what}: {name} off by {off:.1e}")


def large(rounds: int) -> dict[str, list[float]]:
    """Checks, then seconds per event of what is timed of the large filter, round by round."""
    case = Large()
    case.verify()
    one, two, three = case.bare(), case.bare(), case.bare(PREDICTIVE)
    return helpers.alternate(
        rounds,
        {
            BLAS: case.blas,
            "filter step": lambda: case.filter(one),
            "predict + learn": lambda: case.learn(two),
            "predict + learn, with the gradient to the map": lambda: case.learn(three),
        },
    )


def _in_one_thread(rounds: int) -> dict[str, list[float]]:
    """`large` in a process of its own, whose BLAS has one thread: it reads the environment when it is loaded."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(large, (rounds,))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


KALMAN = {"kind": "kalman", "gammas": (GAMMA,)}
EMPTY, LINEAR, BLAS = "empty fold", "linear head, Adam", "symv + syr"
HEADS: dict[str, Any] = {
    EMPTY: ConstantSpec(kind="constant"),
    LINEAR: {"kind": "linear"},
    "one filter": KALMAN,
    "one filter, no samples": {**KALMAN, "samples": 0},
    "bank of four": {"kind": "kalman"},
}


def folds(features: int, below: dict[str, Any], events: int) -> dict[str, Callable[[], float]]:
    """Head -> a function that folds binary events of so many features and returns seconds per event.

    Each folds a first time, which is checked and not timed.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(events, features)).astype(np.float32)
    batch = Batch.of(x, x[:, 0] + rng.normal(size=events) > 0)
    work: dict[str, Callable[[], float]] = {}
    for name, head in HEADS.items():
        spec = ModelSpec.model_validate(
            {
                "name": "cost",
                "features": tuple(f"x{index}" for index in range(features)),
                "target": {"kind": "binary"},
                "learner": {**below, "head": head},
            }
        )
        learner = spec.learner.build(spec)
        pieces = helpers.cuts(batch, BATCH)
        _, folded = helpers.fold(learner, pieces)
        right = np.mean((np.concatenate([part.value for part in folded]) >= 0.5) == (batch.y == 1))
        helpers.check(learner.position == events, f"{name}: every event folded")
        helpers.check(name == EMPTY or right > 0.6, f"{name}: better than a coin, {right:.3f}")
        work[name] = partial(_folding, learner, pieces)
    return work


def _folding(learner: Learner, pieces: Sequence[Batch]) -> float:
    """Seconds per event."""
    return helpers.fold(learner, pieces)[0] / sum(map(len, pieces))


def measure(
    *,
    rounds: int = 31,
    events: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Checks and times, and publishes one table.

    Args:
        rounds: of every measurement, in turn; medians are compared.
        events: of the small learners in a round; None: ten batches.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    say(f"m = {WIDE}, K = {CLASSES}")
    seconds = {f"m = {WIDE}": _in_one_thread(rounds)}
    small = events or 10 * BATCH
    maps = {f"m = {NARROW}": (NARROW - 2, {"kind": "static"}), "default cell, 8 features": (8, RECURRENT)}
    for name, (features, below) in maps.items():
        say(name)
        seconds[name] = helpers.alternate(rounds, folds(features, below, small))
    publish(
        "heads-cost",
        "Kalman head, cost per event in microseconds, one thread",
        _rows(seconds),
        notes=_notes(rounds),
        details={"seconds": seconds},
        out=out,
        as_json=as_json,
    )


def _rows(seconds: dict[str, dict[str, list[float]]]) -> list[helpers.Row]:
    rows = []
    for name, one in seconds.items():
        base = BLAS if BLAS in one else EMPTY
        for what in one:
            if what == base:
                continue
            if base == BLAS:
                step_only = what == "filter step"
                named = f"{name}, K = {CLASSES}: {what}" + ("" if step_only else f", {SAMPLES} samples")
                rows.append(paired(named, one[what], base, one[base], STEP if step_only else BOTH))
            else:
                target = FOLD if name == f"m = {NARROW}" and what != LINEAR else math.nan
                rows.append(paired(f"{name}, K = 2: predict + learn, {what}", one[what], base, one[base], target))
    return rows


def paired(what: str, ours: Sequence[float], against: str, theirs: Sequence[float], target: float) -> helpers.Row:
    """A row of medians in microseconds whose ratio is the median of the rounds' own ratios.

    What slows the machine for a while slows both sides of a round.

    Args:
        what: was measured.
        ours: seconds, round by round.
        against: what it is compared with.
        theirs: its seconds in the same rounds.
        target: bound on the ratio; NaN: none.
    """
    ratio = helpers.median([one / other for one, other in zip(ours, theirs, strict=True)])
    row = helpers.ratio_row(what, ratio, against, 1.0, target)
    return {**row, "ours": 1e6 * helpers.median(ours), "theirs": 1e6 * helpers.median(theirs)}


def _notes(rounds: int) -> list[str]:
    return [
        f"Medians of {rounds} rounds, everything of a group in turn in one process, one thread; a ratio is the median "
        "of the rounds' ratios. What is timed is first checked: the filter against dense matrices (M and A to 1e-9), "
        "the learners by their accuracy.",
        f"m = {WIDE}: float64, one filter with gamma {GAMMA:g}. symv + syr: scipy's BLAS, one triangle, the product "
        "and the rank-one change that no filter can do without. The filter step also moves the weights of all classes.",
        f"m = {NARROW}: `{{kind: static}}` on {NARROW - 2} features, the last label and the constant, folded in "
        f"batches of {BATCH}. {EMPTY}: the same learner (keys, standardisation, last label) with a head that always "
        "says 0.5 and learns nothing. default cell: the same with the default recurrent cell, trace and Adam in both.",
    ]
