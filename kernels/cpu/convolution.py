"""Fixed random filters over the patches of an image, rectified, and averaged over a grid of cells.

    phi[a, b, k] = mean over the patches p of cell (a, b) of relu(w_k' p + b_k), less what that is for white noise

Patches are normalised in contrast (Coates, Lee & Ng, AISTATS 2011): each minus its mean and over its deviation. Without
the last term all features would share one large mean, along which descent goes back and forth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.numerics import JIT
from kernels.cpu.products import product

LEAST_VARIANCE = 1e-3
"""Added to the variance of a patch, so that flat patches stay small."""


class Filters(NamedTuple):
    """Filters, and how they lie on an image of C channels: every `stride` pixels, averaged over `cells` x `cells`."""

    w: np.ndarray
    """T [(C patch patch + 1) K]: for each number of a patch (channel by channel, row by row) its weight in all filters,
    then the biases."""
    noise: np.ndarray
    """T [K], subtracted: see `of_noise`."""
    channels: int
    height: int
    width: int
    patch: int
    stride: int
    cells: int

    @classmethod
    def make(
        cls, w: np.ndarray, b: np.ndarray, image: tuple[int, int, int], patch: int, stride: int, cells: int
    ) -> Filters:
        """With filters `w` T [C patch patch, K] and biases `b` T [K] for an image of (C, height, width)."""
        noise = of_noise(b).astype(w.dtype)
        return cls(np.append(w, b[None], axis=0).ravel(), noise, *image, patch, stride, cells)

    @property
    def room(self) -> int:
        """Numbers in a row of working memory."""
        return max(len(self.noise), len(self.w) // len(self.noise))


def of_noise(b: np.ndarray) -> np.ndarray:
    """E relu(z + b) of a standard normal z: b Phi(b) + the density at b. Responses to white noise are such z."""
    below = 0.5 * (1.0 + np.array([math.erf(value / math.sqrt(2.0)) for value in b]))
    return b * below + np.exp(-0.5 * b * b) / math.sqrt(2.0 * math.pi)


@nb.njit(**JIT)
def take_patch(x, filters, top, left, out):
    """Writes the patch of the image `x` [C height width] that begins there, normalised, to `out`, its first numbers."""
    kind, size = out.dtype.type, filters.patch
    at, total, squares = 0, 0.0, 0.0
    for c in range(filters.channels):
        for a in range(size):
            start = (c * filters.height + top + a) * filters.width + left
            for b in range(size):
                out[at] = x[start + b]
                total += out[at]
                at += 1
    mean = total / at
    for k in range(at):
        squares += (out[k] - mean) * (out[k] - mean)
    scale = 1.0 / math.sqrt(squares / at + LEAST_VARIANCE)
    for k in range(at):
        out[k] = kind((out[k] - mean) * scale)


@nb.njit(**JIT)
def respond(filters, x, work, out):
    """Writes the features of an image.

    Args:
        filters: see `Filters`.
        x: T [at least C height width], the image first, channel by channel and row by row.
        work: T [2, at least filters.room], working memory.
        out: T [cells cells K], written.
    """
    stride, cells, many, kind = filters.stride, filters.cells, len(filters.noise), out.dtype.type
    down = (filters.height - filters.patch) // stride + 1
    across = (filters.width - filters.patch) // stride + 1
    size = len(filters.w) // many
    row, response = work[0], work[1]
    for a in range(cells):
        top, bottom = a * down // cells, (a + 1) * down // cells
        for b in range(cells):
            left, right = b * across // cells, (b + 1) * across // cells
            cell = out[(a * cells + b) * many : (a * cells + b + 1) * many]
            for k in range(many):
                cell[k] = kind(0)
            for i in range(top, bottom):
                for j in range(left, right):
                    take_patch(x, filters, i * stride, j * stride, row)
                    row[size - 1] = kind(1)
                    product(filters.w, 0, row, many, size, response)
                    for k in range(many):
                        cell[k] += kind(0) if response[k] < kind(0) else response[k]  # NaN stays
            share = kind(1.0 / max(1, (bottom - top) * (right - left)))
            for k in range(many):
                cell[k] = cell[k] * share - filters.noise[k]


@nb.njit(**JIT)
def respond_all(filters, x, work, out):
    """`respond` for every row of `x` [n, C height width]; `out` [n, cells cells K] is written."""
    for row in range(len(x)):
        respond(filters, x[row], work, out[row])
