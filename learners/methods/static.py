"""A learner without recurrence: a head on the inputs, or on random features of them.

The features are those of one event and the key's previous label; a head learns from them by itself, in closed form or
by filtering. Random features (Rahimi & Recht, NeurIPS 2008), of images random filters (Coates, Lee & Ng, AISTATS 2011),
are drawn once from the seed.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from kernels.cpu.cells.static import Convolution, Static
from learners import recurrence as build
from learners.cells.base import Draws
from learners.compiled import CompiledSpec
from learners.filters import FilterFields
from learners.spec import ModelSpec, Strict

MAX_FEATURES_BYTES = 1 << 30
"""Bound on the fixed weights of random features."""


class Raw(Strict):
    """The inputs as they are."""

    kind: Literal["raw"] = "raw"

    size: ClassVar[int] = 0
    """How many features there are beside the inputs."""


class Random(Strict):
    """Rectified random combinations of the inputs, beside them."""

    kind: Literal["random"] = "random"
    units: int = Field(500, ge=1, le=65_536, description="Random features.")

    @property
    def size(self) -> int:
        """See `Raw`."""
        return self.units


class ConvolutionFeatures(FilterFields):
    """Random filters over an image, rectified and averaged over a grid; the previous label is among the inputs only."""

    kind: Literal["random_conv"] = "random_conv"


class StaticSpec(CompiledSpec):
    """A head on the inputs of every event, or on random features of them."""

    kind: Literal["static"] = "static"
    features: Annotated[Raw | Random | ConvolutionFeatures, Field(discriminator="kind")] = Field(
        default_factory=Raw, description="What the head sees."
    )

    def map(self, model: ModelSpec) -> Static | Convolution:
        """See `CompiledSpec`."""
        if isinstance(self.features, ConvolutionFeatures):
            return Convolution(self.features.draw(self.seed, np.dtype(self.dtype)))
        width, units = build.config(model, self).width, self.shape().hidden
        weights = Draws(self.seed, 0).inputs(0, width, units).astype(self.dtype)
        return Static(np.ascontiguousarray(weights))

    def shape(self) -> build.Shape:
        """See `CompiledSpec`."""
        return build.Shape(hidden=self.features.size)

    def uses_seed(self) -> bool:
        """See `LearnerSpec`."""
        return not isinstance(self.features, Raw) or self.head.uses_seed()

    def check(self, model: ModelSpec) -> None:
        """See `CompiledSpec`.

        Raises:
            ValueError: features have categories, which no random combination can use, or there are too many, or no
                image of that size; or `CompiledSpec.check`.
        """
        categorical = [feature.name for feature in model.features if feature.categories]
        if categorical:
            raise ValueError(f"features {categorical[:10]} have categories, which only an encoder can use")
        c = build.config(model, self)
        size = np.dtype(self.dtype).itemsize * c.width * c.hidden
        if isinstance(self.features, ConvolutionFeatures):
            self.features.check_filters(c.features, "learner.features")
        elif size > MAX_FEATURES_BYTES:
            raise ValueError(
                f"{c.hidden} random features of {c.width} inputs take {size} bytes, at most {MAX_FEATURES_BYTES} are "
                "accepted"
            )
        super().check(model)
