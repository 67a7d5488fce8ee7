"""The kernels of the traces: carry, reduce over the keys of the wave, step.

Each byte of a trace crosses memory once each way. A program owns a tile of parameters, [inputs j] x [units] of one
matrix, or all vectors of a tile of units. It goes through the keys in order, carries their traces and keeps the
gradient in registers: the order of the reduction is fixed, and there are no atomics. With few tiles and many keys the
keys are cut into segments, a number that follows from the shapes alone; each segment leaves its partial gradient, and
a second kernel adds them in order.

The row of the next key is read before that of the current one is written, so that loads are always on their way. That
is sound because the keys of a wave are distinct. Places within a row fit 32 bits, those of rows take 64.
"""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.maths import where_positive
from kernels.cuda.steps import advance_decay, scalars, step
from kernels.reference import wave

LARGEST_TRACE = tl.constexpr(wave.LARGEST_TRACE)


@triton.jit
def _bounded(t):
    t = tl.where(t > LARGEST_TRACE, LARGEST_TRACE, t)
    return tl.where(t < -LARGEST_TRACE, -LARGEST_TRACE, t)


@triton.jit
def _load_trace(pool, rows, b, last, at, inside, stride, N, ORDER: tl.constexpr):
    """The row of key b (-1 beyond the last and for padding) and its tile of traces; zeros where there is none."""
    row = tl.load(rows + b, mask=b < last, other=-1).to(tl.int64)
    here = where_positive(inside, row + 1)
    start = pool + row * stride
    t1 = tl.load(start + at, mask=here, other=0.0)
    t2 = t1
    if ORDER == 2:
        t2 = tl.load(start + N + at, mask=here, other=0.0)
    return row, t1, t2


