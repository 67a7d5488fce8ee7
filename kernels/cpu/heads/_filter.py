"""Algebra of a Kalman filter over a symmetric matrix of which one triangle is stored, in float64.

The rows of the lower triangle follow one another: entry (i, j <= i) is at i (i + 1) / 2 + j. A product reads the
triangle once and a rank-one update reads and writes it once, four rows at a time, so that the vectors beside it are
read a quarter as often. The inner loops are written in explicit vectors of eight lanes: the compiler may not reorder
a sum, and left alone would add one number at a time. Every sum has one fixed order, so bits depend neither on the
machine nor on its width of vectors; multiplications and additions are never contracted.

Arrays must be contiguous. The last two functions fill in what a head needs and `kernels.cpu.numerics` lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.cpu.draws import GOLDEN, base_of, mix
from kernels.cpu.numerics import INLINE, _bits64, _float64, cos, sin

_DOUBLE, _I32 = ir.DoubleType(), ir.IntType(32)
# Lanes and blocks per round of the loops over columns, from the widest to the last single column.
_READS = ((8, 2), (8, 1), (4, 1), (1, 1))
_MOVES = ((4, 4), (4, 1), (2, 1), (1, 1))


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value=value).data


def _splat(builder: Any, value: Any, width: int) -> Any:
    """`value` in every lane."""
    if width == 1:
        return value
    vector = ir.VectorType(_DOUBLE, width)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_I32, width), None))


def _place(builder: Any, base: Any, index: Any, width: int) -> Any:
    pointer = builder.gep(base, [index])
    return pointer if width == 1 else builder.bitcast(pointer, ir.VectorType(_DOUBLE, width).as_pointer())


def _load(builder: Any, base: Any, index: Any, width: int) -> Any:
    return builder.load(_place(builder, base, index, width), align=8)


def _store(builder: Any, value: Any, base: Any, index: Any, width: int) -> None:
    builder.store(value, _place(builder, base, index, width), align=8)


def _halves(builder: Any, value: Any, width: int) -> Any:
    """Lane i plus lane i + width / 2; of two lanes their sum."""
    half, undefined = width // 2, ir.Constant(value.type, ir.Undefined)
    low, high = (ir.Constant(ir.VectorType(_I32, half), list(range(at, at + half))) for at in (0, half))
    both = (builder.shuffle_vector(value, undefined, lanes) for lanes in (low, high))
    total = builder.fadd(*both)
    return builder.extract_element(total, ir.Constant(_I32, 0)) if half == 1 else total


@contextmanager
def _stepping(builder: Any, at: Any, n: Any, width: int) -> Iterator[Any]:
    """A loop over the blocks of `width` columns that are left of `n`; `at` is where the variable of the loop lies."""
    check, body, end = (builder.append_basic_block(name) for name in ("columns", "block", "done"))
    builder.branch(check)
    builder.position_at_end(check)
    column = builder.load(at)
    after = builder.add(column, ir.Constant(column.type, width))
    builder.cbranch(builder.icmp_signed("<=", after, n), body, end)
    builder.position_at_end(body)
    yield column
    builder.store(after, at)
    builder.branch(check)
    builder.position_at_end(end)


def _starts(builder: Any, base: Any, start: Any, stride: Any, grow: int, rows: int) -> list[Any]:
    """Pointers to the rows: row r begins r strides after the first; each row of a triangle is one longer (`grow`)."""
    pointers, at = [], start
    for row in range(rows):
        pointers.append(builder.gep(base, [at]))
        at = builder.add(at, builder.add(stride, ir.Constant(stride.type, grow * row)))
    return pointers


def _reader(rows: int, grow: int, sums: bool, adds: bool) -> Callable:
    """An intrinsic that reads `rows` rows a_r of n columns once. `sums`: returns a_r x; `adds`: y += sum_r c_r a_r."""

    @intrinsic
    def read(typingctx: Any, a: Any, start: Any, stride: Any, n: Any, x: Any, y: Any, c: Any) -> Any:
        result = types.UniTuple(types.float64, rows)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, start, stride, n, _, _, c = args
            kinds = signature.args
            pa, px, py = (_data(context, builder, kinds[at], args[at]) for at in (0, 4, 5))
            row_at = _starts(builder, pa, start, stride, grow, rows)
            factors = cgutils.unpack_tuple(builder, c, rows)
            at = cgutils.alloca_once_value(builder, ir.Constant(n.type, 0))
            lanes = _READS[0][0]
            totals = [_splat(builder, ir.Constant(_DOUBLE, 0.0), lanes)] * rows
            for width, blocks in _READS:
                while sums and lanes > width:
                    totals = [_halves(builder, total, lanes) for total in totals]
                    lanes //= 2
                spread = [_splat(builder, factor, width) for factor in factors]
                kept = [cgutils.alloca_once_value(builder, total) for total in totals] if sums else []
                with _stepping(builder, at, n, width * blocks) as column:
                    for shift in range(0, width * blocks, width):
                        place = builder.add(column, ir.Constant(n.type, shift))
                        values = [_load(builder, pointer, place, width) for pointer in row_at]
                        if sums:
                            beside = _load(builder, px, place, width)
                            for total, value in zip(kept, values):
                                builder.store(builder.fadd(builder.load(total), builder.fmul(value, beside)), total)
                        if adds:
                            moved = _load(builder, py, place, width)
                            for factor, value in zip(spread, values):
                                moved = builder.fadd(moved, builder.fmul(factor, value))
                            _store(builder, moved, py, place, width)
                totals = [builder.load(total) for total in kept] if sums else totals
            if not sums:
                totals = [ir.Constant(_DOUBLE, 0.0)] * rows
            return context.make_tuple(builder, signature.return_type, totals)

        return result(a, start, stride, n, x, y, c), codegen

    return read


@intrinsic
def _move(typingctx: Any, a: Any, start: Any, n: Any, x: Any, scale: Any, c: Any) -> Any:
    """Writes scale a + c x to a[start : start + n]; at least as many columns first as it takes to align the rest."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start, n, _, scale, c = args
        pa, px = (_data(context, builder, signature.args[at], args[at]) for at in (0, 3))
        row = builder.gep(pa, [start])
        at = cgutils.alloca_once_value(builder, ir.Constant(n.type, 0))

        def block(column: Any, width: int) -> None:
            value = builder.fmul(_splat(builder, scale, width), _load(builder, row, column, width))
            change = builder.fmul(_splat(builder, c, width), _load(builder, px, column, width))
            _store(builder, builder.fadd(value, change), row, column, width)

        for width in (1, 2, 4):
            column = builder.load(at)
            address = builder.ptrtoint(builder.gep(row, [column]), n.type)
            bit = builder.and_(address, ir.Constant(n.type, 8 * width))
            odd = builder.icmp_signed("!=", bit, ir.Constant(n.type, 0))
            after = builder.add(column, ir.Constant(n.type, width))
            with builder.if_then(builder.and_(odd, builder.icmp_signed("<=", after, n))):
                block(column, width)
                builder.store(after, at)
        for width, blocks in _MOVES:
            with _stepping(builder, at, n, width * blocks) as column:
                for shift in range(0, width * blocks, width):
                    block(builder.add(column, ir.Constant(n.type, shift)), width)
        return context.get_dummy_value()

    return types.void(a, start, n, x, scale, c), codegen


