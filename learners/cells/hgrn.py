"""Hierarchically gated recurrent network (Qin, Yang & Zhong, NeurIPS 2023, arXiv 2311.04823)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import hgrn
from learners.cells.base import CellSpec, Draws


class HGRN(CellSpec):
    """HGRN units: a forget gate with a lower bound, turning in the complex plane. The bound is not learned."""

    kind: Literal["hgrn"] = "hgrn"
    bound: float = Field(0.0, ge=0, lt=1, description="Lower bound of the forget gate.")
    gate_bias: tuple[float, float] = Field(
        (-3.0, 1.0), description="Range of the initial bias of forgetting, uniform: the forget gate begins at minus it."
    )
    phase: float = Field(0.628, gt=0, le=6.2832, description="Largest initial phase, radians per step.")

    def compiled(self) -> hgrn.HGRN:
        """See `CellSpec`."""
        return hgrn.HGRN(self.units, self.bound)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        n = self.units
        matrices = np.stack([draws.inputs(stream, width, n) for stream in (2, 3, 4)])
        matrices[0, -1] = -draws.uniform(0, n, low=self.gate_bias[0], high=self.gate_bias[1])
        return np.concatenate([matrices.reshape(-1), draws.phase(1, n, self.phase)])
