"""How a gradient changes the weights, by spec (compiled in `kernels.cpu.optimizers`)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from learners.spec import Strict

Decay = Annotated[float, Field(ge=0, le=0.99999)]
"""Decay of a moment; closer to 1 its complement would be rounding in float32."""


class Adam(Strict):
    """Adam (Kingma & Ba 2015)."""

    kind: Literal["adam"] = "adam"
    rate: float = Field(1e-3, gt=0, le=10, description="Step size.")
    betas: tuple[Decay, Decay] = Field((0.9, 0.999), description="Decay of the first and second moment.")
    epsilon: float = Field(1e-8, ge=1e-16, le=1, description="Added to the root of the second moment.")


class RMSprop(Strict):
    """RMSprop (Tieleman & Hinton 2012)."""

    kind: Literal["rmsprop"] = "rmsprop"
    rate: float = Field(1e-3, gt=0, le=10, description="Step size.")
    beta: Decay = Field(0.99, description="Decay of the second moment.")
    epsilon: float = Field(1e-8, ge=1e-16, le=1, description="Added to the root of the second moment.")


class ObGD(Strict):
    """Overshooting-bounded gradient descent (Elsayed, Vasan & Mahmood 2024) without eligibility traces."""

    kind: Literal["obgd"] = "obgd"
    rate: float = Field(1.0, gt=0, le=10, description="Step size where nothing overshoots.")
    kappa: float = Field(2.0, gt=0, le=1e3, description="By how much a step may overshoot: larger is more careful.")


class SGD(Strict):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    rate: float = Field(1e-2, gt=0, le=10, description="Step size.")


class EKF(Strict):
    """The diagonal extended Kalman filter of all weights (Chang et al., CoLLAs 2023), by the traces of RTRL.

    Every weight has a variance of its own, which says how far it moves; there is no rate. A linear head only.
    """

    kind: Literal["ekf"] = "ekf"
    form: Literal["decoupled", "variational"] = Field(
        "decoupled", description="How a label lowers a variance: p (1 - K H), or 1 / p + H' R^-1 H (KL-optimal)."
    )
    prior: float = Field(0.1, gt=0, le=1e3, description="Variance of a weight before any label.")
    gamma: float = Field(
        0.99998, gt=0, le=1, description="Per label p <- gamma^2 p + (1 - gamma^2) prior; 1 forgets nothing."
    )
    floor: float = Field(
        1e-2, ge=1e-3, le=1, description="Least information of a label; least noise of a regression's scaled change."
    )


Optimizer = Annotated[Adam | RMSprop | ObGD | SGD | EKF, Field(discriminator="kind")]
