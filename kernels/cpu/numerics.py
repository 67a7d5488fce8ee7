"""Elementary functions and reductions whose bits do not depend on the machine.

Everything is IEEE multiplication, addition, division, square root and, where it is written so (`fma`), multiplication
and addition in one rounding, in a fixed order: no fast-math, no vector math library, no reassociation, and no
contraction by the compiler. The functions vectorise because they are branch-free polynomials.
"""

from __future__ import annotations

import math
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic, overload

from kernels.cpu.parts import PartCompiler

JIT: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": False, "cache": True, "_nrt": False}
"""Options of the kernels that Python calls. `error_model='numpy'` lets divisions vectorise; `fastmath` stays off
because it lets the compiler delete the divergence guards (`isfinite(nan)` becomes true) and changes bits between
machines. `_nrt=False` leaves out reference counting (kernels allocate nothing): with it, the atomic counts of array
views cost several times the arithmetic of a small learner."""

SHORT: dict[str, Any] = {**JIT, "nogil": False}
"""Options of kernels of a few microseconds: giving up the interpreter lock costs a wait to get it back, which is far
longer beside a busy thread."""

INLINE: dict[str, Any] = {
    **JIT,
    "forceinline": True,
    "cache": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": PartCompiler,
}
"""Options of the parts of a kernel, which compiled code alone calls: a call that is not inlined passes every array of
its groups on the stack."""

CALL: dict[str, Any] = {**INLINE, "forceinline": False}
"""Options of parts that are large, and rare or called in several places: compiled once in a kernel."""


def _bitcast(source: Any, target: Any, llvm_type: Any) -> Any:
    """An intrinsic that reads the bits of a `source` as a `target`."""

    @intrinsic
    def cast(typingctx: Any, value: Any) -> Any:
        def codegen(context, builder, signature, args):
            return builder.bitcast(args[0], llvm_type)

        return target(source), codegen

    return cast


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Writes a b + c in one rounding: numbers, or vectors of them, of one LLVM type."""
    lanes, number = (f"v{a.type.count}", a.type.element) if isinstance(a.type, ir.VectorType) else ("", a.type)
    name = f"llvm.fma.{lanes}{number.intrinsic_name}"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [a, b, c])


def _fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    def codegen(context, builder, signature, args):
        return fused(builder, *args)

    return (a(a, a, a), codegen) if a == b == c and isinstance(a, nb.types.Float) else None


fma: Any = intrinsic(_fma)
"""fma(a, b, c) is a b + c in one rounding (IEEE 754 fusedMultiplyAdd), of numbers of one type (compiled code only).

