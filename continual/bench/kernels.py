"""Each fused op from tiny to past the caches: bytes, bandwidth, share of what memory gives, ratio to PyTorch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import click
import numba as nb
import numpy as np
import torch

from continual.bench._helpers import Row, alternate, check, fold, median, warm, with_keys
from continual.bench._kernels_eager import Eager
from continual.bench.report import out_option, publish
from kernels.cpu.bound import Bound
from kernels.cpu.layout import Events, Out, Rows
from kernels.reference import fold as reference
from learners.spec import ModelSpec
from streams.batch import Batch, Keys

UNITS = (4, 16, 64, 256, 1024)
FEATURES = 16
MANY_KEYS = 20_000
LAST_LEVEL_CACHE = 32 << 20
BIG_UNITS, BIG_FEATURES, BIG_EVENTS = 4096, 2040, 15
"""A key's row just below the 64 MiB that a spec may ask for; at least so many events, of as many keys as it takes."""

TOLERANCE = 2e-3
"""Largest difference of a probability between the compiled fold and the reference, float32, over `CHECKED` events."""

CHECKED = 300


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of every measurement.")
@click.option("--quick", is_flag=True, help="Small sizes only: a look at whether it works.")
@click.option("--compile/--no-compile", "compiled", default=True, help="Measure torch.compile, which takes minutes.")
@out_option
def kernels(device: str, rounds: int, quick: bool, compiled: bool, out: Path | None, as_json: bool) -> None:
    """Each op's bandwidth and its ratio to eager PyTorch and torch.compile, after a check that it is right."""
    if device == "cuda":
        rows, notes = _on_card(rounds, compiled)
    else:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            rows, notes = cpu_rows(rounds, quick, compiled), _notes()
        finally:
            torch.set_num_threads(threads)
    title = f"Fused kernels on the {'GPU' if device == 'cuda' else 'CPU, one thread'}"
    publish(f"kernels_{device}", title, rows, notes=notes, out=out, as_json=as_json)


def _on_card(rounds: int, compiled: bool) -> tuple[list[Row], list[str]]:
    from continual.bench import _kernels_gpu as gpu

    if not torch.cuda.is_available():
        raise click.ClickException(f"no CUDA device: torch {torch.__version__} sees none; --device cpu needs none")
    return gpu.rows("cuda", rounds, compiled=compiled), gpu.notes("cuda")


def cpu_rows(rounds: int, quick: bool, compiled: bool) -> list[Row]:
    """The table of the CPU: the public learner's fold of a binary stream of random numbers, minGRU, float32."""
    verify()
    found = []
    for units in UNITS[:2] if quick else UNITS:
        for kind in ("adam", "sgd"):
            found.append(_size_row(units, kind, rounds, compiled and units == 64))
    found.append(_many_keys_row(500 if quick else MANY_KEYS, rounds))
    if not quick:
        found += [_big_row(kind, rounds) for kind in ("adam", "sgd")]
    return found


def spec(features: int, units: int, kind: str, **learner: Any) -> ModelSpec:
    """The recurrent learner with minGRU cells of a number of units; the rest as by default."""
    cell = {"kind": "mingru", "units": units}
    return ModelSpec.model_validate(
        {
            "name": "bench",
            "features": [f"x{place}" for place in range(features)],
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": cell, "optimizer": {"kind": kind}, **learner},
        }
    )


