"""Kalman head (Titsias et al., ICLR 2024, arXiv 2306.08448): filters that forget at different rates, mixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from kernels.cpu.heads import kalman
from kernels.cpu.layout import REGRESSION, Config
from learners.heads.base import SelfTaught

Gamma = Annotated[float, Field(gt=0, le=1)]


class Kalman(SelfTaught):
    """A posterior over linear read-outs that drift: it learns in one pass and says how sure it is."""

    kind: Literal["kalman"] = "kalman"
    gammas: tuple[Gamma, ...] = Field(
        kalman.GAMMAS,
        min_length=1,
        max_length=16,
        description="What each filter of the bank keeps of the weights per step: 1 forgets nothing.",
    )
    trains: Literal["read_out", "predictive"] = Field(
        "read_out",
        description="What a recurrence below learns from: the loss of a linear read-out beside the filters, which the "
        "learner's optimizer trains, or that of what is served.",
    )
    prior: float = Field(
        1.0, gt=0, le=1e6, description="Variance of an output before any label, for features of unit variance."
    )
    noise: float = Field(0.1, gt=0, le=1e3, description="Variance of the classes' one-hot targets.")
    samples: int = Field(
        16, ge=0, le=256, description="Samples of the predictive softmax; 0: the softmax of the mean."
    )
    alpha: float = Field(5.0, ge=0.1, le=100, description="Calibration of the softmax at the start.")
    alpha_rate: float = Field(0.01, ge=0, le=1, description="Rate at which the calibration learns.")
    gamma_rate: float = Field(
        0.0, ge=0, le=1, description="With a single gamma: rate of its gradient on the evidence; 0: it is fixed."
    )
    switching: float = Field(1e-3, ge=0, le=1, description="Probability that another filter becomes the best one.")
    forget_unit: float = Field(
        0.0, ge=0, description="Event time that counts as one step of forgetting; 0: every observation is one."
    )
    noise_window: int = Field(100, ge=1, description="Regression: labels over which the noise is averaged.")
    interval_rate: float = Field(0.05, ge=0, le=1, description="Regression: how fast the interval follows its misses.")
    robust: float = Field(
        5.0,
        ge=0,
        le=1e6,
        description="Regression: residuals beyond this many deviations weigh less and less (WoLF), and outliers are "
        "not learned at all; 0: every label counts.",
    )

    @model_validator(mode="after")
    def _one_gamma_moves(self) -> Kalman:
        if self.gamma_rate > 0 and len(self.gammas) > 1:
            raise ValueError(f"gamma_rate {self.gamma_rate:g} moves a single gamma, got {len(self.gammas)} gammas")
        return self

    def compiled(self, config: Config, classes: int, seed: int) -> kalman.Kalman:
        """See `HeadSpec`."""
        size = self.size(config)
        return kalman.Kalman.make(
            features=size,
            classes=classes,
            inputs=int(self.inputs),
            teaches=self._teaches(config),
            seed=seed,
            gammas=self.gammas,
            priors=(self.prior / size,),
            samples=self.samples,
            noise=self.noise,
            alpha=self.alpha,
            alpha_rate=self.alpha_rate,
            gamma_rate=self.gamma_rate,
            window=float(self.noise_window),
            switching=self.switching,
            interval_rate=self.interval_rate,
            robust=self.robust,
        )

    def _teaches(self, config: Config) -> int:
        if config.units == 0:
            return kalman.NOTHING
        return kalman.READ_OUT if self.optimized else kalman.PREDICTIVE

    @property
    def optimized(self) -> bool:
        """See `HeadSpec`."""
        return self.trains == "read_out"

    def uses_seed(self) -> bool:
        """See `HeadSpec`."""
        return self.samples > 0 and self.alpha_rate > 0

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """See `HeadSpec`."""
        return True, True, task == REGRESSION

    def numbers(self, size: int, classes: int) -> int:
        """See `SelfTaught`."""
        return len(self.gammas) * kalman.numbers(size, classes)

    @property
    def step_of_forgetting(self) -> float:
        """See `HeadSpec`."""
        return self.forget_unit