@triton.jit
def _sweep(
    pool, rows, x, local, error, learned, first, last, at, inside, column, column_in, units, units_in, place,
    J, N, stride, ORDER: tl.constexpr, LOCALS: tl.constexpr, TIED: tl.constexpr, BOUNDED: tl.constexpr,
    OF_VECTORS: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Carries one tile of traces for the keys first .. last. Returns the gradient (real, imaginary) and the keys in it.

    `at` [rows, units] is the tile's place in a row of the pool, `column` [rows] the inputs of its rows. `place` is
    where in `local` the immediate terms lie: a scalar for a matrix, [rows] for vectors.
    """
    g_re = tl.zeros((ROWS, UNITS), tl.float32)
    g_im = tl.zeros((ROWS, UNITS), tl.float32)
    count = 0
    row, t1, t2 = _load_trace(pool, rows, first, last, at, inside, stride, N, ORDER)
    for b in range(first, last):
        next_row, next_1, next_2 = _load_trace(pool, rows, b + 1, last, at, inside, stride, N, ORDER)
        key = tl.cast(b, tl.int64)
        here = local + key * (LOCALS * N)
        if OF_VECTORS:
            f1 = tl.load(here + place[:, None] * N + units[None, :], mask=inside, other=0.0)
        else:
            xj = tl.load(x + key * J + column, mask=column_in, other=0.0).to(tl.float32)[:, None]
            f1 = tl.load(here + place * N + units, mask=units_in, other=0.0)[None, :] * xj
        e1 = tl.load(error + key * (ORDER * N) + units, mask=units_in, other=0.0)[None, :]
        j11 = tl.load(here + units, mask=units_in, other=0.0)[None, :]
        into = pool + row * stride
        live = where_positive(inside, row + 1)
        if ORDER == 1:
            t1 = j11 * t1 + f1
        else:
            if OF_VECTORS:
                f2 = tl.load(here + (place[:, None] + 1) * N + units[None, :], mask=inside, other=0.0)
            else:
                f2 = tl.load(here + (place + 1) * N + units, mask=units_in, other=0.0)[None, :] * xj
            j12 = tl.load(here + N + units, mask=units_in, other=0.0)[None, :]
            j21 = tl.load(here + 2 * N + units, mask=units_in, other=0.0)[None, :]
            j22 = tl.load(here + 3 * N + units, mask=units_in, other=0.0)[None, :]
            old_1 = t1
            t1 = j11 * old_1 + j12 * t2 + f1
            t2 = j21 * old_1 + j22 * t2 + f2
        if BOUNDED:
            t1 = _bounded(t1)
            t2 = _bounded(t2)
        tl.store(into + at, t1, mask=live)
        taken = tl.load(learned + b) != 0
        count += taken.to(tl.int32)
        g = e1 * t1
        if ORDER == 2:
            tl.store(into + N + at, t2, mask=live)
            e2 = tl.load(error + key * (ORDER * N) + N + units, mask=units_in, other=0.0)[None, :]
            g += e2 * t2
            if TIED:
                g_im += tl.where(taken, e2 * t1 - e1 * t2, 0.0)  # what is not learned from may be NaN
        g_re += tl.where(taken, g, 0.0)
        row, t1, t2 = next_row, next_1, next_2
    return g_re, g_im, count


@triton.jit
def _finish_tile(
    weights, m, v, hyper, decay, partial, at, inside, g, count, segment, parameters, is_vector,
    KIND: tl.constexpr, MEAN: tl.constexpr, SEGMENTED: tl.constexpr,
):  # fmt: skip
    """What becomes of the gradient of a tile: a step, or a place among the partial sums."""
    if SEGMENTED:
        tl.store((partial + tl.cast(segment, tl.int64) * parameters) + at, g, mask=inside)
    else:
        if MEAN:
            g = tl.div_rn(g, tl.zeros_like(g) + tl.maximum(count, 1).to(tl.float32))
        rate, vector_rate, beta1, rest1, beta2, rest2, epsilon = scalars(hyper, decay, KIND)
        rate = tl.where(is_vector, vector_rate, rate)
        step(weights, m, v, at, where_positive(inside, count), g, rate, beta1, rest1, beta2, rest2, epsilon, KIND)


@triton.jit
def _matrix_tile(
    weights, m, v, hyper, decay, decay_after, pool, rows, x, local, error, learned, partial, counts,
    matrix, tile, units, units_in, first, last, segment, J, N, stride, parameters,
    ORDER: tl.constexpr, LOCALS: tl.constexpr, TIED: tl.constexpr, BOUNDED: tl.constexpr, KIND: tl.constexpr,
    MEAN: tl.constexpr, SEGMENTED: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """Inputs [tile ROWS, + ROWS) of a matrix."""
    column = tile * ROWS + tl.arange(0, ROWS)
    column_in = column < J
    inside = column_in[:, None] & units_in[None, :]
    line = (matrix * J + column)[:, None] * (ORDER * N)
    g_re, g_im, count = _sweep(
        pool, rows, x, local, error, learned, first, last, ORDER * N + line + units[None, :], inside,
        column, column_in, units, units_in, ORDER * ORDER + matrix * ORDER,
        J, N, stride, ORDER, LOCALS, TIED, BOUNDED, False, ROWS, UNITS,
    )  # fmt: skip
    PARTS: tl.constexpr = 2 if TIED else 1
    at = (matrix * (PARTS * J) + column)[:, None] * N + units[None, :]
    _finish_tile(
        weights, m, v, hyper, decay, partial, at, inside, g_re, count, segment, parameters, False,
        KIND, MEAN, SEGMENTED,
    )  # fmt: skip
    if TIED:
        _finish_tile(
            weights, m, v, hyper, decay, partial, at + J * N, inside, g_im, count, segment,
            parameters, False, KIND, MEAN, SEGMENTED,
        )  # fmt: skip
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        if SEGMENTED:
            tl.store(counts + segment, count)
        else:
            advance_decay(hyper, decay, decay_after, count, KIND)


@triton.jit
def _vectors_tile(
    weights, m, v, hyper, decay, pool, rows, x, local, error, learned, partial,
    units, units_in, first, last, segment, J, N, stride, parameters,
    ORDER: tl.constexpr, MATRICES: tl.constexpr, PRODUCTS: tl.constexpr, VECTORS: tl.constexpr, LOCALS: tl.constexpr,
    BOUNDED: tl.constexpr, KIND: tl.constexpr, MEAN: tl.constexpr, SEGMENTED: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """All vectors of a tile of units: at most three, and rows come in powers of two."""
    index = tl.arange(0, 4)
    inside = (index < VECTORS)[:, None] & units_in[None, :]
    line = (MATRICES * J + index)[:, None] * (ORDER * N)
    g, _, count = _sweep(
        pool, rows, x, local, error, learned, first, last, ORDER * N + line + units[None, :], inside,
        index, index < VECTORS, units, units_in, ORDER * ORDER + (MATRICES + index) * ORDER,
        J, N, stride, ORDER, LOCALS, False, BOUNDED, True, 4, UNITS,
    )  # fmt: skip
    at = (PRODUCTS * J + index)[:, None] * N + units[None, :]
    _finish_tile(
        weights, m, v, hyper, decay, partial, at, inside, g, count, segment, parameters, True, KIND, MEAN, SEGMENTED
    )


@triton.jit(do_not_specialize=["B", "segment_keys"])
def traces_kernel(
    weights, m, v, hyper, decay, decay_after, pool, rows, x, local, error, learned, partial, counts,
    B, J, N, stride, parameters, segment_keys,
    ORDER: tl.constexpr, MATRICES: tl.constexpr, TIED: tl.constexpr, VECTORS: tl.constexpr, BOUNDED: tl.constexpr,
    KIND: tl.constexpr, MEAN: tl.constexpr, SEGMENTED: tl.constexpr, ROWS: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """`kernels.reference.wave.learn` but for the states. Grid: tiles of units, tiles of rows, segments of keys.

    The tiles of rows are those of the matrices, one matrix after the other, then one of the vectors, if there are any.
    """
    LOCALS: tl.constexpr = ORDER * ORDER + (MATRICES + VECTORS) * ORDER
    PRODUCTS: tl.constexpr = MATRICES * 2 if TIED else MATRICES
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    units_in = units < N
    segment = tl.program_id(2)
    first = segment * segment_keys
    last = tl.minimum(first + segment_keys, B)
    tiles = tl.cdiv(J, ROWS)
    if tl.program_id(1) < MATRICES * tiles:
        _matrix_tile(
            weights, m, v, hyper, decay, decay_after, pool, rows, x, local, error, learned, partial, counts,
            tl.program_id(1) // tiles, tl.program_id(1) % tiles, units, units_in, first, last, segment,
            J, N, stride, parameters, ORDER, LOCALS, TIED, BOUNDED, KIND, MEAN, SEGMENTED, ROWS, UNITS,
        )  # fmt: skip
    elif VECTORS > 0:
        _vectors_tile(
            weights, m, v, hyper, decay, pool, rows, x, local, error, learned, partial,
            units, units_in, first, last, segment, J, N, stride, parameters,
            ORDER, MATRICES, PRODUCTS, VECTORS, LOCALS, BOUNDED, KIND, MEAN, SEGMENTED, UNITS,
        )  # fmt: skip


@triton.jit(do_not_specialize=["segments"])
def add_up_kernel(
    weights, m, v, hyper, decay, decay_after, partial, counts, segments, parameters, matrix_parameters,
    KIND: tl.constexpr, MEAN: tl.constexpr, SEGMENTS: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Adds the partial gradients [segments, parameters] in order and applies the step. Grid: tiles of parameters."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    inside = at < parameters
    g = tl.zeros((SIZE,), tl.float32)
    count = 0
    for start in range(0, segments, SEGMENTS):
        some = start + tl.arange(0, SEGMENTS)
        where = some.to(tl.int64)[:, None] * parameters + at[None, :]
        g += tl.sum(tl.load(partial + where, mask=(some < segments)[:, None] & inside[None, :], other=0.0), 0)
        count += tl.sum(tl.load(counts + some, mask=some < segments, other=0), 0)
    if MEAN:
        g = tl.div_rn(g, tl.zeros_like(g) + tl.maximum(count, 1).to(tl.float32))
    rate, vector_rate, beta1, rest1, beta2, rest2, epsilon = scalars(hyper, decay, KIND)
    rate = tl.where(at < matrix_parameters, rate, vector_rate)
    step(weights, m, v, at, where_positive(inside, count), g, rate, beta1, rest1, beta2, rest2, epsilon, KIND)
    if tl.program_id(0) == 0:
        advance_decay(hyper, decay, decay_after, count, KIND)
