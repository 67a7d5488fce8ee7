"""eLSTM (Irie, Gopalakrishnan & Schmidhuber, ICLR 2024, arXiv 2305.19044).

f = sigmoid(F x + wf c_),  z = tanh(Z x + wz c_),  c = f c_ + (1 - f) z
o = sigmoid(O x + Wo c),  phi = o c
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.elstm import ELSTM
from kernels.reference.cells import Weights


def forward(cell: ELSTM, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`. The state is the cell c."""
    f = torch.sigmoid(x @ w.matrices[0] + w.vectors[0] * before)
    z = torch.tanh(x @ w.matrices[1] + w.vectors[1] * before)
    return f * before + (1 - f) * z


def features(cell: ELSTM, w: Weights, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """See `kernels.reference.cells`. The output gate [N]: O x + Wo c = [x, c] times the rows of the stage."""
    return torch.sigmoid(torch.cat([x, h[0]]) @ w.stage) * h[0]
