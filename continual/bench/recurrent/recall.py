"""The memory task: sequences to recall, the networks that learn them, and their training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from kernels.cpu import sequence
from kernels.cpu.layout import ADAM
from learners.cells.base import CellSpec, Draws

BITS = 4
UPDATES = 4000
BATCH = 8
RATE = 1e-2
ADAM_STEP = sequence.Optimizer(ADAM, RATE, 0.9, 0.999, 1e-8)
EVALUATED = 256
"""Sequences of a check and of the test at the end."""
CHECK_EVERY = 200
"""Updates between two checks of whether to stop."""
ENOUGH = 0.999
"""Share of the bits of a check that are right when training stops."""

TRAIN, CHECK, TEST = range(3)


class Task(NamedTuple):
    """Remember `BITS` random bits for `delay` steps, then say all of them at once.

    A sequence is float32 [T, J], the last input constant. Its bits are +1 and -1.

        distractors   the bits lie on as many channels at step 0, marked by a write flag; then `delay` steps of random
                      bits on the same channels; then a step with the recall flag and nothing on the channels
        serial        the bits come one after the other on one channel, marked by a write flag; then `delay` empty
                      steps; then a step with the recall flag
    """

    kind: str
    delay: int

    @property
    def width(self) -> int:
        """J: channels, write flag, recall flag, constant."""
        return (1 if self.kind == "serial" else BITS) + 3

    @property
    def steps(self) -> int:
        """T."""
        return self.delay + (BITS if self.kind == "serial" else 1) + 1

    def draw(self, seed: int, stream: int, index: int, many: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences float32 [many, T, J] and their bits, bool [many, BITS]; counter-based (Philox) by all arguments."""
        random = np.random.Philox(key=[seed, stream], counter=[0, index, 0, 0])
        x = np.zeros((many, self.steps, self.width), np.float32)
        x[:, :, -1] = 1.0
        x[:, -1, -2] = 1.0
        if self.kind == "serial":
            bits = _bits(random, many * BITS).reshape(many, BITS)
            x[:, :BITS, 0] = 2.0 * bits - 1.0
            x[:, :BITS, -3] = 1.0
            return x, bits
        shown = _bits(random, many * (self.steps - 1) * BITS).reshape(many, self.steps - 1, BITS)
        x[:, :-1, :BITS] = 2.0 * shown - 1.0
        x[:, 0, -3] = 1.0
        return x, shown[:, 0]


def _bits(random: np.random.Philox, many: int) -> np.ndarray:
    raw = np.atleast_1d(random.random_raw(-(-many // 64)))
    return np.unpackbits(raw.astype("<u8").view(np.uint8))[:many].astype(bool)


class Network(Protocol):
    """What is trained: from sequences to features [B, hidden] of their last step."""

    hidden: int
    weights: np.ndarray

    def run(self, x: np.ndarray) -> np.ndarray:
        """Features float32 [B, hidden] after the last step of x [B, T, J]; keeps what the gradient needs."""

    def gradient(self, x: np.ndarray, d_phi: np.ndarray) -> np.ndarray:
        """The gradient of the weights given that of the features, after `run` on the same x."""

    def features(self, x: np.ndarray) -> np.ndarray:
        """As `run`, without what the gradient needs."""


class Diagonal:
    """An element-wise cell with exact traces, carried through the last `window` steps (0: all of them)."""

    def __init__(self, cell: dict[str, Any], width: int, window: int, seed: int) -> None:
        spec = CellSpec.by_kind(cell, None)
        self._cell = spec.compiled()
        self._work = sequence.work(self._cell, width, spec.hidden, np.dtype(np.float32))
        self._window = window
        self._body = np.zeros((0, 0), np.float32)
        self.hidden = spec.hidden
        self.weights = spec.initial(Draws(seed, 0), width).astype(np.float32)

    def run(self, x: np.ndarray) -> np.ndarray:
        """See `Network`."""
        return self._run(x, max(0, x.shape[1] - self._window) if self._window else 0)

    def features(self, x: np.ndarray) -> np.ndarray:
        """See `Network`."""
        return self._run(x, x.shape[1])

    def _run(self, x: np.ndarray, start: int) -> np.ndarray:
        if len(self._body) != len(x):
            self._body = np.zeros((len(x), self._work.sizes.body), np.float32)
        phi = np.zeros((len(x), self.hidden), np.float32)
        sequence.run(self._cell, self.weights, x, 1.0, start, self._body, phi, self._work)
        return phi

    def gradient(self, x: np.ndarray, d_phi: np.ndarray) -> np.ndarray:
        """See `Network`."""
        g = np.zeros_like(self.weights)
        sequence.gradient(self._cell, self.weights, x, self._body, d_phi, g, self._work)
        return g


@dataclass
class Outcome:
    """How a training went.

    Attributes:
        accuracy: share of the bits of `EVALUATED` fresh sequences that are right, after training.
        updates: how many were made.
    """

    accuracy: float
    updates: int


def train(network: Network, task: Task, seed: int, *, frozen: bool = False, updates: int = UPDATES) -> Outcome:
    """Trains a network and a logistic read-out per bit, one Adam step per batch, until a check says `ENOUGH`.

    Args:
        network: changed in place.
        task: what to recall.
        seed: of the sequences.
        frozen: only the read-out learns.
        updates: at most.
    """
    trained = Trained(network)
    for update in range(updates):
        due = update > 0 and update % CHECK_EVERY == 0
        if due and trained.right(*task.draw(seed, CHECK, update, EVALUATED)) >= ENOUGH:
            return Outcome(trained.right(*task.draw(seed, TEST, 0, EVALUATED)), update)
        trained.step(*task.draw(seed, TRAIN, update, BATCH), frozen)
    return Outcome(trained.right(*task.draw(seed, TEST, 0, EVALUATED)), updates)


class Trained:
    """A network with its read-out and the moments of Adam."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.out = np.zeros((BITS, network.hidden + 1), np.float32)
        self._descents = [Descent(network.weights), Descent(self.out.reshape(-1))]

    def right(self, x: np.ndarray, bits: np.ndarray) -> float:
        """Share of the bits that are on the right side of one half."""
        return float(np.mean((_with_one(self.network.features(x)) @ self.out.T > 0) == bits))

    def step(self, x: np.ndarray, bits: np.ndarray, frozen: bool) -> None:
        """One step on the mean over the sequences of the summed log-loss of the bits."""
        phi = _with_one(self.network.features(x) if frozen else self.network.run(x))
        with np.errstate(over="ignore"):
            error = (1.0 / (1.0 + np.exp(-phi @ self.out.T)) - bits).astype(np.float32) / len(x)
        if not frozen:
            self._descents[0].step(self.network.gradient(x, np.ascontiguousarray(error @ self.out[:, :-1])))
        self._descents[1].step((error.T @ phi).reshape(-1))


class Descent:
    """Adam on one array, in place."""

    def __init__(self, weights: np.ndarray) -> None:
        self._weights = weights
        self._moments = np.zeros_like(weights), np.zeros_like(weights)
        self._decay = np.ones(2)

    def step(self, gradient: np.ndarray) -> None:
        """One step; one that is not finite is left out."""
        if math.isfinite(float(np.abs(gradient).sum())):
            sequence.descend(ADAM_STEP, self._decay, self._weights, *self._moments, gradient)


def _with_one(phi: np.ndarray) -> np.ndarray:
    return np.concatenate([phi, np.ones((len(phi), 1), phi.dtype)], axis=1)
