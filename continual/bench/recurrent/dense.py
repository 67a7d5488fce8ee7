"""Dense recurrences as networks of the memory task, with each way to take their gradient."""

from __future__ import annotations

import math

import numpy as np

from kernels.cpu.dense import bptt, cells, snap1, uoro
from kernels.cpu.dense.cells import GRU, RNN, Dense
from learners.cells.base import Draws

GATES = {"rnn": RNN, "gru": GRU}


class DenseNetwork:
    """A dense cell (`Network` of the memory task). Its features are its state."""

    def __init__(
        self, kind: str, training: str, units: int, width: int, seed: int, *, window: int = 0, keep: tuple[float, float]
    ) -> None:
        """Draws the weights.

        Args:
            kind: of `GATES`.
            training: "snap1", "uoro" or "bptt".
            units: N.
            width: J, inputs with the constant.
            seed: of weights and signs.
            window: bptt: steps to go back; 0: all of them.
            keep: range of the initial biases of a GRU's update gate, whose sigmoid is the share of the state kept.
        """
        self._cell = Dense(units, GATES[kind], width)
        self._training = training
        self._window = window
        self._seed = np.uint64(seed)
        self._runs = 0
        self._work = cells.work(self._cell, np.dtype(np.float32))
        self._body = np.zeros((0, 0), np.float32)
        self._signs = np.zeros((0, 0, units), np.float32)
        self.hidden = units
        self.weights = self._initial(Draws(seed, 0), keep).astype(np.float32)

    def _initial(self, draws: Draws, keep: tuple[float, float]) -> np.ndarray:
        """Rows of the inputs as in other cells; rows of the state with a spectral radius of about 1."""
        n, gates, width = self._cell.units, self._cell.gates, self._cell.width
        wide = math.sqrt(3.0 / n)
        parts = []
        for gate in range(gates):
            inputs = draws.inputs(2 * gate, width, n)
            if gates == GRU and gate == 1:
                inputs[-1] = draws.uniform(2 * gates, n, low=keep[0], high=keep[1])
            parts += [inputs, draws.uniform(2 * gate + 1, n, n, low=-wide, high=wide)]
        return np.concatenate([part.reshape(-1) for part in parts])

    def features(self, x: np.ndarray) -> np.ndarray:
        """See `Network`."""
        phi = np.zeros((len(x), self.hidden), np.float32)
        cells.run(self._cell, self.weights, x, phi, self._work)
        return phi

    def run(self, x: np.ndarray) -> np.ndarray:
        """See `Network`."""
        cell, w, s = self._cell, self.weights, self._work
        phi = np.zeros((len(x), self.hidden), np.float32)
        if self._training == "bptt":
            window = self._steps(x)
            bptt.run(cell, w, x, window, self._room(len(x), bptt.body_size(cell, window)), phi, s)
        elif self._training == "snap1":
            snap1.run(cell, w, x, self._room(len(x), snap1.body_size(cell)), phi, s)
        else:
            if self._signs.shape[:2] != x.shape[:2]:
                self._signs = np.zeros((*x.shape[:2], self.hidden), np.float32)
            uoro.draw_signs(self._seed, np.uint64(self._runs), self._signs)
            uoro.run(cell, w, x, self._signs, self._room(len(x), uoro.body_size(cell)), phi, s)
            self._runs += 1
        return phi

    def gradient(self, x: np.ndarray, d_phi: np.ndarray) -> np.ndarray:
        """See `Network`."""
        g = np.zeros_like(self.weights)
        if self._training == "bptt":
            window = self._steps(x)
            bptt.gradient(self._cell, self.weights, x.shape[1], window, self._body, d_phi, g, self._work)
        elif self._training == "snap1":
            snap1.gradient(self._cell, self._body, d_phi, g)
        else:
            uoro.gradient(self._cell, self._body, d_phi, g)
        return g

    def _steps(self, x: np.ndarray) -> int:
        return min(self._window, x.shape[1]) if self._window else x.shape[1]

    def _room(self, many: int, size: int) -> np.ndarray:
        if self._body.shape != (many, size):
            self._body = np.zeros((many, size), np.float32)
        return self._body
