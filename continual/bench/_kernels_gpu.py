"""GPU rows of `continual kernels bench`: the fused wave against a copy, eager PyTorch and `torch.compile`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from continual.bench._helpers import Row, check
from kernels.reference import wave as reference
from kernels.reference.wave_cells import CELLS, Cell

Shape = tuple[int, int, int]

SHAPES: tuple[Shape, ...] = ((64, 18, 16), (256, 18, 64), (1024, 18, 64), (4096, 18, 64), (8192, 66, 128))
"""(keys, inputs, units) of waves below the sizes that are judged."""

LARGE: tuple[Shape, ...] = ((65_536, 18, 64), (8_192, 66, 128), (2_048, 258, 128), (64, 1_026, 1_024))
"""Waves of at least 64 M products keys x inputs x units: small models, many keys, to one large model, few keys."""

JUDGED_FROM = 64_000_000
TARGETS = {"share of copy": 0.8, "x eager": 8.0, "x compile": 2.0}
TOLERANCE = 1e-4


@dataclass
class Wave:
    """The tensors of one wave without padding, ready for `learn`."""

    cell: Cell
    weights: torch.Tensor
    optimizer: reference.Optimizer
    pool: torch.Tensor
    rows: torch.Tensor
    x: torch.Tensor
    error: torch.Tensor
    h: torch.Tensor
    local: torch.Tensor

    def arguments(self) -> tuple[Any, ...]:
        """What `learn` takes, in order."""
        return self.cell, self.weights, self.optimizer, self.pool, self.rows, self.x, self.h, self.local, self.error


def make(cell: Cell, keys: int, width: int, units: int, kind: str, device: str, seed: int = 0) -> Wave:
    """A wave of random numbers whose rows lie at random in a pool of as many."""
    rng = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, scale: float) -> torch.Tensor:
        return torch.empty(*shape, device=device).normal_(generator=rng).mul_(scale)

    weights = normal(cell.weights(width, units), scale=0.5 / width**0.5)
    pool = normal(keys, cell.body(width, units), scale=0.1)
    rows = torch.randperm(keys, device=device, generator=rng)
    x, error = normal(keys, width, scale=1.0), normal(keys, cell.order, units, scale=1.0)
    h, local = reference.forward(cell, weights, pool, rows, x)
    optimizer = reference.optimizer(weights, kind)
    return Wave(cell, weights, optimizer, pool, rows, x, error, h.contiguous(), local.contiguous())


def bytes_moved(wave: Wave) -> int:
    """4 bytes x 2 ways x (state and traces of the keys, weights, moments): what a wave must move at least."""
    moments = wave.optimizer.m.numel() + wave.optimizer.v.numel()
    return 4 * 2 * (len(wave.rows) * wave.pool.shape[1] + wave.weights.numel() + moments)


def verify(device: str) -> None:
    """Every cell and optimizer against the reference in float64, before anything is timed.

    Raises:
        continual.bench._helpers.WrongResult: they differ by more than `TOLERANCE`.
    """
    from kernels.cuda import wave as fused

    for cell in CELLS.values():
        for kind in reference.KINDS:
            ours = make(cell, 37, 19, 33, kind, device)
            theirs = make(cell, 37, 19, 33, kind, device)
            doubles = (tensor.double() for tensor in (theirs.weights, theirs.pool, theirs.x, theirs.error))
            weights, pool, x, error = doubles
            optimizer = reference.optimizer(weights, kind)
            h, local = reference.forward(cell, weights, pool, ours.rows, x)
            reference.learn_rows(cell, weights, optimizer, pool, ours.rows, x, h, local, error)
            ours.h, ours.local = fused.forward(cell, ours.weights, ours.pool, ours.rows, ours.x)
            fused.learn(*ours.arguments())
            for name, one, other in (("weights", ours.weights, weights), ("pool", ours.pool, pool)):
                error_of = float((one.double() - other).norm() / other.norm())
                check(error_of <= TOLERANCE, f"{cell.name}, {kind}: {name} differ from the reference by {error_of:.1e}")


def seconds(work: Callable[[], Any], device: str, rounds: int) -> float:
    """Median seconds of a call on an otherwise idle device, launches included, after three to warm up."""
    for _ in range(3):
        work()
    taken = []
    for _ in range(rounds):
        if device == "cuda":
            torch.cuda.synchronize()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            torch.cuda.synchronize()
            taken.append(start.elapsed_time(end) / 1e3)
        else:
            begun = time.perf_counter()
            work()
            taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


def copy_bandwidth(device: str, rounds: int, size: int = 1 << 30) -> float:
    """Bytes per second that a plain copy of `size` bytes moves, read and written."""
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds(lambda: target.copy_(source), device, rounds)


def measure(wave: Wave, copy: float, device: str, rounds: int, compiled: bool) -> Row:
    """One row: the fused wave, and the same by eager PyTorch and by `torch.compile`."""
    from kernels.cuda import wave as fused

    keys, width, units = *wave.x.shape, wave.h.shape[2]
    ours = seconds(lambda: fused.learn(*wave.arguments()), device, rounds)
    eager = seconds(lambda: reference.learn_rows(*wave.arguments()), device, rounds)
    row: Row = {
        "op": f"wave, {wave.cell.name}, {wave.optimizer.kind}",
        "shape": f"{keys:,} keys x {width} x {units}",
        "MB": bytes_moved(wave) / 1e6,
        "us": 1e6 * ours,
        "GB/s": bytes_moved(wave) / ours / 1e9,
        "share of copy": bytes_moved(wave) / ours / copy,
        "x eager": eager / ours,
        "x compile": "",
    }
    if compiled:
        torch.compiler.reset()
        made = torch.compile(reference.learn_rows)
        row["x compile"] = seconds(lambda: made(*wave.arguments()), device, rounds) / ours
    judged = keys * width * units >= JUDGED_FROM
    missed = [name for name, least in TARGETS.items() if row[name] != "" and row[name] < least]
    row["target"] = ">= 0.8, 8, 2" if judged else ""
    row["met"] = ("no: " + ", ".join(missed) if missed else "yes") if judged else ""
    return row


def rows(
    device: str, rounds: int, shapes: Sequence[Shape] = SHAPES, large: Sequence[Shape] = LARGE, compiled: bool = True
) -> list[Row]:
    """Every row: minGRU with Adam from tiny to large, then every cell and optimizer at a large size."""
    verify(device)
    copy = copy_bandwidth(device, rounds, 1 << 30 if device == "cuda" else 1 << 24)
    blank = dict.fromkeys(("us", "share of copy", "x eager", "x compile", "target", "met"), "")
    found: list[Row] = [{"op": "copy", "shape": "1 GiB", "MB": "", "us": "", "GB/s": copy / 1e9, **blank}]
    work = [("mingru", shape, reference.ADAM) for shape in (*shapes, *large)]
    work += [("mingru", large[0], kind) for kind in (reference.SGD, reference.RMSPROP)]
    work += [(name, large[min(1, len(large) - 1)], reference.ADAM) for name in CELLS if name != "mingru"]
    for name, shape, kind in work:
        found.append(measure(make(CELLS[name], *shape, kind, device), copy, device, rounds, compiled))
        if device == "cuda":
            torch.cuda.empty_cache()
    return found


def notes(device: str) -> list[str]:
    """What the columns mean."""
    name = torch.cuda.get_device_name() if device == "cuda" else "no card: figures mean nothing"
    return [
        f"{name}. One call of learn: states, traces, gradient over the keys, one step; the same keys again each time, "
        "rows in random order; launches included. float32 state and inputs.",
        "MB = 4 x 2 x (state and traces of the keys + weights + moments); copy: bytes read and written by a copy.",
        "x eager, x compile: the same op in kernels.reference.wave as it is, and by torch.compile. Checked first: "
        f"every cell and optimizer against the reference in float64, relative error at most {TOLERANCE:g}.",
        "Waves that fit a cache (below the sizes that are judged) may exceed the copy.",
    ]
