"""The cells in plain PyTorch: the recurrences as published, differentiable by autograd; nothing here knows of traces.

A file per cell, named as its compiled form in `kernels.cpu.cells`, whose named tuple says what a cell is made of:

    forward(cell, w, x, before, gap)    the state [ORDER, N] after a step from the state `before` [ORDER, N]
    features(cell, w, x, h)             optional: what the read-out sees [H]; without it the state, flat
    reach(cell)                         optional, where units share weights: which column of a matrix each sees

x [J] are the inputs (the last is the constant 1) and `gap` the time since the step before, in units of the spec.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any, NamedTuple

import torch


class Weights(NamedTuple):
    """The weights of one layer."""

    matrices: torch.Tensor
    """[M, J, N]; complex where the cell's are (TIED); where units share a column, it stands at each of them."""
    vectors: torch.Tensor
    """[V, N]."""
    stage: torch.Tensor
    """[rows, columns] of the output stage; [0, 0] without."""


def reach(cell: Any) -> list[torch.Tensor]:
    """For each matrix int64 [N]: which of its columns unit i sees. Its own, unless the cell's file says other."""
    form = _form(cell)
    return form.reach(cell) if hasattr(form, "reach") else [torch.arange(cell.units)] * cell.MATRICES


def shapes(cell: Any, width: int) -> list[tuple[int, ...]]:
    """The tensors of a layer with `width` inputs as they follow each other in memory.

    Matrices (of complex ones the real, then the imaginary part), vectors, output stage (if there is one).
    """
    parts = 2 if cell.TIED else 1
    matrices = [(width, int(index.max()) + 1) for index in reach(cell) for _ in range(parts)]
    stage = [cell.output_stage(width)] if cell.output_stage(width) != (0, 0) else []
    return [*matrices, *[(cell.units,)] * cell.VECTORS, *stage]


def tensors(cell: Any, flat: torch.Tensor, width: int) -> list[torch.Tensor]:
    """The weights of a layer, as they lie in memory, as the tensors of `shapes`; these are views."""
    found = shapes(cell, width)
    return [part.view(shape) for part, shape in zip(flat.split([math.prod(shape) for shape in found]), found)]


def split(cell: Any, flat: torch.Tensor, width: int) -> Weights:
    """The weights of a layer, as they lie in memory, as `forward` takes them; autograd finds its way back."""
    parts, indices = tensors(cell, flat, width), reach(cell)
    count = cell.MATRICES * (2 if cell.TIED else 1)
    matrices, rest = parts[:count], parts[count:]
    if cell.TIED:
        matrices = [torch.complex(*pair) for pair in zip(matrices[::2], matrices[1::2])]
    seen = torch.stack([matrix[:, index] for matrix, index in zip(matrices, indices)])
    vectors = torch.stack(rest[: cell.VECTORS]) if cell.VECTORS else flat.new_zeros(0, cell.units)
    return Weights(seen, vectors, rest[-1] if len(rest) > cell.VECTORS else flat.new_zeros(0, 0))


def forward(cell: Any, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """The state [ORDER, N] after one step, `gap` after the step before."""
    return _form(cell).forward(cell, w, x, before, gap)


def features(cell: Any, w: Weights, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """What the read-out and the next layer see of the state `h` [ORDER, N]: [H]."""
    form = _form(cell)
    return form.features(cell, w, x, h) if hasattr(form, "features") else h.reshape(-1)


def as_complex(h: torch.Tensor) -> torch.Tensor:
    """A state of two reals per unit [2, N] as complex numbers [N]."""
    return torch.complex(h[0], h[1])


def as_pair(h: torch.Tensor) -> torch.Tensor:
    """Complex numbers [N] as a state of two reals per unit [2, N]."""
    return torch.stack([h.real, h.imag])


def _form(cell: Any) -> ModuleType:
    return importlib.import_module(f"{__name__}.{type(cell).__module__.rpartition('.')[2]}")
