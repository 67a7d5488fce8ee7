"""A learner folded over a drift stream, and how much it gave to every label: log-scores in nats, calibration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.recurrent.drift import SIZE, Figures, model, number_figures
from continual.bench.recurrent.peers import Changes, changes
from continual.bench.recurrent.streams import Stream
from kernels.cpu.heads._closed_form import NORMAL_90
from learners.heads.kalman import Kalman
from learners.spec import ModelSpec
from streams.batch import Batch
from streams.metrics import CLIP

NOISE_WINDOW = Kalman().noise_window
"""Labels over which the noise of a head runs that serves none: that of the Kalman head."""

RECURRENT: dict[str, Any] = {"kind": "recurrent"}
"""The default recurrent cell, with the default head: linear, trained by Adam."""


@dataclass(frozen=True)
class Arm:
    """One learner of a table.

    Attributes:
        name: shown.
        learner: its spec, but for the seed.
        targets: the kinds of target that it is run on.
    """

    name: str
    learner: dict[str, Any]
    targets: tuple[str, ...] = ("binary", "regression")


@dataclass(frozen=True)
class Said:
    """What was said of every event of a regression before it was learned.

    Attributes:
        mean, variance, half: float64 [n], half being that of the width of the central 90 % interval.
    """

    mean: np.ndarray
    variance: np.ndarray
    half: np.ndarray


def seeds_of(learner: dict[str, Any], stream: Stream, seeds: int) -> range:
    """The seeds to run: one where nothing is random."""
    return range(seeds if model(stream, learner).learner.uses_seed() else 1)


def run(stream: Stream, learner: dict[str, Any], seed: int) -> Figures:
    """Folds a stream with one seed.

    Returns:
        Means over its models: `nats` (mean of -log p of the label) and `us` (microseconds of an event of one model,
        predicted and learned in batches); binary: `accuracy` and `calibration_error`; numbers: `unclipped` nats,
        `mae`, `ratio` (to the MAE of no-change), `coverage` of the 90 % interval and its mean `width` in running
        deviations of the changes.
    """
    spec = model(stream, learner, seed)
    parts, seconds = [], 0.0
    for batch in stream.batches:
        spent, folded = helpers.fold(spec.learner.build(spec), helpers.cuts(batch, SIZE))
        value = np.concatenate([part.value for part in folded])
        helpers.check(bool(np.isfinite(value).all()), f"{stream.name}, {learner}: finite predictions")
        parts.append(class_scores(value, batch) if stream.target == "binary" else number_scores(spec, value, batch))
        seconds += spent
    means = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
    return {**means, "us": 1e6 * seconds / sum(len(batch) for batch in stream.batches)}


def class_scores(probability: np.ndarray, batch: Batch) -> Figures:
    """Log-score, with probabilities of at least 1e-6, accuracy and calibration error of a binary stream."""
    values = helpers.score(probability, batch)
    named = {"nats": "log_loss", "accuracy": "accuracy", "calibration_error": "calibration_error"}
    return {ours: values[theirs] for ours, theirs in named.items()}


def number_scores(spec: ModelSpec, value: np.ndarray, batch: Batch) -> Figures:
    """Log-score, errors and intervals of a regression that predicted `value` float64 [n] when folded in batches.

    A learner that serves a variance is folded again, event by event, to ask it for that; another one is given the
    running noise of a Kalman head.
    """
    window = spec.learner.window  # type: ignore[attr-defined]
    told = changes(batch, window)
    if spec.learner.build(spec).predict(batch.slice(0, 1)).variance is None:
        said = with_noise(value, told)
    else:
        said = served(spec, batch)
        helpers.check(bool((said.mean == value).all()), f"{spec.name}: the same predictions one by one as in batches")
    return {**number_figures(value, batch), **density_figures(said, batch.y, told.scale)}


def served(spec: ModelSpec, batch: Batch) -> Said:
    """Asks a fresh learner for mean, variance and interval of every event, just before it is folded."""
    learner, out = spec.learner.build(spec), np.empty((3, len(batch)))
    for t in range(len(batch)):
        event = batch.slice(t, t + 1)
        said = learner.predict(event)
        out[:, t] = said.value[0], said.variance[0], said.interval[0]
        learner.fold(event)
    return Said(*out)


def with_noise(value: np.ndarray, told: Changes, window: float = NOISE_WINDOW) -> Said:
    """The variance and the normal interval of forecasts that come without, from their own running squared error.

        v <- v + (r^2 - v) / min(n, window),   r = (y - base) / scale - o,   v = 1 at the start, as the first of n

    as in the Kalman head (`kernels.cpu.heads.kalman`): o is the predicted change in the deviations of then, and scale
    is the deviation that includes the label.

    Args:
        value: float64 [n], forecasts.
        told: the stream as changes, of which a learner has its base and scale.
        window: labels over which the noise runs.
    """
    scale = told.scale
    output = np.divide(value - told.base, scale, out=np.zeros(len(value)), where=scale > 0)
    variance, v, labels = np.empty(len(value)), 1.0, 0
    for t, r in enumerate((told.batch.y - output).tolist()):
        variance[t] = v
        if not math.isnan(r):  # the first event has no change
            v += (r * r - v) / min(labels + 2.0, window)
            labels += 1
    variance *= scale * scale
    return Said(value, variance, NORMAL_90 * np.sqrt(variance))


def density_figures(said: Said, y: np.ndarray, scale: np.ndarray) -> Figures:
    """Mean -log of a normal density of the labels in deviations, and the coverage and width of the intervals.

    As a probability, a density counts as at least 1e-6 in `nats`; without that bound a few labels after a long calm
    (a rate of exchange that was pegged) outweigh all others: `unclipped`. Events before the first change of the label,
    which have no deviation, are left out.

    Args:
        said: of n events.
        y: float64 [n], labels.
        scale: float64 [n], the running deviation of the changes as it was known when the event was predicted.
    """
    rows = scale > 0
    off, variance, scale = (y - said.mean)[rows], said.variance[rows], scale[rows]
    helpers.check(len(off) > 0, "a label that changes")
    helpers.check(bool((variance > 0).all()), "positive variances")
    nats = 0.5 * (np.log(2 * math.pi * variance / scale**2) + off**2 / variance)
    half = said.half[rows]
    return {
        "nats": float(np.minimum(nats, -math.log(CLIP)).mean()),
        "unclipped": float(nats.mean()),
        "coverage": float((np.abs(off) <= half).mean()),
        "width": float((2 * half / scale).mean()),
    }


def better_by(runs: Sequence[Figures], reference: Sequence[Figures], figure: str = "nats") -> list[float]:
    """By how many nats per event each run is better than the reference of the same seed, or than its only run."""
    if len(reference) == 1 or len(runs) == 1:
        of = float(np.mean([one[figure] for one in reference]))
        return [of - one[figure] for one in runs]
    return [other[figure] - one[figure] for one, other in zip(runs, reference, strict=True)]
