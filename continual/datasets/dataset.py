"""A data set: labelled examples in memory, in two parts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


class BadData(ValueError):  # noqa: N818 - named after what is wrong
    """A file is not what it should be; the message names it, what was found, and what is accepted."""


@dataclass(frozen=True)
class Part:
    """Examples and their labels.

    Attributes:
        x: uint8 or float32 [n, d].
        y: int64 [n], classes from 0.
        domain: int64 [n], where the data set says which of several sources an example is from; else None.
    """

    x: np.ndarray
    y: np.ndarray
    domain: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Dataset:
    """A training and a test part of the same classes.

    Attributes:
        name: a file name.
        train, test: the parts.
        labels: the names of the classes.
        shape: of one example: (height, width), (channels, height, width), or (columns,).
        scale: what the values are multiplied by before a learner sees them (1/255 for bytes).

    Raises:
        BadData: a class has no example in one of the parts, a label is outside the classes, or lengths differ.
    """

    name: str
    train: Part
    test: Part
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    scale: float = 1.0

    def __post_init__(self) -> None:
        size = int(np.prod(self.shape))
        for what, part in (("training", self.train), ("test", self.test)):
            if part.x.shape != (len(part.y), size):
                raise BadData(f"{self.name}: {what} examples {part.x.shape}, accepted: {(len(part.y), size)}")
            if len(part.y) and not 0 <= part.y.min() <= part.y.max() < len(self.labels):
                raise BadData(
                    f"{self.name}: {what} labels from {part.y.min()} to {part.y.max()}, accepted: 0 to "
                    f"{len(self.labels) - 1}"
                )
            absent = np.flatnonzero(np.bincount(part.y, minlength=len(self.labels)) == 0).tolist()
            if absent:
                names = ", ".join(f"{label} ({self.labels[label]})" for label in absent[:5])
                raise BadData(f"{self.name}: {len(absent)} classes without a {what} example, the first: {names}")

    @property
    def classes(self) -> int:
        """How many there are."""
        return len(self.labels)

    @property
    def domains(self) -> int:
        """How many the training part names; 0: none."""
        return 0 if self.train.domain is None else int(self.train.domain.max()) + 1

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns, in the order of `Part.x`."""
        return tuple(f"x{column}" for column in range(int(np.prod(self.shape))))


def split(
    name: str, x: np.ndarray, y: np.ndarray, labels: tuple[str, ...], shape: tuple[int, ...], *, scale: float = 1.0
) -> Dataset:
    """A data set that comes in one piece: of each class every fifth example, in their order, is for the test."""
    return _cut(name, Part(x, y.astype(np.int64)), labels, shape, scale)


def held_out(dataset: Dataset) -> Dataset:
    """The training part alone, a fifth of it as the test: what is chosen on it has not seen the test.

    Raises:
        BadData: a class has fewer than five examples.
    """
    return _cut(dataset.name, dataset.train, dataset.labels, dataset.shape, dataset.scale)


def _cut(name: str, whole: Part, labels: tuple[str, ...], shape: tuple[int, ...], scale: float) -> Dataset:
    test = np.zeros(len(whole), bool)
    for label in range(len(labels)):
        test[np.flatnonzero(whole.y == label)[4::5]] = True
    train, held = (
        Part(np.ascontiguousarray(whole.x[rows]), whole.y[rows], None if whole.domain is None else whole.domain[rows])
        for rows in (~test, test)
    )
    return Dataset(name, train, held, labels, shape, scale)
