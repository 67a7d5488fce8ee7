"""Recurrent trace units (Elelimy et al., NeurIPS 2024, arXiv 2409.01449), in complex numbers.

lambda = exp(-exp(nu) + i exp(theta)),  s = lambda h_ + sqrt(1 - |lambda|^2) (W1 x + i W2 x)
linear: h = s, phi = tanh(h);  non-linear: h = tanh(s), phi = h       (tanh of real and of imaginary part)
"""

from __future__ import annotations

import torch

from kernels.cpu.cells.rtu import RTU, NonlinearRTU
from kernels.reference.cells import Weights, as_complex, as_pair


def forward(cell: RTU | NonlinearRTU, w: Weights, x: torch.Tensor, before: torch.Tensor, gap: float) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    nu, theta = w.vectors.exp()
    gain = torch.sqrt(-torch.expm1(-2 * nu))
    both = w.matrices[0] if isinstance(cell, RTU) else torch.complex(w.matrices[0], w.matrices[1])
    s = as_pair(torch.exp(torch.complex(-nu, theta)) * as_complex(before) + gain * (x.to(both.dtype) @ both))
    return s if isinstance(cell, RTU) else torch.tanh(s)


def features(cell: RTU | NonlinearRTU, w: Weights, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """See `kernels.reference.cells`."""
    return torch.tanh(h).reshape(-1) if isinstance(cell, RTU) else h.reshape(-1)
