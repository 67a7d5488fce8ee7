"""minLSTM (Feng et al. 2024, arXiv 2410.01201) with normalised gates and a tanh candidate.

f = sigmoid(Wf x),  i = sigmoid(Wi x),  c = tanh(Wh x),  h = (f h_ + i c) / (f + i)
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.minlstm import MinLSTM
from kernels.reference.cells import Weights


def forward(cell: MinLSTM, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    f, i = torch.sigmoid(x @ w.matrices[0]), torch.sigmoid(x @ w.matrices[1])
    return (f * before + i * torch.tanh(x @ w.matrices[2])) / (f + i)
