"""Algebra of a Kalman filter over a symmetric matrix of which one triangle is stored, in float64.

Features are filled up with zeros to whole vectors of eight (`whole`). The matrix is cut into tiles [8, 8], and those of
the lower triangle follow one another row by row of tiles, the entries of a tile row by row (`places`); a tile on the
diagonal is held whole, symmetric to the last bit. A product reads every tile once, for its rows and for its columns,
and a rank-one update reads and writes it once: no row has a beginning or an end that is less than a vector.

The inner loops are written in explicit vectors of eight lanes: the compiler may not reorder a sum, and left alone would
add one number at a time. Every sum has one fixed order, and what is multiplied and added in one rounding is written so
(IEEE 754 fusedMultiplyAdd); the compiler contracts nothing else, so bits depend neither on the machine nor on its width
of vectors.

Arrays must be contiguous, and are fastest where they begin on a cache line (`kernels.cpu.layout.on_lines`). The last
functions fill in what a head needs and `kernels.cpu.numerics` lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kernels.cpu.draws import GOLDEN, base_of, mix
from kernels.cpu.numerics import INLINE, _bits64, _float64, fma, fused

LANES = 8
"""Numbers of a vector, and rows and columns of a tile."""

_TILE = LANES * LANES
_DOUBLE, _I32 = ir.DoubleType(), ir.IntType(32)
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)


def whole(m: int) -> int:
    """The number of features m filled up to whole vectors."""
    return m + -m % LANES


def places(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column, int64 [n], of each of the n stored entries of a matrix [whole(m), whole(m)]."""
    row, column = (LANES * tiles[:, None, None] for tiles in np.tril_indices(whole(m) // LANES))
    lane = np.arange(LANES)
    row, column = np.broadcast_arrays(row + lane[:, None], column + lane)
    return row.ravel(), column.ravel()


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value=value).data


def _shuffled(builder: Any, a: Any, b: Any, lanes: Sequence[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


def _splat(builder: Any, value: Any) -> Any:
    """`value` in every lane."""
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    return _shuffled(builder, builder.insert_element(undefined, value, ir.Constant(_I32, 0)), undefined, [0] * LANES)


def _place(builder: Any, base: Any, index: Any) -> Any:
    return builder.bitcast(builder.gep(base, [index]), _VECTOR.as_pointer())


def _load(builder: Any, base: Any, index: Any) -> Any:
    return builder.load(_place(builder, base, index), align=8)


def _store(builder: Any, value: Any, base: Any, index: Any) -> None:
    builder.store(value, _place(builder, base, index), align=8)


def _after(builder: Any, index: Any, count: int) -> Any:
    return builder.add(index, ir.Constant(index.type, count))


_MERGES = (
    ([0, 8, 2, 10, 4, 12, 6, 14], [1, 9, 3, 11, 5, 13, 7, 15]),
    ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]),
    ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]),
)


def _sums(builder: Any, vectors: Sequence[Any]) -> Any:
    """The sum of the lanes of each of eight vectors, in one vector: neighbours, then pairs, then halves."""
    for low, high in _MERGES:
        pairs = zip(vectors[::2], vectors[1::2])
        vectors = [builder.fadd(_shuffled(builder, a, b, low), _shuffled(builder, a, b, high)) for a, b in pairs]
    return vectors[0]


