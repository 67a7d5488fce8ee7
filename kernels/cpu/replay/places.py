"""Which place of a bounded buffer an event takes: -1, or the row that it is written to; and the writing.

Each event's random numbers are keyed by (seed, number of the event among those offered).
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.cpu.draws import base_of, below
from kernels.cpu.numerics import INLINE, SHORT

FILLED, SEEN = 0, 1
"""Entries of `counters` int64 [2]: rows in use, events offered."""

RESERVOIR, FIFO, BALANCED = 0, 1, 2
"""Kinds of buffer."""


@nb.njit(**INLINE)
def reservoir(seed, counters, size):
    """Algorithm R (Vitter 1985): after n events each of them is held with probability size / n."""
    n = counters[SEEN]
    counters[SEEN] += 1
    if n < size:
        counters[FILLED] += 1
        return n
    place = below(base_of(seed, n), 0, n + 1)
    return place if place < size else -1


@nb.njit(**INLINE)
def first_in_first_out(counters, size):
    """The oldest goes: the last `size` events are held."""
    n = counters[SEEN]
    counters[SEEN] += 1
    counters[FILLED] = min(size, n + 1)
    return n % size


@nb.njit(**INLINE)
def balanced(seed, counters, per_class, y, held, size):
    """Class-balancing reservoir sampling (Chrysakis & Moens, ICML 2020, algorithm 1).

    While there is room, every event is held. Then one of a class that was never among the largest takes the place of
    a random one of the largest classes; one of a class that was is held as in a reservoir of that class, of which m of
    n events are held: with probability m / n, in the place of a random one of its own. So every event of a class is
    as likely to be held as every other of it.

    Args:
        seed: of the draws.
        counters: int64 [2]; changed.
        per_class: int64 [classes, 3]: events held, events offered, whether the class was ever among the largest;
            changed.
        y: class of the event.
        held: int64 [size], the class of each row; changed.
        size: of the buffer.
    """
    n = counters[SEEN]
    counters[SEEN] += 1
    per_class[y, 1] += 1
    if counters[FILLED] < size:
        place = counters[FILLED]
        counters[FILLED] += 1
    else:
        base, own = base_of(seed, n), per_class[y, 2] > 0
        if own and below(base, 0, per_class[y, 1]) >= per_class[y, 0]:
            return -1
        most, rows = 0, 0
        for c in range(len(per_class)):
            most = max(most, per_class[c, 0])
        for r in range(size):
            rows += held[r] == y if own else per_class[held[r], 0] == most
        which = below(base, 1, rows)
        place = -1
        for r in range(size):
            if held[r] == y if own else per_class[held[r], 0] == most:
                which -= 1
                if which < 0:
                    place = r
                    break
        per_class[held[place], 0] -= 1
    held[place] = y
    per_class[y, 0] += 1
    if counters[FILLED] == size:
        most = 0
        for c in range(len(per_class)):
            most = max(most, per_class[c, 0])
        for c in range(len(per_class)):
            if per_class[c, 0] == most:
                per_class[c, 2] = 1
    return np.int64(place)


@nb.njit(**SHORT)
def offer(kind, seed, counters, per_class, x, y, notes, held_x, held_y, held_notes, noted):
    """Offers the events of a mini-batch in order; those that get a place are written to it.

    Args:
        kind: RESERVOIR, FIFO or BALANCED.
        seed: of the draws.
        counters: int64 [2]; changed.
        per_class: int64 [classes, 3], see `balanced`; changed.
        x: [n, J].
        y: int64 [n], classes.
        notes: [n, known classes], not read where no notes are held.
        held_x: [size, J]; changed.
        held_y: int64 [size]; changed.
        held_notes: [size or 0, classes]; changed.
        noted: int64 [size or 0], how many numbers each row of notes has; changed.
    """
    size, known = len(held_y), notes.shape[1]
    for row in range(len(y)):
        if kind == RESERVOIR:
            place = reservoir(seed, counters, size)
        elif kind == FIFO:
            place = first_in_first_out(counters, size)
        else:
            place = balanced(seed, counters, per_class, y[row], held_y, size)
        if place < 0:
            continue
        held_y[place] = y[row]
        for j in range(x.shape[1]):
            held_x[place, j] = x[row, j]
        if len(noted) > 0:
            noted[place] = known
            for c in range(held_notes.shape[1]):
                held_notes[place, c] = notes[row, c] if c < known else held_notes.dtype.type(0)
