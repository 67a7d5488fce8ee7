"""The fold of a recurrent learner, one event and one operation at a time.

`fold` takes the same groups of arrays as `kernels.cpu.fold.fold` and changes them the same way; only rounding differs.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels.cpu.layout import (
    ADAM,
    BINARY,
    C_CLASSES,
    C_OBSERVED,
    C_POSITION,
    C_STEPS,
    C_UPDATED,
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
    P_DRAW,
    P_SEEN,
    P_SURE,
    P_VALUE,
    REGRESSION,
    T_AGREEMENT,
    T_CHANGE_SQ,
    T_CHANGES,
    T_LABEL_MEAN,
    T_LABELS,
    T_MISSED,
    T_MOVED,
    T_POWER,
    T_UPDATED_AT,
    UNKNOWN_ID,
    Config,
    Events,
    Out,
    Rows,
    Shared,
)
from kernels.cpu.rtrl import LARGEST_ERROR
from kernels.reference import ekf, encoder, heads, optimizers, stack
from kernels.reference.inputs import prepare

LABEL_KIND = 2


class Seen(NamedTuple):
    """What an event brings: the inputs [J], and of each feature the encoder's row of its category [D] (-1: none)."""

    inputs: torch.Tensor
    rows: torch.Tensor


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
    slot, time = events.slot[t], events.time[t]
    head, body = rows.head[slot], torch.from_numpy(rows.body[slot])
    late = bool(0 < time < head[H_TIME])
    apply = not (late and config.ignore_out_of_order)
    x = torch.tensor(prepare(config, shared, head, events.x[t], apply), dtype=body.dtype)
    categories = torch.from_numpy(encoder.rows_of(events.x[t], tables)).to(body.dtype)
    x[: config.features][torch.from_numpy(tables[:, 0] > 0)] = 0.0
    seen = Seen(x, categories)
    lowest = _encoded(cell, config, shared, seen)
    moments = stack.advance(cell, config, torch.from_numpy(shared.cell), body, lowest, gap_of(config, head, time))
    base, o = _base(config, shared, head), _logits(cell, config, shared, moments, seen)
    value, code = heads.predict(config.task, o, base, _trust(shared) * _scale(shared))
    out.value[t], out.code[t], out.outcome[t] = value, code, OUT_OF_ORDER if late else 0
    if not apply:
        return
    out.outcome[t] |= OBSERVED
    shared.counters[C_OBSERVED] += 1
    head[H_SEEN] += 1
    head[H_TIME] = max(head[H_TIME], time)
    head[H_POSITION] = shared.counters[C_POSITION]
    stack.write(cell, config, moments, body)
    sure = _sureness(config, value)
    if events.kind[t] == 0:
        if config.pending:
            between = torch.cat([x, categories]) if config.encoded else x[:0]
            _hold(config, shared, rows, events, t, (base, value, code, sure), stack.hold(moments, between, body))
        return
    y = _class_of(config, shared, events, t)
    if y < 0 and config.task == MULTICLASS:
        out.outcome[t] |= CLASS_LIMIT
        return
    if config.task == MULTICLASS:  # the probability that was given to the class; 0 for one that was not known
        value = torch.softmax(o, 0)[int(y)].item() if y < len(o) else 0.0
    out.scored[t] = value, code, base, y, sure
    out.outcome[t] |= _learn(cell, config, shared, head, moments, seen, base, y)
    _note_label(shared, head, y, head[H_SEEN], time)


def gap_of(config: Config, head: np.ndarray, time: int) -> float:
    """Time since the key's last event, in units of the spec and at least `least_gap`; 1 where either has no time."""
    if config.gap_unit <= 0 or time <= 0 or head[H_TIME] <= 0:
        return 1.0
    return max(float(time - head[H_TIME]) / config.gap_unit, config.least_gap)


def _hold(config: Config, shared: Shared, rows: Rows, events: Events, t: int, made: tuple, state: torch.Tensor) -> None:
    """Keeps an observation for its label, in place of the oldest."""
    slot = events.slot[t]
    place = int(rows.head[slot, H_PENDING])
    rows.head[slot, H_PENDING] = (place + 1) % config.pending
    rows.pending_id[slot, place] = events.id[t]
    note = rows.pending_head[slot, place]
    note[P_AT], note[P_SEEN] = shared.counters[C_POSITION], rows.head[slot, H_SEEN]
    note[P_BASE], note[P_VALUE], note[P_CODE], note[P_SURE] = made
    note[P_DRAW] = shared.counters[C_OBSERVED] - 1
    rows.pending_body[slot, place] = state.numpy()


