"""Labels that come late: exact credit, credit to the head, and what training on late labelled events makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench import _helpers as helpers
from continual.bench._helpers import Row, Stream
from continual.bench.accuracy import interval
from continual.bench.report import out_option, publish
from learners.base import Folded
from learners.spec import ModelSpec
from streams import delays as late
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch
from streams.metrics import CLIP

LATENESS = (1, 48, 336)
"""Events by which all labels are late: on Elec2 half an hour, a day, a week."""

SIZE = 1024
EXACT, HEAD = "exact credit", "head-only credit"
NAIVE = "naive: observed, labelled late", "naive: labelled late"

Figures = dict[str, float]


@dataclass(frozen=True)
class Wait:
    """How late the labels of a stream are.

    Attributes:
        name: shown.
        events: int64 [n], of each label.
    """

    name: str
    events: np.ndarray


@click.command()
@helpers.stream_options
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Of the learner.")
@click.option("--late", "fixed", type=click.IntRange(0), multiple=True, help="Events of delay, in place of 1, 48, 336.")
@out_option
def delay(
    stream: str, events: int | None, seeds: int, fixed: tuple[int, ...], out: Path | None, as_json: bool
) -> None:
    """Accuracy with labels that come late, by how they are learned.

    Every event is predicted when it comes and scored as it was predicted. exact credit: the label is learned from
    hidden state and traces as they stood. head-only credit: from the features as they stood, by the head alone. naive:
    an event is fed with its label when that arrives, and is learned through the state as it is by then; before that it
    was either only predicted, or also observed.
    """
    chosen, start = helpers.load(stream, events), time.monotonic()
    runs: dict[str, dict[str, list[Figures]]] = {}
    for wait in waits(chosen.batch.y, fixed or LATENESS):
        runs[wait.name] = {name: [figures] for name, figures in baselines(chosen.batch.y, wait).items()}
        for name, run in ARMS.items():
            runs[wait.name][name] = [run(chosen, wait, seed) for seed in range(seeds)]
            click.echo(f"[{time.monotonic() - start:6.0f} s] {wait.name}, {name}", err=True)
    rows = [_row(wait, name, values) for wait, arms in runs.items() for name, values in arms.items()]
    publish(
        "delay",
        f"Labels that come late, {len(chosen.batch):,} events of {stream}",
        rows,
        notes=_notes(runs, seeds),
        details={"runs": runs, "spec": _spec(chosen, 0, 2, "exact").model_dump(mode="json")},
        out=out,
        as_json=as_json,
    )


def waits(y: np.ndarray, fixed: Sequence[int]) -> list[Wait]:
    """The delays that are measured: fixed ones, random ones and such that depend on the class."""
    n = len(y)
    return [
        *(Wait(f"{d:,}", late.fixed(n, d)) for d in fixed),
        Wait("random, mean 48", np.minimum(late.geometric(n, 48.0), 600)),
        Wait("1 of class 0, 48 of class 1", late.by_class(y, {0.0: 1, 1.0: 48})),
    ]


def baselines(y: np.ndarray, wait: Wait) -> dict[str, Figures]:
    """The last and the most frequent of the labels that have arrived; 0 before the first."""
    event, kind = late.order(wait.events)
    label, seen = kind == LABEL, kind == OBSERVATION
    ones, labels = np.cumsum(np.where(label, y[event], 0)), np.cumsum(label)
    last = np.maximum.accumulate(np.where(label, np.arange(len(event)), -1))
    arrived = np.where(last >= 0, y[event[last]], 0.0)[seen]
    majority = (2 * ones > labels)[seen]
    return {"no change": score(arrived, y, wait), "majority": score(majority.astype(float), y, wait)}


def score(probability: np.ndarray, y: np.ndarray, wait: Wait) -> Figures:
    """Accuracy, log-loss, and kappa-temporal against the last label that has arrived, of binary predictions."""
    hits = float(np.mean((probability >= 0.5) == (y == 1)))
    given = np.where(y == 1, probability, 1 - probability)
    hard = bool(np.isin(probability, (0.0, 1.0)).all())
    unchanged = hits if hard else baselines(y, wait)["no change"]["accuracy"]
    kappa = (hits - unchanged) / (1 - unchanged)
    return {
        "accuracy": hits,
        "log_loss": float("nan") if hard else float(-np.log(np.maximum(given, CLIP)).mean()),
        "kappa_temporal": float("nan") if hard else kappa,
    }


def _spec(stream: Stream, seed: int, pending: int, credit: str) -> ModelSpec:
    plain: dict[str, Any] = helpers.spec(stream, seed=seed).model_dump(mode="json")
    return ModelSpec.model_validate(plain | {"labels": {"arrive": "delayed", "pending": pending, "credit": credit}})


def _with_credit(credit: str) -> Callable[[Stream, Wait, int], Figures]:
    def run(stream: Stream, wait: Wait, seed: int) -> Figures:
        model = _spec(stream, seed, int(wait.events.max()) + 1, credit)
        log = late.late(stream.batch, wait.events)
        folded = _folded(model, log)
        helpers.check(bool((folded.outcome > 0).all()), "every event is learned or observed")
        labels = int(np.count_nonzero(~np.isnan(folded.scored[:, 3])))
        helpers.check(labels == len(stream.batch), "every label meets its prediction")
        return score(folded.value[log.kind == OBSERVATION], stream.batch.y, wait)

    return run


def _observed(stream: Stream, wait: Wait, seed: int) -> Figures:
    """Every event twice: as an observation, and with its label when that is there."""
    event, kind = late.order(wait.events)
    kind = np.where(kind == LABEL, LABELLED, OBSERVATION).astype(np.uint8)
    y = np.where(kind == LABELLED, stream.batch.y[event], np.nan)
    folded = _folded(helpers.spec(stream, seed=seed), Batch.of(stream.batch.x[event], y, kind=kind))
    return score(folded.value[kind == OBSERVATION], stream.batch.y, wait)


def _predicted(stream: Stream, wait: Wait, seed: int) -> Figures:
    """Every event is predicted without a trace, and folded when its label is there."""
    model = helpers.spec(stream, seed=seed)
    learner, batch, said = model.learner.build(model), stream.batch, []
    event, kind = late.order(wait.events)
    edges = np.flatnonzero(np.diff(kind, prepend=kind[:1])).tolist()
    for start, stop in zip([0, *edges], [*edges, len(kind)]):
        rows = event[start:stop]
        some = Batch.of(batch.x[rows], batch.y[rows])
        if kind[start] == OBSERVATION:
            said.append(learner.predict(some).value)
        else:
            learner.fold(some)
    return score(np.concatenate(said), batch.y, wait)


def _folded(model: ModelSpec, log: Batch) -> Folded:
    _, parts = helpers.fold(model.learner.build(model), helpers.cuts(log, SIZE))
    return Folded.concat(parts)


ARMS: dict[str, Callable[[Stream, Wait, int], Figures]] = {
    EXACT: _with_credit("exact"),
    HEAD: _with_credit("head"),
    NAIVE[0]: _observed,
    NAIVE[1]: _predicted,
}


def _row(wait: str, name: str, runs: Sequence[Figures]) -> Row:
    means = {metric: float(np.mean([run[metric] for run in runs])) for metric in runs[0]}
    return {
        "labels late by": wait,
        "learned with": name,
        "accuracy, %": _number(100 * means["accuracy"], 2),
        "+-": _number(100 * interval([run["accuracy"] for run in runs]), 2),
        "log-loss": _number(means["log_loss"], 4),
        "kappa-temporal": _number(means["kappa_temporal"], 3),
        "seeds": len(runs),
    }


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _notes(runs: dict[str, dict[str, list[Figures]]], seeds: int) -> list[str]:
    mean = {
        wait: {name: float(np.mean([run["accuracy"] for run in values])) for name, values in arms.items()}
        for wait, arms in runs.items()
    }
    short = [wait for wait, by in mean.items() if by[EXACT] < max(by[name] for name in NAIVE)]
    met = f"NOT met at {', '.join(short)}" if short else "met"
    return [
        "A delay of d events: the label of event i comes after event i + d was predicted. The default spec with 64 "
        "units, labels by id; nothing tuned. Naive learners have the same spec with immediate labels.",
        "no change and majority are of the labels that have arrived; kappa-temporal is against that no-change.",
        f"+- is half of the 95 % interval of the mean over {seeds} seeds (Student's t).",
        f"Target: exact credit >= both naive ways at every delay: {met}.",
    ]
