"""`continual bench recurrent`: recurrent cells on drift streams, on recurring concepts, and on a memory task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from continual.bench.recurrent import drift, memory, plasticity, traces
from continual.bench.recurrent.streams import STREAMS, load
from continual.bench.report import out_option

PARTS = ("drift", "plasticity", "memory", "traces")


@click.command()
@click.option("--part", type=click.Choice([*PARTS, "all"]), default="drift", show_default=True, help="What to measure.")
@click.option("--cells", "kinds", help="Kinds of cells, separated by commas; all that are registered without.")
@click.option("--stream", "names", type=click.Choice(list(STREAMS)), multiple=True, help="drift: one of the six.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Of each of our learners.")
@click.option("--events", type=click.IntRange(2), help="Only the first so many events; plasticity: in place of 10^6.")
@click.option("--steps/--no-steps", default=True, show_default=True, help="drift: step size x 0.3 and x 3 as well.")
@click.option("--forest/--no-forest", default=True, show_default=True, help="drift: River's forest, minutes.")
@click.option("--delays", help=f"memory: steps, separated by commas; {','.join(map(str, memory.DELAYS))} without.")
@click.option(
    "--reach",
    type=click.IntRange(0),
    default=memory.REACH,
    show_default=True,
    help="memory: longest delay that gated cells are tried at.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="memory: networks at a time.")
@out_option
def recurrent(
    part: str,
    kinds: str | None,
    names: tuple[str, ...],
    seeds: int,
    events: int | None,
    steps: bool,
    forest: bool,
    delays: str | None,
    reach: int,
    jobs: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Each recurrent cell at the default spec: drift streams, plasticity, memory, traces.

    drift: Elec2, weather, SEA, bike sharing, ETTh1 and exchange rates beside no-change, majority and River under equal
    conditions. plasticity: a million events of concepts that come back. memory: recall over a growing delay.
    traces: the online gradient against that of weights that stay.
    """
    parts = PARTS if part == "all" else (part,)
    others = memory.known() if parts == ("memory",) else ()
    chosen, start = _cells(kinds, others), time.monotonic()

    def say(what: str) -> None:
        click.echo(f"[{time.monotonic() - start:6.0f} s] {what}", err=True)

    common: dict[str, Any] = {"seeds": seeds, "out": out, "as_json": as_json}
    if "drift" in parts:
        drift.measure(names or tuple(STREAMS), chosen, events=events, steps=steps, forest=forest, say=say, **common)
    if "plasticity" in parts:
        plasticity.measure(chosen, events=events or 1_000_000, say=say, **common)
    if "memory" in parts:
        asked = memory.known() if kinds is None else chosen
        memory.measure(asked, delays=_delays(delays), reach=reach, jobs=jobs, say=say, **common)
    if "traces" in parts:
        traces.measure(chosen, load("elec2").first(events), say=say, **common)


def _delays(delays: str | None) -> tuple[int, ...]:
    """The delays that were asked for, in order.

    Raises:
        click.BadParameter: one of them is not a number of steps.
    """
    if delays is None:
        return memory.DELAYS
    parts = [part.strip() for part in delays.split(",")]
    wrong = [part for part in parts if not part.isdecimal() or not 1 <= int(part) <= memory.LONGEST]
    if wrong:
        raise click.BadParameter(f"{wrong}; accepted: 1 to {memory.LONGEST:,}", param_hint="--delays")
    return tuple(sorted({int(part) for part in parts}))


def _cells(kinds: str | None, others: tuple[str, ...]) -> tuple[str, ...]:
    """The cells that were asked for.

    Raises:
        click.BadParameter: one of them is neither registered nor one of `others`.
    """
    known = tuple(dict.fromkeys((*drift.cells(), *others)))
    chosen = tuple(dict.fromkeys(kind.strip() for kind in kinds.split(","))) if kinds is not None else known
    unknown = [kind for kind in chosen if kind not in known]
    if unknown:
        raise click.BadParameter(f"unknown {unknown}; accepted: {', '.join(known)}", param_hint="--cells")
    return chosen
