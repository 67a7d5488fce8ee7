"""The simulator of late labels, against a heap that goes through the events one by one."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from streams import delays
from streams.batch import LABEL, OBSERVATION, Batch


def by_heap(waits: list[int], never: list[bool]) -> list[tuple[int, int]]:
    """What comes in which order: an event is observed, then come all labels that are due."""
    waiting: list[tuple[int, int]] = []
    log = []
    for event, wait in enumerate(waits):
        log.append((event, OBSERVATION))
        if not never[event]:
            heapq.heappush(waiting, (event + wait, event))
        while waiting and waiting[0][0] <= event:
            log.append((heapq.heappop(waiting)[1], LABEL))
    return log + [(heapq.heappop(waiting)[1], LABEL) for _ in range(len(waiting))]


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_that_of_a_heap(seed) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 300))
    waits, never = rng.integers(0, int(rng.integers(1, 400)), n), rng.random(n) < rng.choice([0.0, 0.3])
    event, kind = delays.order(waits, never)
    assert list(zip(event.tolist(), kind.tolist())) == by_heap(waits.tolist(), never.tolist())


def test_a_log_of_late_labels() -> None:
    """Ids pair a label with its observation, keys and times go with them, and every label comes once."""
    rng = np.random.default_rng(1)
    n = 500
    keys = [b"k" * int(length) for length in rng.integers(0, 5, n)]
    batch = Batch.of(rng.normal(size=(n, 2)), rng.integers(0, 2, n), key=keys, time=1000 + np.arange(n))
    log = delays.late(batch, delays.geometric(n, 20.0, seed=1), never=np.arange(n) % 7 == 0)
    seen = log.kind == OBSERVATION
    assert log.x[seen].tobytes() == batch.x.tobytes()
    assert (log.x[~seen] == 0).all()
    assert np.isnan(log.y[seen]).all()
    event = log.id[:, 0].astype(int) - 1
    assert sorted(event[~seen].tolist()) == [i for i in range(n) if i % 7]
    assert (log.y[~seen] == batch.y[event[~seen]]).all()
    assert [log.key[row] for row in range(len(log))] == [keys[i] for i in event.tolist()]
    assert (np.diff(log.time) >= 0).all()
    assert (log.time[seen] == batch.time).all()


def test_delays_by_class_and_at_random() -> None:
    y = np.array([0.0, 1.0, 1.0, 0.0])
    assert delays.by_class(y, {0.0: 5, 1.0: 0}).tolist() == [5, 0, 0, 5]
    some = delays.geometric(100_000, 48.0, seed=3)
    assert some.min() == 0
    assert some.mean() == pytest.approx(48.0, rel=0.02)  # the deviation of the mean is 0.15
    assert (some == delays.geometric(100_000, 48.0, seed=3)).all()


def test_what_cannot_be_delayed_is_refused() -> None:
    batch = Batch.of(np.zeros((3, 1)), np.array([0.0, np.nan, 1.0]))
    with pytest.raises(ValueError, match="event 1 is not labelled"):
        delays.late(batch, delays.fixed(3, 1))
    with pytest.raises(ValueError, match="delay -1"):
        delays.fixed(3, -1)
    with pytest.raises(ValueError, match="mean -1"):
        delays.geometric(3, -1.0)
    with pytest.raises(ValueError, match=r"classes \[1.0\]"):
        delays.by_class(np.array([0.0, 1.0]), {0.0: 3})
