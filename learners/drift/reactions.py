"""What is done about a drift, by spec. Everything takes effect at the end of a block of labels."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from learners.spec import Strict


class Signal(Strict):
    """Nothing: drifts are counted and shown."""

    kind: Literal["signal"] = "signal"


class Rate(Strict):
    """The optimizer's rate is raised for a while; another drift meanwhile begins that anew."""

    kind: Literal["rate"] = "rate"
    factor: float = Field(3.0, gt=0, le=1000, description="By what the rate of the optimizer is multiplied.")
    span: int = Field(1000, ge=1, description="Labels for which it is.")


class Forget(Strict):
    """A Kalman head makes one step with a low gamma: M <- g M, A <- g^2 A + (1 - g^2) sw I, in every filter."""

    kind: Literal["forget"] = "forget"
    gamma: float = Field(0.5, ge=0, lt=1, description="g: 0 resets every filter of the bank to its prior.")


class Challenger(Strict):
    """A fresh learner is folded beside the one that serves, and takes its place once it is shown to be better."""

    kind: Literal["challenger"] = "challenger"
    span: int = Field(5000, ge=1, description="Labels after which a challenger that is not better is dropped.")
    alpha: float = Field(
        0.01, gt=0, lt=1, description="Bound on the probability that one is promoted that is not better."
    )


Reaction = Annotated[Signal | Rate | Forget | Challenger, Field(discriminator="kind")]
