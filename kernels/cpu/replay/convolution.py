"""Fixed random filters over the patches of an image, rectified, and averaged over a grid of cells."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.numerics import JIT

LEAST_VARIANCE = 1e-3
"""Added to the variance of a patch, so that flat patches stay small."""


@nb.njit(**JIT)
def patches(x, channels, height, width, size, stride, out):
    """Writes the patches of an image, each minus its mean and over its deviation.

    Args:
        x: [channels height width], an image, channel by channel and row by row.
        channels: of the image.
        height: of the image.
        width: of the image.
        size: side of a patch.
        stride: how far apart patches begin.
        out: [down across, channels size size], written; patches row by row.
    """
    kind = out.dtype.type
    down, across = (height - size) // stride + 1, (width - size) // stride + 1
    for i in range(down):
        for j in range(across):
            row = out[i * across + j]
            at, total, squares = 0, 0.0, 0.0
            for c in range(channels):
                for a in range(size):
                    start = (c * height + i * stride + a) * width + j * stride
                    for b in range(size):
                        row[at] = x[start + b]
                        total += row[at]
                        at += 1
            mean = total / at
            for k in range(at):
                squares += (row[k] - mean) * (row[k] - mean)
            scale = 1.0 / math.sqrt(squares / at + LEAST_VARIANCE)
            for k in range(at):
                row[k] = kind((row[k] - mean) * scale)


@nb.njit(**JIT)
def pool(maps, down, across, cells, out):
    """Writes the means of `maps` [down across, filters] over a grid of cells to `out` [cells cells filters]."""
    filters = maps.shape[1]
    for k in range(len(out)):
        out[k] = maps.dtype.type(0)
    for a in range(cells):
        for b in range(cells):
            top, bottom = a * down // cells, (a + 1) * down // cells
            left, right = b * across // cells, (b + 1) * across // cells
            cell = out[(a * cells + b) * filters : (a * cells + b + 1) * filters]
            for i in range(top, bottom):
                for j in range(left, right):
                    row = maps[i * across + j]
                    for k in range(filters):
                        cell[k] += row[k]
            share = maps.dtype.type(1.0 / max(1, (bottom - top) * (right - left)))
            for k in range(filters):
                cell[k] *= share
