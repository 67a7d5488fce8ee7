"""A linear head: log-loss or Huber's loss, one step of the learner's optimizer per label."""

from __future__ import annotations

from typing import Literal

from kernels.cpu.heads import linear
from kernels.cpu.layout import Config
from learners.heads.base import HeadSpec


class Linear(HeadSpec):
    """Linear read-out with skip connection, zero at the start, trained together with what is below it."""

    kind: Literal["linear"] = "linear"

    def compiled(self, config: Config, classes: int, seed: int) -> linear.Linear:
        """See `HeadSpec`."""
        return linear.Linear()

    @property
    def optimized(self) -> bool:
        """See `HeadSpec`."""
        return True
