"""minGRU (Feng et al. 2024, arXiv 2410.01201) with a tanh candidate.

z = sigmoid(Wz x),  c = tanh(Wh x),  h = (1 - z) h_ + z c
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.mingru import MinGRU
from kernels.reference.cells import Weights


def forward(cell: MinGRU, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    z, c = torch.sigmoid(x @ w.matrices[0]), torch.tanh(x @ w.matrices[1])
    return (1 - z) * before + z * c
