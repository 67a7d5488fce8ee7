"""The place of LRU (Orvieto et al. 2023; traces Zucchet et al. 2023). Tied matrix B; vectors log nu, theta, gamma."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.maths import exp, exp_neg


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = lambda h_ + gamma B x, lambda = exp(-nu + i theta)."""
    nu, theta, gamma = exp(v0), exp(v1), exp(v2)
    r = exp_neg(nu)
    a, b = r * tl.cos(theta), r * tl.sin(theta)
    k1, k2 = a * h1 - b * h2, b * h1 + a * h2
    u1, u2 = gamma * p0, gamma * p1
    no = tl.zeros_like(gamma)
    return k1 + u1, k2 + u2, a, -b, b, a, gamma, no, -nu * k1, -nu * k2, -theta * k2, theta * k1, u1, u2
