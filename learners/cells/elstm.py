"""eLSTM (Irie, Gopalakrishnan & Schmidhuber, ICLR 2024, arXiv 2305.19044)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import elstm
from learners.cells.base import CellSpec, Draws


class ELSTM(CellSpec):
    """eLSTM units: the gates see their own unit's state; an instantaneous output gate sees all of them."""

    kind: Literal["elstm"] = "elstm"
    gate_bias: tuple[float, float] = Field(
        (-3.0, 1.0), description="Range of the initial bias of forgetting, uniform: the forget gate begins at minus it."
    )
    spread: float = Field(0.1, ge=0, le=10, description="Deviation of the initial weights from state to gates.")

    def compiled(self) -> elstm.ELSTM:
        """See `CellSpec`."""
        return elstm.ELSTM(self.units)

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        n, wide = self.units, np.sqrt(3.0) * self.spread
        matrices = np.stack([draws.inputs(stream, width, n) for stream in range(2)])
        matrices[0, -1] = -draws.uniform(2, n, low=self.gate_bias[0], high=self.gate_bias[1])
        vectors = draws.uniform(3, 2, n, low=-wide, high=wide)
        output = draws.inputs(4, width, n)
        from_state = draws.uniform(5, n, n, low=-wide, high=wide)
        return np.concatenate([part.reshape(-1) for part in (matrices, vectors, output, from_state)])
