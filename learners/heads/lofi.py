"""LoFi: a small network as a head, all its weights filtered (Chang et al., CoLLAs 2023)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from kernels.cpu.heads import lofi
from kernels.cpu.layout import REGRESSION, Config
from learners.heads.base import SelfTaught


class LoFi(SelfTaught):
    """A network of one hidden layer with a Gaussian posterior over its weights, of low-rank precision."""

    kind: Literal["lofi"] = "lofi"
    units: int = Field(32, ge=1, le=lofi.MOST_UNITS, description="Units of the hidden layer.")
    rank: int = Field(10, ge=1, le=lofi.MOST_RANK, description="Directions of the weights that are known better.")
    gamma: float = Field(
        1.0, gt=0, le=1, description="What the weights keep per step of what they have learned; 1 forgets nothing."
    )

    def compiled(self, config: Config, classes: int, seed: int) -> lofi.LoFi:
        """See `HeadSpec`."""
        return lofi.LoFi.make(
            self.size(config),
            np.random.Generator(np.random.Philox(key=[seed, lofi.MOST_UNITS])),
            inputs=int(self.inputs),
            units=self.units,
            rank=self.rank,
            gamma=self.gamma,
            classes=classes,
        )

    def check(self, config: Config) -> None:
        """See `HeadSpec`."""
        super().check(config)
        if config.max_classes > lofi.MOST_CLASSES:
            raise ValueError(
                f"head 'lofi' takes at most {lofi.MOST_CLASSES} classes, target.max_classes is {config.max_classes}"
            )

    def uses_seed(self) -> bool:
        """See `HeadSpec`."""
        return True

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """See `HeadSpec`."""
        return True, True, task == REGRESSION

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        weights = self.units * size + classes * (self.units + 1)
        return weights * (self.rank + 1) + self.units * size
