"""Log-scores of heads on the six drift streams against the linear head of the same cell, with their calibration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.accuracy import interval
from continual.bench.heads import plots
from continual.bench.heads.runs import NOISE_WINDOW, RECURRENT, Arm, better_by, run, seeds_of
from continual.bench.recurrent.drift import Figures, mean, model, text
from continual.bench.recurrent.streams import SEA_NOTE, Stream, load
from continual.bench.report import publish
from streams.mapping import TargetKind

ADAM, BANK = "cell + Adam", "cell + Kalman"
"""The two that are compared: the linear head of the default cell, and the bank of filters on the same cell."""

PREDICTIVE = "cell through the filters"
"""The bank again, on a cell that learns by what the filters predict in place of a read-out of its own."""

COVERED = (0.87, 0.93)
"""What the coverage of the 90 % interval must lie within."""

Runs = dict[str, list[Figures]]
"""Learner -> its figures, seed by seed."""

PLAIN = "cell + Kalman, robust: 0"
"""The bank with every label believed, which makes a difference in a regression only."""

CLASSES, NUMBERS = ("binary",), ("regression",)


def arms() -> list[Arm]:
    """The learners to run, the reference first."""
    raw, wide = {"kind": "static"}, {"kind": "static", "features": {"kind": "random", "units": 500}}
    penalties = {"penalties": (1.0, 100.0, 10_000.0)}
    return [
        Arm(ADAM, RECURRENT),
        Arm(BANK, {**RECURRENT, "head": {"kind": "kalman"}}),
        Arm(PREDICTIVE, {**RECURRENT, "head": {"kind": "kalman", "trains": "predictive"}}),
        Arm(PLAIN, {**RECURRENT, "head": {"kind": "kalman", "robust": 0.0}}, NUMBERS),
        Arm("cell + EKF, decoupled", {**RECURRENT, "optimizer": {"kind": "ekf", "form": "decoupled"}}),
        Arm("cell + EKF, variational", {**RECURRENT, "optimizer": {"kind": "ekf", "form": "variational"}}),
        Arm("raw + Kalman", {**raw, "head": {"kind": "kalman"}}),
        Arm("random + ridge", {**wide, "head": {"kind": "ridge", **penalties}}),
        Arm("raw + LDA", {**raw, "head": {"kind": "lda"}}, CLASSES),
        Arm("raw + nearest mean", {**raw, "head": {"kind": "nearest_mean"}}, CLASSES),
        Arm("raw + neighbours", {**raw, "head": {"kind": "neighbours"}}),
        Arm("raw + LoFi", {**raw, "head": {"kind": "lofi"}}),
    ]


def run_stream(stream: Stream, chosen: Sequence[Arm], seeds: int, say: Callable[[str], None]) -> Runs:
    """Every learner that can learn the stream; `say` is told of each before it begins."""
    runs: Runs = {}
    for arm in chosen:
        if stream.target not in arm.targets:
            continue
        of = seeds_of(arm.learner, stream, seeds)
        say(f"{stream.name}: {arm.name}, {len(of)} seeds")
        helpers.warm(model(stream, arm.learner), stream.batches[0])
        runs[arm.name] = [run(stream, arm.learner, seed) for seed in of]
    return runs


def signed(values: Sequence[float]) -> str:
    """A mean difference with half of its 95 % interval."""
    half = interval(values)
    return f"{np.mean(values):+.4f}" + ("" if np.isnan(half) else f" +- {half:.4f}")


def rows(stream: Stream, runs: Runs) -> list[helpers.Row]:
    """The table of one stream."""
    out = []
    for name, seeds in runs.items():
        row: helpers.Row = {"stream": stream.name, "learner": name, "nats": text(mean(seeds, "nats"), 4)}
        row["+-"] = text(interval([seed["nats"] for seed in seeds]), 4)
        row["better than Adam by"] = "" if name == ADAM else signed(better_by(seeds, runs[ADAM]))
        if stream.target == "binary":
            row["accuracy, %"] = text(100 * mean(seeds, "accuracy"), 2)
            row["calibration error, %"] = text(100 * mean(seeds, "calibration_error"), 2)
        else:
            row["unclipped"] = text(mean(seeds, "unclipped"), 4)
            row["MAE ratio"] = text(mean(seeds, "ratio"), 4)
            row["coverage, %"] = text(100 * mean(seeds, "coverage"), 2)
            row["width"] = text(mean(seeds, "width"), 3)
        out.append({**row, "us/event": text(float(np.median([seed["us"] for seed in seeds])), 2), "seeds": len(seeds)})
    return out


def _better_on(gains: dict[str, list[float]]) -> str:
    return f"{sum(np.mean(gain) > 0 for gain in gains.values())} of {len(gains)}"


def _is_number(runs: Runs) -> bool:
    """Whether these are the runs of a stream of numbers."""
    return "unclipped" in runs[ADAM][0]


def summary(streams: Sequence[Stream], runs: dict[str, Runs]) -> list[helpers.Row]:
    """One row for each learner: by how much it is better than Adam on every stream, and on how many it is better."""
    out = []
    for name in dict.fromkeys(name for one in runs.values() for name in one if name != ADAM):
        row: helpers.Row = {"learner": name}
        there = {stream.name: runs[stream.name].get(name) for stream in streams}
        gains = {at: better_by(seeds, runs[at][ADAM]) for at, seeds in there.items() if seeds}
        for stream in streams:
            row[stream.name] = signed(gains[stream.name]) if stream.name in gains else "-"
        row["better on"] = _better_on(gains)
        wild = {at: better_by(there[at] or [], runs[at][ADAM], "unclipped") for at in gains if _is_number(runs[at])}
        row["unclipped"] = _better_on(gains | wild)
        covered = {at: mean(seeds, "coverage") for at, seeds in there.items() if seeds and "coverage" in seeds[0]}
        row["coverage, %"] = ", ".join(text(100 * share, 1) for share in covered.values())
        within = all(COVERED[0] <= share <= COVERED[1] for share in covered.values())
        row["within 87-93"] = ("yes" if within else "NO") if covered else ""
        out.append(row)
    return out


def measure(
    names: Sequence[str],
    *,
    seeds: int = 5,
    events: int | None = None,
    only: Sequence[str] = (),
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the streams; publishes a table of all figures and a summary, and draws the differences and coverages.

    Args:
        names: of streams, in order.
        seeds: of each learner in which something is random, at least 1.
        events: only the first so many of each stream; None: all.
        only: names of learners, beside the reference; all without.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the tables.
        say: is told what begins.

    Raises:
        click.BadParameter: `only` names a learner that there is not.
    """
    streams = [load(name, events) for name in names]
    known = {arm.name: arm for arm in arms()}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise click.BadParameter(f"unknown {unknown}; accepted: {', '.join(known)}", param_hint="--learner")
    chosen = [arm for name, arm in known.items() if not only or name in (ADAM, *only)]
    runs: dict[str, Runs] = {}
    for stream in streams:
        runs[stream.name] = run_stream(stream, chosen, seeds, say)
    tables = {"classes": _table(streams, runs, "binary"), "numbers": _table(streams, runs, "regression")}
    for name, (table, notes) in tables.items():
        if table and not as_json:
            title = f"Heads on drift streams of {name}: nats per event, calibration, cost"
            publish(f"heads-{name}", title, table, notes=notes, out=out)
    short = summary(streams, runs)
    title = f"Heads against the Adam head of the default cell: better by so many nats per event, {seeds} seeds"
    publish(
        "heads-score",
        title,
        short,
        notes=_short_notes(short),
        details={
            **_details(streams, chosen, runs, seeds),
            "tables": {name: table for name, (table, _) in tables.items()},
        },
        out=out,
        as_json=as_json,
    )
    if out is not None:
        plots.gains(panel(streams, runs), coverages(streams, runs), COVERED, out / "heads-score.png")


