"""What a cell says of itself to the recurrent learner."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from learners.registry import import_all
from learners.spec import Registered


class Draws:
    """Counter-based random numbers (Philox) for the initial weights of one layer, keyed by seed, layer and stream."""

    def __init__(self, seed: int, layer: int) -> None:
        self._seed = seed
        self._first = 64 * layer

    def uniform(self, stream: int, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
        """float64 [*shape], uniform in [low, high)."""
        raw = np.random.Philox(key=[self._seed, self._first + stream]).random_raw(math.prod(shape))
        unit = (np.atleast_1d(raw) >> np.uint64(11)) * 2.0**-53
        return low + (high - low) * unit.reshape(shape)

    def inputs(self, stream: int, width: int, units: int) -> np.ndarray:
        """float64 [width, units]: weights of `width - 1` inputs of unit variance, which give sums of unit variance.

        The last row, the bias, is zero.
        """
        weights = self.uniform(stream, width, units, low=-1.0) * math.sqrt(3.0 / max(1, width - 1))
        weights[-1] = 0.0
        return weights

    def ring(self, stream: int, units: int, radius: tuple[float, float]) -> np.ndarray:
        """float64 [units]: moduli of eigenvalues, uniform in area between two radii, within [1e-4, 0.99999]."""
        low, high = radius[0] ** 2, radius[1] ** 2
        return np.clip(np.sqrt(self.uniform(stream, units, low=low, high=high)), 1e-4, 0.99999)

    def phase(self, stream: int, units: int, largest: float) -> np.ndarray:
        """float64 [units]: phases, uniform in (0, largest)."""
        return np.maximum(self.uniform(stream, units, high=largest), 1e-6)


Ring = Annotated[float, Field(ge=0, lt=1)]
"""Modulus of an eigenvalue."""


class CellSpec(Registered):
    """Base of the cells' specs."""

    units: int = Field(64, ge=1, le=65_536, description="Hidden units of a layer.")

    registry: ClassVar[dict[str, type[Registered]]] = {}
    family: ClassVar[str] = "cell"
    plain: ClassVar[str] = "mingru"
    timed: ClassVar[bool] = False
    """Whether a step depends on the time since the key's last event."""

    @classmethod
    def load_all(cls) -> None:
        """See `Registered`."""
        import learners.cells as package

        import_all(package)

    def compiled(self) -> Any:
        """The cell as compiled code takes it: a named tuple of `kernels.cpu.cells`."""
        raise NotImplementedError(f"cell kind {self.kind!r} has no compiled form")

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """Weights of a layer with `width` inputs, the last one constant: float64, flat as in `kernels.cpu.cells`."""
        raise NotImplementedError(f"cell kind {self.kind!r} has no initial weights")

    @property
    def hidden(self) -> int:
        """Features of a layer that the read-out sees."""
        return int(self.compiled().ORDER * self.compiled().units)
