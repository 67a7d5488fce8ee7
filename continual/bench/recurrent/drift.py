"""The default recurrent spec on six drift streams, cell by cell, beside baselines and River under equal conditions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.accuracy import interval
from continual.bench.recurrent.peers import baselines, rivers
from continual.bench.recurrent.plots import Mark, scatter
from continual.bench.recurrent.streams import SEA_NOTE, Stream, load
from continual.bench.report import publish
from continual.peers import Peer
from learners.cells.base import CellSpec
from learners.methods.recurrent import RecurrentSpec
from learners.spec import ModelSpec
from streams.batch import Batch
from streams.mapping import TargetKind

SIZE = 1024
"""Events in a piece; the fold is the same for every size."""

STEPS = (0.3, 3.0)

Figures = dict[str, float]


@dataclass(frozen=True)
class Arm:
    """One learner of the table.

    Attributes:
        name: shown.
        learner: its spec, but for the seed.
        role: `cell`, `frozen` or `step`.
    """

    name: str
    learner: dict[str, Any]
    role: str


def cells() -> tuple[str, ...]:
    """The kinds that `learner.cell` accepts, the default one first."""
    default = RecurrentSpec().cell.kind
    return (default, *sorted(set(CellSpec.known()) - {default}))


def model(stream: Stream, learner: dict[str, Any], seed: int = 0) -> ModelSpec:
    """The spec of a learner for a stream."""
    return ModelSpec.model_validate(
        {
            "name": stream.name,
            "features": stream.features,
            "target": {"kind": stream.target},
            "learner": {**learner, "seed": seed},
        }
    )


def arms(kinds: Sequence[str], steps: bool = True) -> list[Arm]:
    """The learners to run: each cell at its defaults and with frozen recurrence, and other step sizes of the first."""
    out = []
    for kind in kinds:
        plain = {"kind": "recurrent", "cell": {"kind": kind}}
        out.append(Arm(kind, plain, "cell"))
        out.append(Arm(f"{kind}, frozen", {**plain, "recurrent_rate": 0.0}, "frozen"))
        if steps and kind == kinds[0]:
            optimizer = RecurrentSpec.model_validate(plain).model_dump()["optimizer"]
            for factor in STEPS:
                changed = {**plain, "optimizer": {**optimizer, "rate": factor * optimizer["rate"]}}
                out.append(Arm(f"{kind}, rate x {factor:g}", changed, "step"))
    return out


def number_figures(predicted: np.ndarray, batch: Batch) -> Figures:
    """MAE, and its ratio to that of the no-change forecast, both over all events but the first, which has none."""
    error, change = np.abs(predicted - batch.y)[1:], np.abs(np.diff(batch.y))
    if not len(change):
        raise click.ClickException(f"{len(batch)} events: an error needs two")
    return {"mae": float(error.mean()), "ratio": float(error.mean() / change.mean())}


def class_figures(values: dict[str, float]) -> Figures:
    """Those of the prequential metrics that the tables show."""
    return {name: values[name] for name in ("accuracy", "log_loss", "kappa_temporal")}


def run_ours(stream: Stream, arm: Arm, seed: int) -> Figures:
    """Folds a stream with one seed; figures are means over its models, cost is that of an event of one model."""
    spec, parts, seconds = model(stream, arm.learner, seed), [], 0.0
    for batch in stream.batches:
        spent, folded = helpers.fold(spec.learner.build(spec), helpers.cuts(batch, SIZE))
        value = np.concatenate([part.value for part in folded])
        helpers.check(bool(np.isfinite(value).all()), f"{arm.name} on {stream.name}: finite predictions")
        binary = stream.target == "binary"
        parts.append(class_figures(helpers.score(value, batch)) if binary else number_figures(value, batch))
        seconds += spent
    return _over_models(parts, seconds, stream)


def run_peer(stream: Stream, peer: Peer, say: Callable[[str], None] = lambda _: None) -> Figures:
    """Runs a peer on a stream; figures as in `run_ours`. `say` is told of each of several models before it begins."""
    parts, seconds = [], 0.0
    for number, batch in enumerate(stream.batches, 1):
        say(f"{stream.name}: {peer.name}" + (f", model {number}" if len(stream.batches) > 1 else ""))
        result = peer.run(batch)
        if result.unavailable:
            raise click.ClickException(f"{peer.name}: {result.unavailable}")
        binary = stream.target == "binary"
        parts.append(
            class_figures(result.values(batch, "binary")) if binary else number_figures(result.predicted, batch)
        )
        seconds += result.seconds
    return _over_models(parts, seconds, stream)


def _over_models(parts: Sequence[Figures], seconds: float, stream: Stream) -> Figures:
    means = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    return {**means, "us": 1e6 * seconds / sum(len(batch) for batch in stream.batches)}


Runs = dict[str, list[Figures]]
"""Learner -> its figures, seed by seed."""


def run_stream(stream: Stream, chosen: Sequence[Arm], seeds: int, forest: bool, say: Callable[[str], None]) -> Runs:
    """Every learner on one stream; `say` is told of each before it begins."""
    runs: Runs = {}
    for arm in chosen:
        say(f"{stream.name}: {arm.name}, {seeds} seeds")
        helpers.warm(model(stream, arm.learner), stream.batches[0])
        runs[arm.name] = [run_ours(stream, arm, seed) for seed in range(seeds)]
    for peer in [*baselines(stream), *rivers(stream, forest=forest)]:
        runs[peer.name] = [run_peer(stream, peer, say)]
    return runs


def headline(target: TargetKind) -> str:
    """The figure by which a stream is judged."""
    return "accuracy" if target == "binary" else "ratio"


def mean(runs: Sequence[Figures], name: str) -> float:
    """Of a figure over the seeds."""
    return float(np.mean([run[name] for run in runs]))


def cost(runs: Sequence[Figures]) -> float:
    """Microseconds per event: the median over the seeds, which one disturbed run does not move."""
    return helpers.median([run["us"] for run in runs])


def rows(stream: Stream, runs: Runs) -> list[helpers.Row]:
    """The table of one stream."""
    out = []
    for name, seeds in runs.items():
        row: helpers.Row = {"learner": name}
        half = interval([seed[headline(stream.target)] for seed in seeds])
        if stream.target == "binary":
            row["accuracy, %"] = text(100 * mean(seeds, "accuracy"), 2)
            row["+-"] = text(100 * half, 2)
            row["log-loss"] = text(mean(seeds, "log_loss"), 4)
            row["kappa-temporal"] = text(mean(seeds, "kappa_temporal"), 3)
        else:
            row["MAE"] = f"{mean(seeds, 'mae'):.4g}"
            row["MAE / no-change MAE"] = text(mean(seeds, "ratio"), 4)
            row["+-"] = text(half, 4)
        out.append({**row, "us/event": text(cost(seeds), 2), "seeds": len(seeds)})
    return out


def text(value: float, digits: int) -> str:
    """A figure with so many digits after the point; beyond a million in powers of ten; "-" for none."""
    if math.isnan(value):
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.1e}"


def at_or_above_no_change(stream: Stream, runs: Runs, name: str) -> bool:
    """Whether a learner's mean is as good as the no-change forecast, within the stream's tolerance."""
    figure = headline(stream.target)
    own, other = mean(runs[name], figure), mean(runs["no change"], figure)
    return own >= other if stream.target == "binary" else own <= other * (1 + stream.tolerance)


def above_every_river(stream: Stream, runs: Runs, name: str) -> bool:
    """Whether a learner's mean is better than that of each of River's models."""
    figure = headline(stream.target)
    theirs = [mean(seeds, figure) for peer, seeds in runs.items() if peer.startswith("River")]
    own = mean(runs[name], figure)
    return own > max(theirs) if stream.target == "binary" else own < min(theirs)


def summary(streams: Sequence[Stream], runs: dict[str, Runs], ours: Sequence[str]) -> list[helpers.Row]:
    """One row for each learner: its headline figure on every stream, and on how many it holds."""
    names = dict.fromkeys(name for one in runs.values() for name in one)
    out = []
    for name in names:
        row: helpers.Row = {"learner": name}
        there = [stream for stream in streams if name in runs[stream.name]]
        for stream in streams:
            binary = stream.target == "binary"
            value = mean(runs[stream.name][name], headline(stream.target)) if stream in there else math.nan
            row[f"{stream.name}{', %' if binary else ''}"] = text(100 * value, 2) if binary else text(value, 4)
        held = sum(at_or_above_no_change(stream, runs[stream.name], name) for stream in there)
        above = sum(above_every_river(stream, runs[stream.name], name) for stream in there)
        row[">= no change"] = f"{held} of {len(there)}"
        row["> River"] = f"{above} of {len(there)}" if name in ours else ""
        out.append(row)
    return out


def measure(
    names: Sequence[str],
    kinds: Sequence[str],
    *,
    seeds: int = 5,
    events: int | None = None,
    steps: bool = True,
    forest: bool = True,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the streams and publishes a table for each, a summary, and the plot of quality against cost.

    Args:
        names: of streams, in order.
        kinds: of cells.
        seeds: of each of our learners, at least 1.
        events: only the first so many of each stream; None: all.
        steps: other step sizes of the first cell too.
        forest: River's forest too, by far the slowest.
        out: folder for the files; nothing is written without.
        as_json: one JSON document in place of the tables.
        say: is told what begins.
    """
    streams = [load(name, events) for name in names]
    chosen = arms(kinds, steps)
    runs: dict[str, Runs] = {}
    for stream in streams:
        runs[stream.name] = run_stream(stream, chosen, seeds, forest, say)
        if not as_json:
            _publish_stream(stream, runs[stream.name], out)
    table = summary(streams, runs, [arm.name for arm in chosen])
    details = {
        "runs": runs,
        "streams": {stream.name: rows(stream, runs[stream.name]) for stream in streams},
        "specs": {arm.name: model(streams[0], arm.learner).model_dump(mode="json")["learner"] for arm in chosen},
        "seeds": list(range(seeds)),
    }
    title = "One default spec on drift streams"
    publish("recurrent-drift", title, table, notes=_notes(forest), details=details, out=out, as_json=as_json)
    if out is not None:
        scatter([(stream, marks(stream, runs[stream.name], chosen)) for stream in streams], out / "recurrent-drift.png")


