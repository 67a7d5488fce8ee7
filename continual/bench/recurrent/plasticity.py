"""A long stream whose concepts come back: is the last tenth as good as the first one of the same concept?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.accuracy import interval
from continual.bench.recurrent.drift import SIZE, Arm, arms, model, text
from continual.bench.recurrent.plots import tenths
from continual.bench.recurrent.streams import CONCEPTS, LAGS, NOISE, recurring
from continual.bench.report import publish

TENTHS = 10
ROUNDS = 50
"""How often every concept comes, so that a tenth holds each of them five times."""


def run(arm: Arm, events: int, seed: int) -> np.ndarray:
    """Folds the stream of one seed with a learner of that seed.

    Returns:
        float64 [tenths, concepts]: accuracy over the events of a concept in a tenth of the stream.
    """
    stream, concept = recurring(events, seed, block=events // (CONCEPTS * ROUNDS))
    batch = stream.batches[0]
    spec = model(stream, arm.learner, seed)
    _, folded = helpers.fold(spec.learner.build(spec), helpers.cuts(batch, SIZE))
    value = np.concatenate([part.value for part in folded])
    helpers.check(bool(np.isfinite(value).all()), f"{arm.name}: finite predictions")
    right = (value >= 0.5) == (batch.y == 1)
    return by_tenth(right, concept)


def by_tenth(right: np.ndarray, concept: np.ndarray) -> np.ndarray:
    """The share of `right` by tenth and concept: float64 [tenths, concepts].

    Args:
        right: bool [n], n a multiple of ten.
        concept: integers [n] from 0 to 3, each of them in every tenth.
    """
    tenth = np.arange(len(right)) * TENTHS // len(right)
    cell = tenth * CONCEPTS + concept
    size = TENTHS * CONCEPTS
    counts = np.bincount(cell, minlength=size)
    return (np.bincount(cell, right, minlength=size) / counts).reshape(TENTHS, CONCEPTS)


def rows(name: str, accuracy: np.ndarray) -> list[helpers.Row]:
    """The table of one learner: a row for each concept, and one for their mean.

    Args:
        name: of the learner.
        accuracy: float64 [seeds, tenths, concepts].
    """
    columns = {str(concept): accuracy[:, :, concept] for concept in range(CONCEPTS)}
    out = []
    for concept, share in {**columns, "mean": accuracy.mean(axis=2)}.items():
        first, last = 100 * share[:, 0], 100 * share[:, -1]
        change = last - first
        half = interval(change.tolist())
        out.append(
            {
                "learner": name,
                "concept": concept,
                "first, %": text(float(first.mean()), 2),
                "last, %": text(float(last.mean()), 2),
                "change": f"{change.mean():+.2f}",
                "+-": text(half, 2),
                "as good": verdict(float(change.mean()), half),
                "best of nine, %": text(float(100 * share[:, :-1].mean(axis=0).max()), 2),
                "seeds": len(change),
            }
        )
    return out


def verdict(change: float, half: float) -> str:
    """Whether the last tenth is as good as the first, given the mean change and half of its interval (or NaN)."""
    if change >= 0:
        return "yes"
    return "within +-" if change + half >= 0 else "NO"


def measure(
    kinds: Sequence[str],
    *,
    seeds: int = 5,
    events: int = 1_000_000,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Folds the stream of recurring concepts with each cell, and publishes the table and the plot.

    Args:
        kinds: of cells; each also with frozen recurrence.
        seeds: at least 1; a seed sets the learner and the stream, inputs and concepts.
        events: rounded down to a multiple of 200 blocks.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.

    Raises:
        click.ClickException: too few events for a block.
    """
    events -= events % (CONCEPTS * ROUNDS)
    if not events:
        raise click.ClickException(f"--events: plasticity needs at least {CONCEPTS * ROUNDS}")
    chosen = arms(kinds, steps=False)
    results = {}
    for arm in chosen:
        say(f"recurring concepts: {arm.name}, {seeds} seeds of {events:,} events")
        results[arm.name] = np.stack([run(arm, events, seed) for seed in range(seeds)])
    table = [row for name, accuracy in results.items() for row in rows(name, accuracy)]
    publish(
        "recurrent-plasticity",
        f"Recurring drift, {events:,} events: is the last tenth as good as the first?",
        table,
        notes=_notes(events),
        details={
            "accuracy": {name: accuracy.tolist() for name, accuracy in results.items()},
            "axes": ["seed", "tenth", "concept"],
            "specs": {arm.name: {**arm.learner} for arm in chosen},
        },
        out=out,
        as_json=as_json,
    )
    if out is not None:
        shown = [(arm.name, results[arm.name]) for arm in chosen if arm.role == "cell"]
        tenths(shown, out / "recurrent-plasticity.png")


def _notes(events: int) -> list[str]:
    noise = f"{100 * NOISE:.0f}"
    return [
        f"{CONCEPTS} concepts in turn, {events // (CONCEPTS * ROUNDS):,} events each, {ROUNDS} rounds. The label "
        f"depends on the inputs of the event and of the {LAGS} before; {noise} % of the labels are flipped, so no "
        f"accuracy is above {100 - 100 * NOISE:.0f} %. The first tenth includes the learning of the first round.",
        "The default spec, nothing tuned. Change: last minus first tenth of the same concept; +- is half of its 95 % "
        "interval over seeds; a seed sets learner, inputs and concepts. Best of nine: the best tenth before the last.",
    ]
