"""Diagonal state-space model, zero-order hold (Smith, Warrington & Linderman, ICLR 2023, arXiv 2208.04933)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import s5
from learners.cells.base import CellSpec, Draws

RATES = {"exp": s5.EXP, "softplus": s5.SOFTPLUS, "best": s5.BEST, "direct": s5.DIRECT}


class S5(CellSpec):
    """Diagonal state-space units, discretised by zero-order hold with the time between events."""

    kind: Literal["s5"] = "s5"
    timed: ClassVar[bool] = True
    rate: Literal["exp", "softplus", "best", "direct"] = Field(
        "exp", description="How the decay rate follows from its weight; `best` is StableSSM's 1 / (w^2 + 0.1)."
    )
    steps: tuple[float, float] = Field((1e-3, 1.0), description="Range of the initial time steps, log-uniform.")
    frequency: float = Field(
        3.1416,
        ge=0,
        le=1e3,
        description="Initial frequencies are spread evenly from 0 to this, radians per unit of time.",
    )

    def compiled(self) -> s5.S5:
        """See `CellSpec`."""
        return s5.S5(self.units, RATES[self.rate])

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        n, half = self.units, 0.5
        weight = {
            "exp": math.log(half),
            "softplus": math.log(math.expm1(half)),
            "best": math.sqrt(1.0 / half - 0.1),
            "direct": -half,
        }[self.rate]
        matrix = np.stack([draws.inputs(stream, width, n) for stream in (2, 3)]) * math.sqrt(0.5)
        omega = self.frequency * np.arange(n) / max(1, n)
        low, high = map(math.log, self.steps)
        vectors = (np.full(n, weight), omega, draws.uniform(0, n, low=low, high=high))
        return np.concatenate([part.reshape(-1) for part in (matrix, *vectors)])
