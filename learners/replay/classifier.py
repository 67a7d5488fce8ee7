"""A network and a row of weights for each class: forward, the losses that methods are made of, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Protocol

import numpy as np

from kernels.cpu.replay import bounds, layers, losses
from learners.cells.base import Draws

HEAD = 1 << 20
"""Number of the head among the layers that draw initial weights."""


def _norm(parts: list[np.ndarray]) -> float:
    """The norm of the parts of a vector together; NaN or infinite where they are."""
    squares = sum(losses.product(part, part) for part in parts)
    if squares < math.inf:
        return math.sqrt(squares)
    largest = max(float(np.abs(part).max(initial=0)) for part in parts)  # too large to square, or not finite
    if not largest < math.inf:
        return math.nan
    return largest * math.sqrt(sum(losses.product(part / largest, part / largest) for part in parts))


class Body(Protocol):
    """What turns inputs [n, J] into features [n, H].

    Attributes:
        size: H.
        theta: [P], all its weights.
        gradient: [P], of the last `backward`.
    """

    size: int
    theta: np.ndarray
    gradient: np.ndarray

    def forward(self, x: np.ndarray, train: bool, inferred: int = 0) -> np.ndarray:
        """The features [n, H], to be used before the next call.

        Args:
            x: the inputs [n, J].
            train: whether a step follows.
            inferred: the last call was `infer` of so many of the first rows, with these weights.
        """

    def infer(self, x: np.ndarray) -> np.ndarray:
        """The features [n, H] as predictions use them: those of a row do not depend on the other rows."""

    def backward(self, d: np.ndarray) -> None:
        """Writes the gradient, given dL/d(features) of the last `forward`, which it may change."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Its state by name."""

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes on a state."""


class Classifier:
    """A body with a head. `known` is how many classes there are, the others have their initial weights.

    No step is longer than eight times the longest of late, nor than the initial weights are to begin with: see
    `kernels.cpu.replay.bounds`. Where that leaves a gradient as it is, the step is exactly rate times the gradient.

    The rows of the head are drawn from the seed as those of PyTorch's linear layer are, uniform in
    (-1/sqrt(H), 1/sqrt(H)), each class its own: so a class may appear at any time.

    Attributes:
        step_bound: float64 [2], state of the bound on gradients.
    """

    def __init__(self, body: Body, seed: int, bias: bool, temperature: float = 0.0) -> None:
        """Predictions are by products, or with a temperature by angles: cos / temperature."""
        self.body = body
        self.known = 0
        self.temperature = temperature
        self._seed, self._bias = seed, bias
        self._dtype = body.theta.dtype
        self._rows: list[slice] = []
        self._forget()
        self.w, self.b = np.zeros((0, body.size), self._dtype), np.zeros(0, self._dtype)
        self.reserve(2)
        self._reach = _norm([body.theta, self.w.reshape(-1)])
        self.step_bound = np.zeros(2)

    def reserve(self, classes: int) -> None:
        """Room for so many classes."""
        old = len(self.w)
        if classes <= old:
            return
        w, b = self._fresh(classes)
        w[:old], b[:old] = self.w, self.b
        self.w, self.b = w, b
        self.gw, self.gb = np.zeros_like(w), np.zeros_like(b)
        self._norms, self._all = np.zeros(classes, self._dtype), np.ones(classes)

    def _fresh(self, classes: int) -> tuple[np.ndarray, np.ndarray]:
        """Initial rows and biases."""
        bound = max(1, self.body.size) ** -0.5
        drawn = Draws(self._seed, HEAD).uniform(0, classes, self.body.size + 1, low=-bound, high=bound)
        drawn = drawn.astype(self._dtype)
        return np.ascontiguousarray(drawn[:, :-1]), drawn[:, -1] * self._dtype.type(self._bias)

    # Predicting

    def logits(self, x: np.ndarray, classes: int, out: np.ndarray) -> None:
        """Writes the logits of the first `classes` classes to `out` [n, classes or more]."""
        f = self.body.infer(x)
        self._inferred = x.copy()
        if self.temperature > 0:
            losses.cosines(f, self.w[:classes], self._norms, out)
            out[:, :classes] /= self._dtype.type(self.temperature)
        else:
            losses.dots(f, self.w[:classes], self.b, out)

    def _forget(self) -> None:
        """What the body inferred last is not what it would infer now, or is gone."""
        self._inferred = np.zeros((0, 0), self._dtype)

    # Learning

    def see(self, *groups: np.ndarray, train: bool = True) -> None:
        """Runs groups of inputs through the body together, and begins a gradient."""
        edges = list(accumulate(map(len, groups), initial=0))
        self._rows = [slice(a, b) for a, b in pairwise(edges)]
        x = groups[0] if len(groups) == 1 else np.concatenate(groups)
        same = len(self._inferred)  # a mini-batch was predicted by the weights that are to learn it
        self._f = self.body.forward(x, train, same if np.array_equal(x[:same], self._inferred) else 0)
        self._forget()
        self._df = np.zeros(self._f.shape, self._dtype)
        self.gw[: self.known] = 0
        self.gb[: self.known] = 0

    def dots(self, group: int) -> np.ndarray:
        """Logits [n, known] of a group, by products."""
        f = self._f[self._rows[group]]
        out = np.empty((len(f), self.known), self._dtype)
        losses.dots(f, self.w[: self.known], self.b, out)
        return out

    def entropy(self, group: int, y: np.ndarray, mass: np.ndarray | None = None, scale: float = 1.0) -> np.ndarray:
        """Adds the mean cross-entropy of a group, by products; returns its logits."""
        logits = self.dots(group)
        if len(y):
            self._dots_back(group, self._cross_entropy(logits, y, mass, scale)[0])
        return logits

    def angle_entropy(
        self, group: int, y: np.ndarray, temperature: float, mass: np.ndarray | None = None
    ) -> np.ndarray:
        """Adds the mean cross-entropy of a group, by angles: logits are cos / temperature; returns those."""
        rows, w = self._rows[group], self.w[: self.known]
        f = self._f[rows]
        cosine = np.empty((len(f), self.known), self._dtype)
        losses.cosines(f, w, self._norms, cosine)
        logits = cosine / self._dtype.type(temperature)
        d = self._cross_entropy(logits, y, mass, 1.0)[0] / self._dtype.type(temperature)
        losses.cosines_back(f, w, self._norms, cosine, d, self.gw, self._df[rows])
        return logits

    def distance(self, group: int, stored: np.ndarray, known: np.ndarray, scale: float) -> None:
        """Adds `scale` times the mean squared distance of a group's logits to stored ones; see `losses`."""
        logits = self.dots(group)
        d = np.empty_like(logits)
        losses.squared_distance(logits, stored, known, scale, d)
        self._dots_back(group, d)

    def _cross_entropy(
        self, logits: np.ndarray, y: np.ndarray, mass: np.ndarray | None, scale: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The gradient of the mean with respect to logits, and the loss of each row."""
        d, loss = np.empty_like(logits), np.empty(len(y))
        mass = self._all[: self.known] if mass is None else mass
        losses.cross_entropy(logits, y, mass, scale / max(1, len(y)), d, loss)
        return d, loss

    def _dots_back(self, group: int, d: np.ndarray) -> None:
        rows = self._rows[group]
        losses.dots_back(self._f[rows], self.w[: self.known], d, self.gw, self.gb, self._df[rows])

    def losses(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """float64 [n]: the cross-entropy of each row as a prediction would have it."""
        logits = np.empty((len(x), self.known), self._dtype)
        self.logits(x, self.known, logits)
        return self._cross_entropy(logits, y, None, 1.0)[1]

    def back(self) -> None:
        """Completes the gradient of what was added since `see`."""
        if not self._bias:
            self.gb[: self.known] = 0
        self.body.backward(self._df)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is learned inside is undone at the end."""
        before = [array.copy() for array in (*self.weights, self.step_bound)]
        moments = {name: array.copy() for name, array in self.body.arrays().items()}
        try:
            yield
        finally:
            self.body.load(moments)
            self._forget()
            for array, old in zip((*self.weights, self.step_bound), before):
                array[:] = old

    @property
    def weights(self) -> list[np.ndarray]:
        """Every weight, as flat views: of the body, of the rows of the known classes, their biases."""
        return [self.body.theta, self.w[: self.known].reshape(-1), self.b[: self.known]]

    @property
    def gradients(self) -> list[np.ndarray]:
        """The gradient of each of `weights`, as views."""
        return [self.body.gradient, self.gw[: self.known].reshape(-1), self.gb[: self.known]]

    def longest(self, rate: float) -> float:
        """The bound on the norm of a gradient."""
        return bounds.longest(self.step_bound, self._reach / rate)

    def descend(self, rate: float) -> bool:
        """One step down the gradient, or less of it where that is too long; False, and no step: it is not finite."""
        gradients = self.gradients
        norm = _norm(gradients)
        if not norm < math.inf:
            return False
        self._forget()
        rate *= bounds.shorten(self.step_bound, norm, self._reach / rate)
        for w, g in zip(self.weights, gradients):
            layers.descend(w, g, rate)
        return True

    # State

    def arrays(self) -> dict[str, np.ndarray]:
        """State by name, of the known classes."""
        head = {"head.w": self.w[: self.known], "head.b": self.b[: self.known]}
        return {**self.body.arrays(), **head, "step_bound": self.step_bound}

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """Takes on a state; one of before gradients were bounded begins that as a fresh one does."""
        self.body.load(arrays)
        self._forget()
        self.step_bound[:] = arrays.get("step_bound", 0)
        self.known = known
        self.reserve(known)
        self.w, self.b = self._fresh(len(self.w))
        self.w[:known], self.b[:known] = arrays["head.w"], arrays["head.b"]
