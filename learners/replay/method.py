"""What a method of learning from mini-batches is to the learner that gathers them."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from learners.replay.classifier import Classifier
from learners.replay.memory import Memory


class Model(Protocol):
    """What is trained on mini-batches, and predicts."""

    def reserve(self, classes: int) -> None:
        """Room for so many classes."""

    def limit(self, bound: np.ndarray) -> None:
        """Keeps the inputs that it holds within a bound (see `kernels.cpu.replay.bounds`), which has come down."""

    def logits(self, x: np.ndarray, classes: int, out: np.ndarray) -> None:
        """Writes the logits of the first `classes` classes to `out` [n, classes or more], each row on its own."""

    def step(self, x: np.ndarray, y: np.ndarray, known: int) -> bool:
        """Learns a mini-batch [batch, J] of the first `known` classes; False where the step was not finite."""

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """State by name."""

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """Takes on a state."""


class Method:
    """A `Model` of a classifier that descends one gradient per mini-batch. A method says which one.

    Args:
        spec: of the learner.
        net: the classifier.
    """

    def __init__(self, spec: Any, net: Classifier) -> None:
        self.spec, self.net = spec, net

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """Leaves the gradient of the method's loss in the classifier."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it descends")

    def after(self, x: np.ndarray, y: np.ndarray) -> None:
        """What is to be done when the weights have changed."""

    def reserve(self, classes: int) -> None:
        """See `Model`."""
        self.net.reserve(classes)

    def limit(self, bound: np.ndarray) -> None:
        """See `Model`: it holds none."""

    def logits(self, x: np.ndarray, classes: int, out: np.ndarray) -> None:
        """See `Model`."""
        self.net.logits(x, classes, out)

    def step(self, x: np.ndarray, y: np.ndarray, known: int) -> bool:
        """See `Model`."""
        self.net.known = known
        self.gradient(x, y)
        done = self.net.descend(self.spec.rate)
        self.after(x, y)
        return done

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """See `Model`."""
        self.net.known = known
        return self.net.arrays()

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """See `Model`."""
        self.net.load(arrays, known)


class Replaying(Method):
    """A method with a buffer, which gets the mini-batch after the step."""

    NOTED = False
    """Whether it keeps notes beside what is held."""

    def __init__(self, spec: Any, net: Classifier, memory: Memory) -> None:
        super().__init__(spec, net)
        self.memory = memory

    def recall(self, purpose: int = 1, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and classes of `replay` events of the buffer, fewer where fewer are held; see `Memory.draw`."""
        places = self.memory.draw(self.spec.replay if count is None else count, purpose)
        return self.memory.x.take(places, axis=0), self.memory.y.take(places)

    def after(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `Method`."""
        self.memory.insert(x, y)

    def limit(self, bound: np.ndarray) -> None:
        """See `Model`."""
        self.memory.limit(bound)

    def reserve(self, classes: int) -> None:
        """See `Model`."""
        super().reserve(classes)
        self.memory.reserve(classes)

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """See `Model`."""
        return super().arrays(known) | self.memory.arrays(known)

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """See `Model`."""
        super().load(arrays, known)
        self.memory.load(arrays, known)
