"""What an event costs: bytes of state, and the stream that does not wait for a slow learner."""

from __future__ import annotations

import numpy as np

from learners.base import Learner

PIECE = 1 << 20
"""Bytes of keyed rows read at a time."""


def state_bytes(learner: Learner) -> int:
    """Bytes of everything that a snapshot of the learner at this position holds: shared arrays and keyed rows."""
    shared = learner.begin_capture(-1)
    held = sum(array.nbytes for array in shared.values())
    try:
        while (rows := learner.capture(PIECE)) is not None:
            held += sum(len(content) for _, _, content in rows)
    finally:
        learner.end_capture()
    return held


def learned_in_time(batches: int, cost: float) -> np.ndarray:
    """Which batches a learner takes when the stream does not wait (Ghunaim et al. 2023).

    One batch arrives per unit of time, and learning one takes `cost` of them. A batch that comes while the learner is
    busy is predicted by the model as it stands and passed over; a share of 1 / cost is learned.

    Args:
        batches: of the stream.
        cost: relative to the learner for which the stream is just slow enough; at most 1 loses nothing.

    Returns:
        bool [batches].
    """
    if not cost > 0:
        raise ValueError(f"cost {cost:g}: accepted: numbers above 0")
    taken = np.zeros(batches, bool)
    free = 0.0
    for batch in range(batches):
        if free <= batch + 1e-9:
            taken[batch] = True
            free = max(free, batch) + cost
    return taken
