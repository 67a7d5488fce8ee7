"""The k nearest of the last examples."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kernels.cpu.heads import neighbours as kernel
from kernels.cpu.layout import REGRESSION, Config
from learners.heads.base import SelfTaught


class Neighbours(SelfTaught):
    """A memory of the last examples; the nearest of them vote, the nearer the more."""

    kind: Literal["neighbours"] = "neighbours"
    neighbours: int = Field(10, ge=1, le=kernel.MOST_NEIGHBOURS, description="How many vote.")
    memory: int = Field(1000, ge=256, le=1_000_000, description="Examples kept, the oldest out first.")

    teaches: ClassVar[bool] = False

    def compiled(self, config: Config, classes: int, seed: int) -> kernel.Neighbours:
        """See `HeadSpec`."""
        return kernel.Neighbours.make(
            self.size(config),
            inputs=int(self.inputs),
            memory=self.memory,
            neighbours=self.neighbours,
            classes=classes,
        )

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """See `HeadSpec`."""
        return True, task == REGRESSION, task == REGRESSION

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        return self.memory * (size + 1)
