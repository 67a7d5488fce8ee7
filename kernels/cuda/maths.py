"""Element-wise functions of the cells, in float32.

tanh, exp(-v) near 1 and (e^z - 1) / z are written out, so that nothing is lost to cancellation where decays are close
to 1, and so that the interpreter and every device compute the same expression. No fast-math is assumed anywhere.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A jit function sees globals only as constexpr.
SERIES_BELOW = tl.constexpr(0.5)


@triton.jit
def where_positive(inside, number):
    """The mask `inside`, or nothing of it unless the integer scalar `number` is above 0."""
    return inside & (tl.broadcast_to(number, inside.shape) > 0)


@triton.jit
def _expm1_series(x):
    """(e^x - 1) - x by its series, for |x| < 0.5: the next term is 1e-8 of the sum."""
    p = 1.0 / 40320.0 * x + 1.0 / 5040.0
    p = p * x + 1.0 / 720.0
    p = p * x + 1.0 / 120.0
    p = p * x + 1.0 / 24.0
    p = p * x + 1.0 / 6.0
    p = p * x + 0.5
    return p * x * x


@triton.jit
def expm1(x):
    """e^x - 1 without cancellation."""
    return tl.where(tl.abs(x) < SERIES_BELOW, _expm1_series(x) + x, tl.exp(x) - 1.0)


@triton.jit
def exp_neg(v):
    """e^-v for v >= 0, correctly rounded or nearly so where it is close to 1."""
    return tl.where(v < SERIES_BELOW, 1.0 + expm1(-v), tl.exp(-v))


@triton.jit
def tanh(x):
    """Hyperbolic tangent: -m / (2 + m) with m = expm1(-2 |x|), and the sign of x."""
    m = expm1(-2.0 * tl.abs(x))
    t = -m / (2.0 + m)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def softplus(x):
    """log(1 + e^x)."""
    return tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))


@triton.jit
def _times(a, b, c, d):
    """(a + ib)(c + id)."""
    return a * c - b * d, a * d + b * c


@triton.jit
def exp_complex(a, b):
    """e^(a + ib) for a <= 0, and the same less 1, as four reals."""
    r, sine, half = exp_neg(-a), tl.sin(b), tl.sin(0.5 * b)
    drop = 2.0 * half * half  # 1 - cos b
    m = expm1(a)
    return r * (1.0 - drop), r * sine, m - drop - m * drop, r * sine


@triton.jit
def hold(z1, z2, e1, e2, m1, m2):
    """Weights of a zero-order hold, complex: (e^z - 1) / z and (z e^z - e^z + 1) / z^2, as four reals.

    e = e^z and m = e^z - 1 are given. By series where |z| < 0.5, where the quotients cancel.
    """
    size = z1 * z1 + z2 * z2
    small = size < SERIES_BELOW * SERIES_BELOW
    safe = tl.where(small, 1.0, size)
    far_1, far_2 = _times(m1, m2, z1 / safe, -z2 / safe)
    bent_1, bent_2 = _times(e1 - far_1, e2 - far_2, z1 / safe, -z2 / safe)
    s1 = tl.zeros_like(z1) + 1.0 / 40320.0
    s2 = tl.zeros_like(z2)
    t1 = tl.zeros_like(z1) + 8.0 / 362880.0
    t2 = tl.zeros_like(z2)
    # Horner: sum z^j / (j + 1)! and sum z^j (j + 1) / (j + 2)!
    s1, s2 = _horner(s1, s2, z1, z2, 1.0 / 5040.0)
    s1, s2 = _horner(s1, s2, z1, z2, 1.0 / 720.0)
    s1, s2 = _horner(s1, s2, z1, z2, 1.0 / 120.0)
    s1, s2 = _horner(s1, s2, z1, z2, 1.0 / 24.0)
    s1, s2 = _horner(s1, s2, z1, z2, 1.0 / 6.0)
    s1, s2 = _horner(s1, s2, z1, z2, 0.5)
    s1, s2 = _horner(s1, s2, z1, z2, 1.0)
    t1, t2 = _horner(t1, t2, z1, z2, 7.0 / 40320.0)
    t1, t2 = _horner(t1, t2, z1, z2, 6.0 / 5040.0)
    t1, t2 = _horner(t1, t2, z1, z2, 5.0 / 720.0)
    t1, t2 = _horner(t1, t2, z1, z2, 4.0 / 120.0)
    t1, t2 = _horner(t1, t2, z1, z2, 3.0 / 24.0)
    t1, t2 = _horner(t1, t2, z1, z2, 2.0 / 6.0)
    t1, t2 = _horner(t1, t2, z1, z2, 0.5)
    s1, s2 = tl.where(small, s1, far_1), tl.where(small, s2, far_2)
    return s1, s2, tl.where(small, t1, bent_1), tl.where(small, t2, bent_2)


@triton.jit
def _horner(s1, s2, z1, z2, coefficient):
    a, b = _times(s1, s2, z1, z2)
    return a + coefficient, b
