"""Which event stops a fold, and how sure that is: nothing is set aside unless it failed alone, twice.

A fold that fails says that one of its events may be at fault. The next attempt folds them one by one from the state
before; the event that fails then has failed alone. The attempt after that begins at the snapshot again and folds
everything before this event as usual and the event alone: if it fails again it is set aside, moved to the dead letters
and passed over by every later replay. Folds are deterministic, so an event that is at fault fails each time; one that
passes is not at fault, and nothing is held against it.

What counts as a failure: an exception that the fold raised, here or in a process of the trial, and a process of the
trial that ended by itself in the midst of the fold (see `service.shard.trial`). The death of the shard itself never
counts; it only makes suspects of the partitions that were replaying.
"""

from __future__ import annotations

import logging

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.shard.failures import FoldFailed, Unrecoverable
from service.shard.partition import Partition
from service.shard.recovery import Logged, decoded
from service.shard.requests import LEARN
from service.wire import take_columns

log = logging.getLogger(__name__)

MOST_IN_A_ROW = 32
"""Events set aside one after the other, at most. If the next one fails too, then the state is at fault, or the learner:
setting aside all that ever come would help nobody."""

MOST_UNDECIDED = 32
"""Failures without finding an event that fails alone twice, and without getting further in the log, at most."""


class Evidence:
    """What is known of the failures of one partition.

    Attributes:
        apart: positions [first, second) whose events the next attempt folds one by one.
        failed: whether anything failed yet, so that rows of a fold that failed may be left.
        set_aside: events that were set aside.
    """

    def __init__(self) -> None:
        self.apart = (0, 0)
        self.failed = False
        self.set_aside = 0
        self._alone = -1
        self._undecided = 0
        self._furthest = -1

    def note(self, failure: FoldFailed) -> int | None:
        """Takes a failure; returns the position of the event that has now failed alone twice, if it is one.

        Raises:
            Unrecoverable: folds fail, but not twice at the same event.
        """
        self.failed = True
        first, end = failure.first, failure.first + failure.count
        if failure.count == 1 and first == self._alone:
            self.apart, self._alone, self._undecided = (0, 0), -1, 0
            self.set_aside += 1
            return first
        self._undecided = 1 if first > self._furthest else self._undecided + 1  # what failed before has passed
        self._furthest = max(first, self._furthest)
        if self._undecided > MOST_UNDECIDED:
            raise Unrecoverable(f"{failure}; so did folds before it, each at another event, and none at the same twice")
        self._alone = first if failure.count == 1 else -1
        self.apart = first, end
        return None


def set_aside(partition: Partition, position: int, reason: str) -> None:
    """Moves an event to the dead letters: every replay from now on passes over it.

    Raises:
        Unrecoverable: the events before it were set aside too, all `MOST_IN_A_ROW` of them.
        service.store.errors.StoreError: the store cannot serve, or another owner took over.
    """
    p = partition
    before = p.store.quarantined()
    row = next((row for row in range(MOST_IN_A_ROW) if position - 1 - row not in before), MOST_IN_A_ROW)
    if row >= MOST_IN_A_ROW:
        raise Unrecoverable(
            f"the fold of the event at position {position} {reason}; the {row} events before it were set aside for "
            "the like, so that the state or the learner is at fault, not they"
        )
    (entry,) = (one for one in p.store.read(position, position + 1) if one.count)
    message = message_of(decoded(entry, p.schema), position - entry.position)
    why = f"its fold {reason}, twice, alone"
    if p.store.quarantine(p.token, position, why, message):
        log.error("model %s: the event at position %d is set aside as a dead letter: %s", p.name, position, why)


def message_of(requests: list[Logged], row: int) -> bytes:
    """The logged request that row `row` of an entry came with, without other rows."""
    for one in requests:
        if row < len(one.batch):
            if one.producer is None:
                return one.message
            request = pb.LearnRequest.FromString(one.message[1:])
            request.columns.CopyFrom(take_columns(request.columns, np.array([row])))
            request.ClearField("number")
            return LEARN + request.SerializeToString()
        row -= len(one.batch)
    raise IndexError(row)
