"""The fold of a recurrent learner, one event and one operation at a time.

`fold` takes the same groups of arrays as `kernels.cpu.fold.fold` and changes them the same way; only rounding differs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from kernels.cpu.layout import (
    AWAY,
    BINARY,
    C_CLASSES,
    C_OBSERVED,
    C_POSITION,
    CLASS_LIMIT,
    H_AWAY,
    H_CHANGE,
    H_LABEL,
    H_LABEL_AT,
    H_LABELS,
    H_PENDING,
    H_POSITION,
    H_SEEN,
    H_TIME,
    LATE,
    MULTICLASS,
    OBSERVED,
    OUT_OF_ORDER,
    P_AT,
    P_BASE,
    P_CODE,
    P_DRAW,
    P_SEEN,
    P_SURE,
    P_TIME,
    P_VALUE,
    REGRESSION,
    T_LABEL_MEAN,
    T_UPDATED_AT,
    UNKNOWN_ID,
    Config,
    Events,
    Out,
    Rows,
    Shared,
)
from kernels.reference import clock, encoder, heads, learning, own, stack
from kernels.reference.inputs import prepare
from kernels.reference.learning import Key, Seen

LABEL_KIND = 2


def fold(cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, tables: np.ndarray) -> None:
    """Folds `events` into `shared` and `rows`, in place, and writes what was predicted and done to `out`.

    `tables` int64 [D, 2] says which features are categories (see `kernels.cpu.layout.Scratch`).
    """
    for t in range(len(events.kind)):
        shared.counters[C_POSITION] += 1
        if events.kind[t] == LABEL_KIND:
            _label(cell, config, shared, rows, events, out, t)
        else:
            _observe(cell, config, shared, rows, events, out, t, tables)


def _observe(
    cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int, tables: np.ndarray
) -> None:
    slot, time = events.slot[t], clock.told_time(shared.target, events.time[t])
    key, body = _key(rows, slot), torch.from_numpy(rows.body[slot])
    head = key.head
    latest = clock.time_of_key(shared.target, head[H_TIME])
    late = bool(0 < time < latest)
    apply = not (late and config.ignore_out_of_order)
    x = torch.tensor(prepare(config, shared, head, key.unit, events.x[t], apply), dtype=body.dtype)
    categories = torch.from_numpy(encoder.rows_of(events.x[t], tables)).to(body.dtype)
    x[: config.features][torch.from_numpy(tables[:, 0] > 0)] = 0.0
    seen = Seen(x, categories)
    lowest = _encoded(cell, config, shared, seen)
    moments = stack.advance(cell, config, torch.from_numpy(shared.cell), body, lowest, gap_of(config, latest, time))
    base, o = _base(config, shared, head), learning.logits(cell, config, shared, moments, seen)
    scale = learning.trust(shared) * own.scale(shared, key.unit) if config.task == REGRESSION else 1.0
    value, code = heads.predict(config.task, o, base, scale)
    out.value[t], out.code[t], out.outcome[t] = value, code, OUT_OF_ORDER if late else 0
    if not apply:
        return
    out.outcome[t] |= OBSERVED if time == events.time[t] else AWAY
    clock.keep_time(shared.target, events.time[t])
    shared.counters[C_OBSERVED] += 1
    head[H_SEEN] += 1
    head[H_TIME] = max(latest, time)
    head[H_POSITION] = shared.counters[C_POSITION]
    stack.write(cell, config, moments, body)
    sure = _sureness(config, value)
    if events.kind[t] == 0:
        if config.pending:
            between = torch.cat([x, categories]) if config.encoded else x[:0]
            state = stack.hold(moments, between, body)
            if config.head_credit:
                state = torch.cat([learning.features(cell, config, shared, moments), x])
            _hold(config, shared, rows, events, out, t, time, (base, value, code, sure), state)
    elif (y := _class_of(config, shared, events, events.y[t])) < 0 and config.task == MULTICLASS:
        out.outcome[t] |= CLASS_LIMIT
    else:
        if config.task == MULTICLASS:  # the probability that was given to the class; 0 for one that was not known
            value = torch.softmax(o, 0)[int(y)].item() if y < len(o) else 0.0
        out.scored[t] = value, code, base, y, sure
        is_base = learning.becomes_base(config, shared, key, y)
        out.outcome[t] |= learning.learn(cell, config, shared, key, moments, seen, base, y)
        _note_label(shared, head, y, is_base, head[H_SEEN], time)
    if config.defaults:
        _expire(cell, config, shared, rows, events, out, t, time)


def _key(rows: Rows, slot: int) -> Key:
    return Key(rows.head[slot], rows.own[slot], rows.unit[slot])


def gap_of(config: Config, latest: float, time: int) -> float:
    """Time since the key's last event, in units of the spec and at least `least_gap`; 1 where either has no time."""
    if config.gap_unit <= 0 or time <= 0 or latest <= 0:
        return 1.0
    return max(float(time - latest) / config.gap_unit, config.least_gap)


