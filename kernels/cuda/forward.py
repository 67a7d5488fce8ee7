"""The kernels of a wave but for its traces: one step of the cell, and the state written back with the error."""

from __future__ import annotations

import triton
import triton.language as tl

from kernels.cuda.maths import where_positive
from kernels.reference import wave

LARGEST_ERROR = tl.constexpr(wave.LARGEST_ERROR)


@triton.jit
def _product(
    x, matrix, keys, units, keys_in, units_in, J, N, KEYS: tl.constexpr, UNITS: tl.constexpr, INPUTS: tl.constexpr
):
    """Inputs x [keys, J] times matrix [J, N] to a tile [keys, units], accumulated in float32 without tf32."""
    total = tl.zeros((KEYS, UNITS), tl.float32)
    for start in range(0, J, INPUTS):
        inputs = start + tl.arange(0, INPUTS)
        here = keys_in[:, None] & (inputs < J)[None, :]
        left = tl.load(x + keys[:, None] * J + inputs[None, :], mask=here, other=0.0)
        right = tl.load(
            matrix + inputs.to(tl.int64)[:, None] * N + units[None, :],
            mask=(inputs < J)[:, None] & units_in[None, :],
            other=0.0,
        )
        total = tl.dot(left.to(tl.float32), right, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=["B"])
def forward_kernel(
    weights, pool, rows, x, gap, h_after, local, B, J, N, stride,
    PLACE: tl.constexpr, ORDER: tl.constexpr, PRODUCTS: tl.constexpr, VECTORS: tl.constexpr, LOCALS: tl.constexpr,
    KEYS: tl.constexpr, UNITS: tl.constexpr, INPUTS: tl.constexpr, LOWER: tl.constexpr,
):  # fmt: skip
    """`kernels.reference.wave.forward` for a tile of keys and units. Grid: units, keys."""
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    keys = tl.program_id(1).to(tl.int64) * KEYS + tl.arange(0, KEYS)
    units_in, keys_in = units < N, keys < B
    row = tl.load(rows + keys, mask=keys_in, other=-1).to(tl.int64)
    keys_in &= row >= 0
    inside = keys_in[:, None] & units_in[None, :]
    state = pool + row[:, None] * stride + units[None, :]
    h1 = tl.load(state, mask=inside, other=0.0)
    h2 = h1
    if ORDER == 2:
        h2 = tl.load(state + N, mask=inside, other=0.0)
    size = tl.cast(J, tl.int64) * N
    p0 = _product(x, weights, keys, units, keys_in, units_in, J, N, KEYS, UNITS, INPUTS)
    p1 = p0
    p2 = p0
    if PRODUCTS > 1:
        p1 = _product(x, weights + size, keys, units, keys_in, units_in, J, N, KEYS, UNITS, INPUTS)
    if PRODUCTS > 2:
        p2 = _product(x, weights + 2 * size, keys, units, keys_in, units_in, J, N, KEYS, UNITS, INPUTS)
    vectors = weights + PRODUCTS * size + units[None, :]
    v0 = p0
    v1 = p0
    v2 = p0
    if VECTORS > 0:
        v0 = tl.load(vectors, mask=units_in[None, :], other=0.0)
    if VECTORS > 1:
        v1 = tl.load(vectors + N, mask=units_in[None, :], other=0.0)
    if VECTORS > 2:
        v2 = tl.load(vectors + 2 * N, mask=units_in[None, :], other=0.0)
    between = tl.load(gap + keys, mask=keys_in, other=1.0)[:, None]
    made = PLACE(h1, h2, p0, p1, p2, v0, v1, v2, between, LOWER)
    here = keys[:, None] * N + units[None, :]
    for i in tl.static_range(ORDER):
        at = h_after + keys[:, None] * (ORDER * N) + i * N + units[None, :]
        tl.store(at, tl.broadcast_to(made[i], here.shape), mask=inside)
    for i in tl.static_range(LOCALS):
        at = local + keys[:, None] * (LOCALS * N) + i * N + units[None, :]
        tl.store(at, tl.broadcast_to(made[ORDER + i], here.shape), mask=inside)


@triton.jit
def settle_kernel(pool, rows, h_after, error, labelled, learned, size, stride, WIDE: tl.constexpr, ALL: tl.constexpr):
    """Per key: the new state into its row, and whether its error can be learned from. Grid: keys; `size` is D N."""
    key = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + key).to(tl.int64)
    live = row >= 0
    total = tl.zeros((WIDE,), tl.float32)
    for start in range(0, size, WIDE):
        places = start + tl.arange(0, WIDE)
        inside = where_positive(places < size, row + 1)
        h = tl.load(h_after + key * size + places, mask=inside, other=0.0)
        tl.store(pool + row * stride + places, h, mask=inside)
        total += tl.abs(tl.load(error + key * size + places, mask=inside, other=0.0))
    taken = live & (tl.sum(total, 0) <= LARGEST_ERROR)
    if not ALL:
        taken &= tl.load(labelled + key) != 0
    tl.store(learned + key, taken.to(tl.int8))
