"""What a scenario is: events in the order in which they are learned, cut into experiences, and a test set for each.

Nothing is copied until it is asked for: an experience is rows of a data set, a transformation, and an order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from continual.datasets.dataset import Part
from streams.batch import Batch, LabelValue
from streams.mapping import TargetKind


class Transform(Protocol):
    """Changes examples, each on its own."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [n, d] to float32 [n, d]."""


class Events(Protocol):
    """Labelled events in an order."""

    def __len__(self) -> int:
        """How many."""

    def labels(self) -> np.ndarray:
        """float64 [n], as `Batch.y` holds them."""

    def batch(self, start: int, stop: int) -> Batch:
        """Events `start` to `stop`, as they are learned."""


@dataclass(frozen=True)
class Rows:
    """Rows of a part of a data set.

    Attributes:
        part: of the data set.
        rows: int64 [n], which, in order.
        scale: of the values.
        classes: labels that `Part.y` numbers.
        transform: of the scaled values; None: as they are.
    """

    part: Part
    rows: np.ndarray
    scale: float
    classes: tuple[int, ...]
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self) -> np.ndarray:
        """See `Events`."""
        return self.part.y[self.rows].astype(np.float64)

    def batch(self, start: int, stop: int) -> Batch:
        """See `Events`."""
        return self.take(np.arange(start, min(stop, len(self))))

    def take(self, places: np.ndarray) -> Batch:
        """The events at these places, in this order."""
        rows = self.rows[places]
        x = self.part.x[rows].astype(np.float32) * np.float32(self.scale)
        if self.transform is not None:
            x = self.transform(x)
        return Batch.of(x, self.part.y[rows].astype(np.float64), classes=self.classes)


@dataclass(frozen=True)
class Mixed:
    """Events of several in one order.

    Attributes:
        parts: where they are from.
        which, row: int64 [n], the part of each event, and its place there.
    """

    parts: tuple[Rows, ...]
    which: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.which)

    def labels(self) -> np.ndarray:
        """See `Events`."""
        y = np.empty(len(self))
        for number, part in enumerate(self.parts):
            here = self.which == number
            y[here] = part.labels()[self.row[here]]
        return y

    def batch(self, start: int, stop: int) -> Batch:
        """See `Events`."""
        which, row = self.which[start:stop], self.row[start:stop]
        x = np.empty((len(which), self.parts[0].part.x.shape[1]), np.float32)
        y = np.empty(len(which))
        for number in np.unique(which).tolist():
            here = which == number
            some = self.parts[number].take(row[here])
            x[here], y[here] = some.x, some.y
        return Batch.of(x, y, classes=self.parts[0].classes)


@dataclass(frozen=True)
class Given:
    """Events that are there already."""

    events: Batch

    def __len__(self) -> int:
        return len(self.events)

    def labels(self) -> np.ndarray:
        """See `Events`."""
        return self.events.y

    def batch(self, start: int, stop: int) -> Batch:
        """See `Events`."""
        return self.events.slice(start, min(stop, len(self)))


@dataclass(frozen=True)
class Experience:
    """One part of a scenario.

    Attributes:
        name: what it holds, in a few words.
        train: what is learned, in order.
        test: what is asked, at any time; None in a stream, whose only test is its next event.
        classes: indices of the classes of the test.
    """

    name: str
    train: Events
    test: Events | None
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Scenario:
    """Experiences in order.

    Attributes:
        name: of the catalog.
        title: one line.
        protocol: what is learned and asked, in sentences for the reader of a table.
        experiences: in order.
        features: names of the columns.
        target: what is predicted.
        labels: the classes, as events name them; empty for numbers.
        shape: of one example.
        missing: names of the columns in which a value may be missing.
        task_given: a prediction for a test set chooses among the classes of its experience only.
    """

    name: str
    title: str
    protocol: str
    experiences: tuple[Experience, ...]
    features: tuple[str, ...]
    target: TargetKind
    labels: tuple[LabelValue, ...]
    shape: tuple[int, ...]
    task_given: bool = False
    missing: tuple[str, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether there are test sets."""
        return self.experiences[0].test is not None

    @property
    def events(self) -> int:
        """Events that are learned."""
        return sum(len(one.train) for one in self.experiences)
