"""What the partitions of one model give each other of what they have learned, and how a learner takes it on.

A partition publishes what it has learned by itself since its log began. Another one combines what several published
(`combine`) and folds the result as an entry of its own log. By array (`kernels.cpu.layout.EXCHANGED`, and that of the
head):

    averaged    w <- w + s (w' - w),  w' the mean of the others, by the updates that each made since it was last taken,
                s = n' / (n + n') with n' these updates together and n the own ones since the last exchange
    summed      now = own + past + others, in coordinates in which evidence adds up:  now <- own + past + others'
    pooled      the same of running means and variances (Chan, Golub and LeVeque 1983); over a window older events fade,
                wherever they come from, and all partitions together count as much as one that saw everything
    kept        as it is

`others` is what the partitions that live have learned, each by itself, and is replaced as a whole: nothing is counted
twice, and what came late or not at all is in the next exchange. `past` is what was learned before the log began, by
partitions that were split or merged, and what such partitions leave when that happens elsewhere, each once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]

COUNT, MEAN, VARIANCE = range(3)
"""Columns of what is pooled, float64 [R, 3]; the count is of events that still count."""

ROUND, STEPS_AT_BIRTH, STEPS_AT_EXCHANGE, REFUSED = range(4)
"""Entries of `Exchange.counts`."""

PREFIX = "exchange."


class ClassesDiffer(ValueError):  # noqa: N818 - it says what is so
    """Two partitions met their classes in another order: what they know of a class by its number is not the same."""


class Exchanging(Protocol):
    """What a learner offers beside `learners.base.Learner` where `LearnerSpec.check_exchange` does not refuse."""

    exchange: Exchange

    def contribution(self) -> Arrays:
        """What was learned by this learner itself, for others to `combine`."""

    def receive(self, received: Arrays) -> None:
        """Folds an exchange; total: what cannot be taken on changes nothing and is counted."""

    def begin_apart(self, parent: str) -> None:
        """Counts all that is known as learned by others: by the partition `parent`, and those that it had it from."""


class Quantities(NamedTuple):
    """What a learner exchanges, by law and name; along the first axis by class, of length one where there are none."""

    averaged: Arrays
    """In the type of the weights, or in float64."""
    summed: Arrays
    """float64."""
    pooled: Arrays
    """float64 [R, 3]; see `COUNT`. The count may be larger than the window."""


@dataclass(frozen=True)
class Taken:
    """Whose knowledge is in a learner.

    Attributes:
        live: of partitions that live, the updates that each had made by itself when it was taken.
        retired: partitions that do not live any more, whose knowledge is there for good.
    """

    live: Mapping[str, int] = field(default_factory=dict)
    retired: tuple[str, ...] = ()

    def to_array(self) -> np.ndarray:
        """uint8: as JSON."""
        said = {"live": dict(sorted(self.live.items())), "retired": sorted(self.retired)}
        return np.frombuffer(json.dumps(said).encode(), np.uint8)

    @classmethod
    def from_array(cls, array: np.ndarray) -> Taken:
        """The inverse of `to_array`."""
        said = json.loads(bytes(array))
        return cls(said["live"], tuple(said["retired"]))


# Running means and variances over a window


def _joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The statistics of the events of both."""
    count = a[:, COUNT] + b[:, COUNT]
    share = np.divide(b[:, COUNT], count, out=np.zeros(len(a)), where=count > 0)
    off = b[:, MEAN] - a[:, MEAN]
    variance = a[:, VARIANCE] + (b[:, VARIANCE] - a[:, VARIANCE]) * share + off * off * (share * (1.0 - share))
    return np.stack([count, a[:, MEAN] + off * share, variance], axis=1)