_read_triangle, _read_long = _reader(4, 1, True, True), _reader(1, 1, True, True)
_sum_rows, _sum_row = _reader(4, 0, True, False), _reader(1, 0, True, False)
_add_rows, _add_row = _reader(4, 0, False, True), _reader(1, 0, False, True)


@nb.njit(**INLINE)
def symmetric_product(a, z, m, out):
    """Writes A z to `out` [m]; `a` [m (m + 1) / 2] is the triangle of A, `z` [m] another array than `out`."""
    for i in range(m):
        out[i] = 0.0
    whole = m - m % 4
    for i in range(0, whole, 4):
        start = i * (i + 1) // 2
        z0, z1, z2, z3 = z[i], z[i + 1], z[i + 2], z[i + 3]
        s = _read_triangle(a, start, i + 1, i, z, out, (z0, z1, z2, z3))
        p = start + i
        q = p + i + 1
        r = q + i + 2
        t = r + i + 3
        out[i] += s[0] + ((a[p] * z0 + a[q] * z1) + (a[r] * z2 + a[t] * z3))
        out[i + 1] += s[1] + ((a[q] * z0 + a[q + 1] * z1) + (a[r + 1] * z2 + a[t + 1] * z3))
        out[i + 2] += s[2] + ((a[r] * z0 + a[r + 1] * z1) + (a[r + 2] * z2 + a[t + 2] * z3))
        out[i + 3] += s[3] + ((a[t] * z0 + a[t + 1] * z1) + (a[t + 2] * z2 + a[t + 3] * z3))
    for i in range(whole, m):
        start = i * (i + 1) // 2
        out[i] += _read_long(a, start, i + 1, i, z, out, (z[i],))[0] + a[start + i] * z[i]


@nb.njit(**INLINE)
def rank_one(a, m, scale, u, factor, ridge):
    """A <- scale A + ridge I - factor u u', in place, over the triangle `a` [m (m + 1) / 2] and `u` [m].

    From the last row to the first: where the triangle is larger than the cache, its end is what the product before
    has left there, and its beginning what the product after will want.
    """
    for i in range(m - 1, -1, -1):
        start = i * (i + 1) // 2
        _move(a, start, i + 1, u, scale, -factor * u[i])  # type: ignore[call-arg]
        a[start + i] += ridge


