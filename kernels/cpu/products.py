"""Products of a weight matrix with the inputs of an event, units contiguous; sums of products of long vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba as nb
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.numerics import INLINE, fma, fused

STRIP, NARROW = 32, 8
"""Units whose sums are kept in registers at a time, written as vectors: left alone, the compiler keeps none."""

LONGEST = 512
"""Units up to which strips are taken: longer rows are not at hand, and come from memory faster as they lie there."""


def _strip_of(lanes: int) -> Callable[..., None]:
    """An intrinsic: out[first:first + lanes] = sum_j w[at + j units + first:][:lanes] x[j]."""

    @intrinsic
    def strip(typingctx: Any, w: Any, at: Any, x: Any, units: Any, width: Any, first: Any, out: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = (context.make_array(signature.args[k])(context, builder, value=args[k]) for k in (0, 2, 6))
            w, x, out = (array.data for array in arrays)
            _, at, _, units, width, first, _ = args
            number = w.type.pointee
            vector = ir.VectorType(number, lanes)
            align = context.get_abi_sizeof(number)
            sums = cgutils.alloca_once(builder, vector)
            builder.store(ir.Constant(vector, [0.0] * lanes), sums)
            place, undefined = cgutils.alloca_once(builder, at.type), ir.Constant(vector, ir.Undefined)
            builder.store(builder.add(at, first), place)
            with cgutils.for_range(builder, width) as loop:
                here = builder.load(place)
                row = builder.load(builder.bitcast(builder.gep(w, [here]), vector.as_pointer()), align=align)
                value = builder.load(builder.gep(x, [loop.index]))
                value = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
                same = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
                value = builder.shuffle_vector(value, undefined, same)
                builder.store(fused(builder, row, value, builder.load(sums)), sums)
                builder.store(builder.add(here, units), place)
            target = builder.bitcast(builder.gep(out, [first]), vector.as_pointer())
            builder.store(builder.load(sums), target, align=align)
            return context.get_dummy_value()

        return nb.void(w, nb.intp, x, nb.intp, nb.intp, nb.intp, out), codegen

    return strip


_strip, _narrow_strip = _strip_of(STRIP), _strip_of(NARROW)


@nb.njit(**INLINE)
def product(w, at, x, units, width, out):
    """out[:units] = sum_j w[at + j units :][:units] x[j], the terms added in the order of j, each in one rounding."""
    first = 0
    if units <= LONGEST:
        while first + STRIP <= units:
            _strip(w, at, x, units, width, first, out)
            first += STRIP
        while first + NARROW <= units:
            _narrow_strip(w, at, x, units, width, first, out)
            first += NARROW
    if first < units:
        _rows(w, at, x, units, width, first, out)


@nb.njit(**INLINE)
def _rows(w, at, x, units, width, first, out):
    """The product of the units from `first` on, row by row.

    Four rows at a time, so that `out` is read and written a quarter as often; the bits are those of one row at a time.
    """
    zero = w.dtype.type(0)
    out = out[first:units]
    size = len(out)
    for i in range(size):
        out[i] = zero
    whole = width - width % 4
    for j in range(0, whole, 4):
        k = at + j * units + first
        a, b = w[k : k + size], w[k + units : k + units + size]
        c, d = w[k + 2 * units : k + 2 * units + size], w[k + 3 * units : k + 3 * units + size]
        xa, xb, xc, xd = x[j], x[j + 1], x[j + 2], x[j + 3]
        for i in range(size):
            out[i] = fma(d[i], xd, fma(c[i], xc, fma(b[i], xb, fma(a[i], xa, out[i]))))
    for j in range(whole, width):
        k = at + j * units + first
        row = w[k : k + size]
        xj = x[j]
        for i in range(size):
            out[i] = fma(row[i], xj, out[i])


LANES = 32
"""Partial sums of `long_dot`: enough to add as fast as the numbers arrive from memory."""


def _dot(typingctx: Any, a: Any, b: Any, first: Any, count: Any) -> Any:
    """The sum of a[i] b[i] over `count` entries from `first`, a multiple of LANES: each lane its own, then a tree."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, b = (context.make_array(signature.args[k])(context, builder, value=args[k]).data for k in (0, 1))
        _, _, first, count = args
        number = a.type.pointee
        vector = ir.VectorType(number, LANES)
        align = context.get_abi_sizeof(number)
        sums = cgutils.alloca_once_value(builder, ir.Constant(vector, [0.0] * LANES))
        end = builder.add(first, count)
        with cgutils.for_range_slice(builder, first, end, first.type(LANES), intp=first.type) as (at, _):
            x, y = (
                builder.load(builder.bitcast(builder.gep(data, [at]), vector.as_pointer()), align=align)
                for data in (a, b)
            )
            builder.store(fused(builder, x, y, builder.load(sums)), sums)
        total, lanes = builder.load(sums), LANES
        while lanes > 1:
            lanes //= 2
            half, nothing = ir.VectorType(ir.IntType(32), lanes), ir.Constant(total.type, ir.Undefined)
            low = builder.shuffle_vector(total, nothing, ir.Constant(half, list(range(lanes))))
            high = builder.shuffle_vector(total, nothing, ir.Constant(half, list(range(lanes, 2 * lanes))))
            total = builder.fadd(low, high)
        return builder.extract_element(total, ir.IntType(32)(0))

    return a.dtype(a, b, nb.intp, nb.intp), codegen


_lanes_dot: Any = intrinsic(_dot)


@nb.njit(**INLINE)
def long_dot(a, b):
    """The sum of a b: of 4096 products at a time in their dtype, of those sums in float64; NaN and infinity stay."""
    total = 0.0
    for at in range(0, len(a), 4096):
        stop = min(len(a), at + 4096)
        whole = (stop - at) - (stop - at) % LANES
        part = _lanes_dot(a, b, at, whole)
        for i in range(at + whole, stop):
            part = fma(a[i], b[i], part)
        total += float(part)
    return total
