"""minGRU (Feng et al. 2024, arXiv 2410.01201)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import mingru
from learners.cells.base import CellSpec, Draws


class MinGRU(CellSpec):
    """minGRU units with tanh candidates: the gate sees the inputs only."""

    kind: Literal["mingru"] = "mingru"
    gate_bias: tuple[float, float] = Field(
        (-3.0, 1.0),
        description="Range of the gates' initial biases, uniform: a wide range gives units of different memory.",
    )

    def compiled(self) -> mingru.MinGRU:
        """See `CellSpec`."""
        return mingru.MinGRU(self.units)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        weights = draws.uniform(0, 2, width, self.units, low=-1.0) * np.sqrt(3.0 / max(1, width - 1))
        weights[0, -1] = draws.uniform(1, self.units, low=self.gate_bias[0], high=self.gate_bias[1])
        weights[1, -1] = 0.0
        return weights.reshape(-1)