def _hold(
    config: Config,
    shared: Shared,
    rows: Rows,
    events: Events,
    out: Out,
    t: int,
    time: int,
    made: tuple[float, ...],
    state: torch.Tensor,
) -> None:
    """Keeps an observation for its label, in place of the oldest."""
    slot = events.slot[t]
    place = int(rows.head[slot, H_PENDING])
    rows.head[slot, H_PENDING] = (place + 1) % config.pending
    rows.pending_id[slot, place] = events.id[t]
    note = rows.pending_head[slot, place]
    if note[P_AT] > 0:
        out.expired[t] = _left(config, note)
    note[P_AT], note[P_SEEN], note[P_TIME] = shared.counters[C_POSITION], rows.head[slot, H_SEEN], time
    note[P_BASE], note[P_VALUE], note[P_CODE], note[P_SURE] = made
    note[P_DRAW] = shared.counters[C_OBSERVED] - 1
    rows.pending_body[slot, place] = state.numpy()


def _label(cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int) -> None:
    """A label by id."""
    slot, position = events.slot[t], shared.counters[C_POSITION]
    out.value[t], out.code[t], out.outcome[t] = math.nan, -1, UNKNOWN_ID
    place = _find(rows, slot, events.id[t]) if slot >= 0 else None
    if place is None:
        return
    head, note = rows.head[slot], rows.pending_head[slot, place]
    time = clock.told_time(shared.target, events.time[t])
    if note[P_AT] < 0 or _expired(config, shared, head, note, position, time):
        out.outcome[t] = LATE
        if note[P_AT] > 0 and config.defaults:
            head[H_POSITION] = position
            _learn_default(cell, config, shared, rows, events, out, t, time, place)
        return
    head[H_POSITION] = position
    note[P_AT] = 0.0
    out.outcome[t] = _teach(cell, config, shared, rows, events, out.scored, t, time, place, events.y[t])


def _find(rows: Rows, slot: int, id: np.ndarray) -> int | None:
    at, same = rows.pending_head[slot, :, P_AT], (rows.pending_id[slot] == id).all(axis=1)
    places = [*np.flatnonzero(same & (at > 0)), *np.flatnonzero(same & (at < 0))[::-1]]
    return places[0] if places else None


def _expired(
    config: Config, shared: Shared, head: np.ndarray, note: np.ndarray, position: int, time: int
) -> bool:
    """Whether a pending observation is past the horizon at an event of its key."""
    by_log = config.horizon > 0 and position - note[P_AT] > config.horizon
    age = max(clock.time_of_key(shared.target, head[H_TIME]), time) - note[P_TIME]
    return bool(by_log or (config.horizon_time > 0 and note[P_TIME] > 0 and age > config.horizon_time))


def _expire(
    cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int, time: int
) -> None:
    """Learns the key's oldest pending observation with the default label, if it has expired or has to make room."""
    slot = events.slot[t]
    head = rows.head[slot]
    first = int(head[H_PENDING])
    order = [(first + k) % config.pending for k in range(config.pending)]
    waiting = [place for place in order if rows.pending_head[slot, place, P_AT] > 0]
    if not waiting:
        return
    note = rows.pending_head[slot, waiting[0]]
    if waiting[0] == first or _expired(config, shared, head, note, shared.counters[C_POSITION], time):
        _learn_default(cell, config, shared, rows, events, out, t, time, waiting[0])


