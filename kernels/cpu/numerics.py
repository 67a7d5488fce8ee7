"""Elementary functions and reductions whose bits do not depend on the machine.

Everything is plain IEEE multiplication, addition, division and square root in a fixed order: no fast-math, no
vector math library, no reassociation. The functions vectorise because they are branch-free polynomials.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
from llvmlite import ir
from numba.extending import intrinsic

JIT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False, "cache": True, "_nrt": False}
"""Options of every compiled kernel. `error_model='numpy'` lets divisions vectorise; `fastmath` stays off because it
lets the compiler delete the divergence guards (`isfinite(nan)` becomes true) and changes bits between machines.
`_nrt=False` leaves out reference counting (kernels allocate nothing): with it, the atomic counts of array views cost
several times the arithmetic of a small learner."""


INLINE: dict[str, Any] = {**JIT, "forceinline": True}
"""Options of the parts of a kernel: a call that is not inlined passes every array of its groups on the stack."""


@intrinsic
def _bits(typingctx: Any, value: Any) -> Any:
    """The bits of a float64 as an int64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return nb.int64(nb.float64), codegen


@intrinsic
def _float(typingctx: Any, bits: Any) -> Any:
    """The float64 whose bits are an int64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return nb.float64(nb.int64), codegen


_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10
_SHIFT = 6755399441055744.0  # 1.5 * 2^52: adding it leaves the nearest integer in the low bits
_C = tuple(1.0 / math.factorial(n) for n in range(14))


@nb.njit(**INLINE)
def exp(x):
    """The exponential of x in float64, within 2 ulp on [-708, 708], clamped outside; NaN stays NaN.

    Range reduction x = k ln 2 + r with |r| <= ln(2)/2 and the Taylor polynomial of degree 13 (its remainder is below
    5e-18). 2^k is assembled from bits taken out of the shifted sum, never by a float-to-int conversion, which is
    undefined for NaN.
    """
    x = 708.0 if x > 708.0 else x
    x = -708.0 if x < -708.0 else x
    shifted = x * _LOG2E + _SHIFT
    k = shifted - _SHIFT
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = _C[13]
    p = p * r + _C[12]
    p = p * r + _C[11]
    p = p * r + _C[10]
    p = p * r + _C[9]
    p = p * r + _C[8]
    p = p * r + _C[7]
    p = p * r + _C[6]
    p = p * r + _C[5]
    p = p * r + _C[4]
    p = p * r + _C[3]
    p = p * r + _C[2]
    p = p * r + _C[1]
    p = p * r + _C[0]
    return p * _float((_bits(shifted) << 52) + 4607182418800017408)  # type: ignore[call-arg]


@nb.njit(**INLINE)
def sigmoid(x):
    """1 / (1 + exp(-x)) in float64."""
    return 1.0 / (1.0 + exp(-x))


@nb.njit(**INLINE)
def tanh(x):
    """The hyperbolic tangent of x in float64 as 1 - 2 / (exp(2 x) + 1): absolute error below 4e-16."""
    return 1.0 - 2.0 / (exp(2.0 * x) + 1.0)


@nb.njit(**INLINE)
def dot(a, b, n, zero):
    """Sum of a[i] b[i] for i < n, in eight interleaved partial sums added as a tree.

    A fixed order that the compiler can vectorise; `zero` gives the dtype.
    """
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
    whole = n - n % 8
    for i in range(0, whole, 8):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
        s4 += a[i + 4] * b[i + 4]
        s5 += a[i + 5] * b[i + 5]
        s6 += a[i + 6] * b[i + 6]
        s7 += a[i + 7] * b[i + 7]
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for i in range(whole, n):
        total += a[i] * b[i]
    return total
