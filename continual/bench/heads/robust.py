"""Bad labels: what 1 % of them, a hundred deviations off, does to the error on all others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.accuracy import interval
from continual.bench.heads._doubles import AloneSpec
from continual.bench.heads.runs import RECURRENT, Arm
from continual.bench.recurrent.drift import SIZE, Figures, mean, model, text
from continual.bench.recurrent.streams import Stream, load
from continual.bench.report import publish
from kernels.cpu.layout import OUTLIER
from learners.heads.kalman import Kalman
from streams.batch import Batch

STREAMS = ("bike", "etth1")
AFTER, SHARE, OFF = 500, 0.01, 100.0
"""Events before the first bad label, share of bad labels from there on, and how many deviations they are off."""

BOUNDS = (3.0, 4.0, 5.0)
"""Deviations beyond which a robust head believes less and less."""

PLAIN = "plain"
ALLOWED = 0.10
"""Share by which the robust pipeline on bad data may be worse than the plain one, and itself, on clean data."""

HIT, SIGN = 2000, 2001
"""Streams of random numbers."""


def corrupted(batch: Batch, seed: int) -> tuple[Batch, np.ndarray]:
    """The batch with bad labels: y + or - 100 deviations of the labels before, by a random number of the event.

    Returns:
        The batch, and bool [n], which labels are bad.
    """
    n = len(batch)
    hit = (_uniform(seed, HIT, n) < SHARE) & (np.arange(n) >= AFTER)
    sign = np.where(_uniform(seed, SIGN, n) < 0.5, -1.0, 1.0)
    count = np.arange(n)  # labels before the event
    before = np.maximum(count, 1)
    total, squares = (np.append(0.0, np.cumsum(of)[:-1]) for of in (batch.y, batch.y**2))
    deviation = np.sqrt(np.maximum(0.0, squares / before - (total / before) ** 2))
    return replace(batch, y=np.where(hit, batch.y + sign * OFF * deviation, batch.y)), hit


def _uniform(seed: int, stream: int, size: int) -> np.ndarray:
    """float64 [size] in [0, 1): Philox at a counter that only the event sets."""
    raw = np.atleast_1d(np.random.Philox(key=[seed, stream]).random_raw(size))
    return (raw >> np.uint64(11)) * 2.0**-53


def arms() -> list[Arm]:
    """The pipelines: plain first, robust ones, one that weights in the head alone, and the linear head."""
    out = [Arm(PLAIN, {**RECURRENT, "head": {"kind": "kalman", "robust": 0.0}})]
    out += [Arm(f"robust {c:g}", {**RECURRENT, "head": {"kind": "kalman", "robust": c}}) for c in BOUNDS]
    inner = Kalman()
    alone = AloneSpec(kind="kalman, weighting alone", inner=inner)
    return [*out, Arm(f"head alone {inner.robust:g}", {**RECURRENT, "head": alone}), Arm("linear, Adam", RECURRENT)]


def run(stream: Stream, arm: Arm, seed: int) -> Figures:
    """Folds the stream clean and with bad labels; learner and bad labels have the same seed.

    Returns:
        `clean`, `dirty`: MAE over the events whose label is left alone, but for the first; `found`, `refused`: shares
        of bad and of good labels that were refused as outliers in the second run; `bad`: bad labels.
    """
    spec, batch = model(stream, arm.learner, seed), stream.batches[0]
    dirty, hit = corrupted(batch, seed)
    left = ~hit
    left[0] = False
    figures: Figures = {"bad": float(hit.sum())}
    for name, events in (("clean", batch), ("dirty", dirty)):
        _, folded = helpers.fold(spec.learner.build(spec), helpers.cuts(events, SIZE))
        value = np.concatenate([part.value for part in folded])
        helpers.check(bool(np.isfinite(value).all()), f"{arm.name} on {stream.name}, {name}: finite predictions")
        figures[name] = float(np.abs(value - batch.y)[left].mean())
        refused = np.concatenate([part.outcome for part in folded]) & OUTLIER > 0
        figures[f"refused {name}"] = float(refused[left].mean())
        figures["found"] = float(refused[hit].mean()) if hit.any() else float("nan")
    return figures


def rows(stream: Stream, runs: dict[str, list[Figures]]) -> list[helpers.Row]:
    """The table of one stream: errors, and by how much those on bad data are higher than on clean data."""
    out = []
    for name, seeds in runs.items():
        against = [100 * (one["dirty"] / other["clean"] - 1) for one, other in zip(seeds, runs[PLAIN], strict=True)]
        itself = [100 * (one["dirty"] / one["clean"] - 1) for one in seeds]
        met = max(np.mean(against), np.mean(itself)) <= 100 * ALLOWED
        out.append(
            {
                "stream": stream.name,
                "pipeline": name,
                "MAE, clean data": f"{mean(seeds, 'clean'):.4g}",
                "MAE, bad labels": f"{mean(seeds, 'dirty'):.4g}",
                "over plain on clean, %": f"{np.mean(against):+,.1f}",
                "over itself on clean, %": f"{np.mean(itself):+,.1f}",
                "+-": text(interval(itself), 1),
                "worst seed, %": f"{max(itself):+,.1f}",
                "<= +10 %": "yes" if met else "NO",
                "bad labels refused, %": text(100 * mean(seeds, "found"), 1),
                "good labels refused, %": text(100 * mean(seeds, "refused dirty"), 2),
                "of clean data, %": text(100 * mean(seeds, "refused clean"), 2),
                "seeds": len(seeds),
            }
        )
    return out


def measure(
    names: Sequence[str] = STREAMS,
    *,
    seeds: int = 5,
    events: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the streams and publishes one table.

    Args:
        names: of streams of numbers with one model each.
        seeds: at least 1; a seed sets the learner and the bad labels.
        events: only the first so many of each stream; None: all.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    table: list[helpers.Row] = []
    details = {}
    for stream in (load(name, events) for name in names):
        runs: dict[str, list[Figures]] = {}
        for arm in arms():
            say(f"{stream.name}: {arm.name}, {seeds} seeds")
            runs[arm.name] = [run(stream, arm, seed) for seed in range(seeds)]
        details[stream.name] = runs
        table += rows(stream, runs)
    publish(
        "heads-robust",
        f"{100 * SHARE:g} % of labels {OFF:g} deviations off: the error on all other events",
        table,
        notes=_notes(),
        details={"runs": details, "seeds": list(range(seeds))},
        out=out,
        as_json=as_json,
    )


def _notes() -> list[str]:
    return [
        f"From event {AFTER} on a label is bad with probability {SHARE:g}: {OFF:g} standard deviations of all labels "
        "before it above or below what it was. Both errors of a row are over the same events, those whose label is "
        "left alone. +- is half of the 95 % interval over seeds (Student's t); a seed sets learner and bad labels.",
        "plain: the default cell with the Kalman head, robust: 0. robust c: with WoLF's weights, residuals beyond c "
        f"deviations counting less and less ({Kalman().robust:g} is the default); a label with a squared weight below "
        "0.1 is refused, and reaches neither the last-label input, nor a scale, nor the cell. head alone: the same "
        "weights in the filter and its gradient, but no label is refused. linear: the default learner.",
        "refused: labels that were told to be outliers, bad or good, in the stream with bad labels; the last column is "
        "of the stream without. After three refused in a row the next label is taken for a new level and learned, so "
        "four bad ones in a row are not all refused.",
    ]
