"""The clock of a partition, in Python: see `kernels.cpu.clock`."""

from __future__ import annotations

import numpy as np

from kernels.cpu.layout import T_AWAY, T_CLOCK, T_LAST_TIME, T_PACE, T_UPDATED_AT

AHEAD, LEAST_AHEAD, LASTS = 1000.0, 3.6e9, 16.0


def allowed(target: np.ndarray) -> float:
    """The largest distance from the clock."""
    return max(LEAST_AHEAD, AHEAD * float(target[T_PACE]))


def told_time(target: np.ndarray, time: int) -> int:
    """The time, or 0 of an event that is away."""
    clock, last, away = target[[T_CLOCK, T_LAST_TIME, T_AWAY]].tolist()
    known = time > 0 and clock > 0
    if not known or abs(time - clock) <= allowed(target):
        return time
    jumped = away >= LASTS - 1 and abs(time - last) <= allowed(target)
    return time if jumped else 0


def keep_time(target: np.ndarray, time: int) -> None:
    """Moves clock and pace by one event."""
    if time <= 0:
        return
    most, (clock, last, away, pace) = allowed(target), target[[T_CLOCK, T_LAST_TIME, T_AWAY, T_PACE]].tolist()
    is_away = clock > 0 and abs(time - clock) > most
    if not is_away and away == 1 and time < last and pace == last - clock:
        pace = 0.0
    run = (away + 1 if away and abs(time - last) <= most else 1) if is_away else 0
    if run >= LASTS:
        clock, run = time, 0
        target[T_UPDATED_AT] = min(target[T_UPDATED_AT], time)
    elif not is_away:
        clock = max(clock, time)
    if last > 0 and time > last:
        pace = pace * (1.1 if time - last > pace else 0.9) if pace else time - last
    target[[T_CLOCK, T_LAST_TIME, T_AWAY, T_PACE]] = clock, time, run, pace


def time_of_key(target: np.ndarray, latest: float) -> float:
    """The key's time, or 0 of one that is too far ahead."""
    ahead = float(latest) - float(target[T_CLOCK])
    return 0.0 if target[T_CLOCK] > 0 and ahead > allowed(target) else float(latest)
