"""`forward` and `learn` of `kernels.reference.wave` for tensors on a GPU: the same arguments, float32, one wave a call.

State, traces, weights and moments are float32 and contiguous; inputs are float32 or bfloat16; rows are int32 or int64,
negative for padding. The rows of a wave must be distinct and within the pool: nothing checks that on the device. The
order of every sum follows from the shapes, so that equal inputs give equal bits, wherever the rows lie in the pool.

Bytes that must move in `learn`: traces and state once each way, weights and moments once each way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from kernels.cuda.cells import elstm, hgrn, lru, mingru, minlstm, rtu, s5
from kernels.cuda.forward import forward_kernel, settle_kernel
from kernels.cuda.traces import add_up_kernel, traces_kernel
from kernels.reference import wave as reference
from kernels.reference.wave import Optimizer
from kernels.reference.wave_cells import Cell

PLACES = {
    "mingru": mingru.place,
    "minlstm": minlstm.place,
    "elstm": elstm.place,
    "lru": lru.place,
    "rtu": rtu.place,
    "rtu_tanh": rtu.place_tanh,
    "hgrn": hgrn.place,
    "s5": s5.place,
}
"""The Triton function of each cell of `kernels.reference.wave_cells.CELLS`."""

LAUNCH = {"enable_fp_fusion": False}
"""Products and sums are rounded one by one, as on the CPU: nothing here is bound by arithmetic."""

PROGRAMS = 2112
"""Programs that fill a card: 16 for each of 132 multiprocessors. A constant, so that bits do not depend on the card."""

LEAST_KEYS = 8
"""Keys of a segment at least: a partial gradient costs as much traffic as one key's traces written."""

FORWARD_TILE = {"KEYS": 16, "UNITS": 32, "INPUTS": 16}
SETTLE_WIDE = 512
ADD_UP_TILE = {"SEGMENTS": 32, "SIZE": 64}


class Plan(NamedTuple):
    """How the traces of a wave are cut up: a function of its shapes."""

    rows: int
    """Inputs j of a tile."""
    units: int
    """Units of a tile."""
    warps: int
    grid: tuple[int, int, int]
    """Tiles of units, tiles of rows (those of all matrices, then one of the vectors), segments of keys."""
    segment_keys: int


