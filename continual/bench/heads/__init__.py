"""`continual bench heads`: heads that keep a posterior, on drift streams, under forgetting, bad labels, and by cost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from continual.bench.heads import cost, forgetting, mnist, robust, score
from continual.bench.recurrent.streams import STREAMS
from continual.bench.report import out_option

PARTS = ("score", "forgetting", "robust", "cost", "mnist")


@click.command()
@click.option("--part", type=click.Choice([*PARTS, "all"]), default="score", show_default=True, help="What to measure.")
@click.option("--stream", "names", type=click.Choice(list(STREAMS)), multiple=True, help="One of the six.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Of learners, and of bad labels.")
@click.option("--events", type=click.IntRange(2), help="Only the first so many events of a stream.")
@click.option("--learner", "only", multiple=True, help="score: just this one beside the Adam head; may be repeated.")
@click.option("--rounds", type=click.IntRange(1), default=31, show_default=True, help="cost: medians of so many.")
@click.option(
    "--features", type=click.IntRange(1), default=mnist.FEATURES, show_default=True, help="mnist: random features."
)
@out_option
def heads(
    part: str,
    names: tuple[str, ...],
    seeds: int,
    events: int | None,
    only: tuple[str, ...],
    rounds: int,
    features: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Heads that keep a posterior: score, forgetting, robust, cost, mnist.

    score: nats per event, calibration, intervals and cost against the linear head of the default cell, on six drift
    streams. forgetting: the bank against each of its rates alone. robust: one label in a hundred far off. cost:
    against BLAS and an empty fold. mnist: one class at a time against the joint solution.
    """
    parts, start = PARTS if part == "all" else (part,), time.monotonic()

    def say(what: str) -> None:
        click.echo(f"[{time.monotonic() - start:6.0f} s] {what}", err=True)

    common: dict[str, Any] = {"out": out, "as_json": as_json, "say": say}
    streams = names or tuple(STREAMS)
    if "score" in parts:
        score.measure(streams, seeds=seeds, events=events, only=only, **common)
    if "forgetting" in parts:
        forgetting.measure(streams, seeds=seeds, events=events, **common)
    if "robust" in parts:
        robust.measure(_numbers(streams), seeds=seeds, events=events, **common)
    if "cost" in parts:
        cost.measure(rounds=rounds, events=events, **common)
    if "mnist" in parts:
        mnist.measure(events=events, features=features, **common)


def _numbers(streams: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the streams in which labels can be far off.

    Raises:
        click.BadParameter: there is none.
    """
    there = tuple(name for name in streams if name in robust.STREAMS)
    if not there:
        raise click.BadParameter(f"robust runs on {', '.join(robust.STREAMS)}, got {streams}", param_hint="--stream")
    return there
