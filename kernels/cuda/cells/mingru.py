"""The place of minGRU (Feng et al. 2024, arXiv 2410.01201), tanh candidate. Matrices: gate, candidate."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 (the interpreter looks for it in every function)

from kernels.cuda.maths import sigmoid, tanh


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = (1 - z) h_ + z c."""
    z, c = sigmoid(p0), tanh(p1)
    keep = sigmoid(-p0)
    return keep * h1 + z * c, keep, (c - h1) * z * keep, z * (1.0 - c * c)