def plan(cell: Cell, keys: int, width: int, units: int) -> Plan:
    """The plan of a wave of `keys` with `width` inputs and `units` units.

    A thread holds 16 traces (order 2: 8 pairs), those of the next key, and their gradient, in registers.
    """
    per_thread = 16 // cell.order
    tile_units = min(128, triton.next_power_of_2(units))
    tile_rows = min(128 * per_thread // tile_units, triton.next_power_of_2(width))
    warps = max(1, min(4, tile_rows * tile_units // (32 * per_thread)))
    tiles = triton.cdiv(units, tile_units), cell.matrices * triton.cdiv(width, tile_rows) + (cell.vectors > 0)
    segments = max(1, min(triton.cdiv(keys, LEAST_KEYS), PROGRAMS // (tiles[0] * tiles[1])))
    segment_keys = triton.cdiv(keys, segments)
    return Plan(tile_rows, tile_units, warps, (*tiles, triton.cdiv(keys, segment_keys)), segment_keys)


def forward_constants(cell: Cell) -> dict[str, Any]:
    """The compile-time arguments of `forward_kernel`."""
    made_of = {"ORDER": cell.order, "PRODUCTS": cell.products(), "VECTORS": cell.vectors, "LOCALS": cell.locals()}
    # The lower bound is no argument of the launch: the interpreter would keep its double precision.
    return {"PLACE": PLACES[cell.name], "LOWER": cell.lower, **made_of, **FORWARD_TILE}


def traces_constants(cell: Cell, plan: Plan, kind: str, reduction: str) -> dict[str, Any]:
    """The compile-time arguments of `traces_kernel`."""
    return {
        "ORDER": cell.order,
        "MATRICES": cell.matrices,
        "TIED": cell.tied,
        "VECTORS": cell.vectors,
        "BOUNDED": not cell.contracts,
        "KIND": reference.KINDS.index(kind),
        "MEAN": reduction == "mean",
        "SEGMENTED": plan.grid[2] > 1,
        "ROWS": plan.rows,
        "UNITS": plan.units,
    }


def add_up_constants(kind: str, reduction: str) -> dict[str, Any]:
    """The compile-time arguments of `add_up_kernel`."""
    return {"KIND": reference.KINDS.index(kind), "MEAN": reduction == "mean", **ADD_UP_TILE}


def forward(
    cell: Cell, weights: Tensor, pool: Tensor, rows: Tensor, x: Tensor, gap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See `kernels.reference.wave.forward`.

    Raises:
        ValueError: a tensor has another shape, type, device or layout than the wave needs.
    """
    units = _check(cell, weights, pool, rows, x)
    keys, width = x.shape
    if gap is None:
        gap = torch.ones(keys, device=x.device)
    _expect("gap", gap, pool, (keys,), (torch.float32,))
    h = torch.empty(keys, cell.order, units, device=x.device)
    local = torch.empty(keys, cell.locals(), units, device=x.device)
    grid = (triton.cdiv(units, FORWARD_TILE["UNITS"]), triton.cdiv(keys, FORWARD_TILE["KEYS"]))
    forward_kernel[grid](
        weights, pool, rows, x, gap, h, local, keys, width, units, pool.stride(0),
        **forward_constants(cell), num_warps=4, **LAUNCH,
    )  # fmt: skip
    return h, local


def learn(
    cell: Cell,
    weights: Tensor,
    optimizer: Optimizer,
    pool: Tensor,
    rows: Tensor,
    x: Tensor,
    h: Tensor,
    local: Tensor,
    error: Tensor,
    labelled: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """See `kernels.reference.wave.learn`. `optimizer.decay` becomes another tensor.

    Raises:
        ValueError: a tensor has another shape, type, device or layout than the wave needs, or the reduction is unknown.
    """
    units = _check(cell, weights, pool, rows, x)
    keys = len(x)
    _expect("h", h, pool, (keys, cell.order, units), (torch.float32,))
    _expect("local", local, pool, (keys, cell.locals(), units), (torch.float32,))
    _expect("error", error, pool, (keys, cell.order, units), (torch.float32,))
    if labelled is not None:
        _expect("labelled", labelled, pool, (keys,), (torch.bool,))
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, got {reduction!r}")
    learned = torch.empty(keys, dtype=torch.int8, device=x.device)
    flags = learned if labelled is None else labelled.view(torch.int8)
    settle_kernel[(keys,)](
        pool, rows, h, error, flags, learned, cell.order * units, pool.stride(0),
        WIDE=SETTLE_WIDE, ALL=labelled is None, num_warps=4, **LAUNCH,
    )  # fmt: skip
    _carry_and_step(cell, weights, optimizer, pool, rows, x, local, error, learned, reduction)
    return learned.bool()


def _carry_and_step(
    cell: Cell,
    weights: Tensor,
    optimizer: Optimizer,
    pool: Tensor,
    rows: Tensor,
    x: Tensor,
    local: Tensor,
    error: Tensor,
    learned: Tensor,
    reduction: str,
) -> None:
    keys, width, units = *x.shape, error.shape[2]
    cut = plan(cell, keys, width, units)
    parameters, segments = cell.weights(width, units), cut.grid[2]
    partial = torch.empty((segments, parameters) if segments > 1 else (0,), device=x.device)
    counts = torch.empty(segments, dtype=torch.int32, device=x.device)
    after = torch.empty_like(optimizer.decay)
    shared = (weights, optimizer.m, optimizer.v, optimizer.hyper, optimizer.decay, after)
    traces_kernel[cut.grid](
        *shared, pool, rows, x, local, error, learned, partial, counts,
        keys, width, units, pool.stride(0), parameters, cut.segment_keys,
        **traces_constants(cell, cut, optimizer.kind, reduction), num_warps=cut.warps, **LAUNCH,
    )  # fmt: skip
    if segments > 1:
        add_up_kernel[(triton.cdiv(parameters, ADD_UP_TILE["SIZE"]),)](
            *shared, partial, counts, segments, parameters, cell.products() * width * units,
            **add_up_constants(optimizer.kind, reduction), num_warps=4, **LAUNCH,
        )  # fmt: skip
    optimizer.decay = after


def _check(cell: Cell, weights: Tensor, pool: Tensor, rows: Tensor, x: Tensor) -> int:
    """The number of units, when the tensors that both halves of a wave take fit each other."""
    if x.dim() != 2 or not x.shape[0] or not x.shape[1]:
        raise ValueError(f"x must be [keys, inputs] with at least one of each, got {list(x.shape)}")
    keys, width = x.shape
    per_unit = cell.weights(width, 1)
    units, rest = divmod(weights.numel(), per_unit)
    if rest or not units:
        raise ValueError(f"weights of {cell.name} must be a multiple of {per_unit}, got {weights.numel()}")
    if cell.body(width, units) >= 2**31:
        raise ValueError(f"a row of the pool must have fewer than 2^31 numbers, got {cell.body(width, units)}")
    _expect("weights", weights, pool, (units * per_unit,), (torch.float32,))
    _expect("x", x, pool, (keys, width), (torch.float32, torch.bfloat16))
    _expect("rows", rows, pool, (keys,), (torch.int32, torch.int64))
    _expect("pool", pool, pool, (len(pool), cell.body(width, units)), (torch.float32,))
    return units


def _expect(name: str, tensor: Tensor, pool: Tensor, shape: tuple[int, ...], types: tuple[torch.dtype, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have the shape {list(shape)}, got {list(tensor.shape)}")
    if tensor.dtype not in types:
        raise ValueError(f"{name} must be {' or '.join(map(str, types))}, got {tensor.dtype}")
    if tensor.device != pool.device:
        raise ValueError(f"{name} must be on {pool.device}, as the pool is, got {tensor.device}")
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, got strides {tensor.stride()}")
