"""The place of minLSTM (Feng et al. 2024, arXiv 2410.01201), tanh candidate. Matrices: forget, input, candidate."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 (the interpreter looks for it in every function)

from kernels.cuda.maths import sigmoid, softplus, tanh


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = F h_ + (1 - F) c with F = f / (f + i), by logarithms: both gates may be zero to float32."""
    c, balance = tanh(p2), softplus(-p1) - softplus(-p0)
    keep, take = sigmoid(balance), sigmoid(-balance)
    slope = (h1 - c) * keep * take
    return keep * h1 + take * c, keep, slope * sigmoid(-p0), -slope * sigmoid(-p1), take * (1.0 - c * c)
