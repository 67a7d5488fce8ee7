"""Selective state-space model (Mamba: Gu & Dao 2023, arXiv 2312.00752) with a full row per channel for its time step.

d_e = softplus(Wd x)_e gap,  u_e = (Wu x)_e,  B_m = (Wb x)_m,  C_m = (Wc x)_m,  A = -exp(A_log)
h_em = exp(d_e A_em) h_em + (exp(d_e A_em) - 1) / A_em u_e B_m                 E channels of M states, N = E M units
phi_e = sum_m C_m h_em
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.ssm import SSM
from kernels.reference.cells import Weights


def reach(cell: SSM) -> list[torch.Tensor]:
    """Unit e M + m sees column e of Wd, column m of Wb, column e of Wu."""
    unit = torch.arange(cell.units)
    return [unit // cell.states, unit % cell.states, unit // cell.states]


def forward(cell: SSM, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`. Every column stands at each unit that sees it, so this is element-wise."""
    a, b, u = x @ w.matrices
    d = torch.logaddexp(a, torch.zeros_like(a)) * gap
    decay = -w.vectors[0].exp()
    return torch.exp(d * decay) * before + torch.expm1(d * decay) / decay * u * b


def features(cell: SSM, w: Weights, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """See `kernels.reference.cells`: [E]."""
    return h.view(cell.channels, cell.states) @ (x @ w.stage)
