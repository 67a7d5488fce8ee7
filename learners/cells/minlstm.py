"""minLSTM (Feng et al. 2024, arXiv 2410.01201)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import minlstm
from learners.cells.base import CellSpec, Draws


class MinLSTM(CellSpec):
    """minLSTM units with normalised gates and tanh candidates: the gates see the inputs only."""

    kind: Literal["minlstm"] = "minlstm"
    gate_bias: tuple[float, float] = Field(
        (-3.0, 1.0), description="Range of the input gates' initial biases, uniform; the forget gates begin at 1."
    )

    def compiled(self) -> minlstm.MinLSTM:
        """See `CellSpec`."""
        return minlstm.MinLSTM(self.units)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        weights = np.stack([draws.inputs(stream, width, self.units) for stream in range(3)])
        weights[0, -1] = 1.0
        weights[1, -1] = draws.uniform(3, self.units, low=self.gate_bias[0], high=self.gate_bias[1])
        return weights.reshape(-1)
