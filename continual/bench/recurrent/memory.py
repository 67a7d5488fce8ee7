"""The memory part of `continual bench recurrent`: how long a delay each cell bridges, by how its gradient is taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from continual.bench.recurrent.dense import GATES, DenseNetwork
from continual.bench.recurrent.plots import COLOURS
from continual.bench.recurrent.recall import (
    BATCH,
    BITS,
    EVALUATED,
    RATE,
    UPDATES,
    Diagonal,
    Network,
    Outcome,
    Task,
    train,
)
from continual.bench.report import publish

UNITS = 32
DELAYS = (10, 20, 50, 100, 200)
REACH = 1000
LONGEST = 100_000
"""Bound on a delay: a batch of inputs is held in memory."""
WINDOW = 10
LEAST = 0.99
"""Accuracy per bit at which a delay counts as bridged."""
MOST_WITHOUT = 0.60
"""Bound on the accuracy without a gradient through the delay: truncated or frozen."""
LONGEST_WITHOUT_TARGET, SEEDS_WITHOUT_TARGET = 100, 3
"""The longest delay and the most seeds that are tried with what has no target."""

BIASES = (-6.0, 1.0)
GATED: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind, "gate_bias": BIASES} for kind in ("mingru", "minlstm", "elstm", "hgrn")},
    "ssm": {"kind": "ssm", "states": 1, "steps": (1e-3, 1.0)},
}
"""Cells whose gates see the inputs, with a wide range of time scales at the start."""

LINEAR: dict[str, dict[str, Any]] = {
    "lru": {"kind": "lru", "radius": (0.0, 0.9)},
    "rtu": {"kind": "rtu", "radius": (0.0, 0.9)},
    "s5": {"kind": "s5", "steps": (-2.0 * math.log(0.9), 1.0)},
}
"""Linear recurrences, no eigenvalue above 0.9 at the start (S5: a decay rate of 1/2 per unit of time)."""


class Arm(NamedTuple):
    """A way to train a cell: its name, the network for (width, seed), whether only the read-out learns."""

    name: str
    make: Callable[[int, int], Network]
    frozen: bool


class Contest(NamedTuple):
    """One cell with one arm on one task."""

    cell: str
    arm: Arm
    task: str


def contests(kinds: Sequence[str]) -> list[Contest]:
    """What is run for these cells, in the order of the table."""
    out = []
    for name, spec in {**GATED, **LINEAR}.items():
        if name in kinds:
            task = "distractors" if name in GATED else "serial"
            out += [Contest(name, arm, task) for arm in _diagonal_arms({**spec, "units": UNITS})]
    dense = [kind for kind in GATES if kind in kinds]
    return out + [Contest(kind, arm, "distractors") for kind in dense for arm in _dense_arms(kind)]


def known() -> tuple[str, ...]:
    """The cells that there is a task for."""
    return (*GATED, *LINEAR, *GATES)


def _diagonal_arms(spec: dict[str, Any]) -> list[Arm]:
    def arm(name: str, window: int, frozen: bool) -> Arm:
        return Arm(name, lambda width, seed: Diagonal(spec, width, window, seed), frozen)

    return [arm("RTRL", 0, False), arm(f"BPTT-{WINDOW}", WINDOW, False), arm("frozen", 0, True)]


def _dense_arms(kind: str) -> list[Arm]:
    def arm(name: str, training: str, window: int = 0, frozen: bool = False) -> Arm:
        keep = (-BIASES[1], -BIASES[0])
        return Arm(
            name, lambda width, seed: DenseNetwork(kind, training, UNITS, width, seed, window=window, keep=keep), frozen
        )

    return [
        arm("SnAp-1", "snap1"),
        arm("UORO", "uoro"),
        arm(f"BPTT-{WINDOW}", "bptt", WINDOW),
        arm("BPTT, whole", "bptt"),
        arm("frozen", "bptt", 1, True),
    ]


Results = dict[Contest, dict[int, list[Outcome]]]
"""By contest and delay the outcome of each seed."""


def run(one: Contest, delay: int, seed: int) -> Outcome:
    """Trains one network; deterministic in all arguments."""
    task = Task(one.task, delay)
    return train(one.arm.make(task.width, seed), task, seed, frozen=one.arm.frozen)


def measure(
    kinds: Sequence[str],
    *,
    seeds: int = 5,
    delays: Sequence[int] = DELAYS,
    reach: int = REACH,
    jobs: int = 1,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Trains every cell with every arm at every delay, looks for the longest, and publishes table and plot.

    Args:
        kinds: of cells, among `known()`; others are left out.
        seeds: at least 1; a seed sets weights and sequences. Without a target at most `SEEDS_WITHOUT_TARGET`.
        delays: steps between what is shown and what is asked; without a target up to `LONGEST_WITHOUT_TARGET`.
        reach: how far gated cells with RTRL are tried, in doublings up to this; 0: not at all.
        jobs: networks trained at a time, in threads.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    results: Results = {}
    with ThreadPoolExecutor(jobs) as pool:
        for one in contests(kinds):
            results[one] = {}
            many = seeds if one.cell in GATED else min(seeds, SEEDS_WITHOUT_TARGET)
            for delay in sorted(delays):
                if one.cell in GATED or delay <= LONGEST_WITHOUT_TARGET:
                    say(f"memory: {one.cell}, {one.arm.name}, delay {delay}, {many} seeds")
                    results[one][delay] = list(pool.map(lambda seed: run(one, delay, seed), range(many)))  # noqa: B023
        gated = [one for one in results if one.cell in GATED and one.arm.name == "RTRL"]
        for one in gated:
            _extend(one, results[one], seeds, reach, jobs, pool, say)
    reached = {
        one.cell: max((delay for delay, found in results[one].items() if bridged(found, seeds)), default=0)
        for one in gated
    }
    publish(
        "recurrent-memory",
        f"Recall of {BITS} bits, {UNITS} units: accuracy per bit in %, mean (lowest seed)",
        [_row(one, by_delay, sorted(delays)) for one, by_delay in results.items()],
        notes=_notes(reached),
        details={
            "runs": [
                {"cell": one.cell, "arm": one.arm.name, "task": one.task, "delay": delay, "seed": seed, **vars(outcome)}
                for one, by_delay in results.items()
                for delay, outcomes in by_delay.items()
                for seed, outcome in enumerate(outcomes)
            ],
            "longest delay": reached,
            "cells": {name: {**spec, "units": UNITS} for name, spec in {**GATED, **LINEAR}.items() if name in kinds},
        },
        out=out,
        as_json=as_json,
    )
    if out is not None and results:
        plot(results, out / "recurrent-memory.png")


def bridged(outcomes: Sequence[Outcome], seeds: int) -> bool:
    """Whether four of five of the seeds (or that share) recall."""
    return sum(one.accuracy >= LEAST for one in outcomes) >= math.ceil(0.8 * seeds)


def _extend(
    one: Contest,
    by_delay: dict[int, list[Outcome]],
    seeds: int,
    reach: int,
    jobs: int,
    pool: ThreadPoolExecutor,
    say: Callable[[str], None],
) -> None:
    """Adds doubled delays up to `reach` while they are bridged; a delay that can be no more is left at once."""
    for delay in _doublings(max(by_delay), reach):
        if not bridged(by_delay[max(by_delay)], seeds):
            return
        say(f"memory: {one.cell}, {one.arm.name}, delay {delay}, {seeds} seeds")
        found: list[Outcome] = []
        for first in range(0, seeds, jobs):
            some = range(first, min(first + jobs, seeds))
            found += pool.map(lambda seed: run(one, delay, seed), some)  # noqa: B023
            if not bridged([*found, *[Outcome(1.0, 0)] * (seeds - len(found))], seeds):
                break
        by_delay[delay] = found


def _doublings(above: int, most: int) -> Iterator[int]:
    """`most`, if it is more than `above`, and its half, its quarter ... down to twice `above`, ascending."""
    if most // 2 >= 2 * above:
        yield from _doublings(above, most // 2)
    if most > above:
        yield most


def _row(one: Contest, by_delay: dict[int, list[Outcome]], delays: Sequence[int]) -> dict[str, Any]:
    shown = {}
    for delay in delays:
        values = [100 * outcome.accuracy for outcome in by_delay.get(delay, ())]
        shown[f"d = {delay}"] = f"{np.mean(values):.1f} ({min(values):.1f})" if values else ""
    seeds = max(map(len, by_delay.values()))
    what = {"cell": one.cell, "gradient": one.arm.name, "task": one.task, "seeds": seeds}
    return {**what, **shown, "target": _met(one, by_delay)}


def _met(one: Contest, by_delay: dict[int, list[Outcome]]) -> str:
    """Whether the targets are met, at the delays that have one."""
    if one.cell not in GATED:
        return ""
    found = []
    for delay in (100, 200):
        values = [outcome.accuracy for outcome in by_delay.get(delay, ())]
        if not values:
            continue
        if one.arm.name != "RTRL":
            met = max(values) <= MOST_WITHOUT
        else:
            met = min(values) >= LEAST if delay == 100 else bridged(by_delay[delay], len(values))
        found.append(f"{delay}: {'yes' if met else 'NO'}")
    return ", ".join(found)


def _notes(reached: dict[str, int]) -> list[str]:
    notes = [
        f"At most {UPDATES:,} updates of {BATCH} sequences, one Adam step each at {RATE:g}; training stops when a "
        f"check on {EVALUATED} fresh sequences has 99.9 % of the bits right; accuracy on {EVALUATED} others.",
        "distractors: four bits at once, then d steps of random bits on the same channels. serial: four bits one after "
        "the other on one channel, then d empty steps. All bits are read at once after the delay; chance is 50 %.",
        f"RTRL: exact, through the whole sequence. BPTT-{WINDOW}: backpropagation through the last {WINDOW} steps. "
        "frozen: the recurrence stays as it was drawn, the read-out learns. Same initial weights, data and rate.",
        "rnn, gru: dense recurrences, for which exact RTRL would cost N times the memory. SnAp-1: of the diagonal. "
        "UORO: an unbiased estimate of rank one. BPTT, whole: the exact gradient. The GRU's update gates begin with "
        "the range of time scales of the gated cells.",
        f"Target, gated cells: RTRL at least 99 % on every seed at d = 100 and on 4 of 5 at d = 200; BPTT-{WINDOW} and "
        "frozen at most 60 % on every seed. The others have none.",
    ]
    if reached:
        each = ", ".join(f"{name} {delay:,}" for name, delay in reached.items())
        notes.append(f"Longest delay bridged (4 seeds of 5 at 99 %; doubling, no further than asked): {each}.")
    return notes


def plot(results: Results, path: Path) -> None:
    """Accuracy against delay, a panel for each cell, a line for each arm; written as PNG."""
    from matplotlib.figure import Figure

    cells = list(dict.fromkeys(one.cell for one in results))
    arms = list(dict.fromkeys(one.arm.name for one in results))
    columns = min(5, len(cells))
    lines = -(-len(cells) // columns)
    figure = Figure(figsize=(max(5.0, 2.9 * columns), 2.7 * lines + 0.7), dpi=130, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, cell in zip(axes, cells):
        own = {one: by_delay for one, by_delay in results.items() if one.cell == cell}
        axis.axhline(50, color="#444444", linestyle="--", linewidth=1.1)
        for one, by_delay in own.items():
            _line(axis, one.arm.name, COLOURS[arms.index(one.arm.name) % len(COLOURS)], by_delay)
        axis.set_title(f"{cell}, {next(iter(own)).task}", fontsize=10, loc="left")
        axis.set_xscale("log")
        ticks = sorted({delay for by_delay in own.values() for delay in by_delay})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], rotation=45)
        axis.minorticks_off()
        axis.set_xlabel("delay, steps", fontsize=9)
        axis.tick_params(labelsize=8)
        axis.grid(True, alpha=0.3, linewidth=0.6)
    for axis in axes[::columns]:
        axis.set_ylabel("bits right, %", fontsize=9)
    for axis in axes[len(cells) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.savefig(path)


def _line(axis: Any, name: str, colour: str, by_delay: dict[int, list[Outcome]]) -> None:
    """The mean over the seeds, and a bar from the lowest to the highest."""
    # A delay that was left early has fewer seeds.
    seeds = [[100 * outcome.accuracy for outcome in outcomes] for outcomes in by_delay.values()]
    mean = np.array([np.mean(one) for one in seeds])
    bars = np.abs(np.array([[min(one), max(one)] for one in seeds]).T - mean)
    axis.errorbar(
        list(by_delay), mean, bars, label=name, color=colour, marker="o", markersize=3.5, linewidth=1.4, capsize=2
    )
