"""The fold of a recurrent learner: one compiled loop over a batch, one event at a time, predict first, then learn."""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.bound import values_of
from kernels.cpu.clock import keep_time, time_of_key, told_time
from kernels.cpu.encoder import encode
from kernels.cpu.heads import REFUSED, predict, weight
from kernels.cpu.heads.target import PATIENCE, base_of, becomes_base, observe_change, take_unit
from kernels.cpu.inputs import prepare
from kernels.cpu.layers import forward_all, hold, hold_features, take_up, take_up_features
from kernels.cpu.layout import (
    AWAY,
    BINARY,
    C_CLASSES,
    C_OBSERVED,
    C_POSITION,
    C_UPDATED,
    CLASS_LIMIT,
    H_AWAY,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_PENDING,
    H_POSITION,
    H_REFUSED,
    H_SEEN,
    H_TIME,
    HEAD,
    L_HELD,
    LATE,
    LEARNED,
    MULTICLASS,
    NONFINITE,
    OBSERVED,
    OUT_OF_ORDER,
    OUTLIER,
    OWN_CHANGE,
    OWN_LEVEL,
    P_AT,
    P_BASE,
    P_CODE,
    P_DRAW,
    P_SEEN,
    P_SURE,
    P_VALUE,
    REGRESSION,
    SCALER,
    T_UPDATED_AT,
    UNIT,
    UNKNOWN_ID,
    Events,
    Out,
)
from kernels.cpu.learning import carry_all, carry_and_learn, learn_head, learn_held
from kernels.cpu.numerics import CALL, INLINE, JIT
from kernels.cpu.pending import expired, find, leave, note_down, score
from kernels.cpu.rtrl import ask_for


@nb.njit(**INLINE)
def class_of(config, shared, events, y):
    """The model's index of a class of the batch. A new class takes the next one; -1 when there is no more."""
    index = events.classes[int(y)]
    if index < 0 and shared.counters[C_CLASSES] < config.max_classes:
        index = shared.counters[C_CLASSES]
        events.classes[int(y)] = index
    return float(index)


@nb.njit(**INLINE)
def _note_label(shared, row, y, is_base, seen, time):
    """The key's last label, its change and the observation it belongs to."""
    if is_base:
        row[H_CHANGE] = y - row[H_LABEL] if row[H_LABELS] > 0 else 0.0
        row[H_LABEL] = y
        row[H_AWAY] = 0.0
    row[H_LABELS] += 1
    row[H_LABEL_AT] = seen
    row[H_REFUSED] = 0.0
    if time > 0:
        shared.target[T_UPDATED_AT] = max(shared.target[T_UPDATED_AT], float(time))


@nb.njit(**INLINE)
def _sureness(config, value, s):
    """How sure a prediction is: the probability of its class, or the half-width of its interval."""
    if config.task == REGRESSION:
        return s.spread[2]
    return 1.0 - value if config.task == BINARY and value < 0.5 else value


@nb.njit(**INLINE)
def gap_of(config, latest, time):
    """Time since `latest`, the key's, in units of the spec, 1 where one of the two has no time."""
    if config.gap_unit <= 0.0 or time <= 0 or latest <= 0.0:
        return 1.0
    gap = (float(time) - latest) / config.gap_unit
    return gap if gap > config.least_gap else config.least_gap


@nb.njit(**INLINE)
def elapsed_of(config, shared, observed, time):
    """Steps of forgetting since the last update, at the observation number `observed` from 1, or at `time`."""
    if config.forget_unit <= 0.0:
        return float(observed - shared.counters[C_UPDATED])
    if time <= 0 or shared.target[T_UPDATED_AT] <= 0.0:
        return 0.0
    return max(0.0, (float(time) - shared.target[T_UPDATED_AT]) / config.forget_unit)


