"""Fixed random filters over an image: what specs say of them, and the features as an encoder."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from kernels.cpu import convolution
from learners.cells.base import Draws
from learners.spec import Strict

MAX_BYTES = 1 << 30
"""Bound on the filters, in float64."""

FILTERS = 1 << 21
"""Number of the filters among what is drawn from a seed."""

Image = Annotated[
    tuple[Annotated[int, Field(ge=1, le=16)], Annotated[int, Field(ge=4, le=512)], Annotated[int, Field(ge=4, le=512)]],
    Field(description="Channels, height and width: the features are the image, channel by channel and row by row."),
]


def check_image(image: tuple[int, int, int], features: int, field: str) -> None:
    """Refuses an image of another size than the features.

    Raises:
        ValueError: naming `field`, its value, and what is accepted.
    """
    channels, height, width = image
    if channels * height * width != features:
        raise ValueError(
            f"{field} {list(image)} has {channels * height * width} numbers; accepted: as many as there are features, "
            f"{features}"
        )


class FilterFields(Strict):
    """The fields of fixed random filters."""

    image: Image
    filters: int = Field(256, ge=1, le=65_536, description="Random filters.")
    patch: int = Field(6, ge=1, le=64, description="Side of a filter.")
    stride: int = Field(2, ge=1, le=64, description="How far apart filters are laid.")
    pool: int = Field(2, ge=1, le=16, description="Cells of the grid along each side.")

    @property
    def size(self) -> int:
        """How many features there are."""
        return self.filters * self.pool**2

    def draw(self, seed: int, dtype: np.dtype) -> convolution.Filters:
        """The filters. Their responses to a patch of unit variance have unit variance, biases are within (-1, 1)."""
        size = self.image[0] * self.patch**2
        draws = Draws(seed, FILTERS)
        w = draws.uniform(0, size, self.filters, low=-1.0) * (3.0 / size) ** 0.5
        b = draws.uniform(1, self.filters, low=-1.0)
        shape = (self.image, self.patch, self.stride, self.pool)
        return convolution.Filters.make(w.astype(dtype), b.astype(dtype), *shape)

    def check_filters(self, features: int, field: str) -> None:
        """Refuses what does not fit the features, or is too large; `field` is where these fields are.

        Raises:
            ValueError: naming the field, its value, and what is accepted.
        """
        check_image(self.image, features, f"{field}.image")
        laid = max(0, (min(self.image[1:]) - self.patch) // self.stride + 1)
        if laid < self.pool:
            raise ValueError(
                f"{field}.pool {self.pool}: patches of {self.patch} every {self.stride} are laid {laid} times along "
                "the shorter side of the image; accepted: at most that many cells"
            )
        size = 8 * self.filters * self.image[0] * self.patch**2
        if size > MAX_BYTES:
            raise ValueError(
                f"{field}.filters {self.filters}: with patches of {self.patch} on {self.image[0]} channels they take "
                f"{size} bytes; accepted: at most {MAX_BYTES}"
            )


class RandomFilters:
    """From images [n, C H W] to features [n, J], every row on its own."""

    def __init__(self, fields: FilterFields, seed: int, dtype: np.dtype) -> None:
        self._filters, self._size = fields.draw(seed, dtype), fields.size

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """The features."""
        dtype = self._filters.w.dtype
        work, out = np.empty((2, self._filters.room), dtype), np.empty((len(x), self._size), dtype)
        convolution.respond_all(self._filters, x, work, out)
        return out
