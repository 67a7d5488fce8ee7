"""Recurrent trace units (Elelimy et al., NeurIPS 2024, arXiv 2409.01449)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import rtu
from learners.cells.base import CellSpec, Draws, Ring


class RTU(CellSpec):
    """Recurrent trace units: complex eigenvalues, tied input normalisation, tanh behind or inside the recurrence."""

    kind: Literal["rtu"] = "rtu"
    linear: bool = Field(True, description="Whether the recurrence is linear and tanh follows it, or tanh is inside.")
    radius: tuple[Ring, Ring] = Field((0.0, 0.99), description="Ring of the initial eigenvalues, uniform in area.")
    phase: float = Field(
        0.628, gt=0, le=6.2832, description="Largest initial phase of an eigenvalue, radians per step."
    )

    def compiled(self) -> rtu.RTU | rtu.NonlinearRTU:
        """See `CellSpec`."""
        return rtu.RTU(self.units) if self.linear else rtu.NonlinearRTU(self.units)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        n = self.units
        r = draws.ring(0, n, self.radius)
        matrix = np.stack([draws.inputs(stream, width, n) for stream in (2, 3)]) * math.sqrt(0.5)
        vectors = (np.log(-np.log(r)), np.log(draws.phase(1, n, self.phase)))
        return np.concatenate([part.reshape(-1) for part in (matrix, *vectors)])
