"""LRU (Orvieto et al. 2023, arXiv 2303.06349), in complex numbers.

lambda = exp(-exp(nu) + i exp(theta)),  h = lambda h_ + exp(gamma) B x
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.lru import LRU
from kernels.reference.cells import Weights, as_complex, as_pair


def forward(cell: LRU, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    nu, theta, gamma = w.vectors
    eigenvalue = torch.exp(torch.complex(-nu.exp(), theta.exp()))
    return as_pair(eigenvalue * as_complex(before) + gamma.exp() * (x.to(w.matrices.dtype) @ w.matrices[0]))
