"""The clock of a partition, which an event whose own clock is wrong does not move.

    step    time since the event before;  pace <- pace 1.1 where step > pace, else pace 0.9   (a median)
    away    an event more than `AHEAD` paces, and more than `LEAST_AHEAD`, from the clock, either way

An event that is away counts as one without a time, unless it is the `LASTS`-th in a row, each within that distance of
the one before: then the stream has jumped, and its time is the clock. So one event moves the pace by a tenth, and the
clock by at most `AHEAD` paces or `LEAST_AHEAD`. The first pace is the first step, unless the event after it is back.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.layout import T_AWAY, T_CLOCK, T_LAST_TIME, T_PACE, T_UPDATED_AT
from kernels.cpu.numerics import INLINE, SHORT

AHEAD = 1000.0
"""Paces of the stream by which a clock may differ from the others."""

LEAST_AHEAD = 3.6e9
"""Microseconds, an hour: a clock may always differ by so much."""

LASTS = 16.0
"""Events in a row after which a jump of the stream is believed."""


@nb.njit(**INLINE)
def allowed(target):
    """How far a time may lie from the clock of the partition."""
    return max(LEAST_AHEAD, AHEAD * target[T_PACE])


@nb.njit(**INLINE)
def told_time(target, time):
    """`time`, int64 in microseconds, or 0 where the clock that it comes from is wrong; changes nothing."""
    at, clock = float(time), target[T_CLOCK]
    if time <= 0 or clock <= 0.0 or abs(at - clock) <= allowed(target):
        return time
    follows = abs(at - target[T_LAST_TIME]) <= allowed(target)
    return time if follows and target[T_AWAY] + 1.0 >= LASTS else 0


@nb.njit(**INLINE)
def keep_time(target, time):
    """Moves the clock by an event at `time`."""
    if time <= 0:
        return
    at, clock, most = float(time), target[T_CLOCK], allowed(target)
    step = at - target[T_LAST_TIME]
    if clock > 0.0 and abs(at - clock) > most:
        target[T_AWAY] = target[T_AWAY] + 1.0 if target[T_AWAY] > 0.0 and abs(step) <= most else 1.0
        if target[T_AWAY] >= LASTS:
            target[T_CLOCK], target[T_AWAY] = at, 0.0
            target[T_UPDATED_AT] = min(target[T_UPDATED_AT], at)
    else:
        if step < 0.0 and target[T_AWAY] == 1.0 and target[T_PACE] == target[T_LAST_TIME] - clock:
            target[T_PACE] = 0.0  # the only step there was, and it went away
        target[T_CLOCK] = at if at > clock else clock
        target[T_AWAY] = 0.0
    if step > 0.0 and target[T_LAST_TIME] > 0.0:
        pace = target[T_PACE]
        target[T_PACE] = step if pace == 0.0 else pace * (1.1 if step > pace else 0.9)
    target[T_LAST_TIME] = at


@nb.njit(**INLINE)
def time_of_key(target, latest):
    """The largest time of a key's events, or 0 where it lies so far ahead that it came from a wrong clock."""
    return 0.0 if target[T_CLOCK] > 0.0 and latest - target[T_CLOCK] > allowed(target) else latest


@nb.njit(**SHORT)
def times(target, time, latest):
    """For Python: (`told_time`, `time_of_key`) of an event at `time` whose key's latest is `latest`."""
    return told_time(target, time), time_of_key(target, latest)


@nb.njit(**SHORT)
def keep(target, time):
    """For Python: `keep_time`."""
    keep_time(target, time)
