"""Nearest class mean, in closed form."""

from __future__ import annotations

from typing import ClassVar, Literal

from kernels.cpu.heads import nearest_mean
from kernels.cpu.layout import Config
from learners.heads.base import SelfTaught


class NearestMean(SelfTaught):
    """The class whose running mean of features is nearest."""

    kind: Literal["nearest_mean"] = "nearest_mean"

    targets: ClassVar[tuple[str, ...]] = ("binary", "multiclass")
    teaches: ClassVar[bool] = False

    def compiled(self, config: Config, classes: int, seed: int) -> nearest_mean.NearestMean:
        """See `HeadSpec`."""
        return nearest_mean.NearestMean.make(self.size(config), inputs=int(self.inputs), classes=classes)

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        return classes * (size + 1)
