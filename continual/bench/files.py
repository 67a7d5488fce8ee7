"""From a file to metrics: parsing and folding, as a whole process, against Vowpal Wabbit's command line."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from continual.bench._helpers import (
    Row,
    Stream,
    alternate,
    check,
    fold,
    load,
    median,
    ratio_row,
    score,
    spec,
    stream_options,
    value_row,
    warm,
    write_csv,
)
from continual.bench.report import out_option, publish
from continual.commands._score import FoldScore
from continual.peers import vw_lines, vw_options, with_previous
from streams.files import read_file

VW_OPTIONS = tuple(vw_options("binary").split())
COPIES = 10


@click.command()
@stream_options
@click.option("--rounds", default=5, show_default=True, help="Of every process, in turn; medians are compared.")
@out_option
def files(stream: str, events: int | None, rounds: int, out: Path | None, as_json: bool) -> None:
    """Marginal cost per event of a file: (time of ten copies - time of one) / 9n, processes from start to end."""
    chosen = load(stream, events)
    n = len(chosen.batch)
    with tempfile.TemporaryDirectory() as folder:
        work = _work(chosen, Path(folder))
        for one in work.values():
            one()  # the files and the compiled code are in the page cache
        seconds = alternate(rounds, work)
        parts = _parts(chosen, Path(folder) / f"events-{COPIES}.csv")
    wall = {name: median(values) for name, values in seconds.items()}
    rows = [
        _marginal_row(name, peer, wall, n, 1.0 if (name, peer) == ("64 units", "VW") else math.nan)
        for name in ("64 units", "16 units")
        for peer in ("VW", "VW + last label")
    ]
    rows += [
        ratio_row(f"wall time of one copy, {name}, s", wall[f"{name} x1"], "VW", wall["VW x1"], math.nan)
        for name in ("64 units", "16 units")
    ]
    rows += [value_row(f"part of it: {name}, us", value) for name, value in parts.items()]
    rows.append(value_row("start, imports and end of the process alone (64 units), s", _intercept("64 units", wall)))
    rows.append(value_row("the same of Vowpal Wabbit, s", _intercept("VW", wall)))
    publish(
        "files",
        f"From a file to metrics, {n:,} events of {stream}, and ten copies of them",
        rows,
        notes=[
            f"Medians of {rounds} rounds, a process each, in turn. Ours: `continual events fold` of CSV. Vowpal Wabbit "
            f"reads its own text of the same events, `python -m vowpalwabbit {' '.join(VW_OPTIONS)}`. Both report "
            "progressive metrics.",
            "Both use two threads: one parses, one learns. The parts were timed one after the other in one process.",
        ],
        details={"median_s": wall, "min_s": {name: min(each) for name, each in seconds.items()}, "seconds": seconds},
        out=out,
        as_json=as_json,
    )


def _marginal_row(name: str, peer: str, wall: dict[str, float], events: int, target: float) -> Row:
    def cost(who: str) -> float:
        return 1e6 * (wall[f"{who} x{COPIES}"] - wall[f"{who} x1"]) / ((COPIES - 1) * events)

    return ratio_row(f"marginal cost per event, {name}, us", cost(name), peer, cost(peer), target)


def _parts(stream: Stream, table: Path) -> dict[str, float]:
    """Microseconds per event of parsing, folding (64 units) and metrics, each alone."""
    model = spec(stream)
    warm(model, stream.batch)
    best = dict.fromkeys(("parsing", "folding", "metrics"), math.inf)
    events = COPIES * len(stream.batch)
    for _ in range(3):
        start = time.perf_counter()
        batches = [batch for _, batch in read_file(table, stream.mapping, rows=16_384)]
        parsed = time.perf_counter()
        folding, folded = fold(model.learner.build(model), batches)
        metrics = FoldScore("binary")
        scored = time.perf_counter()
        for part in folded:
            metrics.update(part, 2)
        taken = {"parsing": parsed - start, "folding": folding, "metrics": time.perf_counter() - scored}
        best = {name: min(best[name], 1e6 * taken[name] / events) for name in best}
    return best


def _intercept(name: str, wall: dict[str, float]) -> float:
    return wall[f"{name} x1"] - (wall[f"{name} x{COPIES}"] - wall[f"{name} x1"]) / (COPIES - 1)


def _work(stream: Stream, folder: Path) -> dict[str, Callable[[], float]]:
    work: dict[str, Callable[[], float]] = {}
    inputs = {"VW": stream.batch, "VW + last label": with_previous(stream.batch)}
    lines = {name: "\n".join(vw_lines(batch, "binary")) + "\n" for name, batch in inputs.items()}
    for copies in (1, COPIES):
        table = write_csv(stream, folder / f"events-{copies}.csv", copies)
        for units in (64, 16):
            described = folder / f"{units}.json"
            described.write_text(spec(stream, units).to_json())
            work[f"{units} units x{copies}"] = _ours(stream, table, described, units, copies)
        for name, body in lines.items():
            text = folder / f"{name}-{copies}.txt".replace(" ", "")
            text.write_text(body * copies)
            work[f"{name} x{copies}"] = _vowpal_wabbit(text, copies * len(stream.batch))
    return work


def _ours(stream: Stream, table: Path, described: Path, units: int, copies: int) -> Callable[[], float]:
    model = spec(stream, units)
    learner = model.learner.build(model)
    values = [learner.fold(stream.batch).value for _ in range(copies)]
    digest, accuracy = learner.digest(), score(values[0], stream.batch)["accuracy"]
    command = [sys.executable, "-m", "continual.cli", "events", "fold", str(table), str(described), "--json"]
    command += ["--label", str(stream.mapping.label)]
    events = copies * len(stream.batch)

    def once() -> float:
        start = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        said = json.loads(ended.stdout)
        check(said["events"] == events, f"{events} events, got {said['events']}")
        check(said["digest"] == digest, "the state after folding the same events from memory")
        scored = said["prequential"]["accuracy"]
        check(copies > 1 or math.isclose(scored, accuracy), f"accuracy {accuracy}, got {scored}")
        return seconds

    return once


def _vowpal_wabbit(text: Path, events: int) -> Callable[[], float]:
    command = [sys.executable, "-m", "vowpalwabbit", "-d", str(text), *VW_OPTIONS]

    def once() -> float:
        start = time.perf_counter()
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
        if ended.returncode:
            raise click.ClickException(f"{' '.join(command)}: {ended.stderr.strip()[-500:]}")
        said = ended.stderr + ended.stdout
        count = re.search(r"number of examples = (\d+)", said)
        loss = re.search(r"average loss = ([\d.]+)", said)
        check(count is not None and int(count[1]) == events, f"Vowpal Wabbit: {events} examples")
        check(loss is not None and float(loss[1]) < 1.0, "Vowpal Wabbit: an average loss")
        return seconds

    return once
