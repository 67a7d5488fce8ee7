"""S5 (Smith, Warrington & Linderman, ICLR 2023, arXiv 2208.04933), diagonal, zero-order hold, in complex numbers.

L = -rate(w) + i omega,  d = exp(log_step) gap,  h = exp(L d) h_ + ((exp(L d) - 1) / L) B x
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.s5 import BEST, EXP, S5, SOFTPLUS
from kernels.reference.cells import Weights, as_complex, as_pair


def forward(cell: S5, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    decay, omega, log_step = w.vectors
    eigenvalue = torch.complex(-rate(cell, decay), omega)
    turn = eigenvalue * log_step.exp() * gap
    held = torch.expm1(turn) / eigenvalue
    return as_pair(torch.exp(turn) * as_complex(before) + held * (x.to(w.matrices.dtype) @ w.matrices[0]))


def rate(cell: S5, w: torch.Tensor) -> torch.Tensor:
    """The decay rate from its weight; all but the exponential as in StableSSM (Wang & Li, ICML 2024, 2311.14495)."""
    if cell.rate == EXP:
        return w.exp()
    if cell.rate == SOFTPLUS:
        return torch.logaddexp(w, torch.zeros_like(w))
    return 1 / (w**2 + 0.1) if cell.rate == BEST else -w