@nb.njit(**INLINE)
def times(rows, k, z, m, scale, out):
    """Writes scale rows z to `out` [k], for `rows` [at least k, m]."""
    whole = k - k % 4
    for i in range(0, whole, 4):
        s = _sum_rows(rows, i * m, m, m, z, z, (0.0, 0.0, 0.0, 0.0))
        out[i] = scale * s[0]
        out[i + 1] = scale * s[1]
        out[i + 2] = scale * s[2]
        out[i + 3] = scale * s[3]
    for i in range(whole, k):
        out[i] = scale * _sum_row(rows, i * m, m, m, z, z, (0.0,))[0]


@nb.njit(**INLINE)
def add_times(rows, k, c, scale, m, n, out):
    """out[:n] += scale c rows[:, :n], for `rows` [at least k, m] and `c` [k]."""
    whole = k - k % 4
    for i in range(0, whole, 4):
        factors = (scale * c[i], scale * c[i + 1], scale * c[i + 2], scale * c[i + 3])
        _add_rows(rows, i * m, m, n, out, out, factors)
    for i in range(whole, k):
        _add_row(rows, i * m, m, n, out, out, (scale * c[i],))


@nb.njit(**INLINE)
def move_rows(rows, k, m, scale, c, factor, u):
    """R <- scale R + factor c u', in place, for R = `rows` [at least k, m], `c` [k] and `u` [m]."""
    for i in range(k):
        _move(rows, i * m, m, u, scale, factor * c[i])  # type: ignore[call-arg]


_MANTISSA, _ONE_BITS, _EXPONENT_OF_2_52 = 0x000FFFFFFFFFFFFF, 0x3FF0000000000000, 0x4330000000000000
_LN2, _LN2_REST, _SQRT2 = 0.693147180369123816490, 1.90821492927058770002e-10, 1.4142135623730951
_ODD = tuple(1.0 / n for n in range(1, 23, 2))


@nb.njit(**INLINE)
def log(x):
    """The natural logarithm of a normal x > 0 in float64, within 2 ulp (near 1: of the nearest number to 1).

    x = 2^k f with f in [sqrt(1/2), sqrt(2)] and log f = 2 artanh((f - 1) / (f + 1)), whose argument is at most 0.172.
    """
    bits = _bits64(x)
    k = _float64((bits >> 52) | _EXPONENT_OF_2_52) - (2.0**52 + 1023.0)
    f = _float64((bits & _MANTISSA) | _ONE_BITS)
    large = f > _SQRT2
    k = k + 1.0 if large else k
    f = 0.5 * f if large else f
    s = (f - 1.0) / (f + 1.0)
    q = s * s
    p = _ODD[10]
    for n in range(9, -1, -1):
        p = p * q + _ODD[n]
    return k * _LN2 + (2.0 * s * p + k * _LN2_REST)


_LOW = np.uint64(0xFFFFFFFF)
_TO_UNIT, _TO_TURN = 2.0**-32, 2.0**-32 * 6.283185307179586


@nb.njit(**INLINE)
def normals(seed, draw, classes, samples, lanes, out):
    """Writes standard normal numbers to `out` float64 [classes, 4 ceil(samples / 4)]; `lanes` [2, n] is scratch.

    Four samples of a class are one number of the SplitMix64 sequence (Steele, Lea and Flood 2014) that begins at a
    hash of (seed, draw): its two halves are turned into two normals (Box and Muller 1958), and these are taken with
    both signs. Antithetic pairs leave as much noise in a mean of softmaxes as twice the number without them would.
    What class k gets does not depend on how many classes there are.
    """
    base = base_of(seed, draw)
    along, across = lanes[0], lanes[1]
    q = (samples + 3) // 4
    k, p = 0, 0
    room = len(along)
    for f in range(0, classes * q, room):
        count = min(room, classes * q - f)
        for i in range(count):
            word = mix(base + np.uint64(f + i + 1) * GOLDEN)
            high = _float64(np.int64(word >> np.uint64(32)) | _EXPONENT_OF_2_52) - 2.0**52
            low = _float64(np.int64(word & _LOW) | _EXPONENT_OF_2_52) - 2.0**52
            radius = np.sqrt(-2.0 * log((high + 0.5) * _TO_UNIT))
            angle = low * _TO_TURN
            along[i] = radius * cos(angle)
            across[i] = radius * sin(angle)
        for i in range(count):
            row = out[k]
            row[p] = along[i]
            row[q + p] = across[i]
            row[2 * q + p] = -along[i]
            row[3 * q + p] = -across[i]
            p += 1
            if p == q:
                k, p = k + 1, 0