An instruction of every x86-64 processor since 2013 and every 64-bit ARM; elsewhere a call that gives the same bits.
"""


@intrinsic
def prefetch(typingctx: Any, array: Any, at: Any) -> Any:
    """Asks for the cache line of the entry `at` of a contiguous one-dimensional array; changes nothing."""

    def codegen(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, value=args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), ir.IntType(8).as_pointer())
        i32 = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To be read; into the caches from the second level on; data.
        builder.call(function, [pointer, i32(0), i32(2), i32(1)])
        return context.get_dummy_value()

    return nb.void(array, at), codegen


_bits64 = _bitcast(nb.float64, nb.int64, ir.IntType(64))
_float64 = _bitcast(nb.int64, nb.float64, ir.DoubleType())
_bits32 = _bitcast(nb.float32, nb.int32, ir.IntType(32))
_float32 = _bitcast(nb.int32, nb.float32, ir.FloatType())

# Adding a shift leaves the nearest integer in the low bits of the sum; ln 2 in two parts makes k ln 2 exact enough.
_LOG2E, _LN2, _LN2_REST, _SHIFT = 1.4426950408889634, 0.693147180369123816490, 1.90821492927058770002e-10, 1.5 * 2.0**52
_LOG2E_32, _LN2_32, _LN2_REST_32, _SHIFT_32 = map(
    np.float32, (1.4426950408889634, 0.693359375, -2.12194440e-4, 1.5 * 2.0**23)
)
_C = tuple(1.0 / math.factorial(n) for n in range(14))
_D = tuple(np.float32(1.0 / math.factorial(n)) for n in range(8))
_MOST_32, _ONE_32, _TWO_32 = np.float32(87.0), np.float32(1.0), np.float32(2.0)


@nb.njit(**INLINE)
def _exp64(x):
    x = 708.0 if x > 708.0 else x
    x = -708.0 if x < -708.0 else x
    shifted = x * _LOG2E + _SHIFT
    k = shifted - _SHIFT
    r = (x - k * _LN2) - k * _LN2_REST
    p = _C[13]
    p = fma(p, r, _C[12])
    p = fma(p, r, _C[11])
    p = fma(p, r, _C[10])
    p = fma(p, r, _C[9])
    p = fma(p, r, _C[8])
    p = fma(p, r, _C[7])
    p = fma(p, r, _C[6])
    p = fma(p, r, _C[5])
    p = fma(p, r, _C[4])
    p = fma(p, r, _C[3])
    p = fma(p, r, _C[2])
    p = fma(p, r, _C[1])
    p = fma(p, r, _C[0])
    return p * _float64((_bits64(shifted) << 52) + 4607182418800017408)


@nb.njit(**INLINE)
def _exp32(x):
    x = _MOST_32 if x > _MOST_32 else x
    x = -_MOST_32 if x < -_MOST_32 else x
    shifted = x * _LOG2E_32 + _SHIFT_32
    k = shifted - _SHIFT_32
    r = (x - k * _LN2_32) - k * _LN2_REST_32
    p = _D[7]
    p = fma(p, r, _D[6])
    p = fma(p, r, _D[5])
    p = fma(p, r, _D[4])
    p = fma(p, r, _D[3])
    p = fma(p, r, _D[2])
    p = fma(p, r, _D[1])
    p = fma(p, r, _D[0])
    return p * _float32(nb.int32((_bits32(shifted) << nb.int32(23)) + nb.int32(1065353216)))


def exp(x):
    """The exponential of x in its own dtype (compiled code only); NaN stays NaN.

    float64: within 2 ulp on [-708, 708], clamped outside; float32: within 4 ulp on [-87, 87]. Range reduction
    x = k ln 2 + r with |r| <= ln(2)/2 and the Taylor polynomial of degree 13 (7 in float32), whose remainder is below
    half an ulp. 2^k is assembled from bits taken out of the shifted sum, never by a float-to-int conversion, which is
    undefined for NaN.
    """
    raise NotImplementedError("exp is for compiled code")


@overload(exp, jit_options=INLINE)  # type: ignore[arg-type]
def _exp_of(x):
    if x == nb.float32:
        return lambda x: _exp32(x)  # noqa: PLW0108 (an implementation must be a function of its own)
    return lambda x: _exp64(float(x))


def sigmoid(x):
    """1 / (1 + exp(-x)) in the dtype of x (compiled code only)."""
    raise NotImplementedError("sigmoid is for compiled code")


@overload(sigmoid, jit_options=INLINE)  # type: ignore[arg-type]
def _sigmoid_of(x):
    if x == nb.float32:
        return lambda x: _ONE_32 / (_ONE_32 + _exp32(-x))
    return lambda x: 1.0 / (1.0 + _exp64(-float(x)))


def tanh(x):
    """The hyperbolic tangent as 1 - 2 / (exp(2 x) + 1) in the dtype of x (compiled code only).

    Absolute error below 3e-16 in float64, 3e-7 in float32.
    """
    raise NotImplementedError("tanh is for compiled code")


@overload(tanh, jit_options=INLINE)  # type: ignore[arg-type]
def _tanh_of(x):
    if x == nb.float32:
        return lambda x: _ONE_32 - _TWO_32 / (_exp32(_TWO_32 * x) + _ONE_32)
    return lambda x: 1.0 - 2.0 / (_exp64(2.0 * float(x)) + 1.0)


# sin and cos: x = k pi/2 + r with pi/2 in three parts, |r| <= pi/4, then Taylor polynomials up to r^17 (r^9).
_TWO_OVER_PI = 0.6366197723675814
_HALF_PI = (1.57079632673412561417, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_TWO_OVER_PI_32 = np.float32(_TWO_OVER_PI)
_HALF_PI_32 = tuple(map(np.float32, (1.5703125, 4.837512969970703125e-4, 7.54978995489188216e-8)))
_A = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(9))
_B = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(10))
_A_32, _B_32 = tuple(map(np.float32, _A)), tuple(map(np.float32, _B))
_THIRD, _THIRD_32 = 0.35, np.float32(0.35)
_FAR, _FAR_32 = 1e15, np.float32(4e6)
"""Where the nearest multiple of pi/2 can still be found; beyond, an angle is rounding, and the sine is that of here."""


@nb.njit(**INLINE)
def _turned64(x, quarters):
    x = _FAR if x > _FAR else x
    x = -_FAR if x < -_FAR else x
    shifted = x * _TWO_OVER_PI + _SHIFT
    k = shifted - _SHIFT
    r = ((x - k * _HALF_PI[0]) - k * _HALF_PI[1]) - k * _HALF_PI[2]
    q = r * r
    s = _A[8]
    for n in range(7, -1, -1):
        s = s * q + _A[n]
    c = _B[9]
    for n in range(8, -1, -1):
        c = c * q + _B[n]
    turn = (_bits64(shifted) + quarters) & 3
    value = c if turn & 1 else r * s
    return -value if turn & 2 else value


@nb.njit(**INLINE)
def _turned32(x, quarters):
    x = _FAR_32 if x > _FAR_32 else x
    x = -_FAR_32 if x < -_FAR_32 else x
    shifted = x * _TWO_OVER_PI_32 + _SHIFT_32
    k = shifted - _SHIFT_32
    r = ((x - k * _HALF_PI_32[0]) - k * _HALF_PI_32[1]) - k * _HALF_PI_32[2]
    q = r * r
    s = (((_A_32[4] * q + _A_32[3]) * q + _A_32[2]) * q + _A_32[1]) * q + _A_32[0]
    c = (((_B_32[4] * q + _B_32[3]) * q + _B_32[2]) * q + _B_32[1]) * q + _B_32[0]
    turn = (_bits32(shifted) + nb.int32(quarters)) & nb.int32(3)
    value = c if turn & nb.int32(1) else r * s
    return -value if turn & nb.int32(2) else value


def sin(x):
    """The sine in the dtype of x (compiled code only); for |x| <= 1e4 within 1e-15 in float64, 2e-7 in float32.

    For any x it is at most 1 but for rounding; NaN stays NaN.
    """
    raise NotImplementedError("sin is for compiled code")


@overload(sin, jit_options=INLINE)  # type: ignore[arg-type]
def _sin_of(x):
    if x == nb.float32:
        return lambda x: _turned32(x, 0)
    return lambda x: _turned64(float(x), 0)


def cos(x):
    """The cosine in the dtype of x (compiled code only); for |x| <= 1e4 within 1e-15 in float64, 2e-7 in float32.

    For any x it is at most 1 but for rounding; NaN stays NaN.
    """
    raise NotImplementedError("cos is for compiled code")


@overload(cos, jit_options=INLINE)  # type: ignore[arg-type]
def _cos_of(x):
    if x == nb.float32:
        return lambda x: _turned32(x, 1)
    return lambda x: _turned64(float(x), 1)


@nb.njit(**INLINE)
def _expm1_64(x):
    p = 1.0
    for n in range(14, 1, -1):
        p = p * x * (1.0 / n) + 1.0
    return p * x if abs(x) < _THIRD else _exp64(x) - 1.0


@nb.njit(**INLINE)
def _expm1_32(x):
    p = _ONE_32
    for n in range(8, 1, -1):
        p = p * x * np.float32(1.0 / n) + _ONE_32
    return p * x if abs(x) < _THIRD_32 else _exp32(x) - _ONE_32


def expm1(x):
    """exp(x) - 1 without cancellation near 0, in the dtype of x (compiled code only); within 4 ulp."""
    raise NotImplementedError("expm1 is for compiled code")


@overload(expm1, jit_options=INLINE)  # type: ignore[arg-type]
def _expm1_of(x):
    if x == nb.float32:
        return lambda x: _expm1_32(x)  # noqa: PLW0108 (an implementation must be a function of its own)
    return lambda x: _expm1_64(float(x))


@nb.njit(**INLINE)
def _softplus64(x):
    u = _exp64(-abs(x))
    s = u / (2.0 + u)
    q = s * s
    p = 0.0
    for n in range(35, 0, -2):
        p = p * q + 1.0 / n
    return max(x, 0.0) + 2.0 * s * p


@nb.njit(**INLINE)
def _softplus32(x):
    u = _exp32(-abs(x))
    s = u / (_TWO_32 + u)
    q = s * s
    p = np.float32(0)
    for n in range(17, 0, -2):
        p = p * q + np.float32(1.0 / n)
    return max(x, np.float32(0)) + _TWO_32 * s * p


def softplus(x):
    """log(1 + exp(x)) in the dtype of x (compiled code only), within 4 ulp.

    As max(x, 0) + 2 artanh(u / (2 + u)) with u = exp(-|x|), whose argument is at most 1/3.
    """
    raise NotImplementedError("softplus is for compiled code")


@overload(softplus, jit_options=INLINE)  # type: ignore[arg-type]
def _softplus_of(x):
    if x == nb.float32:
        return lambda x: _softplus32(x)  # noqa: PLW0108 (an implementation must be a function of its own)
    return lambda x: _softplus64(float(x))


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


def magnitude(x):
    """The bits of |x| as a whole number of its width, ordered as magnitudes are, NaN last (compiled code only).

    Of floats a maximum does not vectorise, for what it is of a NaN.
    """
    raise NotImplementedError("magnitude is for compiled code")


@overload(magnitude, jit_options=INLINE)  # type: ignore[arg-type]
def _magnitude_of(x):
    if x == nb.float32:
        return lambda x: nb.int32(_bits32(x) & nb.int32(0x7FFFFFFF))
    return lambda x: _bits64(x) & 0x7FFFFFFFFFFFFFFF


def of_magnitude(bits):
    """The magnitude that has these bits (compiled code only)."""
    raise NotImplementedError("of_magnitude is for compiled code")


@overload(of_magnitude, jit_options=INLINE)  # type: ignore[arg-type]
def _of_magnitude(bits):
    if bits == nb.int32:
        return lambda bits: _float32(bits)  # noqa: PLW0108 (an implementation must be a function of its own)
    return lambda bits: _float64(bits)  # noqa: PLW0108 (an implementation must be a function of its own)


@nb.njit(**INLINE)
def sum_of_sizes(a, zero):
    """Sum of |a[i]|, NaN if any is, in the order of `dot`; `zero` gives the dtype."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = zero
    whole = len(a) - len(a) % 8
    for i in range(0, whole, 8):
        s0 += abs(a[i])
        s1 += abs(a[i + 1])
        s2 += abs(a[i + 2])
        s3 += abs(a[i + 3])
        s4 += abs(a[i + 4])
        s5 += abs(a[i + 5])
        s6 += abs(a[i + 6])
        s7 += abs(a[i + 7])
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for i in range(whole, len(a)):
        total += abs(a[i])
    return total