@intrinsic
def _multiply_panel(typingctx: Any, a: Any, start: Any, tiles: Any, z: Any, out: Any) -> Any:
    """A z over one panel, the row `tiles` of tiles, at `start` of `a`: sets `out` in its rows, adds in its columns."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start, tiles, _, _ = args
        pa, pz, po = (_data(context, builder, signature.args[at], args[at]) for at in (0, 3, 4))
        own = builder.mul(tiles, ir.Constant(tiles.type, LANES))
        factors = [_splat(builder, builder.load(builder.gep(pz, [_after(builder, own, row)]))) for row in range(LANES)]
        kept = [cgutils.alloca_once_value(builder, _ZERO) for _ in range(LANES)]

        def rows(tile: Any) -> list[Any]:
            at = builder.add(start, builder.mul(tile, ir.Constant(tile.type, _TILE)))
            return [_load(builder, pa, _after(builder, at, LANES * row)) for row in range(LANES)]

        def add(values: list[Any], beside: Any) -> None:
            for total, value in zip(kept, values):
                builder.store(fused(builder, value, beside, builder.load(total)), total)

        with cgutils.for_range(builder, tiles) as loop:
            column = builder.mul(loop.index, ir.Constant(tiles.type, LANES))
            values = rows(loop.index)
            add(values, _load(builder, pz, column))
            moved, other = _load(builder, po, column), _ZERO
            for row in range(0, LANES, 2):
                moved = fused(builder, factors[row], values[row], moved)
                other = fused(builder, factors[row + 1], values[row + 1], other)
            _store(builder, builder.fadd(moved, other), po, column)
        add(rows(tiles), _load(builder, pz, own))
        _store(builder, _sums(builder, [builder.load(total) for total in kept]), po, own)
        return context.get_dummy_value()

    return types.void(a, start, tiles, z, out), codegen


@intrinsic
def _move_panel(typingctx: Any, a: Any, start: Any, tiles: Any, scale: Any, u: Any, factor: Any, ridge: Any) -> Any:
    """A <- scale A + factor u u' + ridge I over one panel, the row `tiles` of tiles, at `start` of `a`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start, tiles, scale, _, factor, ridge = args
        pa, pu = (_data(context, builder, signature.args[at], args[at]) for at in (0, 4))
        own = builder.mul(tiles, ir.Constant(tiles.type, LANES))
        spread, scales = _splat(builder, factor), _splat(builder, scale)
        lanes = [_splat(builder, builder.load(builder.gep(pu, [_after(builder, own, row)]))) for row in range(LANES)]
        factors = [builder.fmul(spread, lane) for lane in lanes]
        with cgutils.for_range(builder, tiles) as loop:
            at = builder.add(start, builder.mul(loop.index, ir.Constant(tiles.type, _TILE)))
            beside = _load(builder, pu, builder.mul(loop.index, ir.Constant(tiles.type, LANES)))
            for row in range(LANES):
                place = _after(builder, at, LANES * row)
                kept = builder.fmul(scales, _load(builder, pa, place))
                _store(builder, fused(builder, factors[row], beside, kept), pa, place)
        at, beside = builder.add(start, builder.mul(tiles, ir.Constant(tiles.type, _TILE))), _load(builder, pu, own)
        for row in range(LANES):  # u_i u_j first, which is u_j u_i
            place = _after(builder, at, LANES * row)
            diagonal = builder.insert_element(_ZERO, ridge, ir.Constant(_I32, row))
            kept = fused(builder, scales, _load(builder, pa, place), diagonal)
            _store(builder, fused(builder, spread, builder.fmul(lanes[row], beside), kept), pa, place)
        return context.get_dummy_value()

    return types.void(a, start, tiles, scale, u, factor, ridge), codegen


