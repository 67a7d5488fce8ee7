"""A perceptron, compiled."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from kernels.cpu.replay import layers
from learners.cells.base import Draws


class Mlp:
    """A perceptron of rectified layers; without any, the features are the inputs. A `learners.replay.classifier.Body`.

    Initial weights and biases are those of PyTorch's linear layers in distribution: uniform in
    (-1/sqrt(inputs), 1/sqrt(inputs)).
    """

    def __init__(self, inputs: int, hidden: tuple[int, ...], seed: int, dtype: np.dtype) -> None:
        self.size = hidden[-1] if hidden else inputs
        sizes = list(pairwise([inputs, *hidden]))
        self.theta = np.zeros(sum(a * b + b for a, b in sizes), dtype)
        self.gradient = np.zeros_like(self.theta)
        self._layers = self._views(self.theta, sizes)
        self._gradients = self._views(self.gradient, sizes)
        for number, (w, b) in enumerate(self._layers):
            bound, draws = len(w) ** -0.5, Draws(seed, number)
            w[:] = draws.uniform(0, *w.shape, low=-bound, high=bound)
            b[:] = draws.uniform(1, len(b), low=-bound, high=bound)
        self._turned = [np.zeros(w.shape[::-1], dtype) for w, _ in self._layers[1:]]
        widest = max([inputs, *hidden])
        self._places = np.zeros(widest, np.int64)
        self._hidden = hidden
        self._room(0)

    @staticmethod
    def _views(flat: np.ndarray, sizes: list[tuple[int, int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Weights [inputs, units] and biases of each layer in the flat array."""
        views, at = [], 0
        for inputs, units in sizes:
            end = at + inputs * units
            views.append((flat[at:end].reshape(inputs, units), flat[end : end + units]))
            at = end + units
        return views

    def _room(self, rows: int) -> None:
        dtype = self.theta.dtype
        self._acts = [np.zeros((rows, units), dtype) for units in self._hidden]
        self._ds = [np.zeros((rows, units), dtype) for units in self._hidden]
        self._rows, self._column = np.zeros(rows, np.int64), np.zeros(rows, dtype)

    def forward(self, x: np.ndarray, train: bool, inferred: int = 0) -> np.ndarray:
        """See `Body`."""
        n = len(x)
        if self._hidden and n > len(self._acts[0]):
            self._room(n)
            inferred = 0
        self._x = x
        for (w, b), act in zip(self._layers, self._acts):
            layers.forward(x[inferred:], w, b, True, self._places, act[inferred:n])
            x = act[:n]
        return x

    def infer(self, x: np.ndarray) -> np.ndarray:
        """See `Body`."""
        return self.forward(x, False)

    def backward(self, d: np.ndarray) -> None:
        """See `Body`."""
        n = len(d)
        inputs = [self._x, *(act[:n] for act in self._acts)]
        for k in range(len(self._hidden) - 1, -1, -1):
            layers.rectifier_gradient(inputs[k + 1], d)
            gw, gb = self._gradients[k]
            layers.weight_gradient(inputs[k], d, self._rows[:n], self._column[:n], gw, gb)
            if k:
                below = self._ds[k - 1][:n]
                layers.input_gradient(d, self._layers[k][0], self._turned[k - 1], self._places, below)
                d = below

    def arrays(self) -> dict[str, np.ndarray]:
        """See `Body`."""
        return {"body": self.theta}

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """See `Body`."""
        self.theta[:] = arrays["body"]