def _learn_default(
    cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int, time: int, place: int
) -> None:
    note = rows.pending_head[events.slot[t], place]
    out.expired[t] = _left(config, note)
    note[P_AT] *= -1
    y = float(len(events.classes) - 1) if config.task == MULTICLASS else config.default_label
    _teach(cell, config, shared, rows, events, out.expired, t, time, place, y)


def _left(config: Config, note: np.ndarray) -> tuple[float, ...]:
    """What is said of an observation that leaves without a label."""
    given = math.nan if config.task == MULTICLASS else note[P_VALUE]
    return given, note[P_CODE], note[P_BASE], math.nan, note[P_SURE]


def _teach(
    cell: Any,
    config: Config,
    shared: Shared,
    rows: Rows,
    events: Events,
    scored: np.ndarray,
    t: int,
    time: int,
    place: int,
    y: float,
) -> int:
    """Learns a label: the gradient comes from inputs, states and traces as they stood at the prediction."""
    slot = events.slot[t]
    key, note = _key(rows, slot), rows.pending_head[slot, place]
    y = _class_of(config, shared, events, y)
    if y < 0 and config.task == MULTICLASS:
        return CLASS_LIMIT
    base = float(note[P_BASE])
    scored[t] = *_left(config, note)[:3], y, note[P_SURE]
    state = torch.from_numpy(rows.pending_body[slot, place])
    is_base = learning.becomes_base(config, shared, key, y)
    if config.head_credit:
        phi, inputs = state.split([config.hidden, config.width])
        outcome = learning.learn_head(config, shared, key, phi, inputs, base, y)
    else:
        between = config.width + config.features if config.encoded else 0
        moments, held = stack.recall(cell, config, state, between)
        seen = Seen(*held.split([config.width, config.features])) if config.encoded else Seen(moments[0].x, held)
        outcome = learning.learn(cell, config, shared, key, moments, seen, base, y)
    _note_label(shared, key.head, y, is_base, note[P_SEEN], time)
    return outcome


def _note_label(shared: Shared, head: np.ndarray, y: float, is_base: bool, seen: float, time: int) -> None:
    if is_base:
        head[H_CHANGE] = y - head[H_LABEL] if head[H_LABELS] > 0 else 0.0
        head[H_LABEL], head[H_AWAY] = y, 0.0
    head[H_LABELS] += 1
    head[H_LABEL_AT] = seen
    shared.target[T_UPDATED_AT] = max(shared.target[T_UPDATED_AT], time)


def _sureness(config: Config, value: float) -> float:
    """The probability of the predicted class; a linear head knows no interval of a regression."""
    if config.task == REGRESSION:
        return math.nan
    return max(value, 1.0 - value) if config.task == BINARY else value


def _class_of(config: Config, shared: Shared, events: Events, y: float) -> float:
    """The label; for multi-class the model's index of it: a new class takes the next, -1 when there is no more."""
    if config.task != MULTICLASS:
        return y
    if events.classes[int(y)] < 0 and shared.counters[C_CLASSES] < config.max_classes:
        events.classes[int(y)] = shared.counters[C_CLASSES]
    return float(events.classes[int(y)])


def _base(config: Config, shared: Shared, head: np.ndarray) -> float:
    if head[H_LABELS] > 0:
        return float(head[H_LABEL])
    return float(shared.target[T_LABEL_MEAN]) if config.task == REGRESSION else math.nan


def _encoded(cell: Any, config: Config, shared: Shared, seen: Seen) -> torch.Tensor:
    """What the lowest layer sees."""
    if not config.encoded:
        return seen.inputs
    weights = torch.from_numpy(shared.cell)[learning.encoder_place(cell, config, shared)]
    return torch.cat([encoder.encode(config, weights, *seen), seen.inputs.new_ones(1)])
