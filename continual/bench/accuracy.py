"""Prequential accuracy of the default spec, untuned, beside other learners on the same events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from continual.bench._helpers import Row, Stream, check, cuts, fold, load, score, spec, stream_options, warm
from continual.bench.report import out_option, publish
from continual.peers import (
    Majority,
    NoChange,
    Peer,
    river_forest,
    river_linear,
    river_tree,
    vowpal_wabbit,
)

SIZE = 1024
LEAST = 0.92
"""Mean accuracy that the default spec must reach on Elec2, above the forest that is given the last label."""

METRICS = ("accuracy", "log_loss", "kappa_temporal")


@click.command()
@stream_options
@click.option("--seeds", default=5, show_default=True, help="Of our learner.")
@click.option("--peer-seeds", default=1, show_default=True, help="Of River's forest, which takes about a minute each.")
@out_option
def accuracy(stream: str, events: int | None, seeds: int, peer_seeds: int, out: Path | None, as_json: bool) -> None:
    """Accuracy, log-loss, kappa-temporal and cost of the default spec and of peers, test-then-train."""
    chosen = load(stream, events)
    runs: dict[str, list[dict[str, float]]] = {}
    for units in (64, 16):
        warm(spec(chosen, units), chosen.batch)
        runs[f"default, {units} units"] = [_ours(chosen, units, seed) for seed in range(seeds)]
    for peer in _peers():
        runs[peer.name] = [_peer(peer, chosen)]
    forests = [river_forest("binary", previous=True, seed=seed + 1) for seed in range(peer_seeds)]
    runs[forests[0].name] = [_peer(forest, chosen) for forest in forests]
    rows = [_row(name, values) for name, values in runs.items()]
    means = {name: float(np.mean([one["accuracy"] for one in values])) for name, values in runs.items()}
    ours, forest = means["default, 64 units"], means[forests[0].name]
    above = "above" if ours > forest else "NOT above"
    notes = [
        "Every event is predicted, then learned. Our learner is the default spec, nothing tuned; '+ last label' means "
        "that a peer is given the last label as one more input, which ours takes from its own state.",
        "+- is half of the 95 % interval of the mean over seeds (Student's t). Cost is that of predicting and learning "
        "in this run, side by side with nothing else.",
        f"64 units against the forest: {100 * ours:.2f} % against {100 * forest:.2f} %: {above}.",
    ]
    if stream == "elec2" and events is None:
        notes.append(f"Target: mean >= {100 * LEAST:.1f} %: {'met' if ours >= LEAST else 'NOT met'}.")
    publish(
        "accuracy",
        f"Prequential accuracy, {len(chosen.batch):,} events of {stream}",
        rows,
        notes=notes,
        details={"runs": runs, "spec": spec(chosen).model_dump(mode="json")},
        out=out,
        as_json=as_json,
    )


def _peers() -> list[Peer]:
    return [
        NoChange("no change", "binary"),
        Majority("majority", "binary"),
        *(river_linear("binary", previous=given) for given in (False, True)),
        *(river_tree("binary", previous=given) for given in (False, True)),
        *(vowpal_wabbit("binary", previous=given) for given in (False, True)),
    ]


def _ours(stream: Stream, units: int, seed: int) -> dict[str, float]:
    model = spec(stream, units, seed)
    seconds, folded = fold(model.learner.build(model), cuts(stream.batch, SIZE))
    values = np.concatenate([part.value for part in folded])
    check(bool(np.isfinite(values).all()), "finite predictions")
    return {**score(values, stream.batch), "us": 1e6 * seconds / len(stream.batch)}


def _peer(peer: Peer, stream: Stream) -> dict[str, float]:
    result = peer.run(stream.batch)
    if result.unavailable:
        return {"us": math.nan, **dict.fromkeys(METRICS, math.nan)}
    return {**result.values(stream.batch, "binary"), "us": 1e6 * result.seconds / len(stream.batch)}


def _row(name: str, runs: Sequence[dict[str, float]]) -> Row:
    means = {metric: float(np.mean([run[metric] for run in runs])) for metric in (*METRICS, "us")}
    return {
        "learner": name,
        "accuracy, %": _percent(means["accuracy"]),
        "+-": _percent(interval([run["accuracy"] for run in runs])),
        "log-loss": _number(means["log_loss"], 4),
        "kappa-temporal": _number(means["kappa_temporal"], 3),
        "us/event": _number(means["us"], 2),
        "seeds": len(runs),
    }


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean (Student's t); NaN for a single value."""
    if len(values) < 2:
        return math.nan
    from scipy import stats

    return float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


def _percent(share: float) -> str:
    return _number(100 * share, 2)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
