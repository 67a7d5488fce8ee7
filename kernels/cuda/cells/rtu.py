"""The places of RTU, linear and with tanh inside of the recurrence (Elelimy et al., NeurIPS 2024, arXiv 2409.01449).

Matrices W1, W2 (linear: one tied matrix); vectors log nu, log theta. The derivative by log theta has its factor theta.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.maths import divide, exp, exp_neg, expm1, tanh


@triton.jit
def _linear(h1, h2, p0, p1, v0, v1):
    """The state, g, p (lambda = g + ip), n, and the derivatives by log nu and log theta."""
    nu, theta = exp(v0), exp(v1)
    r = exp_neg(nu)
    g, p = r * tl.cos(theta), r * tl.sin(theta)
    n = tl.sqrt_rn(-expm1(-2.0 * nu))
    dn = tl.where(n > 0.0, divide(nu * r * r, tl.where(n > 0.0, n, 1.0)), 0.0)
    k1, k2 = g * h1 - p * h2, p * h1 + g * h2
    return k1 + n * p0, k2 + n * p1, g, p, n, dn * p0 - nu * k1, dn * p1 - nu * k2, -theta * k2, theta * k1


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = lambda h_ + n W x, n = sqrt(1 - |lambda|^2)."""
    s1, s2, g, p, n, a1, a2, b1, b2 = _linear(h1, h2, p0, p1, v0, v1)
    return s1, s2, g, -p, p, g, n, tl.zeros_like(n), a1, a2, b1, b2


@triton.jit
def place_tanh(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """h1 = tanh(s1), h2 = tanh(s2), s the step of the linear unit."""
    s1, s2, g, p, n, a1, a2, b1, b2 = _linear(h1, h2, p0, p1, v0, v1)
    n1, n2 = tanh(s1), tanh(s2)
    k1, k2 = 1.0 - n1 * n1, 1.0 - n2 * n2
    no = tl.zeros_like(n)
    return n1, n2, k1 * g, -k1 * p, k2 * p, k2 * g, k1 * n, no, no, k2 * n, k1 * a1, k2 * a2, k1 * b1, k2 * b2
