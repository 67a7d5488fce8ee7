"""Streaming linear discriminant analysis (Hayes and Kanan 2020), with the exact scatter within classes."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kernels.cpu.heads import lda
from kernels.cpu.layout import Config
from learners.heads.base import SelfTaught


class LDA(SelfTaught):
    """Gaussian classes with a common covariance."""

    kind: Literal["lda"] = "lda"
    shrinkage: float = Field(
        1e-2, ge=lda.LEAST_SHRINKAGE, le=1, description="Share of the mean variance in the covariance, as a sphere."
    )
    prior: Literal["empirical", "uniform"] = Field("empirical", description="Of the classes: their share, or equal.")
    refresh: int = Field(100, ge=1, description="Labels between two factorisations of the covariance.")

    targets: ClassVar[tuple[str, ...]] = ("binary", "multiclass")
    teaches: ClassVar[bool] = False

    def compiled(self, config: Config, classes: int, seed: int) -> lda.LDA:
        """See `HeadSpec`."""
        return lda.LDA.make(
            self.size(config),
            inputs=int(self.inputs),
            shrinkage=self.shrinkage,
            prior=lda.UNIFORM if self.prior == "uniform" else lda.EMPIRICAL,
            refresh=self.refresh,
            classes=classes,
        )

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        return size * (size + 1) // 2 + 2 * classes * (size + 1)
