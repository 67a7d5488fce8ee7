"""The fold of a recurrent learner: one compiled loop over a batch, one event at a time, predict first, then learn."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads import backward, base_of, gradient, observe_change, predict, softmax
from kernels.cpu.heads import logits as logits_of
from kernels.cpu.inputs import prepare
from kernels.cpu.layout import (
    C_CLASSES,
    C_POSITION,
    C_STEPS,
    CLASS_LIMIT,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_PENDING,
    H_POSITION,
    H_SEEN,
    H_TIME,
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
from kernels.cpu.mingru import advance, advance_and_step, forward
from kernels.cpu.numerics import INLINE, JIT
from kernels.cpu.optimizers import step, step_by_unit, step_scalars

LARGEST_ERROR = 1e15
"""Bound on sum |dL/dh| and |dL/do| for an update to be applied: below it no product with a trace or an input
(bounded by the clip) and no square of one overflows float32."""


@nb.njit(**INLINE)
def _read_out_step(config, shared, h, x, rows, s, r, q):
    for k in range(rows):
        g = s.d_logits[k]
        step(config, shared.out[k], shared.m_out[k], shared.v_out[k], g, h, r, q)
        step(config, shared.skip[k], shared.m_skip[k], shared.v_skip[k], g, x[: config.width], r, q)


@nb.njit(**INLINE)
def _error(config, shared, base, y, s):
    """Gradient down to the hidden state. Returns (logits, finite)."""
    rows, finite = gradient(config, shared, base, y, s)
    size = backward(shared, rows, config.units, s)
    finite = finite and size <= LARGEST_ERROR
    for k in range(rows):
        finite = finite and abs(s.d_logits[k]) <= LARGEST_ERROR
    return rows, finite


@nb.njit(**JIT)
def _new_class(config, shared, y, h, x, s):
    """A label seen for the first time joins the softmax before its own gradient is taken."""
    if y >= shared.counters[C_CLASSES]:
        shared.counters[C_CLASSES] = int(y) + 1
        logits_of(shared, h, x, config.units, config.width, int(y) + 1, s.logits)
        softmax(s.logits, int(y) + 1)


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
def _observe(config, shared, rows, events, out, s, t, slot):
    """An event with features, with or without its label."""
    head = rows.head[slot]
    body = rows.body[slot]
    hidden = body[: config.units]
    trace = body[config.units :]
    time = events.time[t]
    outcome = 0
    if time > 0 and time < head[H_TIME]:
        outcome = OUT_OF_ORDER
    apply = outcome == 0 or config.ignore_out_of_order == 0
    prepare(config, shared, head, events.x[t], s.x, apply)
    forward(shared.cell, s.x, hidden, config.units, config.width, s)
    base = base_of(config, shared, head)
    value, code = predict(config, shared, base, s.h, s.x, s)
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
        advance(s.x, trace, config.units, config.width, s)
        if events.kind[t] == 0:
            if config.pending > 0:
                _hold(config, shared, rows, events, s, t, slot, base, value, code)
        else:
            outcome |= CLASS_LIMIT
    else:
        if config.task == MULTICLASS:
            given = s.logits[int(y)] if y < shared.counters[C_CLASSES] else 0.0
            _score(out, t, given, code, base, y)
            _new_class(config, shared, y, s.h, s.x, s)
        else:
            _score(out, t, value, code, base, y)
        observe_change(config, shared, head, y)
        logit_rows, finite = _error(config, shared, base, y, s)
        if finite:
            r, q = step_scalars(config, shared.decay)
            advance_and_step(
                config, s.x, trace, shared.cell, shared.m_cell, shared.v_cell, config.units, config.width, s, r, q
            )
            _read_out_step(config, shared, s.h, s.x, logit_rows, s, r, q)
            shared.counters[C_STEPS] += 1
            outcome |= LEARNED
        else:
            advance(s.x, trace, config.units, config.width, s)
            outcome |= NONFINITE
        _note_label(shared, head, y, head[H_SEEN])
    for i in range(config.units):
        hidden[i] = s.h[i]
    out.outcome[t] = outcome


@nb.njit(**JIT)
def _hold(config, shared, rows, events, s, t, slot, base, value, code):
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
    body = rows.pending_body[slot, ring]
    width, units = config.width, config.units
    for j in range(width):
        body[j] = s.x[j]
    for i in range(units):
        body[width + i] = s.h[i]
    for c in range(2 * width * units):
        body[width + units + c] = rows.body[slot, units + c]


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
def _label(config, shared, rows, events, out, s, t, slot):
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
    width, units = config.width, config.units
    body = rows.pending_body[slot, place]
    x = body[:width]
    h = body[width : width + units]
    _score(out, t, math.nan if config.task == MULTICLASS else note[P_VALUE], note[P_CODE], note[P_BASE], y)
    predict(config, shared, note[P_BASE], h, x, s)
    if config.task == MULTICLASS:
        _new_class(config, shared, y, h, x, s)
    observe_change(config, shared, head, y)
    logit_rows, finite = _error(config, shared, note[P_BASE], y, s)
    if finite:
        r, q = step_scalars(config, shared.decay)
        trace = body[width + units :]
        step_by_unit(config, shared.cell, shared.m_cell, shared.v_cell, s.error, trace, units, r, q)
        _read_out_step(config, shared, h, x, logit_rows, s, r, q)
        shared.counters[C_STEPS] += 1
        out.outcome[t] = LEARNED
    else:
        out.outcome[t] = NONFINITE
    _note_label(shared, head, y, note[P_SEEN])


@nb.njit(**JIT)
def fold(config, shared, rows, events, out, s):
    """Folds `events` into `shared` and `rows` and writes what was predicted and done to `out`."""
    for t in range(len(events.kind)):
        shared.counters[C_POSITION] += 1
        for i in range(4):
            out.scored[t, i] = math.nan
        if events.kind[t] == 2:
            _label(config, shared, rows, events, out, s, t, events.slot[t])
        else:
            _observe(config, shared, rows, events, out, s, t, events.slot[t])


@nb.njit(**JIT)
def predict_each(config, shared, rows, x, slot, out_value, out_code, probabilities, s):
    """Predicts every row of `x` float32 [n, d] as if it were the next event; changes nothing but the outputs.

    `probabilities` is float32 [n, classes], or [0, 0] when not wanted.
    """
    for t in range(len(x)):
        head = rows.head[slot[t]]
        prepare(config, shared, head, x[t], s.x, False)
        forward(shared.cell, s.x, rows.body[slot[t]], config.units, config.width, s)
        value, code = predict(config, shared, base_of(config, shared, head), s.h, s.x, s)
        out_value[t] = value
        out_code[t] = code
        if probabilities.shape[0] > 0:
            for k in range(probabilities.shape[1]):
                probabilities[t, k] = s.logits[k]
