"""The fold of a recurrent learner: one compiled loop over a batch, one event at a time, predict first, then learn."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.encoder import encode
from kernels.cpu.heads import base_of, observe_change, predict
from kernels.cpu.inputs import prepare
from kernels.cpu.layers import forward_all, hold, take_up
from kernels.cpu.layout import (
    C_CLASSES,
    C_POSITION,
    CLASS_LIMIT,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_PENDING,
    H_POSITION,
    H_SEEN,
    H_TIME,
    L_HELD,
    LEARNED,
    MULTICLASS,
    NONFINITE,
    OBSERVED,
    OUT_OF_ORDER,
    P_AT,
    P_BASE,
    P_CODE,
    P_SEEN,
    P_VALUE,
    UNKNOWN_ID,
)
from kernels.cpu.learning import carry_all, carry_and_learn, learn_held, new_class
from kernels.cpu.numerics import INLINE, JIT


@nb.njit(**INLINE)
def _class_of(config, shared, events, y):
    """The model's index of a class of the batch. A new class takes the next one; -1 when there is no more."""
    index = events.classes[int(y)]
    if index < 0 and shared.counters[C_CLASSES] < config.max_classes:
        index = shared.counters[C_CLASSES]
        events.classes[int(y)] = index
    return float(index)


@nb.njit(**INLINE)
def _note_label(shared, head, y, seen):
    """The key's last label, its change and the observation it belongs to."""
    head[H_CHANGE] = y - head[H_LABEL] if head[H_LABELS] > 0 else 0.0
    head[H_LABEL] = y
    head[H_LABELS] += 1
    head[H_LABEL_AT] = seen


@nb.njit(**INLINE)
def _score(out, t, value, code, base, y):
    out.scored[t, 0] = value
    out.scored[t, 1] = code
    out.scored[t, 2] = base
    out.scored[t, 3] = y


@nb.njit(**INLINE)
def gap_of(config, head, time):
    """Time since the key's last event in units of the spec, 1 where one of the two has no time."""
    if config.gap_unit <= 0.0 or time <= 0 or head[H_TIME] <= 0.0:
        return 1.0
    gap = (float(time) - head[H_TIME]) / config.gap_unit
    return gap if gap > config.least_gap else config.least_gap


@nb.njit(**INLINE)
def _observe(cell, config, shared, rows, events, out, s, t, slot):
    """An event with features, with or without its label."""
    head = rows.head[slot]
    body = rows.body[slot]
    time = events.time[t]
    outcome = 0
    if time > 0 and time < head[H_TIME]:
        outcome = OUT_OF_ORDER
    apply = outcome == 0 or config.ignore_out_of_order == 0
    x = s.inputs
    prepare(config, shared, head, events.x[t], x, apply)
    if config.encoded > 0:
        encode(config, shared.cell, events.x[t], s)
    forward_all(cell, config, shared.cell, body, gap_of(config, head, time), s)
    phi = s.phi[config.layers - 1]
    base = base_of(config, shared, head)
    value, code = predict(config, shared, base, phi, x, s)
    out.value[t] = value
    out.code[t] = code
    if not apply:
        out.outcome[t] = outcome
        return
    outcome |= OBSERVED
    head[H_SEEN] += 1
    head[H_TIME] = max(head[H_TIME], float(time))
    head[H_POSITION] = shared.counters[C_POSITION]
    y = events.y[t]
    if events.kind[t] != 0 and config.task == MULTICLASS:
        y = _class_of(config, shared, events, y)
    if events.kind[t] == 0 or (config.task == MULTICLASS and y < 0):
        carry_all(cell, config, body, s)
        if events.kind[t] == 0:
            if config.pending > 0:
                _hold(cell, config, shared, rows, events, s, t, slot, base, value, code)
        else:
            outcome |= CLASS_LIMIT
    else:
        if config.task == MULTICLASS:
            given = s.logits[int(y)] if y < shared.counters[C_CLASSES] else 0.0
            _score(out, t, given, code, base, y)
            new_class(config, shared, y, phi, x, s)
        else:
            _score(out, t, value, code, base, y)
        observe_change(config, shared, head, y)
        outcome |= LEARNED if carry_and_learn(cell, config, shared, base, y, body, s) else NONFINITE
        _note_label(shared, head, y, head[H_SEEN])
    out.outcome[t] = outcome