def stream(features: int, events: int, seed: int = 0) -> Batch:
    """Labelled events of one key; the label follows from the first feature and its past."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 1, (events, features)).astype(np.float32)
    return Batch.of(x, (x[:, 0] + np.roll(x[:, 0], 1) > 0).astype(np.float64))


def moved(features: int, units: int, kind: str) -> int:
    """Bytes of an event: 2 ways x 4 x (traces + weights + moments), read-out and state included."""
    width = features + 2  # the previous label and the constant
    cell, read_out = 2 * width * units, units + width
    copies = 3 if kind == "adam" else 1
    return 2 * 4 * (units + cell + copies * (cell + read_out))


def verify() -> None:
    """The compiled fold against the reference, event by event, before anything is timed; and the eager form, too.

    Raises:
        continual.bench._helpers.WrongResult: they differ.
    """
    for kind in ("adam", "sgd"):
        batch = with_keys(stream(FEATURES, CHECKED), 3)
        model = spec(FEATURES, 16, kind)
        ours = model.learner.build(model).fold(batch)
        theirs = reference_fold(model, batch)[1]
        apart = float(np.abs(ours.value - theirs.value).max())
        check(apart <= TOLERANCE, f"{kind}: compiled fold and reference differ by {apart:.1e}")
        check(float(np.ptp(ours.value)) > 0.05, f"{kind}: predictions that move")
        Eager(FEATURES + 2, 16, kind).verify()


def reference_fold(model: ModelSpec, batch: Batch) -> tuple[float, Any]:
    """Folds with `kernels.reference.fold` in place of the compiled loop: the seconds, and what the fold said."""

    def plain(bound: Bound, keyed: Bound, *arrays: np.ndarray) -> None:
        cell, _, config, shared, scratch = bound.values
        events, out = Events(*arrays[: len(Events._fields)]), Out(*arrays[len(Events._fields) :])
        reference.fold(cell, config, shared, Rows._make(keyed.values), events, out, scratch.tables)

    shim = SimpleNamespace(fold=plain)
    with mock.patch("learners.compiled.kernel", shim):
        taken, folded = fold(model.learner.build(model), [batch])
    return taken, folded[0]


@nb.njit(nogil=True)
def _multiply_add(a: Any, c: Any, b: Any, times: int) -> None:
    for _ in range(times):
        for place in range(len(a)):
            a[place] = a[place] * c + b


class MultiplyAdd:
    """The bandwidth of an in-place multiply-add over as many bytes as an event reads (it writes the same)."""

    def __init__(self, size: int) -> None:
        self.numbers = np.ones(max(1, size // 8), np.float32)
        self.times = max(1, (64 << 20) // size)
        _multiply_add(self.numbers, np.float32(0.5), np.float32(0.5), 1)  # compiles, and touches the pages

    def __call__(self) -> float:
        """Bytes per second, read and written."""
        start = time.perf_counter()
        _multiply_add(self.numbers, np.float32(0.5), np.float32(0.5), self.times)
        return 2 * self.numbers.nbytes * self.times / (time.perf_counter() - start)


def per_event(work: dict[str, tuple[ModelSpec, Batch]], size: int, rounds: int) -> dict[str, float]:
    """Median seconds of an event of each batch, and under "add" the bandwidth of a multiply-add, all in turn.

    Every learner has folded its batch once before.
    """
    turns: dict[str, Callable[[], float]] = {"add": MultiplyAdd(size)}
    for name, (model, batch) in work.items():
        warm(model, batch)
        learner = model.learner.build(model)
        learner.fold(batch)
        turns[name] = _timed(learner, batch)
    return {name: median(values) for name, values in alternate(rounds, turns).items()}


def _timed(learner: Any, batch: Batch) -> Callable[[], float]:
    return lambda: fold(learner, [batch])[0] / len(batch)


def _row(op: str, shape: str, size: int, took: float, add: float) -> Row:
    share = size / took / add
    figures: Row = {"us": 1e6 * took, "GB/s": size / took / 1e9, "share": share}
    return {
        "op": op,
        "shape": shape,
        "bytes": size,
        **figures,
        **dict.fromkeys(("x eager", "x compile", "target", "met"), ""),
    }


def _judged(row: Row, what: str, ratio: float, bound: float, *, at_least: bool) -> Row:
    met = ratio >= bound if at_least else ratio <= bound
    target = f"{what} {ratio:.3g} {'>=' if at_least else '<='} {bound:g}"
    return {**row, "target": target, "met": "yes" if met else "NO"}


def _size_row(units: int, kind: str, rounds: int, compiled: bool) -> Row:
    size = moved(FEATURES, units, kind)
    events = int(min(50_000, max(500, 2e9 / size)))
    model, batch = spec(FEATURES, units, kind), stream(FEATURES, events)
    measured = per_event({"ours": (model, batch)}, size, rounds)
    took = measured["ours"]
    row = _row(f"fold, {kind}", f"{units} units x {FEATURES}", size, took, measured["add"])
    eager = Eager(FEATURES + 2, units, kind)
    row["x eager"] = eager.seconds(300, rounds) / took
    if compiled:
        row["x compile"] = _or_reason(lambda: eager.compiled_seconds(300, rounds) / took)
    return _judged(row, "x eager", row["x eager"], 50, at_least=True) if (units, kind) == (64, "adam") else row


def _or_reason(ratio: Callable[[], float]) -> float | str:
    """The ratio, or why torch.compile could not be measured: it needs a C++ compiler on the machine."""
    try:
        return ratio()
    except torch._dynamo.exc.TorchDynamoException as failed:
        return f"unavailable: {type(failed).__name__}"


def _many_keys_row(keys: int, rounds: int) -> Row:
    """Keys in random order, against one key."""
    model, one = spec(FEATURES, 64, "adam"), stream(FEATURES, 2 * keys)
    many = with_keys(one, keys)
    size = moved(FEATURES, 64, "adam")
    measured = per_event({"one": (model, one), "many": (model, many)}, size, rounds)
    row = _row("fold, adam", f"64 units x {FEATURES}, {keys:,} keys", size, measured["many"], measured["add"])
    return _judged(row, "x one key", measured["many"] / measured["one"], 1.5, at_least=False)


def _big_row(kind: str, rounds: int) -> Row:
    """Traces of at least four times the last-level cache, several keys in turn."""
    size = moved(BIG_FEATURES, BIG_UNITS, kind)
    row_bytes = 4 * (BIG_UNITS + 2 * (BIG_FEATURES + 2) * BIG_UNITS)
    keys = max(3, math.ceil(4 * last_level_cache() / row_bytes))
    batch = stream(BIG_FEATURES, max(BIG_EVENTS, keys))
    batch = replace(batch, key=Keys.pack(b"key-%d" % (place % keys) for place in range(len(batch))))
    measured = per_event({"ours": (spec(BIG_FEATURES, BIG_UNITS, kind), batch)}, size, rounds)
    shape = f"{BIG_UNITS} units x {BIG_FEATURES}, {keys} keys"
    row = _row(f"fold, {kind}", shape, size, measured["ours"], measured["add"])
    return _judged(row, "share", row["share"], 0.7, at_least=True)


def last_level_cache() -> int:
    """Bytes of the largest cache that the system reports, or 32 MiB."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        number, unit = path.read_text().strip()[:-1], path.read_text().strip()[-1]
        sizes.append(int(number) * {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(unit, 1))
    return max(sizes, default=LAST_LEVEL_CACHE)


def _notes() -> list[str]:
    mib = math.ceil(last_level_cache() / 2**20)
    return [
        "The public learner's fold of labelled events: standardisation, cell, read-out, RTRL and optimizer, minGRU, "
        "float32; shape is units x features, to which the previous label and the constant are added.",
        "bytes of an event = 2 x 4 x (state and traces + weights + moments), read-out included; share: of what "
        "a = a c + b in place over the same bytes reaches, compiled, one thread, measured in turn.",
        "x eager: the same event written out in eager PyTorch without autograd (inputs ready, optimizer included); x "
        "compile: the same by torch.compile. One thread each.",
        f"Checked first: predictions of the compiled fold and the reference over {CHECKED} events. Last-level cache: "
        f"{mib} MiB.",
    ]
