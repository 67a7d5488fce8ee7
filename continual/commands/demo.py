"""`continual demo`: see it work, and survive."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from continual.commands._shared import Problem, json_option, show_json, show_table
from continual.commands.serve import problems
from service.ports import free_port

if TYPE_CHECKING:
    from continual.demo import Check, Run

LINES = 10
"""Lines of progress where there is no terminal."""


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the service; by default a free one.")
@click.option("--events", type=click.IntRange(1000), help="Use only the first so many events of the stream.")
@click.option("--keep", is_flag=True, help="Go on serving afterwards, with the data under --out.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("reports/demo"),
    show_default=True,
    help="Folder of the report.",
)
@json_option
def demo(port: int | None, events: int | None, keep: bool, out: Path, as_json: bool) -> None:
    """See it work: stream real data through the service, kill a shard, prove that nothing was lost.

    Starts the service on a free port, streams River's Shuttle data (49,097 events) through gRPC, kills the shard with
    SIGKILL midway, and compares log, predictions and state with a fold that nobody disturbed. Takes about half a
    minute, longer when the kernels are compiled for the first time. Ends with 1 if anything was lost.
    """
    began = time.perf_counter()
    say = (lambda line: None) if as_json else click.echo
    say("Starting the service (the first time the kernels are compiled, which takes a while) ...")
    with contextlib.ExitStack() as stack:
        data = out / "data" if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="continual-")))
        stack.enter_context(problems(data / "logs"))
        from continual import demo as show
        from service.client import Client
        from service.serve import Deployment, ServeOptions

        options = ServeOptions(data=data, port=port or free_port(), shards=1)
        deployment = stack.enter_context(Deployment(options, lambda line: say(f"  {line}")))
        client = stack.enter_context(Client(deployment.address))
        if keep and any(model.name == show.SPEC.name for model in client.models.list()):
            client.models.delete(show.SPEC.name)  # of an earlier demonstration in this folder
        client.models.create(show.SPEC)
        run = show.Run(show.events(events), show.rivals())
        say(f"Streaming {len(run.batch):,} events through {deployment.address}; midway the shard is killed ...")
        with _spectator(run, as_json) as on_block:
            run.stream(client, lambda: show.owner_pid(deployment), on_block)
        say("Proving: reading the log back, folding the same events without a fault ...")
        checks, fold_seconds = show.prove(run, client, deployment)
        result = _result(run, checks, fold_seconds, time.perf_counter() - began)
        paths = _written(out, run, result)
        if as_json:
            show_json(result | {"report": {name: str(path.resolve()) for name, path in paths.items()}})
        else:
            _conclude(result, paths)
        if keep and not as_json:
            _go_on(deployment, data)
    if not result["nothing_lost"]:
        raise Problem("something was lost or differs: see the marked lines of the proof")


@contextlib.contextmanager
def _spectator(run: Run, silent: bool) -> Iterator[Any]:
    """A table that lives on a terminal; a few lines where there is none."""
    if silent:
        yield lambda: None
        return
    if not sys.stdout.isatty():
        yield _lines(run)
        return
    from rich.live import Live

    with Live(get_renderable=lambda: _table(run), refresh_per_second=8):
        yield lambda: None


def _lines(run: Run) -> Any:
    said, status = 0, run.status

    def on_block() -> None:
        nonlocal said, status
        if run.acknowledged - said >= len(run.batch) / LINES or run.status != status:
            said, status = run.acknowledged, run.status
            scores = ", ".join(f"{row['learner']} {row['accuracy']:.2%}" for row in run.table())
            click.echo(f"  {run.acknowledged:>7,}  {scores}  [{run.status}]")

    return on_block


def _table(run: Run) -> Any:
    from rich.table import Table

    table = Table(title=f"{run.acknowledged:,} of {len(run.batch):,} events: {run.status}", title_justify="left")
    table.add_column("learner")
    for name in ("accuracy", "kappa", "log-loss"):
        table.add_column(name, justify="right")
    for row in run.table() if run.metrics.events else ():
        style = "bold" if row["learner"] == "continual" else None
        numbers = [f"{row['accuracy']:.2%}", _number(row["kappa"], 3), _number(row["log_loss"], 4)]
        table.add_row(row["learner"], *numbers, style=style)
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _result(run: Run, checks: list[Check], fold_seconds: float, seconds: float) -> dict[str, Any]:
    """Everything that the report says, as plain values."""
    from continual.bench.report import machine

    n = len(run.batch)
    cost = {"continual": 1e6 * fold_seconds / n, **{one.name: 1e6 * one.seconds / n for one in run.rivals}}
    scores = []
    for row in run.table():
        plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        scores.append(plain | {"microseconds": cost.get(row["learner"])})
    share = float(run.batch.y.mean())
    return {
        "nothing_lost": all(check.holds for check in checks),
        "stream": f"River's Shuttle data: is the sensor reading an anomaly ({share:.0%} are)? {n:,} labelled events in "
        "their order, through gRPC into one recurrent model; fsync before every answer.",
        "events": n,
        "kill": {
            "pid": run.killed_pid,
            "at_event": run.killed_at,
            "snapshot_at_event": run.snapshot_at,
            "outage_seconds": run.outage,
        },
        "checks": [asdict(check) | {"holds": check.holds} for check in checks],
        "scores": scores,
        "majority_share": max(share, 1 - share),
        "cost_note": "Time per event is predict and learn in one process, without the service: the compiled fold, and "
        "River's own calls, which ran here while the service was using the same cores.",
        "how_to_go_on": HOW_TO_GO_ON,
        "machine": machine(),
        "stream_seconds": round(run.seconds, 2),
        "seconds": round(seconds, 2),
    }


HOW_TO_GO_ON = """\
continual serve                                              # in one terminal
continual models create mine --from FILE.csv --label COLUMN  # in another: proposes a spec, and uses it
continual events send FILE.csv --model mine --label COLUMN   # predict, then learn, every row
continual models stats mine --digest
continual bench --help                                       # what every figure of the documentation was printed by"""