@nb.njit(**JIT)
def _hold(cell, config, shared, rows, events, s, t, slot, base, value, code):
    """Keeps an observation for its label: a ring per key, so the oldest goes first."""
    ring = int(rows.head[slot, H_PENDING])
    rows.head[slot, H_PENDING] = (ring + 1) % config.pending
    rows.pending_id[slot, ring, 0] = events.id[t, 0]
    rows.pending_id[slot, ring, 1] = events.id[t, 1]
    note = rows.pending_head[slot, ring]
    note[P_AT] = shared.counters[C_POSITION]
    note[P_BASE] = base
    note[P_VALUE] = value
    note[P_CODE] = code
    note[P_SEEN] = rows.head[slot, H_SEEN]
    hold(cell, config, rows.body[slot], s, rows.pending_body[slot, ring])


@nb.njit(**INLINE)
def _find(config, rows, events, t, slot, position):
    """The ring place of the pending observation with this label's id, or -1."""
    a = events.id[t, 0]
    b = events.id[t, 1]
    for p in range(config.pending):
        at = rows.pending_head[slot, p, P_AT]
        if at > 0 and rows.pending_id[slot, p, 0] == a and rows.pending_id[slot, p, 1] == b:
            return -1 if config.horizon > 0 and position - at > config.horizon else p
    return -1


@nb.njit(**JIT)
def _label(cell, config, shared, rows, events, out, s, t, slot):
    """A label for an earlier observation: the gradient comes from the state as it stood at the prediction."""
    out.value[t] = math.nan
    out.code[t] = -1
    place = _find(config, rows, events, t, slot, shared.counters[C_POSITION]) if slot >= 0 else -1
    if place < 0:
        out.outcome[t] = UNKNOWN_ID
        return
    y = events.y[t]
    head = rows.head[slot]
    note = rows.pending_head[slot, place]
    head[H_POSITION] = shared.counters[C_POSITION]
    note[P_AT] = 0.0
    if config.task == MULTICLASS:
        y = _class_of(config, shared, events, y)
        if y < 0:
            out.outcome[t] = CLASS_LIMIT
            return
    held = rows.pending_body[slot, place]
    take_up(cell, config, shared.cell, held, s)
    body = held[s.plan[config.layers, L_HELD] :]
    x, phi = s.inputs, s.phi[config.layers - 1]
    _score(out, t, math.nan if config.task == MULTICLASS else note[P_VALUE], note[P_CODE], note[P_BASE], y)
    predict(config, shared, note[P_BASE], phi, x, s)
    if config.task == MULTICLASS:
        new_class(config, shared, y, phi, x, s)
    observe_change(config, shared, head, y)
    out.outcome[t] = LEARNED if learn_held(cell, config, shared, note[P_BASE], y, body, s) else NONFINITE
    _note_label(shared, head, y, note[P_SEEN])


@nb.njit(**JIT)
def fold(cell, config, shared, rows, events, out, s):
    """Folds `events` into `shared` and `rows` and writes what was predicted and done to `out`."""
    for t in range(len(events.kind)):
        shared.counters[C_POSITION] += 1
        for i in range(4):
            out.scored[t, i] = math.nan
        if events.kind[t] == 2:
            _label(cell, config, shared, rows, events, out, s, t, events.slot[t])
        else:
            _observe(cell, config, shared, rows, events, out, s, t, events.slot[t])


@nb.njit(**JIT)
def predict_each(cell, config, shared, rows, x, time, slot, out_value, out_code, probabilities, s):
    """Predicts every row of `x` float32 [n, d] at `time` as if it were the next event; changes nothing but the outputs.

    `probabilities` is float32 [n, classes], or [0, 0] when not wanted.
    """
    for t in range(len(x)):
        head = rows.head[slot[t]]
        prepare(config, shared, head, x[t], s.inputs, False)
        if config.encoded > 0:
            encode(config, shared.cell, x[t], s)
        forward_all(cell, config, shared.cell, rows.body[slot[t]], gap_of(config, head, time[t]), s)
        phi = s.phi[config.layers - 1]
        value, code = predict(config, shared, base_of(config, shared, head), phi, s.inputs, s)
        out_value[t] = value
        out_code[t] = code
        if probabilities.shape[0] > 0:
            for k in range(probabilities.shape[1]):
                probabilities[t, k] = s.logits[k]