def panel(streams: Sequence[Stream], runs: dict[str, Runs]) -> dict[str, dict[str, tuple[float, float]]]:
    """Learner -> stream -> mean gain over Adam and half of its interval (0 where there is none)."""
    out: dict[str, dict[str, tuple[float, float]]] = {}
    for stream in streams:
        for name, seeds in runs[stream.name].items():
            if name != ADAM:
                gain = better_by(seeds, runs[stream.name][ADAM])
                out.setdefault(name, {})[stream.name] = float(np.mean(gain)), float(np.nan_to_num(interval(gain)))
    return out


def coverages(streams: Sequence[Stream], runs: dict[str, Runs]) -> dict[str, dict[str, tuple[float, float]]]:
    """Learner -> stream of numbers -> mean coverage and mean width of its 90 % interval."""
    out: dict[str, dict[str, tuple[float, float]]] = {}
    for stream in streams:
        for name, seeds in runs[stream.name].items():
            if "coverage" in seeds[0]:
                out.setdefault(name, {})[stream.name] = mean(seeds, "coverage"), mean(seeds, "width")
    return out


def _table(streams: Sequence[Stream], runs: dict[str, Runs], target: TargetKind) -> tuple[list[helpers.Row], list[str]]:
    """The rows of all streams with this kind of target, and what is said under them."""
    there = [stream for stream in streams if stream.target == target]
    return [row for stream in there for row in rows(stream, runs[stream.name])], _notes(target)