def _reader(rows: int) -> tuple[Callable, Callable]:
    """Intrinsics that read `rows` rows a_r of n columns once: one returns a_r x, the other does y += sum_r c_r a_r."""

    def pointers(builder: Any, pa: Any, start: Any, n: Any) -> list[Any]:
        at = []
        for _ in range(rows):
            at.append(builder.gep(pa, [start]))
            start = builder.add(start, n)
        return at

    @intrinsic
    def sums(typingctx: Any, a: Any, start: Any, n: Any, x: Any) -> Any:
        result = types.UniTuple(types.float64, rows)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, start, n, _ = args
            pa, px = (_data(context, builder, signature.args[at], args[at]) for at in (0, 3))
            row_at = pointers(builder, pa, start, n)
            kept = [cgutils.alloca_once_value(builder, _ZERO) for _ in range(rows)]
            with cgutils.for_range(builder, builder.lshr(n, ir.Constant(n.type, 3))) as loop:
                column = builder.mul(loop.index, ir.Constant(n.type, LANES))
                beside = _load(builder, px, column)
                for total, row in zip(kept, row_at):
                    builder.store(fused(builder, _load(builder, row, column), beside, builder.load(total)), total)
            vectors = [builder.load(total) for total in kept] + [_ZERO] * (LANES - rows)
            total = _sums(builder, vectors)
            said = [builder.extract_element(total, ir.Constant(_I32, row)) for row in range(rows)]
            return context.make_tuple(builder, signature.return_type, said)

        return result(a, start, n, x), codegen

    @intrinsic
    def adds(typingctx: Any, a: Any, start: Any, n: Any, y: Any, c: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, start, n, _, c = args
            pa, py = (_data(context, builder, signature.args[at], args[at]) for at in (0, 3))
            row_at = pointers(builder, pa, start, n)
            factors = [_splat(builder, factor) for factor in cgutils.unpack_tuple(builder, c, rows)]
            with cgutils.for_range(builder, builder.lshr(n, ir.Constant(n.type, 3))) as loop:
                column = builder.mul(loop.index, ir.Constant(n.type, LANES))
                moved = _load(builder, py, column)
                for factor, row in zip(factors, row_at):
                    moved = fused(builder, factor, _load(builder, row, column), moved)
                _store(builder, moved, py, column)
            return context.get_dummy_value()

        return types.void(a, start, n, y, c), codegen

    return sums, adds


@intrinsic
def _move(typingctx: Any, a: Any, start: Any, n: Any, scale: Any, c: Any, x: Any) -> Any:
    """Writes scale a + c x to a[start : start + n]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, start, n, scale, c, _ = args
        pa, px = (_data(context, builder, signature.args[at], args[at]) for at in (0, 5))
        row, scales, factors = builder.gep(pa, [start]), _splat(builder, scale), _splat(builder, c)
        with cgutils.for_range(builder, builder.lshr(n, ir.Constant(n.type, 3))) as loop:
            column = builder.mul(loop.index, ir.Constant(n.type, LANES))
            kept = builder.fmul(scales, _load(builder, row, column))
            _store(builder, fused(builder, factors, _load(builder, px, column), kept), row, column)
        return context.get_dummy_value()

    return types.void(a, start, n, scale, c, x), codegen


(_sum_rows, _add_rows), (_sum_pair, _add_pair), (_sum_row, _add_row) = _reader(4), _reader(2), _reader(1)


@nb.njit(**INLINE)
def symmetric_product(a, z, out):
    """Writes A z to `out` [m]; `a` are the tiles of A, `z` [m] another array than `out`, m of whole vectors."""
    start = 0
    for panel in range(len(z) // LANES):
        _multiply_panel(a, start, panel, z, out)  # type: ignore[call-arg]
        start += (panel + 1) * _TILE


@nb.njit(**INLINE)
def rank_one(a, scale, u, factor, ridge):
    """A <- scale A + factor u u' + ridge I, in place, over the tiles `a` and `u` [m], m of whole vectors.

    From the last rows to the first: where the matrix is larger than the cache, its end is what the product before has
    left there, and its beginning what the product after will want.
    """
    start = len(a)
    for panel in range(len(u) // LANES - 1, -1, -1):
        start -= (panel + 1) * _TILE
        _move_panel(a, start, panel, scale, u, factor, ridge)  # type: ignore[call-arg]


@nb.njit(**INLINE)
def product(a, b):
    """The product a'b of `a` and `b` [m], m of whole vectors."""
    return _sum_row(a, 0, len(a), b)[0]


@nb.njit(**INLINE)
def times(rows, k, z, scale, out):
    """Writes scale rows z to `out` [k], for `rows` [at least k, m] and `z` [m], m of whole vectors."""
    m, i = len(z), 0
    while i + 4 <= k:
        s = _sum_rows(rows, i * m, m, z)
        out[i] = scale * s[0]
        out[i + 1] = scale * s[1]
        out[i + 2] = scale * s[2]
        out[i + 3] = scale * s[3]
        i += 4
    if i + 2 <= k:
        p = _sum_pair(rows, i * m, m, z)
        out[i] = scale * p[0]
        out[i + 1] = scale * p[1]
        i += 2
    if i < k:
        out[i] = scale * _sum_row(rows, i * m, m, z)[0]


@nb.njit(**INLINE)
def add_times(rows, k, c, scale, out):
    """Adds scale c rows to `out`, for `rows` [at least k, m], `c` [k] and `out` [m], m of whole vectors."""
    m, i = len(out), 0
    while i + 4 <= k:
        _add_rows(rows, i * m, m, out, (scale * c[i], scale * c[i + 1], scale * c[i + 2], scale * c[i + 3]))
        i += 4
    if i + 2 <= k:
        _add_pair(rows, i * m, m, out, (scale * c[i], scale * c[i + 1]))
        i += 2
    if i < k:
        _add_row(rows, i * m, m, out, (scale * c[i],))


@nb.njit(**INLINE)
def move(a, scale, factor, x):
    """Writes scale a + factor x to `a`, for `a` and `x` [m], m of whole vectors."""
    _move(a, 0, len(x), scale, factor, x)  # type: ignore[call-arg]


@nb.njit(**INLINE)
def move_rows(rows, k, scale, c, factor, u):
    """R <- scale R + factor c u', in place, for R = `rows` [at least k, m], `c` [k], `u` [m], m of whole vectors."""
    m = len(u)
    for i in range(k):
        _move(rows, i * m, m, scale, factor * c[i], u)  # type: ignore[call-arg]


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
        p = fma(p, q, _ODD[n])
    return k * _LN2 + (2.0 * s * p + k * _LN2_REST)


_LOW, _QUARTER, _HALF_QUARTER = 0xFFFFFFFF, 0x3FFFFFFF, 0x20000000
_TO_UNIT, _TO_TURN = 2.0**-32, 2.0**-32 * 6.283185307179586
_TERMS = 9
_COS = tuple((-1.0) ** n / math.factorial(2 * n) for n in range(_TERMS))
_SIN = tuple((-1.0) ** n / math.factorial(2 * n + 1) for n in range(_TERMS))


@nb.njit(**INLINE)
def _two_normals(word):
    """Two normals (Box and Muller 1958) from the two halves of a word of 64 random bits.

    The angle is a number of quarters of a turn and at most half a quarter r, whose series are short.
    """
    high, low = np.int64(word >> np.uint64(32)), np.int64(word) & _LOW
    uniform = (_float64(high | _EXPONENT_OF_2_52) - (2.0**52 - 0.5)) * _TO_UNIT
    radius = np.sqrt(-2.0 * log(uniform))
    low += _HALF_QUARTER
    r = (_float64((low & _QUARTER) | _EXPONENT_OF_2_52) - (2.0**52 + _HALF_QUARTER)) * _TO_TURN
    q = r * r
    c, s = _COS[_TERMS - 1], _SIN[_TERMS - 1]
    for n in range(_TERMS - 2, -1, -1):
        c = fma(c, q, _COS[n])
        s = fma(s, q, _SIN[n])
    c *= radius
    s *= r * radius
    quarters = low >> 30
    odd = quarters & 1 != 0
    along, across = s if odd else c, c if odd else s
    return -along if (quarters + 1) & 2 != 0 else along, -across if quarters & 2 != 0 else across


@nb.njit(**INLINE)
def normals(seed, draw, classes, samples, lanes, out):
    """Writes standard normal numbers to `out` float64 [classes, 4 ceil(samples / 4)]; `lanes` [2, n] is scratch.

    Four samples of a class are one number of the SplitMix64 sequence (Steele, Lea and Flood 2014) that begins at a
    hash of (seed, draw): it is turned into two normals, and these are taken with both signs. Antithetic pairs leave as
    much noise in a mean of softmaxes as twice the number without them would. What class k gets does not depend on how
    many classes there are.
    """
    base = base_of(seed, draw)
    along, across = lanes[0], lanes[1]
    q = (samples + 3) // 4
    k, p = 0, 0
    room = len(along)
    for f in range(0, classes * q, room):
        count = min(room, classes * q - f)
        for i in range(count):
            along[i], across[i] = _two_normals(mix(base + np.uint64(f + i + 1) * GOLDEN))
        for i in range(count):
            row = out[k]
            row[p] = along[i]
            row[q + p] = across[i]
            row[2 * q + p] = -along[i]
            row[3 * q + p] = -across[i]
            p += 1
            if p == q:
                k, p = k + 1, 0
