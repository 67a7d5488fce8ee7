"""The place of HGRN (Qin et al. 2023), constant lower bound. Matrices: forget gate, candidate (two); vector theta."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.maths import sigmoid


@triton.jit
def place(h1, h2, p0, p1, p2, v0, v1, v2, gap, lower):
    """State h = lam e^(i theta) h_ + (1 - lam) c, lam = lower + (1 - lower) mu, c = silu + i silu."""
    mu, not_mu = sigmoid(p0), sigmoid(-p0)
    share, rest = lower + (1.0 - lower) * mu, (1.0 - lower) * not_mu
    s1, s2 = sigmoid(p1), sigmoid(p2)
    c1, c2 = p1 * s1, p2 * s2
    cosine, sine = tl.cos(v0), tl.sin(v0)
    t1, t2 = cosine * h1 - sine * h2, sine * h1 + cosine * h2
    a, b = share * cosine, share * sine
    slope = rest * mu
    f1 = rest * (s1 * (1.0 + p1 * (1.0 - s1)))
    f2 = rest * (s2 * (1.0 + p2 * (1.0 - s2)))
    n1, n2 = share * t1 + rest * c1, share * t2 + rest * c2
    k1, k2, no = (t1 - c1) * slope, (t2 - c2) * slope, tl.zeros_like(f1)
    return n1, n2, a, -b, b, a, k1, k2, f1, no, no, f2, -share * t2, share * t1
