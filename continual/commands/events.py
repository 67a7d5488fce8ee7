"""`continual events`: from a file to a service, or from a file to metrics in this process."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from continual.commands._letters import dead_letters
from continual.commands._shared import (
    INTERRUPTED,
    Problem,
    connected,
    examples,
    json_option,
    plain_errors,
    say,
    show_either,
    show_json,
    show_table,
    target_note,
    target_option,
)

if TYPE_CHECKING:
    from continual.commands._sending import Sending


@click.group()
def events() -> None:
    """Send events from a file to a service, or fold a file without one; events that did not fit."""
    warnings.showwarning = lambda message, *_: click.echo(f"warning: {message}", err=True)  # in one line


events.add_command(dead_letters)


def _columns(command: Any) -> Any:
    for part in ("time", "key", "label"):
        command = click.option(
            f"--{part}", metavar="COLUMN", help=f"Column of the {part}, '' for none; by default the one named {part!r}."
        )(command)
    units = click.Choice(["s", "ms", "us", "ns"])
    unit = click.option("--time-unit", type=units, default="s", show_default=True, help="Unit of numeric times.")
    return unit(command)


@events.command(
    epilog=examples(
        "continual events send flights.csv.gz --model flights --label delayed",
        "continual events send river:Shuttle --model shuttle",
    )
)
@click.argument("source", metavar="FILE")
@click.option("--model", required=True, help="Name of the model.")
@_columns
@click.option("--rows", type=click.IntRange(1, 65_536), default=1024, show_default=True, help="Events in a message.")
@click.option(
    "--in-flight", type=click.IntRange(1, 1024), default=16, show_default=True, help="Messages sent ahead of answers."
)
@click.option("--skip-bad", is_flag=True, help="Pass over rows that are no events, and list them at the end.")
@click.option("--limit", type=click.IntRange(1), help="Send at most so many events.")
@target_option
@json_option
def send(source: str, model: str, target: str, as_json: bool, **options: Any) -> None:
    """Send the events of FILE to a model, in order: each is predicted, then learned.

    FILE is CSV or JSON Lines, plain or .gz, .bz2, .zst; or Parquet; or river:NAME, a data set of River. The columns
    are found by the names of the model's features. Where no column is named "label" the only one that is left is taken.

    An event is identified by the digest of the file and its number there. So a file that is sent again adds nothing,
    and after an interruption the same command goes on where it stopped. (Use the same columns and --skip-bad again.)
    """
    from continual.commands._sending import Sending
    from continual.commands._sources import open_source

    roles = {part: options.pop(part) for part in ("label", "key", "time", "time_unit")}
    with connected(target) as client:
        spec = json.loads(client.models.get(model).spec_json)
        found = open_source(source, spec, roles)
        sending = Sending(client, model, found, **options)
        with _progress(sending, None if as_json else found.count(), as_json) as on_progress:
            sending.run(on_progress)
        stats = client.models.statistics(model)
    summary = sending.summary() | {"model_position": stats.position, "model_metrics": dict(stats.metrics)}
    show_either(summary, as_json, lambda: _report(sending, stats, target))
    if sending.stopped:
        if sending.stopped == "interrupted":
            message = f"interrupted after {sending.sent:,} events; the same command goes on from there"
            raise Problem(message, INTERRUPTED)
        raise Problem(sending.stopped)


@contextmanager
def _progress(sending: Sending, total: int | None, silent: bool) -> Iterator[Any]:
    """A bar with events per second and the running score."""
    if silent:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    total = total if sending.limit is None or total is None else min(total, sending.limit)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[score]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(Path(sending.source.name).name, total=total, speed="", score="")

        def step() -> None:
            speed = f"{sending.sent / max(sending.seconds, 1e-9):,.0f}/s"
            score = sending.score.line() if sending.new else "nothing new"
            progress.update(task, completed=sending.sent + sending.bad, speed=speed, score=score)

        yield step


def _report(sending: Sending, stats: Any, target: str) -> None:
    columns = sending.source.mapping
    parts = [f"{part}={getattr(columns, part)}" for part in ("label", "key", "time") if getattr(columns, part)]
    say(f"columns: {len(columns.features)} features, {', '.join(parts) or 'no label'}")
    already = sending.sent - sending.new
    say(
        f"{sending.sent:,} events in {sending.seconds:.1f} s: {sending.new:,} new, {already:,} already there"
        + (f", {sending.bad:,} bad rows passed over" if sending.bad and not sending.stopped else "")
    )
    if sending.new:
        say(f"these: {sending.score.line()}")
    say(
        f"model {sending.model}: {stats.position:,} events, "
        + (", ".join(f"{name} {value:.4g}" for name, value in sorted(stats.metrics.items())) or "no labels yet")
    )
    if aside := stats.counts.get("quarantined", 0):
        shown = f"continual events dead-letters list --model {sending.model}{target_note(target)}"
        say(f"set aside because their fold failed: {aside:,} events of the model; `{shown}` lists them")
    if sending.listed and not sending.stopped:
        rows = [[str(bad["row"]), bad["column"], bad["value"], bad["accepted"]] for bad in sending.listed]
        more = f" (the first {len(rows)} of {sending.bad})" if sending.bad > len(rows) else ""
        show_table(["row", "column", "value", "accepted"], rows, title=f"bad rows{more}")


@events.command(
    epilog=examples(
        "continual events fold river:Shuttle examples/shuttle.yaml",
    )
)
@click.argument("source", metavar="FILE")
@click.argument("spec", metavar="SPEC.yaml", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_columns
@click.option("--rows", type=click.IntRange(1), default=16_384, show_default=True, help="Events folded at a time.")
@json_option
def fold(source: str, spec: Path, rows: int, as_json: bool, **roles: str | None) -> None:
    """Fold FILE in this process, without a service: prequential metrics, time and the digest of the state.

    The same events through the same spec give the same digest as in a service, bit for bit.
    """
    with plain_errors():
        from continual.commands._score import FoldScore
        from continual.commands._sources import open_source
        from learners.spec import ModelSpec

        model = ModelSpec.load(spec)
        found = open_source(source, model.model_dump(mode="json"), roles)
        learner = model.learner.build(model)
        score = FoldScore(model.target.kind)
        began = time.perf_counter()
        for _, batch in found.read(rows):
            score.update(learner.fold(batch), len(learner.classes()))
        seconds = time.perf_counter() - began
    held = {
        "source": source,
        "model": model.name,
        "events": learner.position,
        "seconds": round(seconds, 4),
        "microseconds_per_event": round(1e6 * seconds / max(1, learner.position), 3),
        "prequential": score.values(),
        "digest": learner.digest(),
    }
    if as_json:
        show_json(held)
        return
    rate = learner.position / max(seconds, 1e-9)
    say(f"{learner.position:,} events in {seconds:.2f} s, reading included ({rate:,.0f} events/s)")
    show_table(["metric", "value"], score.values().items())
    say(f"digest {learner.digest()}")
