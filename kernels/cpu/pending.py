"""Observations that wait for their labels, and the scores of predictions that met one."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.layout import (
    C_POSITION,
    H_PENDING,
    H_SEEN,
    MULTICLASS,
    P_AT,
    P_BASE,
    P_CODE,
    P_SEEN,
    P_SURE,
    P_TIME,
    P_VALUE,
)
from kernels.cpu.numerics import INLINE


@nb.njit(**INLINE)
def score(scored, t, value, code, base, y, sure):
    """Notes a prediction that met its label; see `Out.scored`."""
    scored[t, 0] = value
    scored[t, 1] = code
    scored[t, 2] = base
    scored[t, 3] = y
    scored[t, 4] = sure


@nb.njit(**INLINE)
def note_down(config, shared, rows, events, out, t, slot, time, base, value, code, sure):
    """Notes an observation that waits for its label: a ring per key, so the oldest goes first. Returns its place.

    `time` is the event's as the clock of the partition tells it.
    """
    place = int(rows.head[slot, H_PENDING])
    rows.head[slot, H_PENDING] = (place + 1) % config.pending
    rows.pending_id[slot, place, 0] = events.id[t, 0]
    rows.pending_id[slot, place, 1] = events.id[t, 1]
    note = rows.pending_head[slot, place]
    if note[P_AT] > 0:
        leave(config, note, out, t)
    note[P_AT] = shared.counters[C_POSITION]
    note[P_BASE] = base
    note[P_VALUE] = value
    note[P_CODE] = code
    note[P_SEEN] = rows.head[slot, H_SEEN]
    note[P_SURE] = sure
    note[P_TIME] = time
    return place


@nb.njit(**INLINE)
def leave(config, note, out, t):
    """Says of a pending observation that it left without a label."""
    given = math.nan if config.task == MULTICLASS else note[P_VALUE]
    score(out.expired, t, given, note[P_CODE], note[P_BASE], math.nan, note[P_SURE])


@nb.njit(**INLINE)
def expired(config, latest, note, position, time):
    """Whether a pending observation is past the horizon at an event of its key; `latest` is the key's time."""
    if config.horizon > 0.0 and position - note[P_AT] > config.horizon:
        return True
    return (
        config.horizon_time > 0.0
        and note[P_TIME] > 0.0
        and max(latest, float(time)) - note[P_TIME] > config.horizon_time
    )


@nb.njit(**INLINE)
def find(config, rows, events, t, slot):
    """The ring place of the observation with this label's id, of two the one that still waits; or -1."""
    if slot < 0:
        return -1
    a = events.id[t, 0]
    b = events.id[t, 1]
    expired = -1
    for p in range(config.pending):
        at = rows.pending_head[slot, p, P_AT]
        if at != 0 and rows.pending_id[slot, p, 0] == a and rows.pending_id[slot, p, 1] == b:
            if at > 0:
                return p
            expired = p
    return expired
