"""A data set as experiences: by classes, by domains, blurred, or gradually. Every order is drawn from the seed.

Draws are Philox at keys (seed, purpose): the same seed gives the same scenario, whatever else is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from continual.datasets.dataset import BadData, Dataset, Part
from continual.scenarios.scenario import Experience, Mixed, Rows, Scenario, Transform

ORDER, ROWS, TEST, PERMUTE, BLUR, ARRIVE, MIX = range(7)
"""Purposes of draws."""


def draws(seed: int, purpose: int, part: int = 0) -> np.random.Generator:
    """The generator of a purpose."""
    return np.random.Generator(np.random.Philox(key=[seed, 7919 * (purpose + 1) + part]))


@dataclass(frozen=True)
class Permuted:
    """Columns in another order."""

    order: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """See `Transform`."""
        return np.ascontiguousarray(x[:, self.order])


class Rotated:
    """Pictures turned about their middle, between pixels linearly; outside of the picture is 0."""

    def __init__(self, degrees: float, shape: tuple[int, ...]) -> None:
        height, width = shape[-2:]
        angle = np.deg2rad(degrees)
        row, column = np.mgrid[:height, :width] - np.array([(height - 1) / 2, (width - 1) / 2])[:, None, None]
        from_row = np.cos(angle) * row + np.sin(angle) * column + (height - 1) / 2
        from_column = -np.sin(angle) * row + np.cos(angle) * column + (width - 1) / 2
        self._corners = []
        for down in (0, 1):
            for right in (0, 1):
                r, c = np.floor(from_row + 1e-9).astype(int) + down, np.floor(from_column + 1e-9).astype(int) + right
                weight = (1 - np.abs(from_row - r)) * (1 - np.abs(from_column - c))
                inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (weight > 1e-9)
                place = np.where(inside, r * width + c, 0)
                self._corners.append((place.ravel(), np.where(inside, weight, 0).ravel().astype(np.float32)))
        self._planes = (int(np.prod(shape[:-2], dtype=int)), height * width)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """See `Transform`."""
        planes = x.reshape(len(x), *self._planes)
        turned = np.sum([planes[:, :, place] * weight for place, weight in self._corners], axis=0)
        return np.ascontiguousarray(turned.reshape(x.shape), np.float32)


@dataclass(frozen=True)
class Cut:
    """Sizes that a scenario is cut to.

    Attributes:
        seed: of every order.
        classes: to an experience.
        domains: experiences of a permuted, rotated or gradual scenario.
        train: the most events of an experience; None: all.
        test: the most examples of a test set; None: all.
        blur: share of a class's events that come in other experiences.
    """

    seed: int
    classes: int
    domains: int = 5
    train: int | None = None
    test: int | None = None
    blur: float = 0.1


def groups(dataset: Dataset, cut: Cut) -> list[np.ndarray]:
    """The classes in the order of the seed, `cut.classes` at a time; the last group may be smaller.

    Raises:
        BadData: there would be a single experience.
    """
    if not 1 <= cut.classes < dataset.classes:
        raise BadData(
            f"{dataset.name} has {dataset.classes} classes: {cut.classes} to an experience, accepted: 1 to "
            f"{dataset.classes - 1}"
        )
    order = draws(cut.seed, ORDER).permutation(dataset.classes)
    return [order[at : at + cut.classes] for at in range(0, dataset.classes, cut.classes)]


def _rows(dataset: Dataset, part: Part, rows: np.ndarray, transform: Transform | None = None) -> Rows:
    return Rows(part, rows, dataset.scale, tuple(range(dataset.classes)), transform)


def _experience(
    dataset: Dataset,
    cut: Cut,
    number: int,
    name: str,
    train: np.ndarray,
    test: np.ndarray,
    transform: Transform | None = None,
) -> Experience:
    """Rows of training in a drawn order, rows of the test cut to a drawn sample."""
    learned = draws(cut.seed, ROWS, number).permutation(train)[: cut.train]
    asked = np.sort(draws(cut.seed, TEST, number).permutation(test)[: cut.test])
    classes = tuple(np.unique(dataset.test.y[asked]).tolist())
    return Experience(
        name, _rows(dataset, dataset.train, learned, transform), _rows(dataset, dataset.test, asked, transform), classes
    )


def _scenario(
    dataset: Dataset, kind: str, title: str, protocol: str, experiences: list[Experience], **more: Any
) -> Scenario:
    return Scenario(
        f"{dataset.name}-{kind}",
        title,
        protocol,
        tuple(experiences),
        dataset.features,
        "multiclass",
        tuple(range(dataset.classes)),
        dataset.shape,
        **more,
    )


def _named(dataset: Dataset, classes: np.ndarray) -> str:
    names = [dataset.labels[label] for label in classes.tolist()]
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def by_classes(dataset: Dataset, cut: Cut, *, task_given: bool = False) -> Scenario:
    """Class-incremental: every experience brings classes that were not there before and do not come again.

    With `task_given` it is task-incremental: a test names its experience, and only its classes are chosen among.
    """
    experiences = [
        _experience(
            dataset,
            cut,
            number,
            _named(dataset, classes),
            np.flatnonzero(np.isin(dataset.train.y, classes)),
            np.flatnonzero(np.isin(dataset.test.y, classes)),
        )
        for number, classes in enumerate(groups(dataset, cut))
    ]
    kind = "task" if task_given else "class"
    asked = "A prediction chooses among the classes of the test's own experience (the task is given)."
    free = "A prediction chooses among all classes met so far; no learner is told where an experience begins."
    return _scenario(
        dataset,
        kind,
        f"{dataset.name}, {kind}-incremental: {len(experiences)} experiences of up to {cut.classes} classes",
        f"The classes come {cut.classes} at a time, in an order drawn from the seed, every example once. "
        + (asked if task_given else free),
        experiences,
        task_given=task_given,
    )


def by_domains(dataset: Dataset, cut: Cut, kind: str) -> Scenario:
    """Domain-incremental: the same classes, seen another way in every experience.

    Args:
        dataset: of pictures for "rotated", with domains of its own for "domains".
        cut: sizes.
        kind: "permuted": columns in another order; "rotated": turned by 180/T degrees more each time; "domains": the
            sources that the data set names.

    Raises:
        BadData: the data set has no pictures, or no domains.
    """
    train, test = np.arange(len(dataset.train)), np.arange(len(dataset.test))
    experiences = []
    count = dataset.domains if kind == "domains" else cut.domains
    for number in range(count):
        transform: Transform | None = None
        here, there, name = train, test, f"domain {number + 1}"
        if kind == "domains":
            assert dataset.train.domain is not None
            assert dataset.test.domain is not None
            here, there = (np.flatnonzero(part.domain == number) for part in (dataset.train, dataset.test))
        elif kind == "permuted":
            name = f"order {number + 1}" if number else "order as it is"
            columns = np.arange(dataset.train.x.shape[1])
            transform = Permuted(draws(cut.seed, PERMUTE, number).permutation(columns)) if number else None
        else:
            if len(dataset.shape) < 2:
                raise BadData(f"{dataset.name} holds no pictures, shape {dataset.shape}: it cannot be rotated")
            name = f"{180 * number / count:g} degrees"
            transform = Rotated(180 * number / count, dataset.shape) if number else None
        experiences.append(_experience(dataset, cut, number, name, here, there, transform))
    if len(experiences) < 2:
        raise BadData(f"{dataset.name}: {len(experiences)} domains, accepted: 2 and more")
    what = {
        "permuted": "Every experience has all classes, its columns in an order of its own.",
        "rotated": f"Every experience has all classes, turned by {180 / count:g} degrees more than the one before.",
        "domains": "Every experience has all classes, from another of the sources that the data set names.",
    }[kind]
    return _scenario(
        dataset,
        kind,
        f"{dataset.name}, domain-incremental ({kind}): {len(experiences)} experiences",
        f"{what} No learner is told which domain an example is from.",
        experiences,
    )


def blurry(dataset: Dataset, cut: Cut) -> Scenario:
    """As class-incremental, but a share of every class's events is dealt evenly to the other experiences."""
    held = groups(dataset, cut)
    home = np.zeros(dataset.classes, np.int64)
    for number, classes in enumerate(held):
        home[classes] = number
    draw = draws(cut.seed, BLUR)
    where = home[dataset.train.y]
    away = draw.uniform(size=len(where)) < cut.blur
    where = np.where(away, (where + draw.integers(1, len(held), len(where))) % len(held), where)
    experiences = [
        _experience(
            dataset,
            cut,
            number,
            f"mostly {_named(dataset, classes)}",
            np.flatnonzero(where == number),
            np.flatnonzero(np.isin(dataset.test.y, classes)),
        )
        for number, classes in enumerate(held)
    ]
    return _scenario(
        dataset,
        "blurry",
        f"{dataset.name}, blurry: {len(held)} experiences of {cut.classes} classes and {cut.blur:.0%} of the others",
        f"The classes come {cut.classes} at a time, but {cut.blur:.0%} of every class is spread over the other "
        "experiences. The test of an experience is of its main classes. A prediction chooses among all classes met so "
        "far.",
        experiences,
    )


