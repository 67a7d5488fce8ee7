"""Every scenario by name: a data set and a kind, or a stream. `continual bench NAME` runs one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from continual.datasets.catalog import load
from continual.datasets.dataset import BadData, held_out
from continual.datasets.tables import is_table
from continual.scenarios import splits, streams
from continual.scenarios.scenario import Scenario

KINDS = {
    "class": "class-incremental: new classes in every experience",
    "task": "task-incremental: the same, and a test names its experience",
    "permuted": "domain-incremental: columns in another order each time",
    "rotated": "domain-incremental: pictures turned further each time",
    "domains": "domain-incremental: the sources that the data set names",
    "blurry": "class-incremental with a share of every class elsewhere",
    "gradual": "task-free: classes come and go without a boundary",
}
_CLASSES = ("class", "task", "blurry", "gradual")
_PICTURES = ("class", "task", "permuted", "rotated", "blurry", "gradual")

KINDS_OF: dict[str, tuple[tuple[str, ...], int]] = {
    "digits": (_PICTURES, 2),
    "segments": (_CLASSES, 1),
    "shuttle": (_CLASSES, 1),
    "mnist": (_PICTURES, 2),
    "cifar10": (_PICTURES, 2),
    "cifar100": (_PICTURES, 10),
    "cifar100_sub": (_PICTURES, 10),
    "cifar20_sub": (("domains",), 0),
    "omniglot_small1": (_PICTURES, 17),
    "omniglot": (_PICTURES, 50),
    "tinyimagenet": (_PICTURES, 20),
}
"""Data set -> the kinds that it is offered in, and the classes to an experience."""


def names() -> list[str]:
    """Every scenario."""
    held = [f"{dataset}-{kind}" for dataset, (kinds, _) in KINDS_OF.items() for kind in kinds]
    return held + [f"{stream}-stream" for stream in streams.STREAMS]


def is_scenario(name: str) -> bool:
    """Whether `build` knows the name: one of `names`, or a file of one's own."""
    return name in names() or (is_table(name) and Path(name).is_file())


@dataclass(frozen=True)
class Sizes:
    """What a run may cut; None: the scenario's own.

    Attributes:
        classes: to an experience.
        domains: experiences of a permuted, rotated or gradual scenario.
        events: the most that are learned of an experience; of a stream in all.
        tests: the most examples of a test set.
        blur: share of a class that comes in other experiences.
        label: the column of a file that is predicted.
    """

    classes: int | None = None
    domains: int | None = None
    events: int | None = None
    tests: int | None = None
    blur: float | None = None
    label: str | None = None


def build(name: str, seed: int, sizes: Sizes | None = None, *, tuning: bool = False) -> Scenario:
    """A scenario with the orders of a seed.

    Args:
        name: of `names`, or a file.
        seed: of every order.
        sizes: what is cut.
        tuning: the tests are held out of the training part, which is learned without them; a stream has no tests and
            stays as it is.

    Raises:
        continual.data.NoData: its files are not there.
        BadData: its files, or the sizes, are not what they should be.
    """
    sizes = sizes or Sizes()
    if is_table(name):
        return streams.table(Path(name), sizes.label, sizes.events)
    dataset, _, kind = name.rpartition("-")
    if kind == "stream" and dataset in streams.STREAMS:
        return streams.drift(dataset, sizes.events, seed)
    if dataset not in KINDS_OF or kind not in KINDS_OF[dataset][0]:
        raise BadData(f"no scenario {name!r}; `continual bench --help` lists them")
    cut = splits.Cut(
        seed,
        classes=KINDS_OF[dataset][1] if sizes.classes is None else sizes.classes,
        domains=sizes.domains or 5,
        train=sizes.events,
        test=sizes.tests,
        blur=0.1 if sizes.blur is None else sizes.blur,
    )
    held = held_out(load(dataset)) if tuning else load(dataset)
    if kind in ("class", "task"):
        return splits.by_classes(held, cut, task_given=kind == "task")
    if kind == "blurry":
        return splits.blurry(held, cut)
    return splits.gradual(held, cut) if kind == "gradual" else splits.by_domains(held, cut, kind)
