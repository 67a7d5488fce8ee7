"""A learner without recurrence: a head on the inputs, or on random features of them.

The features are those of one event and the key's previous label; a head learns from them by itself, in closed form or
by filtering. Random features (Rahimi & Recht, NeurIPS 2008) are drawn once from the seed.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells.static import Static
from learners import recurrence as build
from learners.cells.base import Draws
from learners.compiled import CompiledSpec
from learners.spec import ModelSpec, Strict

MAX_FEATURES_BYTES = 1 << 30
"""Bound on the fixed weights of random features."""


class Raw(Strict):
    """The inputs as they are."""

    kind: Literal["raw"] = "raw"


class Random(Strict):
    """Rectified random combinations of the inputs, beside them."""

    kind: Literal["random"] = "random"
    units: int = Field(500, ge=1, le=65_536, description="Random features.")


class StaticSpec(CompiledSpec):
    """A head on the inputs of every event, or on random features of them."""

    kind: Literal["static"] = "static"
    features: Annotated[Raw | Random, Field(discriminator="kind")] = Field(
        default_factory=Raw, description="What the head sees."
    )

    def map(self, model: ModelSpec) -> Static:
        """See `CompiledSpec`."""
        width, units = build.config(model, self).width, self.shape().hidden
        weights = Draws(self.seed, 0).inputs(0, width, units).astype(self.dtype)
        return Static(np.ascontiguousarray(weights))

    def shape(self) -> build.Shape:
        """See `CompiledSpec`."""
        return build.Shape(hidden=self.features.units if isinstance(self.features, Random) else 0)

    def uses_seed(self) -> bool:
        """See `LearnerSpec`."""
        return isinstance(self.features, Random) or self.head.uses_seed()

    def check(self, model: ModelSpec) -> None:
        """See `CompiledSpec`.

        Raises:
            ValueError: features have categories, which no random combination can use, or there are too many; or
                `CompiledSpec.check`.
        """
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical:
            raise ValueError(f"features {categorical[:10]} have categories, which only an encoder can use")
        c = build.config(model, self)
        size = np.dtype(self.dtype).itemsize * c.width * c.hidden
        if size > MAX_FEATURES_BYTES:
            raise ValueError(
                f"{c.hidden} random features of {c.width} inputs take {size} bytes, at most {MAX_FEATURES_BYTES} are "
                "accepted"
            )
        super().check(model)
