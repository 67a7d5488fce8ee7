"""`continual bench SCENARIO`: methods on a scenario, a table, JSON, pictures, a page; resumable."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual.bench.report import machine, out_option, publish
from continual.data import NoData
from continual.datasets.dataset import BadData
from continual.scenarios import catalog, methods, plots, summary
from continual.scenarios.campaign import DiskFull, Done, Failed, Task, perform_all
from continual.scenarios.catalog import Sizes
from continual.scenarios.notes import notes
from continual.scenarios.page import Report, page
from continual.scenarios.protocol import Protocol, Run
from continual.scenarios.scenario import Scenario
from continual.scenarios.summary import Result

RATE_SEED = 1000
"""The first of the seeds that rates are picked on; those of the table begin at 0."""


def names_of(text: str) -> tuple[str, ...]:
    """Names between commas, those in brackets kept together."""
    out, depth, start = [], 0, 0
    for place, letter in enumerate(text + ","):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            out.append(text[start:place].strip())
            start = place + 1
    return tuple(dict.fromkeys(filter(None, out)))


def _numbers(_context: Any, parameter: click.Parameter, text: str | None) -> tuple[float, ...]:
    try:
        values = tuple(float(one) for one in (text or "").split(",") if one.strip())
    except ValueError:
        values = (0.0,)
    if any(not value > 0 for value in values):
        raise click.BadParameter(f"{text!r}: accepted: numbers above 0, with commas", param=parameter)
    return values


OPTIONS = (
    click.option("--methods", "chosen", help="With commas; NAME+field=value changes a field, joint-NAME shuffles."),
    click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Runs of each method."),
    click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes."),
    click.option("--rates", callback=_numbers, help="Step sizes, with commas: each method gets its best."),
    click.option("--rate-seeds", type=click.IntRange(1), default=2, show_default=True, help="Seeds to pick rates on."),
    click.option("--against", help="Method to which paired differences are shown."),
    click.option("--events", type=click.IntRange(10), help="At most so many events of an experience, or of a stream."),
    click.option("--tests", type=click.IntRange(1), help="At most so many examples of a test set."),
    click.option("--classes", type=click.IntRange(1), help="Classes to an experience."),
    click.option("--domains", type=click.IntRange(2), help="Experiences of a permuted, rotated or gradual scenario."),
    click.option("--blur", type=click.FloatRange(0, 1), help="Share of a class in other experiences (blurry)."),
    click.option("--label", help="Column of a file that is predicted; the last one without."),
    click.option("--every", type=click.IntRange(1), help="Events between two evaluations."),
    click.option("--batch", type=click.IntRange(1), default=10, show_default=True, help="Events of a mini-batch."),
    click.option("--shift", type=click.IntRange(0), help="S of near-future accuracy; of a stream it is found."),
    click.option("--real-time", is_flag=True, help="The stream does not wait: slower methods skip (Ghunaim et al.)."),
    click.option("--target", metavar="HOST:PORT", help="Run in this service too, and compare."),
    click.option("--data", type=click.Path(exists=True, file_okay=False), help="Data folder, else CONTINUAL_DATA."),
)


def command(name: str) -> click.Command:
    """The command that runs a scenario."""

    def run(out: Path | None, as_json: bool, data: str | None, **options: Any) -> None:
        if data:
            os.environ["CONTINUAL_DATA"] = data  # that of worker processes, too
        try:
            Bench(name, out, as_json, options).run()
        except (NoData, BadData, DiskFull, methods.UnknownMethod) as known:
            raise click.ClickException(str(known)) from known

    run.__doc__ = (
        f"Run methods on {name}: table, JSON, PNG and one HTML page.\n\nWith --out every run is kept as soon as it is "
        f"done, and a repeated command goes on from there.\n\nMethods: {', '.join(methods.METHODS)}."
    )
    decorated: Any = run
    for option in reversed(OPTIONS):
        decorated = option(decorated)
    return click.command(name)(out_option(decorated))


class Bench:
    """One call of the command."""

    def __init__(self, name: str, out: Path | None, as_json: bool, options: dict[str, Any]) -> None:
        self.name, self.out, self.as_json, self.options = name, out, as_json, options
        pick = {"events", "tests", "classes", "domains", "blur", "label"}
        self.sizes = Sizes(**{key: options[key] for key in pick})
        self.protocol = Protocol(every=options["every"] or 0, batch=options["batch"], shift=options["shift"])
        self.failed: list[str] = []
        self.picked: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Checks everything that can be checked first, then runs, then tells."""
        scenario = catalog.build(self.name, 0, self.sizes)
        asked = self._methods(scenario)
        for method in asked:
            self._check(method, scenario)
        if self.options["rates"]:
            asked = self._pick(asked)
        tasks = [self._task(method, seed) for seed in range(self.options["seeds"]) for method in asked]
        done = self._perform(tasks, "runs")
        if not done:
            raise click.ClickException(f"nothing was run: {'; '.join(self.failed)}")
        results = summary.gather(done, scenario, self.protocol, {m: p["label"] for m, p in self.picked.items()})
        said = notes(scenario, self.protocol, done, self.picked, self.options["seeds"])
        floor = summary.below_floor(results, summary.columns(scenario)[0]) if scenario.tested else []
        self._publish(scenario, results, [*said, *floor, *self._compare(tasks, done)])
        if self.failed:
            raise click.ClickException(f"{len(self.failed)} runs failed, the table is of the others: {self.failed[0]}")

    def _methods(self, scenario: Scenario) -> tuple[str, ...]:
        default = methods.DEFAULT if scenario.tested else methods.DEFAULT_STREAM
        asked = names_of(self.options["chosen"] or ",".join(default))
        against = self.options["against"]
        if against and against not in asked:
            raise click.BadParameter(f"{against!r} is not among the methods {asked}", param_hint="--against")
        return asked

    def _check(self, method: str, scenario: Scenario) -> None:
        """A spec that is refused is refused before anything is run."""
        found = methods.find(method)
        try:
            methods.model(found, scenario, 0)
        except ValueError as refused:
            raise click.ClickException(f"{method} on {scenario.name}: {refused}") from refused
        if found.joint and not scenario.tested:
            raise click.ClickException(f"{method}: a stream is not shuffled; scenarios with tests are")
        if self.options["real_time"] and not found.cost:
            known = ", ".join(name for name, one in methods.METHODS.items() if one.cost)
            raise click.ClickException(f"{method}: its cost is not counted in passes, so --real-time takes: {known}")

    def _task(self, method: str, seed: int) -> Task:
        protocol = self.protocol
        if self.options["real_time"]:
            protocol = replace(protocol, cost=methods.find(method).cost / methods.REFERENCE_COST)
        return Task(self.name, self.sizes, method, seed, protocol)

    def _perform(self, tasks: Sequence[Task], what: str) -> list[Done]:
        done: list[Done] = []
        with progress(what, tasks, self.options["jobs"], silent=self.as_json) as (step, finished):
            for one in perform_all(tasks, self.out, self.options["jobs"], step):
                finished()
                if isinstance(one, Failed):
                    self.failed.append(str(one))
                    click.echo(f"failed: {one}", err=True)
                else:
                    done.append(one)
        place = {task: number for number, task in enumerate(tasks)}
        return sorted(done, key=lambda one: place[one.task])

    def _pick(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Each method with the rate that is best on other seeds, without the tests; those that have none stay."""
        rates = self.options["rates"]
        seeds = range(RATE_SEED, RATE_SEED + self.options["rate_seeds"])
        tried = {
            method: [f"{method}+{found.rate}={rate:g}" for rate in rates]
            for method in asked
            if (found := methods.find(method)).rate and found.rate not in found.changed
        }
        tasks = [
            replace(self._task(name, seed), tuning=True) for names in tried.values() for seed in seeds for name in names
        ]
        scenario = catalog.build(self.name, 0, self.sizes, tuning=True)
        headline = summary.columns(scenario)[0]
        done = summary.gather(self._perform(tasks, "picking rates"), scenario, self.protocol)
        means = {one.method: one.mean(headline.figure) for one in done}
        worth = {name: -math.inf if math.isnan(mean) else headline.better * mean for name, mean in means.items()}
        out = []
        for method in asked:
            held = [name for name in tried.get(method, ()) if name in means]
            best = max(held, key=lambda name: worth[name], default=method)
            out.append(best)
            if held:
                scores = {name.rsplit("=", 1)[1]: means[name] for name in held}
                rate = best.rsplit("=", 1)[1]
                pick = {"label": f"{method}, rate {rate}", "of": method, "rate": rate, "scores": scores}
                self.picked[best] = {**pick, "seeds": list(seeds), "held out": scenario.tested}
        return tuple(dict.fromkeys(out))  # a method may have been named with the rate that was picked

    def _compare(self, tasks: Sequence[Task], done: Sequence[Done]) -> list[str]:
        """With a service: the same tasks there, and whether predictions, state and log-loss are the same."""
        target = self.options["target"]
        if not target:
            return []
        here = {one.task: one.run for one in done}
        served = self._perform([replace(task, target=target) for task in tasks if task in here], f"runs at {target}")
        pairs = [(one.task.method, one.run, here[replace(one.task, target="")]) for one in served]
        same = [
            there.predictions == run.predictions and there.state == run.state and _same_loss(there, run)
            for _, there, run in pairs
        ]
        if not all(same):
            self.failed.append(f"{same.count(False)} runs of the service differ from those in process")
        verdict = "the same" if same and all(same) else "NOT the same"
        losses: dict[str, list[tuple[float, float]]] = {}
        for method, there, run in pairs:
            if "log_loss" in there.prequential:
                losses.setdefault(method, []).append((there.prequential["log_loss"], run.prequential["log_loss"]))
        means = {method: np.mean(both, axis=0) for method, both in losses.items()}
        told = ", ".join(f"{method} {there:.4f} ({run:.4f})" for method, (there, run) in means.items())
        return [
            f"Served at {target}: {len(same)} runs over gRPC, final predictions, state and log-loss {verdict} as in "
            f"process in {sum(same)} of {len(same)}.",
            *([f"Prequential log-loss as the service tells it (in process): {told}."] if told else []),
        ]

    def _publish(self, scenario: Scenario, results: Sequence[Result], said: Sequence[str]) -> None:
        shown = summary.columns(scenario)
        of = self.options["against"] or ""
        against = next((method for method, pick in self.picked.items() if pick["of"] == of), of)
        paired = summary.paired(results, against, shown[0])
        more = [f"{row['method']} less {of}, seed by seed: {row['difference']} +- {row['+-']}." for row in paired]
        name = Path(self.name).name
        publish(
            name,
            scenario.title,
            summary.rows(results, shown),
            notes=[*said, *more],
            details=self._details(results),
            out=self.out,
            as_json=self.as_json,
        )
        if self.out is None:
            return
        curves, matrices = plots.curves(results, scenario), plots.matrices(results, scenario)
        (self.out / f"{name}-curves.png").write_bytes(curves)
        if matrices is not None:
            (self.out / f"{name}-matrices.png").write_bytes(matrices)
        typed = "continual " + " ".join(sys.argv[1:])
        report = Report(scenario, results, said, paired, of, curves, matrices, typed, machine())
        (self.out / f"{name}.html").write_text(page(report))
        if not self.as_json:
            click.echo(f"{self.out / name}.html")

    def _details(self, results: Sequence[Result]) -> dict[str, Any]:
        """Everything that is needed to run it again, and every figure of every run."""
        return {
            "scenario": self.name,
            "sizes": asdict(self.sizes),
            "protocol": asdict(self.protocol),
            "rates": self.picked,
            "failed": self.failed,
            "methods": {
                one.method: {
                    "spec": one.done[0].spec,
                    "seeds": [done.task.seed for done in one.done],
                    "values": one.values,
                    "matrices": [np.round(done.run.matrix, 5).tolist() for done in one.done],
                    "predictions": [done.run.predictions for done in one.done],
                    "states": [done.run.state for done in one.done],
                    "seconds": [round(done.seconds, 2) for done in one.done],
                }
                for one in results
            },
        }


def _same_loss(there: Run, here: Run) -> bool:
    """Whether the service counted the same log-loss (to it no probability is above 1 - 1e-6), or tells none."""
    loss = there.prequential.get("log_loss")
    return loss is None or math.isclose(loss, here.prequential["log_loss"], abs_tol=2e-6)


@contextmanager
def progress(what: str, tasks: Sequence[Task], jobs: int, silent: bool) -> Iterator[tuple[Any, Any]]:
    """A bar of runs on standard error, and with one job one of the events of the run under way."""
    if silent:
        yield (lambda task, events: None), (lambda: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    form = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*form, console=Console(stderr=True), transient=True) as bar:
        whole = bar.add_task(what, total=len(tasks))
        events = bar.add_task("", total=None, visible=jobs == 1)

        def step(task: Task, learned: int) -> None:
            bar.update(events, completed=learned, description=f"{task.method}, seed {task.seed}: events")

        yield step, lambda: bar.advance(whole)


