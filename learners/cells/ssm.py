"""Selective diagonal state-space model (Mamba: Gu & Dao 2023, arXiv 2312.00752), in a form that RTRL can afford."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells import ssm
from learners.cells.base import CellSpec, Draws


class SSM(CellSpec):
    """Selective state-space channels: time step, input and output weights depend on the inputs."""

    kind: Literal["ssm"] = "ssm"
    timed: ClassVar[bool] = True
    units: int = Field(32, ge=1, le=8192, description="Channels of a layer.")
    states: int = Field(8, ge=1, le=256, description="States per channel; traces grow with channels times states.")
    steps: tuple[float, float] = Field((1e-2, 1.0), description="Range of the initial time steps, log-uniform.")

    def compiled(self) -> ssm.SSM:
        """See `CellSpec`."""
        return ssm.SSM(self.units * self.states, self.units, self.states)

    @property
    def hidden(self) -> int:
        """See `CellSpec`."""
        return self.units

    def initial(self, draws: Draws, width: int) -> np.ndarray:
        """See `CellSpec`."""
        low, high = map(math.log, self.steps)
        step = 0.1 * draws.inputs(0, width, self.units)
        step[-1] = np.log(np.expm1(np.exp(draws.uniform(1, self.units, low=low, high=high))))
        let_in, drive, out = (
            draws.inputs(stream, width, many) for stream, many in ((2, self.states), (3, self.units), (4, self.states))
        )
        let_in[-1] = out[-1] = 1.0
        decay = np.tile(np.log(np.arange(1.0, self.states + 1)), self.units)
        return np.concatenate([part.reshape(-1) for part in (step, let_in, drive, decay, out)])
