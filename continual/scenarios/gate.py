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
    sizes: Sizes
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


def _final(id: str, method: str, bound: float, scenario: str = "digits-class") -> Case:
    return Case(id, scenario, method, "average_accuracy", bound, SMALL)


def _replay(id: str, method: str, bound: float, scenario: str = "digits-class") -> Case:
    return Case(id, scenario, method, "average_accuracy", bound, Sizes(tests=40), seeds=2)


def _stream(id: str, method: str, bound: float) -> Case:
    return Case(id, "recurring-stream", method, "prequential_accuracy", bound, Sizes(events=3000))


def _cell(kind: str, bound: float) -> Case:
    return _stream(f"stream-{kind}", f"recurrent+cell.kind={kind}", bound)


CASES = (
    _final("digits-nearest-mean", "nearest-mean", 0.89),
    _final("digits-lda", "lda", 0.93),
    _final("digits-lda-conv", "lda-conv+features.patch=3+features.stride=1", 0.95),
    _final("digits-ridge", "ridge", 0.92),
    _final("digits-neighbours", "neighbours", 0.91),
    _final("digits-linear", "linear", 0.69),
    _final("digits-gradual-lda", "lda", 0.92, "digits-gradual"),
    Case("digits-lda-forgetting", "digits-class", "lda", "forgetting", 0.05, SMALL, least=False),
    # Those without a memory, and A-GEM on single classes, keep about the last experience: a fifth.
    _replay("digits-finetune", "finetune+rate=0.1", 0.15),
    _replay("digits-agem", "agem+rate=0.1", 0.15),
    _replay("digits-ewc", "ewc+rate=0.1", 0.15),
    _replay("digits-er", "er+rate=0.1", 0.72),
    _replay("digits-er-ace", "er-ace+rate=0.1", 0.72),
    _replay("digits-der", "der+rate=0.1", 0.5),
    _replay("digits-mir", "mir+rate=0.1", 0.68),
    _replay("digits-uer", "uer", 0.8),
    _replay("digits-pcr", "pcr", 0.82),
    _replay("digits-pec", "pec", 0.9),
    _replay("digits-joint-er", "joint-er+rate=0.1", 0.88),
    _replay("digits-task-er", "er+rate=0.1", 0.88, "digits-task"),
    _replay("digits-rotated-er", "er+rate=0.1", 0.74, "digits-rotated"),
    _stream("stream-kalman", "recurrent-kalman", 0.81),
    _stream("stream-lofi", "recurrent+head.kind=lofi", 0.78),
    _stream("stream-river-tree", "river-tree", 0.71),
    _stream("stream-drift", "drift", 0.74),
    _cell("elstm", 0.75),
    _cell("hgrn", 0.785),
    _cell("lru", 0.81),
    _cell("mingru", 0.74),
    _cell("minlstm", 0.74),
    _cell("rtu", 0.81),
    _cell("s5", 0.83),
    _cell("ssm", 0.76),
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