def gradual(dataset: Dataset, cut: Cut) -> Scenario:
    """Task-free: classes come and go gradually, and no boundary exists.

    Every event of the k-th class of K has a time drawn from N((k + 1/2) / K, 1/K); events come in order of time. The
    stream is cut into equal parts for the accuracy matrix alone.
    """
    order = draws(cut.seed, ORDER).permutation(dataset.classes)
    rank = np.argsort(order)
    place = (rank[dataset.train.y] + 0.5) / dataset.classes
    time = place + draws(cut.seed, ARRIVE).normal(size=len(place)) / dataset.classes
    count = min(cut.domains, dataset.classes)
    pieces = np.array_split(np.argsort(time, kind="stable"), count)
    experiences = []
    for number, (rows, classes) in enumerate(zip(pieces, np.array_split(order, count))):
        name = f"around {_named(dataset, classes)}"
        asked = _experience(dataset, cut, number, name, rows, np.flatnonzero(np.isin(dataset.test.y, classes)))
        kept = np.linspace(0, len(rows) - 1, min(cut.train or len(rows), len(rows))).astype(int)
        experiences.append(replace(asked, train=_rows(dataset, dataset.train, rows[kept])))
    return _scenario(
        dataset,
        "gradual",
        f"{dataset.name}, task-free: {dataset.classes} classes that come and go gradually",
        "Classes come and go in an order drawn from the seed, each around its own time, several at once; there is no "
        f"boundary. The stream is cut into {count} equal parts to read accuracies, and the test of part j is of the "
        "j-th share of the classes in that order. A prediction chooses among all classes met so far.",
        experiences,
    )


def shuffled(scenario: Scenario, seed: int) -> Scenario:
    """The same events in a random order: what a learner reaches without the order, its upper bound.

    Experiences keep their lengths and tests, so that the bench reads the same points.

    Raises:
        BadData: it is a stream, whose order is what it is about.
    """
    parts = tuple(one.train for one in scenario.experiences if isinstance(one.train, Rows))
    if len(parts) < len(scenario.experiences):
        raise BadData(f"{scenario.name} is a stream; only scenarios with tests can be shuffled")
    lengths = [len(one.train) for one in scenario.experiences]
    which = np.repeat(np.arange(len(lengths)), lengths)
    row = np.concatenate([np.arange(length) for length in lengths])
    order = draws(seed, MIX).permutation(len(which))
    ends = np.cumsum(lengths)
    experiences = [
        replace(one, train=Mixed(parts, which[order[end - length : end]], row[order[end - length : end]]))
        for one, length, end in zip(scenario.experiences, lengths, ends)
    ]
    return replace(scenario, experiences=tuple(experiences))
