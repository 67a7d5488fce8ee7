"""The fold of a recurrent learner, one event and one operation at a time.

`fold` takes the same groups of arrays as `kernels.cpu.fold.fold` and changes them the same way; only rounding differs.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from kernels.cpu.fold import LARGEST_ERROR
from kernels.cpu.layout import (
    ADAM,
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
    REGRESSION,
    T_CHANGE_SQ,
    T_CHANGES,
    T_LABEL_MEAN,
    T_LABELS,
    UNKNOWN_ID,
    Config,
    Events,
    Out,
    Rows,
    Shared,
)
from kernels.reference import heads, mingru, optimizers
from kernels.reference.inputs import prepare

LABEL_KIND = 2


def fold(config: Config, shared: Shared, rows: Rows, events: Events, out: Out) -> None:
    """Folds `events` into `shared` and `rows`, in place, and writes what was predicted and done to `out`."""
    for t in range(len(events.kind)):
        shared.counters[C_POSITION] += 1
        if events.kind[t] == LABEL_KIND:
            _label(config, shared, rows, events, out, t)
        else:
            _observe(config, shared, rows, events, out, t)


def _observe(config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int) -> None:
    slot = events.slot[t]
    head, body = rows.head[slot], torch.from_numpy(rows.body[slot])
    hidden, trace = body[: config.units], body[config.units :].view(2, config.width, config.units)
    late = bool(0 < events.time[t] < head[H_TIME])
    apply = not (late and config.ignore_out_of_order)
    x = torch.tensor(prepare(config, shared, head, events.x[t], apply), dtype=body.dtype)
    step = mingru.forward(_cell(config, shared.cell), x, hidden)
    base = _base(config, shared, head)
    value, code = heads.predict(config.task, _logits(config, shared, step.h, x), base, _scale(shared))
    out.value[t], out.code[t], out.outcome[t] = value, code, OUT_OF_ORDER if late else 0
    if not apply:
        return
    out.outcome[t] |= OBSERVED
    head[H_SEEN] += 1
    head[H_TIME] = max(head[H_TIME], events.time[t])
    head[H_POSITION] = shared.counters[C_POSITION]
    trace.copy_(mingru.advance(x, hidden, step, trace))
    hidden.copy_(step.h)
    if events.kind[t] == 0:
        if config.pending:
            _hold(config, shared, rows, events, t, (base, value, code), torch.cat([x, body]))
        return
    y = _class_of(config, shared, events, t)
    if y < 0 and config.task == MULTICLASS:
        out.outcome[t] |= CLASS_LIMIT
        return
    if config.task == MULTICLASS:
        value = _probability(config, shared, step.h, x, y)
    out.scored[t] = value, code, base, y
    out.outcome[t] |= _learn(config, shared, head, x, step.h, trace, base, y)
    _note_label(head, y, head[H_SEEN])


def _hold(
    config: Config, shared: Shared, rows: Rows, events: Events, t: int, made: tuple, state: torch.Tensor
) -> None:
    """Keeps an observation for its label, in place of the oldest."""
    slot = events.slot[t]
    place = int(rows.head[slot, H_PENDING])
    rows.head[slot, H_PENDING] = (place + 1) % config.pending
    rows.pending_id[slot, place] = events.id[t]
    note = rows.pending_head[slot, place]
    note[P_AT], note[P_SEEN] = shared.counters[C_POSITION], rows.head[slot, H_SEEN]
    note[P_BASE], note[P_VALUE], note[P_CODE] = made
    rows.pending_body[slot, place] = state.numpy()


def _label(config: Config, shared: Shared, rows: Rows, events: Events, out: Out, t: int) -> None:
    """A label by id: the gradient comes from inputs, hidden state and traces as they stood at the prediction."""
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
    body = torch.from_numpy(rows.pending_body[slot, place])
    x, h, trace = body.split([config.width, config.units, 2 * config.width * config.units])
    base = float(note[P_BASE])
    out.scored[t] = math.nan if config.task == MULTICLASS else note[P_VALUE], note[P_CODE], base, y
    trace = trace.view(2, config.width, config.units)
    out.outcome[t] = _learn(config, shared, head, x, h, trace, base, y)
    _note_label(head, y, note[P_SEEN])


def _find(config: Config, rows: Rows, slot: int, id: np.ndarray, position: int) -> int:
    for place in range(config.pending):
        at = rows.pending_head[slot, place, P_AT]
        if at > 0 and (rows.pending_id[slot, place] == id).all():
            return -1 if config.horizon > 0 and position - at > config.horizon else place
    return -1


def _learn(
    config: Config,
    shared: Shared,
    head: np.ndarray,
    x: torch.Tensor,
    h: torch.Tensor,
    trace: torch.Tensor,
    base: float,
    y: float,
) -> int:
    """One optimizer step for the label `y` of the prediction made from `h` and `x`. Returns the outcome."""
    if config.task == MULTICLASS:
        shared.counters[C_CLASSES] = max(shared.counters[C_CLASSES], int(y) + 1)
    _observe_change(config, shared, head, y)
    o = _logits(config, shared, h, x)
    target = heads.change_in_deviations(y, base, _scale(shared), o) if config.task == REGRESSION else y
    o_error = heads.error(config.task, o, target, config.residual_clip)
    classes = len(o)
    h_error = torch.from_numpy(shared.out[:classes]).T @ o_error
    if not heads.largest(o_error, h_error) <= LARGEST_ERROR:
        return NONFINITE
    shared.counters[C_STEPS] += 1
    if config.optimizer == ADAM:
        shared.decay[:] = shared.decay * (config.beta1, config.beta2)
    for name, gradient in (
        ("cell", h_error * trace),
        ("out", torch.outer(o_error, h)),
        ("skip", torch.outer(o_error, x)),
    ):
        live = slice(None) if name == "cell" else slice(0, classes)
        w, m, v = (torch.from_numpy(getattr(shared, part + name)[live]) for part in ("", "m_", "v_"))
        optimizers.step(config, int(shared.counters[C_STEPS]), w, m, v, gradient.reshape(w.shape))
    return LEARNED


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


def _note_label(head: np.ndarray, y: float, seen: float) -> None:
    head[H_CHANGE] = y - head[H_LABEL] if head[H_LABELS] > 0 else 0.0
    head[H_LABEL] = y
    head[H_LABELS] += 1
    head[H_LABEL_AT] = seen


def _cell(config: Config, flat: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(flat).view(2, config.width, config.units)


def _logits(config: Config, shared: Shared, h: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    classes = int(shared.counters[C_CLASSES]) if config.task == MULTICLASS else 1
    return heads.logits(torch.from_numpy(shared.out), torch.from_numpy(shared.skip), h, x, classes)


def _probability(config: Config, shared: Shared, h: torch.Tensor, x: torch.Tensor, y: float) -> float:
    """The probability that was given to the class `y`; 0 for one that was not known."""
    p = torch.softmax(_logits(config, shared, h, x), 0)
    return p[int(y)].item() if y < len(p) else 0.0


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


def _scale(shared: Shared) -> float:
    return math.sqrt(shared.target[T_CHANGE_SQ])
