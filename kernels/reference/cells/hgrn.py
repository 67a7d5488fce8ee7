"""HGRN (Qin, Yang & Zhong, NeurIPS 2023, arXiv 2311.04823), in complex numbers; the lower bound is a constant.

mu = sigmoid(Wmu x),  l = bound + (1 - bound) mu,  c = silu(Wre x) + i silu(Wim x)
h = l exp(i theta) h_ + (1 - l) c
"""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from kernels.cpu.cells.hgrn import HGRN
from kernels.reference.cells import Weights, as_complex, as_pair


def forward(cell: HGRN, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    forget = cell.bound + (1 - cell.bound) * torch.sigmoid(x @ w.matrices[0])
    candidate = torch.complex(silu(x @ w.matrices[1]), silu(x @ w.matrices[2]))
    return as_pair(forget * torch.exp(1j * w.vectors[0]) * as_complex(before) + (1 - forget) * candidate)
