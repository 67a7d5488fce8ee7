"""Element-wise functions of the cells, in float32.

Triton's `exp`, `log`, `sigmoid` and `/` become approximate instructions on a card (`ex2.approx`, `lg2.approx`,
`div.full`), whose bits are the device's own. Here exponential, logarithm and what is made of them are sums and products
that round one by one and divisions that are correctly rounded, so that the interpreter and every device compute the
same bits. Sine, cosine and the sums of a matrix product are not: sine and cosine are libdevice's, which flushes
subnormal numbers and fuses products with sums, and the sums are in the order of the device. Near 1 and 0 nothing is
lost to cancellation.
"""

from __future__ import annotations

import triton
import triton.language as tl

# A jit function sees globals only as constexpr.
SERIES_BELOW = tl.constexpr(0.5)
ROUNDS = tl.constexpr(12582912.0)  # 1.5 2^23: what is added to it loses its fraction, to the nearest whole number


@triton.jit
def where_positive(inside, number):
    """The mask `inside`, or nothing of it unless the integer scalar `number` is above 0."""
    return inside & (tl.broadcast_to(number, inside.shape) > 0)


@triton.jit
def divide(a, b):
    """A / b for a tile b, correctly rounded."""
    return tl.div_rn(tl.zeros_like(b) + a, b)


@triton.jit
def exp(x):
    """e^x = 2^n e^r with |r| <= log(2) / 2, within 2 units in the last place (polynomial of Cephes, Moshier 1989)."""
    bounded = tl.minimum(tl.maximum(x, -104.0), 89.0)
    n = bounded * 1.4426950408889634 + ROUNDS - ROUNDS
    r = bounded - n * 0.693359375 + n * 2.12194440e-4  # log 2 in two parts, so that the first product is exact
    p = r * 1.9875691500e-4 + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * (r * r) + r + 1.0
    whole = n.to(tl.int32)
    half = whole >> 1  # 2^n by two factors: alone it may be beyond float32, or subnormal
    p = p * _power_of_two(half) * _power_of_two(whole - half)
    return tl.where(x == x, p, x)  # noqa: PLR0124 (NaN stays)


@triton.jit
def _power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return divide(1.0, 1.0 + exp(-x))


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
    return tl.where(tl.abs(x) < SERIES_BELOW, _expm1_series(x) + x, exp(x) - 1.0)


@triton.jit
def exp_neg(v):
    """e^-v for v >= 0, correctly rounded or nearly so where it is close to 1."""
    return tl.where(v < SERIES_BELOW, 1.0 + expm1(-v), exp(-v))


@triton.jit
def tanh(x):
    """Hyperbolic tangent: -m / (2 + m) with m = expm1(-2 |x|), and the sign of x."""
    m = expm1(-2.0 * tl.abs(x))
    t = divide(-m, 2.0 + m)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def softplus(x):
    """log(1 + e^x): log(1 + u) = 2 artanh(s), s = u / (2 + u) <= 1/3, by its series, whose next term is 2e-9 of it."""
    u = exp(-tl.abs(x))
    s = divide(u, 2.0 + u)
    q = s * s
    p = q * (1.0 / 15.0) + 1.0 / 13.0
    p = p * q + 1.0 / 11.0
    p = p * q + 1.0 / 9.0
    p = p * q + 1.0 / 7.0
    p = p * q + 1.0 / 5.0
    p = p * q + 1.0 / 3.0
    return tl.maximum(x, 0.0) + 2.0 * (p * q * s + s)


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
    i1, i2 = divide(z1, safe), divide(-z2, safe)  # 1 / z
    far_1, far_2 = _times(m1, m2, i1, i2)
    bent_1, bent_2 = _times(e1 - far_1, e2 - far_2, i1, i2)
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
