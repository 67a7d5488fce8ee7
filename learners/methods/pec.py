"""PEC, prediction error-based classification (Zajac, Tuytelaars & van de Ven, ICLR 2024, arXiv 2305.18806).

    h: a fixed random network;  g_c: a small network for each class, all with the same initial weights
    learn (x, c):  one step of Adam of g_c on mean_q (g_c(x)_q - h(x)_q)^2
    score_c(x) = -mean_q (g_c(x)_q - h(x)_q)^2,   prediction: the largest score

No class shares a trained weight with another, so none is forgotten, and the order in which classes come is of no
consequence. Nothing is stored of an event. Each network is a layer with layer normalisation and gelu, and a linear
output. The paper lets the rate fall linearly over a class's events, whose number a stream does not know: here it is
constant, or falls with the square root of the events of the class.

Probabilities are no part of the paper: the softmax of score_c / (temperature mean_q h(x)_q^2).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.replay import layers, students
from learners.cells.base import Draws
from learners.replay.spec import MAX_BYTES, MiniBatchSpec, classes_of
from learners.spec import ModelSpec


def _draw(seed: int, number: int, inputs: int, units: int, outputs: int, dtype: np.dtype) -> np.ndarray:
    """Initial weights of a network as PyTorch's linear layers have them, flat; normalisation begins as the identity."""
    draws = Draws(seed, number)
    parts = [
        draws.uniform(stream, size, low=-(fan**-0.5), high=fan**-0.5)
        for stream, (size, fan) in enumerate(
            [(inputs * units, inputs), (units, inputs), (units * outputs, units), (outputs, units)]
        )
    ]
    return np.concatenate([parts[0], parts[1], np.ones(units), np.zeros(units), *parts[2:]]).astype(dtype)


class Students:
    """The networks of all classes; a `learners.replay.method.Model`.

    Attributes:
        w, m, v: [classes, numbers], weights and moments of the students.
        steps: int64 [classes].
    """

    def __init__(self, spec: PecSpec, features: int) -> None:
        self.spec = spec
        dtype = np.dtype(spec.dtype)
        shape = (features, spec.units, spec.outputs)
        self._teacher = _draw(spec.seed, 0, features, spec.teacher, spec.outputs, dtype)
        self._first = _draw(spec.seed, 1, *shape, dtype)
        numbers = students.numbers(*shape)
        self._teaching = students.Work.make(spec.teacher, spec.outputs, 0, dtype)
        self._nothing, self._places = np.zeros(spec.teacher, dtype), np.zeros(features, np.int64)
        self._asked: tuple[np.ndarray, np.ndarray] | None = None
        self._work = students.Work.make(spec.units, spec.outputs, numbers, dtype)
        self.w, self.m, self.v = (np.zeros((0, numbers), dtype) for _ in range(3))
        self.steps = np.zeros(0, np.int64)
        self.reserve(2)

    def reserve(self, classes: int) -> None:
        """See `Model`."""
        more = classes - len(self.w)
        if more > 0:
            self.w = np.concatenate([self.w, np.tile(self._first, (more, 1))])
            self.m, self.v = (np.pad(array, ((0, more), (0, 0))) for array in (self.m, self.v))
            self.steps = np.pad(self.steps, (0, more))

    def _wanted(self, x: np.ndarray) -> np.ndarray:
        """[n, outputs]: what the fixed network says. The last answer is kept: a label follows its prediction."""
        if self._asked is None or not np.array_equal(x, self._asked[0][-len(x) :]):
            first = np.empty((len(x), self.spec.teacher), x.dtype)
            weights = self._teacher[: first.shape[1] * x.shape[1]].reshape(x.shape[1], -1)
            layers.forward(x, weights, self._nothing, False, self._places, first)
            said = np.empty((len(x), self.spec.outputs), x.dtype)
            students.says(self._teacher, x.shape[1], first, self.spec.outputs, self._teaching, said)
            self._asked = x.copy(), said
        return self._asked[1][-len(x) :]

    def limit(self, bound: np.ndarray) -> None:
        """See `Model`: it holds no inputs."""

    def logits(self, x: np.ndarray, classes: int, out: np.ndarray) -> None:
        """See `Model`."""
        students.scores(self.w[:classes], x, self._wanted(x), self.spec.units, self._work, out)
        out /= x.dtype.type(self.spec.temperature)

    def step(self, x: np.ndarray, y: np.ndarray, known: int) -> bool:
        """See `Model`."""
        spec, done, wanted = self.spec, True, self._wanted(x)
        for row, c in enumerate(y.tolist()):
            rate = spec.rate if spec.schedule == "constant" else spec.rate / math.sqrt(self.steps[c] + 1)
            student = self.w[c], self.m[c], self.v[c]
            learned = students.learn(
                *student, x[row], wanted[row], spec.units, int(self.steps[c]) + 1, float(rate), self._work
            )
            self.steps[c] += learned
            done &= bool(learned)
        return done

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """See `Model`; the fixed network is drawn from the seed."""
        return {"w": self.w[:known], "m": self.m[:known], "v": self.v[:known], "steps": self.steps[:known]}

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """See `Model`."""
        self.reserve(known)
        for name in ("w", "m", "v", "steps"):
            getattr(self, name)[:known] = arrays[name]


class PecSpec(MiniBatchSpec):
    """A small network for each class, and a fixed random one that all of them imitate."""

    kind: Literal["pec"] = "pec"
    batch: Literal[1] = Field(1, description="A step is taken at every label.")
    rate: float = Field(0.01, gt=0, le=100, description="Step size of Adam.")
    schedule: Literal["constant", "inverse_sqrt"] = Field(
        "constant", description="How the step size changes with the events of a class."
    )
    units: int = Field(10, ge=2, le=4096, description="Hidden units of the network of a class.")
    teacher: int = Field(5000, ge=2, le=65_536, description="Hidden units of the fixed network.")
    outputs: int = Field(99, ge=1, le=4096, description="Outputs of every network.")
    temperature: float = Field(0.05, gt=0, le=100, description="Of the softmax that turns errors into probabilities.")

    def model(self, features: int) -> Students:
        """See `MiniBatchSpec`."""
        return Students(self, features)

    def check(self, model: ModelSpec) -> None:
        """See `MiniBatchSpec`."""
        super().check(model)
        features = len(model.features)
        student = students.numbers(features, self.units, self.outputs)
        fixed = students.numbers(features, self.teacher, self.outputs)
        held = np.dtype(self.dtype).itemsize * (fixed + 3 * classes_of(model) * student)
        if held > MAX_BYTES:
            raise ValueError(
                f"units {self.units}, teacher {self.teacher} and {classes_of(model)} classes take {held} bytes, at "
                f"most {MAX_BYTES} are accepted"
            )
