"""What a cell says of itself to the recurrent learner."""

from __future__ import annotations

import importlib
import math
import pkgutil
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from learners.spec import Strict


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


class CellSpec(Strict):
    """Base of the cells' specs. A subclass with a `kind` literal is a registered cell."""

    kind: str
    units: int = Field(64, ge=1, le=65_536, description="Hidden units of a layer.")

    registry: ClassVar[dict[str, type[CellSpec]]] = {}
    timed: ClassVar[bool] = False
    """Whether a step depends on the time since the key's last event."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        CellSpec.registry[cls.model_fields["kind"].default] = cls

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


def cells() -> dict[str, type[CellSpec]]:
    """Every cell by its kind."""
    import learners.cells as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return CellSpec.registry


def by_kind(value: Any, handler: Any) -> CellSpec:
    """Validates a cell's spec as the subclass that its `kind` names.

    Raises:
        ValueError: there is no such cell.
    """
    if isinstance(value, CellSpec):
        return value
    if not isinstance(value, dict):
        raise ValueError(f"cell must be a mapping with a 'kind', got {type(value).__name__}")
    kind = value.get("kind", "mingru")
    known = cells()
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"unknown cell kind {kind!r}; known: {', '.join(sorted(known))}")
    return known[kind].model_validate(value)
