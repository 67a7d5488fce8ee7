"""The quality gate: small runs with permanent ids, each held to a bound; every learner, head and cell is in one.

A case fails when its figure is worse than the bound, never when it is better: a change that makes a learner better
moves the bound, in the same commit, with the reason in its message. Bounds lie below what was measured by more than
the arithmetic of another processor moves it. Ids are never given to another case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from continual.scenarios.campaign import Done, Task, perform
from continual.scenarios.catalog import Sizes
from continual.scenarios.methods import find
from continual.scenarios.protocol import Protocol, figures
from learners.cells.base import CellSpec
from learners.heads.base import HeadSpec
from learners.spec import LearnerSpec, Registered

SMALL = Sizes(events=100, tests=40)


@dataclass(frozen=True)
class Case:
    """One run, or the mean over some, held to a bound.

    Attributes:
        id: permanent.
        scenario, method, sizes: see `Task`.
        figure: of `protocol.figures`.
        bound: the least that is accepted, or the most where `least` is false.
        least: whether more is better.
        seeds: how many.
    """

    id: str
    scenario: str
    method: str
    figure: str
    bound: float
    sizes: Sizes = SMALL
    least: bool = True
    seeds: int = 1

    def tasks(self) -> list[Task]:
        """Its runs."""
        protocol = Protocol(every=50, beta=0)
        return [Task(self.scenario, self.sizes, self.method, seed, protocol) for seed in range(self.seeds)]

    def measure(self) -> float:
        """The figure, as a mean over the seeds."""
        return float(np.mean([self._figure(perform(task)) for task in self.tasks()]))

    def _figure(self, done: Done) -> float:
        scenario, _ = done.task.build()
        return figures(done.run, scenario, done.task.protocol, find(self.method).joint)[self.figure]

    def holds(self, value: float) -> bool:
        """Whether a figure is within the bound; NaN never is."""
        return bool(value >= self.bound if self.least else value <= self.bound)


def _final(id: str, method: str, bound: float, scenario: str = "digits-class", **more: Any) -> Case:
    return Case(id, scenario, method, "average_accuracy", bound, **more)


def _stream(id: str, method: str, bound: float) -> Case:
    return Case(id, "recurring-stream", method, "prequential_accuracy", bound, Sizes(events=3000))


def _cell(kind: str, bound: float) -> Case:
    return _stream(f"stream-{kind}", f"recurrent+cell.kind={kind}", bound)


CASES = (
    _final("digits-nearest-mean", "nearest-mean", 0.0),
    _final("digits-lda", "lda", 0.0),
    _final("digits-ridge", "ridge", 0.0),
    _final("digits-neighbours", "neighbours", 0.0),
    _final("digits-linear", "linear", 0.0),
    _final("digits-finetune", "finetune+rate=0.1", 0.0),
    _final("digits-er", "er+rate=0.1", 0.0),
    _final("digits-er-ace", "er-ace+rate=0.1", 0.0),
    _final("digits-der", "der+rate=0.1", 0.0),
    _final("digits-agem", "agem+rate=0.1", 0.0),
    _final("digits-mir", "mir+rate=0.1", 0.0),
    _final("digits-uer", "uer", 0.0),
    _final("digits-pcr", "pcr", 0.0),
    _final("digits-ewc", "ewc+rate=0.1", 0.0),
    _final("digits-pec", "pec", 0.0),
    _final("digits-joint-er", "joint-er+rate=0.1", 0.0),
    _final("digits-task-er", "er+rate=0.1", 0.0, "digits-task"),
    _final("digits-rotated-er", "er+rate=0.1", 0.0, "digits-rotated"),
    _final("digits-gradual-lda", "lda", 0.0, "digits-gradual"),
    Case("digits-lda-forgetting", "digits-class", "lda", "forgetting", 1.0, least=False),
    _stream("stream-kalman", "recurrent-kalman", 0.0),
    _stream("stream-lofi", "recurrent+head.kind=lofi", 0.0),
    _stream("stream-drift", "drift", 0.0),
    _stream("stream-river-tree", "river-tree", 0.0),
    *(_cell(kind, 0.0) for kind in ("elstm", "hgrn", "lru", "mingru", "minlstm", "rtu", "s5", "ssm")),
)

EXCUSED: dict[str, str] = {}
"""A learner, head or cell that is in no case, as "family kind", and why."""


def covered(cases: Iterable[Case] = CASES) -> set[str]:
    """What the cases run, each as "family kind"."""
    found: set[str] = set()
    for case in cases:
        learner: Any = case.tasks()[0].build()[1].learner
        found.add(f"learner {learner.kind}")
        for family in ("head", "cell"):
            if hasattr(learner, family):
                found.add(f"{family} {getattr(learner, family).kind}")
    return found


def uncovered(cases: Iterable[Case] = CASES, excused: Mapping[str, str] = EXCUSED) -> list[str]:
    """Public learners, heads and cells that no case runs and that no reason excuses."""
    families: dict[str, type[Registered]] = {"learner": LearnerSpec, "head": HeadSpec, "cell": CellSpec}
    public = {
        f"{family} {kind}"
        for family, base in families.items()
        for kind, spec in base.known().items()
        if spec.__module__.startswith("learners.")
    }
    return sorted(public - covered(cases) - {name for name, reason in excused.items() if reason})
