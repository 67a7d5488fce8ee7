"""Recursive ridge regression: equal to the joint solution over all examples, in any order (analytic learning, ACIL).

The Kalman head without forgetting. Several penalties are several filters, mixed by how well each has predicted. Of a
regression, a residual of more than eight deviations counts as one of eight.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kernels.cpu.heads import kalman
from kernels.cpu.layout import REGRESSION, Config
from learners.heads.base import SelfTaught

Penalty = Annotated[float, Field(gt=0, le=1e12)]


class Ridge(SelfTaught):
    """Ridge regression on one-hot targets, or on the change."""

    kind: Literal["ridge"] = "ridge"
    penalties: tuple[Penalty, ...] = Field(
        (1.0,), min_length=1, max_length=16, description="Penalties on the squared weights, one filter each."
    )
    alpha: float = Field(5.0, ge=0.1, le=100, description="Calibration of the softmax at the start.")
    alpha_rate: float = Field(0.01, ge=0, le=1, description="Rate at which the calibration learns.")

    def compiled(self, config: Config, classes: int, seed: int) -> kalman.Kalman:
        """See `HeadSpec`."""
        return kalman.Kalman.make(
            features=self.size(config),
            classes=classes,
            inputs=int(self.inputs),
            teaches=kalman.PREDICTIVE if config.units > 0 else kalman.NOTHING,
            gammas=(1.0,),
            priors=tuple(1.0 / penalty for penalty in self.penalties),
            samples=0,
            noise=1.0,
            alpha=self.alpha,
            alpha_rate=self.alpha_rate,
        )

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """See `HeadSpec`."""
        return True, True, task == REGRESSION

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        return len(self.penalties) * kalman.numbers(size, classes)