def _details(streams: Sequence[Stream], chosen: Sequence[Arm], runs: dict[str, Runs], seeds: int) -> dict[str, Any]:
    specs = {}
    for arm in chosen:
        fitting = next((stream for stream in streams if stream.target in arm.targets), None)
        if fitting is not None:
            specs[arm.name] = model(fitting, arm.learner).model_dump(mode="json")["learner"]
    return {"runs": runs, "specs": specs, "seeds": list(range(seeds))}


def _short_notes(table: Sequence[helpers.Row]) -> list[str]:
    bank = next((row for row in table if row["learner"] == BANK), None)
    verdict = []
    if bank is not None:
        covered = bank["coverage, %"] or "no stream of numbers"
        verdict = [
            f"Asked of '{BANK}': better on at least 5 of 6, intervals that hold 87-93 % of the labels: "
            f"{bank['better on']}; {covered}."
        ]
    return [
        "Positive: better than the linear head that Adam trains on the default cell, paired by seed; +- is half of the "
        "95 % interval of the mean over seeds (Student's t). Coverage is that of the 90 % interval on the streams of "
        "numbers, in their order.",
        *verdict,
        "unclipped: on how many it is better when a density may be as small as it comes out; on exchange, one of eight "
        "rates hardly moves for months on end, and the days on which it does outweigh all others.",
        SEA_NOTE,
        "All figures, and how they are defined: `heads-classes.md` and `heads-numbers.md`.",
    ]


def _notes(target: TargetKind) -> list[str]:
    told = "Every event is predicted, then learned; nothing is tuned to a stream. nats: mean of -log p of the label"
    if target == "binary":
        scores = [
            f"{told}, p at least 1e-6; +- is half of the 95 % interval of the mean over seeds (Student's t).",
            "Calibration error: expected calibration error over 15 bins of the probability of the predicted class.",
            SEA_NOTE,
        ]
    else:
        scores = [
            f"{told}, the normal density with the served mean and variance in units of the running deviation of the "
            "changes, at least 1e-6; unclipped: without that bound. Events before the first change are left out. "
            "exchange: mean over eight currencies, each a model of its own. +- is half of the 95 % interval of the "
            "mean over seeds (Student's t).",
            f"'{ADAM}' and EKF serve no variance and get the noise scale of the Kalman head: v <- v + (r^2 - v) / "
            f"min(n, {NOISE_WINDOW}), r the residual in running deviations of the changes, v = 1 counting as the first "
            "label; their interval is the normal one.",
            "MAE ratio: to that of the no-change forecast. Coverage and mean width (in running deviations of the "
            "changes) are of the served 90 % interval.",
        ]
    return [
        *scores,
        f"'{BANK}': the default head, a bank of filters, on the default cell, which learns through a linear read-out "
        f"of its own while the filters listen. '{PREDICTIVE}': the cell learns by what the filters predict. '{PLAIN}': "
        "every label is believed; by default those far off count little, or are refused. raw: a head on the "
        "standardised inputs and the last label. random: 500 random rectified features beside them, three ridge "
        "penalties mixed. EKF: linear head and cell, every weight filtered with a variance of its own, by the traces. "
        "One seed where nothing is random.",
        "Cost is of predict and learn in batches of 1024, one thread, median over seeds.",
    ]
