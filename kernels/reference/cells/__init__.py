"""The cells in plain PyTorch: the recurrences as published, differentiable by autograd; nothing here knows of traces.

A file per cell, named as its compiled form in `kernels.cpu.cells`, whose named tuple says what a cell is made of:

    forward(cell, w, x, before, gap)    the state [ORDER, N] after a step from the state `before` [ORDER, N]
    features(cell, w, x, h)             optional: what the read-out sees [H]; without it the state, flat

x [J] are the inputs (the last is the constant 1) and `gap` the time since the step before, in units of the spec.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import torch


class Weights(NamedTuple):
    """The weights of one layer."""

    matrices: torch.Tensor
    """[M, J, N]; complex where the cell's are (TIED)."""
    vectors: torch.Tensor
    """[V, N]."""
    stage: torch.Tensor
    """[rows, columns] of the output stage; [0, 0] without."""


def split(cell: Any, flat: torch.Tensor, width: int) -> Weights:
    """The weights [C] of a layer with `width` inputs, as they lie in memory, as its tensors (views but for complex)."""
    parts, n = (2 if cell.TIED else 1), cell.units
    stage = cell.output_stage(width) if hasattr(cell, "output_stage") else (0, 0)
    sizes = [cell.MATRICES * parts * width * n, cell.VECTORS * n, stage[0] * stage[1]]
    matrices, vectors, out = flat.split(sizes)
    matrices = matrices.view(cell.MATRICES, parts, width, n)
    kept = torch.complex(matrices[:, 0], matrices[:, 1]) if cell.TIED else matrices[:, 0]
    return Weights(kept, vectors.view(cell.VECTORS, n), out.view(stage))


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