def _without(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The statistics of the events of `a` that are not among those of `b`; of less than half an event nothing."""
    count = a[:, COUNT] - b[:, COUNT]
    some = count >= 0.5
    share = np.divide(b[:, COUNT], a[:, COUNT], out=np.zeros(len(a)), where=some)
    mean = a[:, MEAN] + (a[:, MEAN] - b[:, MEAN]) * (share / (1.0 - share))
    off = b[:, MEAN] - mean
    variance = (a[:, VARIANCE] - share * b[:, VARIANCE]) / (1.0 - share) - off * off * share
    rest = np.stack([count, mean, np.maximum(variance, 0.0)], axis=1)
    return np.where(some[:, None], rest, 0.0)


def _weighted(a: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The statistics of `factor` [R] times as many events."""
    return np.column_stack([a[:, COUNT] * factor, a[:, MEAN:]])


def _kept_of(count: np.ndarray, before: np.ndarray, window: float) -> np.ndarray:
    """What share of older events still counts where the count went from `before` to `count`: (1 - 1 / window)^n.

    The power is by squaring: the bits of a library's may differ between machines.
    """
    passed = np.floor(np.maximum(count - np.maximum(before, window), 0.0)).astype(np.int64)
    kept, square = np.ones(len(count)), np.full(len(count), 1.0 - 1.0 / window)
    while passed.any():
        kept = np.where(passed & 1, kept * square, kept)
        square, passed = square * square, passed >> 1
    return kept


@dataclass
class Exchange:
    """What a learner keeps for the exchange: state, and part of every snapshot.

    Attributes:
        window: of what is pooled, in events.
        counts: int64 [4]: exchanges folded, updates when the log began and at the last exchange, exchanges that could
            not be taken on.
        taken: whose knowledge is in the learner.
        others: what partitions that live have learned, by law and name.
        past: what others had learned before.
        at: the counts of what is pooled at the last exchange.
    """

    window: float
    counts: np.ndarray = field(default_factory=lambda: np.zeros(4, np.int64))
    taken: Taken = field(default_factory=Taken)
    others: Arrays = field(default_factory=dict)
    past: Arrays = field(default_factory=dict)
    at: Arrays = field(default_factory=dict)

    def arrays(self) -> Arrays:
        """All of it by name."""
        held = {"counts": self.counts, "taken": self.taken.to_array()}
        for group in ("others", "past", "at"):
            held |= {f"{group}.{name}": array for name, array in getattr(self, group).items()}
        return {PREFIX + name: array for name, array in held.items()}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The inverse of `arrays`."""
        held = {name.removeprefix(PREFIX): np.array(a) for name, a in arrays.items() if name.startswith(PREFIX)}
        self.counts, self.taken = held["counts"], Taken.from_array(held["taken"])
        for group in ("others", "past", "at"):
            of = {name: array for name, array in held.items() if name.startswith(group + ".")}
            setattr(self, group, {name.removeprefix(group + "."): array for name, array in of.items()})

    # What was learned by the learner itself

    def contribution(self, now: Quantities, steps: int) -> Arrays:
        """See `Exchanging`; `steps` are the updates that the learner made."""
        out: Arrays = {"steps": np.array([steps - self.counts[STEPS_AT_BIRTH]])}
        out |= {f"averaged.{name}": array for name, array in now.averaged.items()}
        out |= {f"summed.{name}": self._own(name, array) for name, array in now.summed.items()}
        out |= {f"pooled.{name}": self._own_pooled(name, array)[0] for name, array in now.pooled.items()}
        return out

    def _own(self, name: str, now: np.ndarray) -> np.ndarray:
        return now - _filled(self.others.get(name), now) - _filled(self.past.get(name), now)

    def _own_pooled(self, name: str, now: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of what is pooled: the own part, the past and what others gave, as far as each still counts."""
        counted = now.copy()
        counted[:, COUNT] = np.minimum(now[:, COUNT], self.window)
        kept = _kept_of(now[:, COUNT], _filled(self.at.get(name), now[:, COUNT]), self.window)
        past, others = (_weighted(_filled(held.get(name), now), kept) for held in (self.past, self.others))
        return _without(counted, _joined(past, others)), past, others

    def begin_apart(self, now: Quantities, steps: int, parent: str) -> None:
        """See `Exchanging`."""
        self.past = {name: array - _filled(self.others.get(name), array) for name, array in now.summed.items()}
        for name, array in now.pooled.items():
            own, past, others = self._own_pooled(name, array)
            self.past[name], self.others[name] = _joined(own, past), others
            self.at[name] = array[:, COUNT].copy()
        self.counts[[STEPS_AT_BIRTH, STEPS_AT_EXCHANGE]] = steps
        self.taken = Taken(self.taken.live, (*self.taken.retired, parent))

    # What others have learned

    def received(self, now: Quantities, steps: int, known: int, given: Arrays) -> tuple[Quantities, Exchange]:
        """What becomes of `now`, and of this.

        Args:
            now: with rows for all classes that `given` has.
            steps: updates that the learner made.
            known: classes that the learner knew by itself, at least 1.
            given: of `combine`.
        """
        after = Exchange(self.window, self.counts.copy(), Taken.from_array(given["taken"]))
        mine = float(steps - self.counts[STEPS_AT_EXCHANGE])
        theirs = given["learned"]
        share = np.divide(theirs, theirs + mine, out=np.zeros(len(theirs)), where=theirs > 0)
        share[known:] = np.minimum(theirs[known:], 1.0)  # of a class that is new here they know everything
        averaged, summed, pooled = dict(now.averaged), {}, {}
        for name, array in now.averaged.items():
            if (other := given.get(f"averaged.{name}")) is not None:
                averaged[name] = _moved(array, other, share)
        for name, array in now.summed.items():
            own, past = self._own(name, array), _filled(self.past.get(name), array)
            past = past + _filled(given.get(f"retired.summed.{name}"), array)
            after.others[name] = others = _filled(given.get(f"summed.{name}"), array)
            after.past[name] = past
            summed[name] = own + past + others
        for name, array in now.pooled.items():
            own, past, _ = self._own_pooled(name, array)
            past = _joined(past, _filled(given.get(f"retired.pooled.{name}"), array))
            others = _filled(given.get(f"pooled.{name}"), array)
            pooled[name] = whole = _joined(_joined(own, past), others)
            fits = np.divide(self.window, whole[:, COUNT], out=np.ones(len(whole)), where=whole[:, COUNT] > self.window)
            after.past[name], after.others[name] = _weighted(past, fits), _weighted(others, fits)
            after.at[name] = whole[:, COUNT].copy()
        after.counts[STEPS_AT_EXCHANGE] = steps
        return Quantities(averaged, summed, pooled), after


def _filled(array: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """float64, with zeros for the rows that it lacks, as of classes; all of it where there is none."""
    out = np.zeros(like.shape)
    if array is not None:
        out[: len(array)] = array
    return out


def _moved(array: np.ndarray, other: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`array` with its first rows moved towards those of `other`, by the `share` of each."""
    out, rows = array.copy(), len(other)
    towards = share[:rows].reshape(-1, *[1] * (array.ndim - 1))
    out[:rows] = array[:rows] + towards * (other.astype(np.float64) - array[:rows])
    return out


# Of several partitions


def classes_of(arrays: Mapping[str, np.ndarray]) -> list[int | str]:
    """The classes that a contribution, or what was combined, has rows for."""
    return json.loads(bytes(arrays["classes"]))


def combine(
    round: int, classes: tuple[int | str, ...], taken: Taken, live: Mapping[str, Arrays], retired: Mapping[str, Arrays]
) -> Arrays:
    """What several partitions have learned, for one other to fold.

    Args:
        round: of the exchange, the number of those before it plus 1.
        classes: that the receiver knows.
        taken: of the receiver.
        live: contributions of all other partitions that have published any, by id.
        retired: those of partitions that do not live any more; what is in `taken` is left out.

    Raises:
        ClassesDiffer: two of them do not begin with the same classes.
    """
    retired = {id: one for id, one in retired.items() if id not in taken.retired}
    parts = dict(sorted(live.items(), key=lambda one: (len(one[0]), one[0])))
    known = {id: classes_of(one) for id, one in {**parts, **retired}.items()}
    most = max([list(classes), *known.values()], key=len)
    for id, some in known.items():
        if some != most[: len(some)] or list(classes) != most[: len(classes)]:
            raise ClassesDiffer(f"partition {id!r} met its classes in another order")
    steps = {id: int(one["steps"][0]) for id, one in parts.items()}
    new = {id: float(max(0, count - taken.live.get(id, 0))) for id, count in steps.items()}
    learned = np.zeros(max(1, len(most)))
    for id, count in new.items():
        learned[: max(1, len(known[id]))] += count
    out: Arrays = {
        "round": np.array([round]),
        "taken": Taken(steps, tuple({*taken.retired, *retired})).to_array(),
        "classes": np.frombuffer(json.dumps(most).encode(), np.uint8),
        "learned": learned,
    }
    for name in dict.fromkeys(name for one in parts.values() for name in one):
        if name.startswith("averaged."):
            out[name] = _mean([(one[name], new[id]) for id, one in parts.items()])
    for prefix, group in (("", parts), ("retired.", retired)):
        for name in dict.fromkeys(name for one in group.values() for name in one):
            if name.startswith("summed."):
                out[prefix + name] = _sum([one[name] for one in group.values()])
            elif name.startswith("pooled."):
                out[prefix + name] = _pool([one[name] for one in group.values()])
    return out


def _mean(parts: list[tuple[np.ndarray, float]]) -> np.ndarray:
    """The mean of each row over those that have it, weighted."""
    first = max((array for array, _ in parts), key=len)
    mean, total = np.zeros(first.shape), np.zeros(len(first))
    for array, weight in parts:
        rows = len(array)
        total[:rows] += weight
        share = np.divide(weight, total[:rows], out=np.zeros(rows), where=total[:rows] > 0)
        mean[:rows] += share.reshape(-1, *[1] * (array.ndim - 1)) * (array - mean[:rows])
    return mean.astype(first.dtype)


def _sum(parts: list[np.ndarray]) -> np.ndarray:
    whole = max(parts, key=len)
    total = np.zeros(whole.shape)
    for array in parts:
        total[: len(array)] += array
    return total


def _pool(parts: list[np.ndarray]) -> np.ndarray:
    """Rows that a part lacks, as those of earlier versions do, have seen nothing."""
    longest = max(parts, key=len)
    whole = _filled(parts[0], longest)
    for array in parts[1:]:
        whole = _joined(whole, _filled(array, longest))
    return whole
