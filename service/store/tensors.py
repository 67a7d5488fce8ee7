"""Arrays by name as bytes: the one place that writes safetensors.

safetensors takes the memory of an array as it lies. Version 0.8.0 stores a view that is not in C order (transposed,
strided, reversed) with its numbers in another order and says nothing, so every array is laid out here first.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load, save


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The arrays as one safetensors file.

    Args:
        arrays: of any shape and memory layout, and of a dtype that safetensors knows.
    """
    return save({name: np.asarray(array, order="C") for name, array in arrays.items()})


def unpack(body: bytes) -> dict[str, np.ndarray]:
    """The inverse of `pack`: arrays in C order, which can be written to."""
    return load(body)