def _written(out: Path, run: Run, result: dict[str, Any]) -> dict[str, Path]:
    from continual import demo_report

    return demo_report.write(out, run, result)


def _conclude(result: dict[str, Any], paths: dict[str, Path]) -> None:
    digits = {"kappa": 3, "log_loss": 4, "microseconds": 1}
    rows = [
        [row["learner"], f"{row['accuracy']:.2%}", *(_number(row[name], places) for name, places in digits.items())]
        for row in result["scores"]
    ]
    show_table(["learner", "accuracy", "kappa", "log-loss", "us per event"], rows)
    kill = result["kill"]
    click.echo(
        f"Process {kill['pid']} killed at event {kill['at_event']:,} (snapshot at {kill['snapshot_at_event']:,}); "
        f"the next answer came {kill['outage_seconds']:.1f} s later."
    )
    for check in result["checks"]:
        mark = click.style("ok  ", fg="green") if check["holds"] else click.style("LOST", fg="red", bold=True)
        found = check["found"]
        text = f"{found:,}" if isinstance(found, int) and not isinstance(found, bool) else f"{found}"[:16]
        wanted = "" if check["holds"] else f", must be {check['expected']}"
        click.echo(f"  {mark} {check['what']}: {text}{wanted}")
    click.echo(click.style("Nothing was lost." if result["nothing_lost"] else "Something does not match.", bold=True))
    click.echo(f"Report: {paths['report.html'].resolve()}  (beside it curves.png and report.json)")
    click.echo(f"To go on:\n{HOW_TO_GO_ON}" if result["nothing_lost"] else "")


def _go_on(deployment: Any, data: Path) -> None:
    """Serves until a signal."""
    done = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: done.set())
    click.echo(f"\nStill serving on {deployment.address}; Ctrl-C stops, `continual serve --data {data}` goes on.")
    click.echo(f"Try:  continual models stats shuttle --target {deployment.address}")
    done.wait()
