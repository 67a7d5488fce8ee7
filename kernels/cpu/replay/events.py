"""The events between two steps of a learner that learns from mini-batches: predicted, noted, gathered for the step.

Nothing that a prediction depends on changes between two steps but the number of classes; so all logits of a stretch
are there before its first event is folded.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.clock import keep_time, time_of_key, told_time
from kernels.cpu.fold import class_of
from kernels.cpu.inputs import entry
from kernels.cpu.layout import (
    AWAY,
    BINARY,
    C_CLASSES,
    C_POSITION,
    CLASS_LIMIT,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_POSITION,
    H_SEEN,
    H_TIME,
    LATE,
    LEARNED,
    MULTICLASS,
    OBSERVED,
    OUT_OF_ORDER,
    P_AT,
    P_BASE,
    P_CODE,
    P_SEEN,
    P_SURE,
    P_VALUE,
    UNKNOWN_ID,
)
from kernels.cpu.numerics import INLINE, JIT, SHORT
from kernels.cpu.pending import expired, find, note_down, score
from kernels.cpu.replay.losses import softmax

C_STEPS, C_LABELS, C_SKIPPED = 1, 3, 4
"""Entries of `Shared.counters` beside position and classes: steps taken, labels learned, steps that were not finite."""


class Config(NamedTuple):
    """Scalars of a spec; the same for the life of a model."""

    task: int
    ignore_out_of_order: int
    pending: int
    horizon: float
    horizon_time: float
    max_classes: int
    scaled: int
    """1: inputs are standardised by running moments; 0: they are the features, and the mean where one is missing."""
    window: float
    """Events over which means and deviations run."""
    clip: float
    """Bound on a standardised input."""


class Shared(NamedTuple):
    """What all keys share beside the weights."""

    counters: np.ndarray
    """int64 [5]."""
    scaler: np.ndarray
    """float64 [F, 9]: running moments of each feature (`kernels.cpu.layout`); [0, 9] where no input needs them."""
    clock: np.ndarray
    """float64 [`TARGET`]: of `Shared.target` in `kernels.cpu.layout` the entries of the clock; the others are 0."""
    x: np.ndarray
    """T [batch, J]: inputs of the labels that wait for the step."""
    y: np.ndarray
    """int64 [batch]: their classes."""


@nb.njit(**JIT)
def prepare(config, scaler, features, commit, out):
    """Writes the inputs of events with these features.

    Args:
        config: scalars.
        scaler: running moments, [0, 9] where inputs are the features as they are.
        features: float32 [n, F].
        commit: uint8 [n], whether the moments learn from an event; where none does, each is seen as the next one.
        out: T [n, F], written.
    """
    for t in range(len(features)):
        for j in range(features.shape[1]):
            value = float(features[t, j])
            if len(scaler) > 0:
                value = entry(config, scaler, j, value, commit[t] > 0)
            out[t, j] = value


@nb.njit(**SHORT)
def stretch(kind, start, room, most):
    """Where the stretch from `start` ends: after the event whose label may be the last that there is room for.

    It has at most `most` events.
    """
    end = min(len(kind), start + most)
    for t in range(start, end):
        room -= kind[t] != 0
        if room == 0:
            return t + 1
    return end


@nb.njit(**SHORT)
def in_order(ignore, kind, time, slot, head, clock, latest, start, stop, commit):
    """Which events of a stretch are observations that count (uint8, written to `commit`).

    Args:
        ignore: whether those out of order do not.
        kind: of all events, as are `time` and `slot`.
        time: int64, microseconds.
        slot: rows of their keys in `head`.
        head: of the keys, as it stands before the stretch.
        clock: as it stands then; changed.
        latest: float64 [stop - start or more], scratch: the key's time after each event.
        start: first event of the stretch.
        stop: after its last one.
        commit: uint8 [stop - start or more], written.
    """
    for t in range(start, stop):
        commit[t - start] = kind[t] != 2
        if ignore == 0 or kind[t] == 2:
            continue
        before = head[slot[t], H_TIME]
        for s in range(t - 1, start - 1, -1):
            if slot[s] == slot[t] and commit[s - start] > 0:
                before = latest[s - start]
                break
        at, before = told_time(clock, time[t]), time_of_key(clock, before)
        if at > 0 and at < before:
            commit[t - start] = 0
            continue
        keep_time(clock, time[t])
        latest[t - start] = max(before, float(at))


@nb.njit(**INLINE)
def _say(config, p, classes):
    """(value, code) of a prediction with the shares `p` of the classes."""
    if classes == 0:
        return 0.0, -1
    best = 0
    for c in range(1, classes):
        if p[c] > p[best]:
            best = c
    return p[1] if config.task == BINARY else p[best], best


@nb.njit(**INLINE)
def _gather(config, shared, row, x, y, seen):
    """A label joins the mini-batch."""
    c = shared.counters
    if config.task == MULTICLASS and y >= c[C_CLASSES]:
        c[C_CLASSES] = int(y) + 1
    at = c[C_LABELS] % len(shared.y)
    for j in range(len(x)):
        shared.x[at, j] = x[j]
    shared.y[at] = int(y)
    c[C_LABELS] += 1
    row[H_LABEL] = y
    row[H_LABELS] += 1
    row[H_LABEL_AT] = seen


@nb.njit(**INLINE)
def _observe(config, shared, rows, events, x, logits, p, out, t, at):
    """An event with features, with or without its label; `at` is its row in the stretch."""
    slot = events.slot[t]
    row, time = rows.head[slot], told_time(shared.clock, events.time[t])
    latest = time_of_key(shared.clock, row[H_TIME])
    classes = shared.counters[C_CLASSES]
    softmax(logits[at], classes, p)
    value, code = _say(config, p, classes)
    out.value[t], out.code[t] = value, code
    outcome = OUT_OF_ORDER if time > 0 and time < latest else 0
    if outcome != 0 and config.ignore_out_of_order > 0:
        out.outcome[t] = outcome
        return
    outcome |= OBSERVED if time == events.time[t] else AWAY
    keep_time(shared.clock, events.time[t])
    base = row[H_LABEL] if row[H_LABELS] > 0 else math.nan
    sure = p[code] if code >= 0 else 0.0
    row[H_SEEN] += 1
    row[H_TIME] = max(latest, float(time))
    row[H_POSITION] = shared.counters[C_POSITION]
    if events.kind[t] == 0:
        if config.pending > 0:
            place = note_down(config, shared, rows, events, out, t, slot, time, base, value, code, sure)
            for j in range(x.shape[1]):
                rows.pending_body[slot, place, j] = x[at, j]
        out.outcome[t] = outcome
        return
    y = class_of(config, shared, events, events.y[t]) if config.task == MULTICLASS else events.y[t]
    if y < 0:
        out.outcome[t] = outcome | CLASS_LIMIT
        return
    given = value if config.task == BINARY else (p[int(y)] if y < classes else 0.0)
    score(out.scored, t, given, code, base, y, sure)
    _gather(config, shared, row, x[at], y, row[H_SEEN])
    out.outcome[t] = outcome | LEARNED


@nb.njit(**INLINE)
def _label(config, shared, rows, events, out, t):
    """A label for an earlier observation, which joins the mini-batch with the inputs of then."""
    slot = events.slot[t]
    out.value[t], out.code[t] = math.nan, -1
    place = find(config, rows, events, t, slot)
    if place < 0:
        out.outcome[t] = UNKNOWN_ID
        return
    row, note = rows.head[slot], rows.pending_head[slot, place]
    time, latest = told_time(shared.clock, events.time[t]), time_of_key(shared.clock, row[H_TIME])
    if expired(config, latest, note, shared.counters[C_POSITION], time):
        out.outcome[t] = LATE
        return
    row[H_POSITION] = shared.counters[C_POSITION]
    note[P_AT] = 0.0
    y = class_of(config, shared, events, events.y[t]) if config.task == MULTICLASS else events.y[t]
    if y < 0:
        out.outcome[t] = CLASS_LIMIT
        return
    given = note[P_VALUE] if config.task == BINARY else math.nan
    score(out.scored, t, given, note[P_CODE], note[P_BASE], y, note[P_SURE])
    _gather(config, shared, row, rows.pending_body[slot, place], y, note[P_SEEN])
    out.outcome[t] = LEARNED


@nb.njit(**JIT)
def settle(config, shared, rows, events, start, stop, x, logits, p, out):
    """Folds the events from `start` to `stop`, of which no more have a label than the mini-batch has room for.

    Args:
        config: scalars.
        shared: changed.
        rows: a `kernels.cpu.layout.Rows`; changed.
        events: a `kernels.cpu.layout.Events`.
        start: first event of the stretch.
        stop: after its last one.
        x: T [stop - start, J], their inputs.
        logits: T [stop - start, classes], with room for every class that the stretch may bring.
        p: float64 [classes], scratch.
        out: a `kernels.cpu.layout.Out`, written.
    """
    for t in range(start, stop):
        shared.counters[C_POSITION] += 1
        for i in range(5):
            out.scored[t, i] = math.nan
        if len(out.expired) > 0:
            for i in range(5):
                out.expired[t, i] = math.nan
        if events.kind[t] == 2:
            _label(config, shared, rows, events, out, t)
        else:
            _observe(config, shared, rows, events, x, logits, p, out, t, t - start)


@nb.njit(**JIT)
def predict(config, logits, classes, p, value, code, table):
    """What is said of events with these logits.

    Args:
        config: scalars.
        logits: T [n, classes or more].
        classes: how many there are.
        p: float64 [classes or more], scratch.
        value: float64 [n], written.
        code: int32 [n], written.
        table: float32 [n, classes], written; [n, 0]: not wanted.
    """
    for t in range(len(value)):
        softmax(logits[t], classes, p)
        value[t], code[t] = _say(config, p, classes)
        for c in range(table.shape[1]):
            table[t, c] = p[c]
