"""The place of eLSTM (Irie et al., ICLR 2024, arXiv 2305.19044) without output gate. Matrices F, Z; vectors wf, wz."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401 (the interpreter looks for it in every function)

from kernels.cuda.maths import sigmoid, tanh


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State c = f c_ + (1 - f) z, with gates that see c_."""
    a = p0 + v0 * h1
    f, rest, z = sigmoid(a), sigmoid(-a), tanh(p1 + v1 * h1)
    df, dz = (h1 - z) * f * rest, rest * (1.0 - z * z)
    return f * h1 + rest * z, f + v0 * df + v1 * dz, df, dz, df * h1, dz * h1