@nb.njit(**INLINE)
def _meet_class(head, config, shared, base, y, draw, elapsed, s):
    """A label seen for the first time joins the classes before it is learned."""
    if y >= shared.counters[C_CLASSES]:
        shared.counters[C_CLASSES] = int(y) + 1
        predict(head, config, shared, base, s.phi[config.layers - 1], s.inputs, draw, elapsed, s)


@nb.njit(**INLINE)
def _refused(head, config, shared, row, base, y, s):
    """Whether the label is an outlier, of which there have not been too many in a row; counts it then."""
    if row[H_REFUSED] >= PATIENCE or weight(head, config, shared, base, y, s) >= REFUSED:
        return False
    row[H_REFUSED] += 1.0
    return True


MOST_AHEAD = 32 << 10
"""Bytes of a row that are asked for while the event before is folded; what is more, memory streams by itself."""


@nb.njit(**INLINE)
def _next_slot(events, t):
    """The slot of the event that comes next, -1 where its row is at hand or unknown."""
    if t + 1 >= len(events.slot) or events.slot[t + 1] == events.slot[t]:
        return -1
    return events.slot[t + 1]


@nb.njit(**INLINE)
def _observe(cell, head, config, shared, rows, events, out, s, t, slot):
    """An event with features, with or without its label."""
    row = rows.head[slot]
    body = rows.body[slot]
    ahead = _next_slot(events, t)
    after = rows.body[max(ahead, 0), : MOST_AHEAD // rows.body.itemsize if ahead >= 0 else 0]
    if ahead >= 0:
        ask_for(rows.head[ahead], 0, HEAD)
        if config.task == REGRESSION:
            ask_for(rows.own[ahead, OWN_CHANGE], 0, SCALER)
            ask_for(rows.own[ahead, OWN_LEVEL], 0, SCALER)
            ask_for(rows.unit[ahead], 0, UNIT)
    time = told_time(shared.target, events.time[t])
    latest = time_of_key(shared.target, row[H_TIME])
    outcome = 0
    if time > 0 and time < latest:
        outcome = OUT_OF_ORDER
    apply = outcome == 0 or config.ignore_out_of_order == 0
    x = s.inputs
    own, unit = rows.own[slot], rows.unit[slot]
    take_unit(config, shared, unit, s)
    prepare(config, shared, row, unit, s.unit[0], events.x[t], x, apply)
    if config.encoded > 0:
        encode(config, shared.cell, events.x[t], s)
    forward_all(cell, config, shared.cell, body, gap_of(config, latest, time), s)
    phi = s.phi[config.layers - 1]
    base = base_of(config, shared, row)
    draw = shared.counters[C_OBSERVED]
    elapsed = elapsed_of(config, shared, draw + 1, time)
    value, code = predict(head, config, shared, base, phi, x, draw, elapsed, s)
    out.value[t] = value
    out.code[t] = code
    if not apply:
        out.outcome[t] = outcome
        return
    outcome |= OBSERVED if time == events.time[t] else AWAY
    keep_time(shared.target, events.time[t])
    shared.counters[C_OBSERVED] += 1
    row[H_SEEN] += 1
    row[H_TIME] = max(latest, float(time))
    row[H_POSITION] = shared.counters[C_POSITION]
    y = events.y[t]
    sure = _sureness(config, value, s)
    if events.kind[t] != 0 and config.task == MULTICLASS:
        y = class_of(config, shared, events, y)
    if events.kind[t] == 0 or (config.task == MULTICLASS and y < 0):
        carry_all(cell, config, body, after, s)
        if events.kind[t] == 0:
            if config.pending > 0:
                _hold(cell, config, shared, rows, events, out, s, t, slot, time, base, value, code, sure)
        else:
            outcome |= CLASS_LIMIT
    else:
        known = config.task != MULTICLASS or y < shared.counters[C_CLASSES]
        given = (s.logits[int(y)] if known else 0.0) if config.task == MULTICLASS else value
        score(out.scored, t, given, code, base, y, sure)
        if config.task == MULTICLASS:
            _meet_class(head, config, shared, base, y, draw, elapsed, s)
        if _refused(head, config, shared, row, base, y, s):
            outcome |= OUTLIER
            carry_all(cell, config, body, after, s)
        else:
            is_base = becomes_base(config, shared, row, unit, y)
            if observe_change(config, shared, row, own, unit, y, s):
                outcome |= OUTLIER
                carry_all(cell, config, body, after, s)
            else:
                learned = carry_and_learn(cell, head, config, shared, base, y, draw, elapsed, body, after, s)
                outcome |= LEARNED if learned else NONFINITE
            _note_label(shared, row, y, is_base, row[H_SEEN], time)
    if config.defaults > 0:
        _expire(cell, head, config, shared, rows, events, out, s, t, slot, time)
    out.outcome[t] = outcome


@nb.njit(**CALL)
def _hold(cell, config, shared, rows, events, out, s, t, slot, time, base, value, code, sure):
    """Keeps an observation for its label."""
    place = note_down(config, shared, rows, events, out, t, slot, time, base, value, code, sure)
    rows.pending_head[slot, place, P_DRAW] = shared.counters[C_OBSERVED] - 1
    if config.head_credit > 0:
        hold_features(config, s, rows.pending_body[slot, place])
    else:
        hold(cell, config, rows.body[slot], s, rows.pending_body[slot, place])


@nb.njit(**CALL)
def _expire(cell, head, config, shared, rows, events, out, s, t, slot, time):
    """Learns the key's oldest pending observation with the default label, if it has expired or has to make room."""
    row = rows.head[slot]
    first = int(row[H_PENDING])
    for k in range(config.pending):
        place = (first + k) % config.pending
        note = rows.pending_head[slot, place]
        if note[P_AT] > 0:
            if k == 0 or expired(config, row[H_TIME], note, shared.counters[C_POSITION], time):
                _learn_default(cell, head, config, shared, rows, events, out, s, t, slot, time, place)
            return


@nb.njit(**CALL)
def _learn_default(cell, head, config, shared, rows, events, out, s, t, slot, time, place):
    """A pending observation leaves; the default label is learned in place of its own."""
    note = rows.pending_head[slot, place]
    leave(config, note, out, t)
    note[P_AT] = -note[P_AT]
    y = float(len(events.classes) - 1) if config.task == MULTICLASS else config.default_label
    _teach(cell, head, config, shared, rows, events, out.expired, s, t, slot, time, place, y)


@nb.njit(**CALL)
def _label(cell, head, config, shared, rows, events, out, s, t, slot):
    """A label for an earlier observation."""
    out.value[t] = math.nan
    out.code[t] = -1
    place = find(config, rows, events, t, slot)
    if place < 0:
        out.outcome[t] = UNKNOWN_ID
        return
    row, time = rows.head[slot], told_time(shared.target, events.time[t])
    note = rows.pending_head[slot, place]
    waits, latest = note[P_AT] > 0, time_of_key(shared.target, row[H_TIME])
    if not waits or expired(config, latest, note, shared.counters[C_POSITION], time):
        out.outcome[t] = LATE
        if waits and config.defaults > 0:
            row[H_POSITION] = shared.counters[C_POSITION]
            _learn_default(cell, head, config, shared, rows, events, out, s, t, slot, time, place)
        return
    row[H_POSITION] = shared.counters[C_POSITION]
    note[P_AT] = 0.0
    out.outcome[t] = _teach(
        cell, head, config, shared, rows, events, out.scored, s, t, slot, time, place, events.y[t]
    )


@nb.njit(**CALL)
def _teach(cell, head, config, shared, rows, events, scored, s, t, slot, time, place, y):
    """Learns a label from what was held at its prediction, which is scored as it was made. Returns the outcome."""
    row = rows.head[slot]
    note = rows.pending_head[slot, place]
    if config.task == MULTICLASS:
        y = class_of(config, shared, events, y)
        if y < 0:
            return CLASS_LIMIT
    held = rows.pending_body[slot, place]
    if config.head_credit > 0:
        take_up_features(config, held, s)
    else:
        take_up(cell, config, shared.cell, held, s)
    base = note[P_BASE]
    given = math.nan if config.task == MULTICLASS else note[P_VALUE]
    score(scored, t, given, note[P_CODE], base, y, note[P_SURE])
    draw = int(note[P_DRAW])
    elapsed = elapsed_of(config, shared, shared.counters[C_OBSERVED], time)
    if config.task == MULTICLASS and y >= shared.counters[C_CLASSES]:
        shared.counters[C_CLASSES] = int(y) + 1
    own, unit = rows.own[slot], rows.unit[slot]
    take_unit(config, shared, unit, s)
    predict(head, config, shared, base, s.phi[config.layers - 1], s.inputs, draw, elapsed, s)
    if _refused(head, config, shared, row, base, y, s):
        return OUTLIER
    is_base = becomes_base(config, shared, row, unit, y)
    outcome = OUTLIER
    if not observe_change(config, shared, row, own, unit, y, s):
        if config.head_credit > 0:
            learned = learn_head(head, config, shared, base, y, draw, elapsed, s)
        else:
            body = held[s.plan[config.layers, L_HELD] :]
            learned = learn_held(cell, head, config, shared, base, y, draw, elapsed, body, s)
        outcome = LEARNED if learned else NONFINITE
    _note_label(shared, row, y, is_base, note[P_SEEN], time)
    return outcome


@nb.njit(**JIT)
def fold(model, rows, x, kind, y, slot, time, id, classes, value, code, outcome, scored, expired):
    """Folds events into `rows` and what the model has learned, and writes what was predicted and done.

    `model` is a `Bound` of a `Model`, `rows` one of `Rows`. Then come the arrays of `Events` and those of `Out`: numba
    takes them faster than tuples of them.
    """
    cell, head, config, shared, s = values_of(model)
    rows = values_of(rows)
    events = Events(x, kind, y, slot, time, id, classes)
    out = Out(value, code, outcome, scored, expired)
    for t in range(len(events.kind)):
        shared.counters[C_POSITION] += 1
        for i in range(5):
            out.scored[t, i] = math.nan
        if len(out.expired) > 0:
            for i in range(5):
                out.expired[t, i] = math.nan
        if events.kind[t] == 2:
            _label(cell, head, config, shared, rows, events, out, s, t, events.slot[t])
        else:
            _observe(cell, head, config, shared, rows, events, out, s, t, events.slot[t])


@nb.njit(**JIT)
def predict_each(model, rows, x, time, slot, out_value, out_code, probabilities, spread):
    """Predicts every row of `x` float32 [n, d] at `time` as if it were the next event; changes nothing but the outputs.

    `model` and `rows` are those of `fold`. `probabilities` is float32 [n, classes], `spread` float64 [n, 3] (see
    `heads.predict`); [0, 0] when not wanted.
    """
    cell, head, config, shared, s = values_of(model)
    rows = values_of(rows)
    draw = shared.counters[C_OBSERVED]
    for t in range(len(x)):
        row, at = rows.head[slot[t]], told_time(shared.target, time[t])
        unit = rows.unit[slot[t]]
        take_unit(config, shared, unit, s)
        prepare(config, shared, row, unit, s.unit[0], x[t], s.inputs, False)
        if config.encoded > 0:
            encode(config, shared.cell, x[t], s)
        gap = gap_of(config, time_of_key(shared.target, row[H_TIME]), at)
        forward_all(cell, config, shared.cell, rows.body[slot[t]], gap, s)
        phi, base = s.phi[config.layers - 1], base_of(config, shared, row)
        elapsed = elapsed_of(config, shared, draw + 1, at)
        value, code = predict(head, config, shared, base, phi, s.inputs, draw, elapsed, s)
        out_value[t] = value
        out_code[t] = code
        for k in range(probabilities.shape[1]):
            probabilities[t, k] = s.logits[k]
        if len(spread) > 0:
            for k in range(3):
                spread[t, k] = s.spread[k]