def _publish_stream(stream: Stream, runs: Runs, out: Path | None) -> None:
    models = f", {len(stream.batches)} models" if len(stream.batches) > 1 else ""
    publish(
        f"recurrent-{stream.name}",
        f"{stream.name}: {stream.events:,} events{models}",
        rows(stream, runs),
        notes=[f"Columns for everyone: {stream.columns}; and the last label."],
        details={"runs": runs, "features": stream.features},
        out=out,
    )


def _notes(forest: bool) -> list[str]:
    slow = "" if forest else " The forest was left out."
    return [
        "Every event is predicted, then learned. One spec for all streams, `{kind: recurrent}`, the cell's kind apart; "
        "nothing is tuned. +- is half of the 95 % interval of the mean over seeds (Student's t).",
        "Binary: accuracy, higher is better. Numbers: MAE over the MAE of the no-change forecast on the same events "
        "(all but the first), lower is better; exchange: mean over eight currencies, each a model of its own.",
        SEA_NOTE,
        ">= no change: on how many streams the accuracy is at least as high, the MAE at most as high (exchange: 1 % "
        "higher is accepted). > River: on how many it is better than each of River's models; a tie is not.",
        "River is given the same columns, the last label and, for numbers, the last change; its target there is ours, "
        "the change since the last label in running deviations. Columns are standardised for its linear models; its "
        f"trees of numbers (linear leaves) run on raw and on standardised ones. Forest: 10 trees, one seed.{slow}",
        "frozen: the same learner with the rate of its recurrence at 0 (`recurrent_rate: 0`), read-out and skip learn. "
        "'River linear, our inputs' is River's linear model on the inputs of our cell, bounded at 5 deviations, with "
        "our loss: the linear learner on the same inputs.",
        "Cost is of predict and learn, the median over seeds; River's dictionaries and the transform of its target are "
        "made before the clock.",
    ]


def marks(stream: Stream, runs: Runs, chosen: Sequence[Arm]) -> list[Mark]:
    """What the plot shows of a stream: accuracy in percent or the MAE ratio, against microseconds."""
    roles = {arm.name: arm.role for arm in chosen}
    figure, factor = headline(stream.target), 100 if stream.target == "binary" else 1
    out = []
    for name, seeds in runs.items():
        half = interval([seed[figure] for seed in seeds])
        role = roles.get(name, "river" if name.startswith("River") else "baseline")
        out.append(Mark(name, role, cost(seeds), factor * mean(seeds, figure), factor * np.nan_to_num(half)))
    return out
