"""Linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349; online: Zucchet et al. 2023, arXiv 2305.15947)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import lru
from learners.cells.base import CellSpec, Draws, Ring


class LRU(CellSpec):
    """Linear recurrent units: complex eigenvalues on a ring, free input normalisation."""

    kind: Literal["lru"] = "lru"
    radius: tuple[Ring, Ring] = Field((0.0, 0.99), description="Ring of the initial eigenvalues, uniform in area.")
    phase: float = Field(
        0.628, gt=0, le=6.2832, description="Largest initial phase of an eigenvalue, radians per step."
    )

    def compiled(self) -> lru.LRU:
        """See `CellSpec`."""
        return lru.LRU(self.units)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        n = self.units
        r = draws.ring(0, n, self.radius)
        matrix = np.stack([draws.inputs(stream, width, n) for stream in (2, 3)]) * math.sqrt(0.5)
        theta = draws.phase(1, n, self.phase)
        vectors = (np.log(-np.log(r)), np.log(theta), 0.5 * np.log(1.0 - r**2))
        return np.concatenate([part.reshape(-1) for part in (matrix, *vectors)])