def _label(cell: Any, config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int) -> None:
    """A label by id: the gradient comes from inputs, states and traces as they stood at the prediction."""
    slot, position = events.slot[t], shared.counters[C_POSITION]
    out.value[t], out.code[t], out.outcome[t] = math.nan, -1, UNKNOWN_ID
    place = _find(config, rows, slot, events.id[t], position) if slot >= 0 else -1
    if place < 0:
        return
    head, note = rows.head[slot], rows.pending_head[slot, place]
    head[H_POSITION] = position
    note[P_AT] = 0.0
    y = _class_of(config, shared, events, t)
    if y < 0 and config.task == MULTICLASS:
        out.outcome[t] = CLASS_LIMIT
        return
    base = float(note[P_BASE])
    given = math.nan if config.task == MULTICLASS else note[P_VALUE]
    out.scored[t] = given, note[P_CODE], base, y, note[P_SURE]
    between = config.width + config.features if config.encoded else 0
    moments, held = stack.recall(cell, config, torch.from_numpy(rows.pending_body[slot, place]), between)
    seen = Seen(*held.split([config.width, config.features])) if config.encoded else Seen(moments[0].x, held)
    out.outcome[t] = _learn(cell, config, shared, head, moments, seen, base, y)
    _note_label(shared, head, y, note[P_SEEN], events.time[t])


def _find(config: Config, rows: Rows, slot: int, id: np.ndarray, position: int) -> int:
    for place in range(config.pending):
        at = rows.pending_head[slot, place, P_AT]
        if at > 0 and (rows.pending_id[slot, place] == id).all():
            return -1 if config.horizon > 0 and position - at > config.horizon else place
    return -1


def _learn(
    cell: Any,
    config: Config,
    shared: Shared,
    head: np.ndarray,
    moments: list[stack.Moment],
    seen: Seen,
    base: float,
    y: float,
) -> int:
    """One optimizer step for the label `y` of the prediction made at `moments`. Returns the outcome."""
    if config.task == MULTICLASS:
        shared.counters[C_CLASSES] = max(shared.counters[C_CLASSES], int(y) + 1)
    _observe_change(config, shared, head, y)
    o = _logits(cell, config, shared, moments, seen)
    target = heads.change_in_deviations(y, base, _scale(shared), o) if config.task == REGRESSION else y
    error = heads.error(config.task, o, target, config.residual_clip)
    if config.task == REGRESSION:
        _observe_agreement(config, shared, o[0].item(), target)
    if config.filter is not None:
        phi = _features(cell, config, shared, moments)
        if not ekf.learn(cell, config, shared, moments, *seen, phi, o, error):
            return NONFINITE
        _count_step(shared)
        return LEARNED
    live = slice(0, len(o))
    weights, phi = torch.from_numpy(shared.cell), _features(cell, config, shared, moments)
    d_phi = torch.from_numpy(shared.out[live]).T @ error
    by_cell, d_x, size = stack.gradients(cell, config, weights, moments, d_phi)
    if not heads.largest(error, size) <= LARGEST_ERROR:
        return NONFINITE
    gradients = {"cell": by_cell, "out": torch.outer(error, phi), "skip": torch.outer(error, seen.inputs)}
    if config.encoded:
        part = _encoder_place(cell, config, shared)
        by_cell[part] = encoder.gradient(config, weights[part], *seen, moments[0].x[:-1], d_x)
    scale = optimizers.scale(config, error, gradients.values())
    _count_step(shared)
    if config.optimizer == ADAM:
        shared.decay[:] = shared.decay * (config.beta1, config.beta2)
    _step(cell, config, shared, {name: scale * gradient for name, gradient in gradients.items()}, seen)
    return LEARNED


def _count_step(shared: Shared) -> None:
    shared.counters[C_STEPS] += 1
    shared.counters[C_UPDATED] = shared.counters[C_OBSERVED]


def _step(cell: Any, config: Config, shared: Shared, gradients: dict[str, torch.Tensor], seen: Seen) -> None:
    """One optimizer step on every weight, of `out` and `skip` on the logits in use; the recurrence does not decay."""
    number = int(shared.counters[C_STEPS])

    def change(name: str, part: slice, gradient: torch.Tensor, decayed: Any, share: float = 1.0) -> None:
        w, m, v = (torch.from_numpy(getattr(shared, kind + name)[part]) for kind in ("", "m_", "v_"))
        optimizers.shrink(config, w[decayed])
        optimizers.step(config, number, w, m, v, gradient, share)

    for place in stack.places(cell, config):
        stage = slice(place.recurrence.stop, place.weights.stop)
        change("cell", place.recurrence, gradients["cell"][place.recurrence], slice(0), config.recurrent_rate)
        change("cell", stage, gradients["cell"][stage], slice(None))
    if config.encoded:  # of the tables only the rows that the event named
        first, size = _encoder_place(cell, config, shared).start, config.encoded
        named = [*range(config.width), *seen.rows[seen.rows >= 0].long().tolist()]
        for row in named:
            part = slice(first + row * size, first + (row + 1) * size)
            change("cell", part, gradients["cell"][part], slice(None))
    live = slice(len(gradients["out"]))
    change("out", live, gradients["out"], slice(None))
    change("skip", live, gradients["skip"], (slice(None), slice(None, -1)))


