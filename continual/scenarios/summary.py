"""Runs as a table: means over seeds with 95 % intervals (Student's t), and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from continual.bench.accuracy import interval
from continual.scenarios.campaign import Done
from continual.scenarios.methods import find
from continual.scenarios.protocol import Protocol, figures
from continual.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Column:
    """A figure in the table.

    Attributes:
        figure: its name in `figures`.
        head: shown.
        percent: it is a share.
        digits: after the point.
        better: 1: more is better, -1: less is, 0: neither.
        meaning: for the reader.
    """

    figure: str
    head: str
    percent: bool = False
    digits: int = 2
    better: int = 0
    meaning: str = ""

    def text(self, value: float) -> str:
        """A value as it is shown; "-" for none."""
        if math.isnan(value):
            return "-"
        return f"{100 * value if self.percent else value:.{self.digits}f}"


def _share(figure: str, head: str, better: int, meaning: str) -> Column:
    return Column(figure, head, True, 2, better, meaning)


UNITS = {"state_bytes": 1e3, "flops_per_event": 1e6}
"""What figures are divided by to be shown."""

PREQUENTIAL = _share("prequential_accuracy", "prequential, %", 1, "right before it was learned, over the whole stream")
COST = (
    Column("us_per_event", "us/event", digits=1, better=-1, meaning="to predict and learn one event, this machine"),
    Column("state_bytes", "state, kB", digits=1, better=-1, meaning="all that a snapshot holds"),
)
TESTED = (
    _share("average_accuracy", "accuracy, %", 1, "final average accuracy: over all test sets, after the last event"),
    _share("average_anytime_accuracy", "anytime, %", 1, "average over evaluations of the accuracy on what was met"),
    _share("forgetting", "forgetting", -1, "best accuracy on a test set less the final one (Chaudhry), points"),
    _share("worst_case_accuracy", "WC-ACC, %", 1, "the present test and the lowest point of each earlier one"),
    PREQUENTIAL,
    *COST,
)
MORE = (
    _share("average_incremental_accuracy", "incremental, %", 1, "accuracy on what was met, averaged over experiences"),
    _share("backward_transfer", "BWT", 1, "final accuracy less that right after the own experience, points"),
    _share("forward_transfer", "FWT", 1, "accuracy before the own experience less that before the first event, points"),
    _share("min_accuracy", "min-ACC, %", 1, "mean of the lowest points of earlier test sets"),
    _share("windowed_forgetting", "WF", -1, "largest fall within a window of evaluations, points"),
    _share("windowed_plasticity", "WP", 1, "largest rise within a window of evaluations, points"),
    _share("learning_curve_area", "LCA, %", 1, "accuracy on the own test over the first batches"),
    Column("final_log_loss", "log-loss", digits=3, better=-1, meaning="nats per test example, at the end"),
    Column("final_brier", "Brier", digits=3, better=-1, meaning="squared distance of the probabilities, 0 to 2"),
    _share("final_calibration_error", "ECE", -1, "confidence less accuracy, 15 bins, points"),
    Column("flops_per_event", "MFLOP/event", better=-1, meaning="to learn one event, where passes and weights tell it"),
)
STREAM = (
    PREQUENTIAL,
    Column("prequential_log_loss", "log-loss", digits=4, better=-1, meaning="nats per event"),
    Column("prequential_kappa_temporal", "kappa-temporal", digits=3, better=1, meaning="against the last label again"),
    _share("near_future_accuracy", "near-future, %", 1, "of events so far ahead that repeating labels does not help"),
    _share("prequential_calibration_error", "ECE", -1, "confidence less accuracy, 15 bins, points"),
    *COST,
)
NUMBERS = (
    Column("prequential_mae", "MAE", digits=4, better=-1, meaning="mean absolute error"),
    Column("prequential_rmse", "RMSE", digits=4, better=-1, meaning="root of the mean squared error"),
    Column("prequential_no_change_mae", "no-change MAE", digits=4, meaning="of repeating the last label"),
    *COST,
)


def columns(scenario: Scenario) -> tuple[Column, ...]:
    """The columns of the main table; the first one is the headline."""
    if scenario.tested:
        return TESTED
    return NUMBERS if scenario.target == "regression" else STREAM


@dataclass
class Result:
    """One method over its seeds.

    Attributes:
        method: its name.
        label: shown: the name, with a rate that was picked.
        done: its runs, by seed.
        values: figure -> one value for each run.
    """

    method: str
    label: str
    done: list[Done]
    values: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, figure: str) -> float:
        """Over the seeds; NaN where there is none."""
        held = self.values.get(figure, [])
        return float(np.mean(held)) if held else math.nan

    def half(self, figure: str) -> float:
        """Half of the 95 % interval of the mean; NaN with one seed."""
        return interval(self.values.get(figure, []))


def gather(
    done: Sequence[Done], scenario: Scenario, protocol: Protocol, labels: Mapping[str, str] | None = None
) -> list[Result]:
    """Runs by method, in order of first appearance, each in order of seed."""
    held: dict[str, Result] = {}
    for one in sorted(done, key=lambda one: one.task.seed):
        name = one.task.method
        result = held.setdefault(name, Result(name, (labels or {}).get(name, name), []))
        result.done.append(one)
        for figure, value in figures(one.run, scenario, protocol, find(name).joint).items():
            result.values.setdefault(figure, []).append(value / UNITS.get(figure, 1))
    order = list(dict.fromkeys(one.task.method for one in done))
    return [held[name] for name in order]


def rows(results: Sequence[Result], shown: Sequence[Column]) -> list[dict[str, Any]]:
    """The table: every method with its figures; the headline has its interval."""
    out = []
    for result in results:
        row: dict[str, Any] = {"method": result.label}
        for number, column in enumerate(shown):
            row[column.head] = column.text(result.mean(column.figure))
            if not number:
                row["+-"] = column.text(result.half(column.figure))
        out.append({**row, "seeds": len(result.done)})
    return out


def paired(results: Sequence[Result], against: str, column: Column) -> list[dict[str, Any]]:
    """Differences of each method to another one on the same seeds, with the interval of their mean."""
    base = next((one for one in results if one.method == against), None)
    if base is None:
        return []
    theirs = dict(zip((one.task.seed for one in base.done), base.values[column.figure]))
    out = []
    for result in results:
        if result is base or column.figure not in result.values:
            continue
        pairs = zip((one.task.seed for one in result.done), result.values[column.figure])
        gaps = [value - theirs[seed] for seed, value in pairs if seed in theirs]
        if not gaps:
            continue
        mean, half = float(np.mean(gaps)), interval(gaps)
        clear = "yes" if not math.isnan(half) and abs(mean) > half else "no"
        figures_ = {"difference": column.text(mean), "+-": column.text(half), "interval apart from 0": clear}
        out.append({"method": result.label, **figures_, "seeds": len(gaps)})
    return out


def below_floor(results: Sequence[Result], column: Column) -> list[str]:
    """Which methods end below the best one that learns no features; one sentence, or none where there is no floor."""
    floors = [result for result in results if find(result.method).floor]
    if not floors or len(floors) == len(results):
        return []
    best = max(floors, key=lambda result: result.mean(column.figure))
    level = best.mean(column.figure)
    lower = [one.label for one in results if one not in floors and one.mean(column.figure) < level]
    told = f"Below it: {'; '.join(lower)}." if lower else "Nothing but floors is below it."
    return [f"The floor, of features that nobody learned: {best.label}, {column.text(level)} %. {told}"]