def _observe_change(config: Config, shared: Shared, head: np.ndarray, y: float) -> None:
    """Running second moment of the change and running mean of the label."""
    if config.task != REGRESSION:
        return
    target = shared.target
    if head[H_LABELS] > 0:
        change = y - head[H_LABEL]
        target[T_CHANGES] += 1
        target[T_CHANGE_SQ] += (change**2 - target[T_CHANGE_SQ]) / min(target[T_CHANGES], config.window)
    target[T_LABELS] += 1
    target[T_LABEL_MEAN] += (y - target[T_LABEL_MEAN]) / min(target[T_LABELS], config.window)


def _note_label(shared: Shared, head: np.ndarray, y: float, seen: float, time: int) -> None:
    head[H_CHANGE] = y - head[H_LABEL] if head[H_LABELS] > 0 else 0.0
    head[H_LABEL] = y
    head[H_LABELS] += 1
    head[H_LABEL_AT] = seen
    shared.target[T_UPDATED_AT] = max(shared.target[T_UPDATED_AT], time)


def _sureness(config: Config, value: float) -> float:
    """The probability of the predicted class; a linear head knows no interval of a regression."""
    if config.task == REGRESSION:
        return math.nan
    return max(value, 1.0 - value) if config.task == BINARY else value


def _features(cell: Any, config: Config, shared: Shared, moments: list[stack.Moment]) -> torch.Tensor:
    return stack.top(cell, config, torch.from_numpy(shared.cell), moments)


def _logits(cell: Any, config: Config, shared: Shared, moments: list[stack.Moment], seen: Seen) -> torch.Tensor:
    classes = int(shared.counters[C_CLASSES]) if config.task == MULTICLASS else 1
    out, skip = torch.from_numpy(shared.out), torch.from_numpy(shared.skip)
    return heads.logits(out, skip, _features(cell, config, shared, moments), seen.inputs, classes)


def _class_of(config: Config, shared: Shared, events: Events, t: int) -> float:
    """The label; for multi-class the model's index of it: a new class takes the next, -1 when there is no more."""
    y = float(events.y[t])
    if config.task != MULTICLASS:
        return y
    if events.classes[int(y)] < 0 and shared.counters[C_CLASSES] < config.max_classes:
        events.classes[int(y)] = shared.counters[C_CLASSES]
    return float(events.classes[int(y)])


def _base(config: Config, shared: Shared, head: np.ndarray) -> float:
    if head[H_LABELS] > 0:
        return float(head[H_LABEL])
    return float(shared.target[T_LABEL_MEAN]) if config.task == REGRESSION else math.nan


def _observe_agreement(config: Config, shared: Shared, o: float, change: float) -> None:
    """Running means of o z, o o, |z - a o| and |z|, z the change in deviations and a the slope of z on o so far."""
    if not math.isfinite(o - change):
        return
    weight = 1 / min(shared.target[T_LABELS], config.window)
    z = min(max(change, -config.residual_clip), config.residual_clip)
    noted = {T_MISSED: abs(z - _slope(shared) * o), T_MOVED: abs(z), T_AGREEMENT: o * z, T_POWER: o * o}
    for place, value in noted.items():
        shared.target[place] += weight * (value - shared.target[place])


def _slope(shared: Shared) -> float:
    agreement, power = shared.target[[T_AGREEMENT, T_POWER]].tolist()
    return min(1.0, agreement / power) if agreement > 0 else 0.0


def _trust(shared: Shared) -> float:
    """How much of o is said: nothing while a forecast of no change would have missed less."""
    return _slope(shared) if shared.target[T_MISSED] < shared.target[T_MOVED] else 0.0


def _encoder_place(cell: Any, config: Config, shared: Shared) -> slice:
    return slice(stack.places(cell, config)[-1].weights.stop, len(shared.cell))


def _encoded(cell: Any, config: Config, shared: Shared, seen: Seen) -> torch.Tensor:
    """What the lowest layer sees."""
    if not config.encoded:
        return seen.inputs
    weights = torch.from_numpy(shared.cell)[_encoder_place(cell, config, shared)]
    return torch.cat([encoder.encode(config, weights, *seen), seen.inputs.new_ones(1)])


def _scale(shared: Shared) -> float:
    return math.sqrt(shared.target[T_CHANGE_SQ])
