"""What is predicted, and what a label does: its error, the gradients of all weights, one optimizer step."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch

from kernels.cpu.layout import (
    ADAM,
    C_CLASSES,
    C_OBSERVED,
    C_STEPS,
    C_UPDATED,
    CHANGE,
    EKF,
    H_AWAY,
    H_AWAY_LABEL,
    H_LABEL,
    H_LABELS,
    LEARNED,
    LEVEL,
    MULTICLASS,
    NONFINITE,
    OUTLIER,
    REGRESSION,
    S_MEAN,
    S_SPAN,
    S_VARIANCE,
    T_AGREEMENT,
    T_CHANGE_SQ,
    T_CHANGES,
    T_GRADIENT,
    T_LABEL_MEAN,
    T_LABELS,
    T_MISSED,
    T_MOVED,
    T_POWER,
    U_CENTRE,
    U_DEVIATION,
    U_SCALE,
    Config,
    Shared,
)
from kernels.cpu.rtrl import LARGEST_ERROR
from kernels.reference import ekf, encoder, heads, optimizers, own, stack
from kernels.reference.inputs import REACH, moved


class Key(NamedTuple):
    """What is kept of the key of an event: views of `head`, `own` and `unit` of `Rows`."""

    head: np.ndarray
    own: np.ndarray
    unit: np.ndarray


class Seen(NamedTuple):
    """What an event brings: the inputs [J], and of each feature the encoder's row of its category [D] (-1: none)."""

    inputs: torch.Tensor
    rows: torch.Tensor


def features(cell: Any, config: Config, shared: Shared, moments: list[stack.Moment]) -> torch.Tensor:
    """The features [H] of the top layer, by the weights of today."""
    return stack.top(cell, config, torch.from_numpy(shared.cell), moments)


def logits(cell: Any, config: Config, shared: Shared, moments: list[stack.Moment], seen: Seen) -> torch.Tensor:
    """The logits of the classes known; of other targets one."""
    classes = int(shared.counters[C_CLASSES]) if config.task == MULTICLASS else 1
    out, skip = torch.from_numpy(shared.out), torch.from_numpy(shared.skip)
    return heads.logits(out, skip, features(cell, config, shared, moments), seen.inputs, classes)


def trust(shared: Shared) -> float:
    """How much of o is said: nothing while a forecast of no change would have missed less."""
    return _slope(shared) if shared.target[T_MISSED] < shared.target[T_MOVED] else 0.0


def _slope(shared: Shared) -> float:
    agreement, power = shared.target[[T_AGREEMENT, T_POWER]].tolist()
    return min(1.0, agreement / power) if agreement > 0 else 0.0


def encoder_place(cell: Any, config: Config, shared: Shared) -> slice:
    """Where the encoder has its weights in `Shared.cell`."""
    return slice(stack.places(cell, config)[-1].weights.stop, len(shared.cell))


def learn(
    cell: Any,
    config: Config,
    shared: Shared,
    key: Key,
    moments: list[stack.Moment],
    seen: Seen,
    base: float,
    y: float,
) -> int:
    """One optimizer step for the label `y` of the prediction made at `moments`. Returns the outcome."""
    if config.task == MULTICLASS:
        shared.counters[C_CLASSES] = max(shared.counters[C_CLASSES], int(y) + 1)
    if _observe_change(config, shared, key, y):
        return OUTLIER
    o = logits(cell, config, shared, moments, seen)
    phi = features(cell, config, shared, moments)
    error = _error(config, shared, key, o, base, y, phi, seen.inputs)
    if config.filter is not None:
        if not ekf.learn(cell, config, shared, moments, *seen, phi, o, error):
            return NONFINITE
        _count_step(shared)
        return LEARNED
    live = slice(0, len(o))
    weights = torch.from_numpy(shared.cell)
    d_phi = torch.from_numpy(shared.out[live]).T @ error
    by_cell, d_x, size = stack.gradients(cell, config, weights, moments, d_phi)
    if not heads.largest(error, size) <= LARGEST_ERROR:
        return NONFINITE
    gradients = {"cell": by_cell, "out": torch.outer(error, phi), "skip": torch.outer(error, seen.inputs)}
    if config.encoded:
        part = encoder_place(cell, config, shared)
        by_cell[part] = encoder.gradient(config, weights[part], *seen, moments[0].x[:-1], d_x)
    scale = optimizers.scale(config, error, gradients.values())
    _advance(config, shared)
    _step(cell, config, shared, {name: scale * gradient for name, gradient in gradients.items()}, seen)
    return LEARNED


def learn_head(
    config: Config,
    shared: Shared,
    key: Key,
    phi: torch.Tensor,
    inputs: torch.Tensor,
    base: float,
    y: float,
) -> int:
    """One optimizer step on the head alone, from the features and inputs of the prediction."""
    if config.task == MULTICLASS:
        shared.counters[C_CLASSES] = max(shared.counters[C_CLASSES], int(y) + 1)
    if _observe_change(config, shared, key, y):
        return OUTLIER
    classes = int(shared.counters[C_CLASSES]) if config.task == MULTICLASS else 1
    o = heads.logits(torch.from_numpy(shared.out), torch.from_numpy(shared.skip), phi, inputs, classes)
    error = _error(config, shared, key, o, base, y, phi, inputs)
    if not heads.largest(error, 0.0) <= LARGEST_ERROR:
        return NONFINITE
    gradients = {"out": torch.outer(error, phi), "skip": torch.outer(error, inputs)}
    scale = optimizers.scale(config, error, gradients.values())
    _advance(config, shared)
    _step_head(config, shared, {name: scale * gradient for name, gradient in gradients.items()})
    return LEARNED


def _error(
    config: Config,
    shared: Shared,
    key: Key,
    o: torch.Tensor,
    base: float,
    y: float,
    phi: torch.Tensor,
    inputs: torch.Tensor,
) -> torch.Tensor:
    """dL/do; of a regression it is bounded by those of late, and the agreement of o with the change is noted too."""
    if config.task != REGRESSION:
        return heads.error(config.task, o, y, config.residual_clip)
    target = heads.change_in_deviations(y, base, own.scale(shared, key.unit), o)
    error = heads.error(config.task, o, target, config.residual_clip)
    _observe_agreement(config, shared, o[0].item(), target)
    if config.gradient_clip == 0 or config.optimizer == EKF or not torch.isfinite(error).all():
        return error
    return _clip_gradient(config, shared, error, torch.cat([phi, inputs]))


def _clip_gradient(config: Config, shared: Shared, error: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """dL/do with the gradient of the read-out, dL/do z, at most `gradient_clip` times as long as those of late."""
    usual, length, size = float(shared.target[T_GRADIENT]), z.norm().item(), (error.abs() * z.norm()).item()
    if not math.isfinite(size):
        return error
    share = 1 / min(shared.target[T_LABELS], 200)
    if usual == 0:
        shared.target[T_GRADIENT] = size
        return error
    most = config.gradient_clip * max(usual, 0.005 * length)
    shared.target[T_GRADIENT] = (1 - share) * usual + share * min(size, most)
    return error * min(1.0, most / size) if size > 0 else error


def _advance(config: Config, shared: Shared) -> None:
    """Counts a step, and moves Adam's decays by one."""
    _count_step(shared)
    if config.optimizer == ADAM:
        shared.decay[:] = shared.decay * (config.beta1, config.beta2)


def _count_step(shared: Shared) -> None:
    shared.counters[C_STEPS] += 1
    shared.counters[C_UPDATED] = shared.counters[C_OBSERVED]


def _step(cell: Any, config: Config, shared: Shared, gradients: dict[str, torch.Tensor], seen: Seen) -> None:
    """One optimizer step on every weight, of `out` and `skip` on the logits in use; the recurrence does not decay."""
    for place in stack.places(cell, config):
        stage = slice(place.recurrence.stop, place.weights.stop)
        recurrent = gradients["cell"][place.recurrence]
        _change(config, shared, "cell", place.recurrence, recurrent, slice(0), config.recurrent_rate)
        _change(config, shared, "cell", stage, gradients["cell"][stage], slice(None))
    if config.encoded:  # of the tables only the rows that the event named
        first, size = encoder_place(cell, config, shared).start, config.encoded
        named = [*range(config.width), *seen.rows[seen.rows >= 0].long().tolist()]
        for row in named:
            part = slice(first + row * size, first + (row + 1) * size)
            _change(config, shared, "cell", part, gradients["cell"][part], slice(None))
    _step_head(config, shared, gradients)


def _step_head(config: Config, shared: Shared, gradients: dict[str, torch.Tensor]) -> None:
    live = slice(len(gradients["out"]))
    _change(config, shared, "out", live, gradients["out"], slice(None))
    _change(config, shared, "skip", live, gradients["skip"], (slice(None), slice(None, -1)))


def _change(
    config: Config, shared: Shared, name: str, part: slice, gradient: torch.Tensor, decayed: Any, share: float = 1.0
) -> None:
    """One optimizer step on a part of an array of weights, of which `decayed` decays."""
    w, m, v = (torch.from_numpy(getattr(shared, kind + name)[part]) for kind in ("", "m_", "v_"))
    optimizers.shrink(config, w[decayed])
    optimizers.step(config, int(shared.counters[C_STEPS]), w, m, v, gradient, share)


def _observe_change(config: Config, shared: Shared, key: Key, y: float) -> bool:
    """Running second moment of the change and running mean of the label; whether the label teaches nothing."""
    if config.task != REGRESSION:
        return False
    head, target, first = key.head, shared.target, config.features
    if head[H_LABELS] > 0:
        row = shared.scaler[first + CHANGE]
        row[:] = moved(config, row, y - head[H_LABEL], True)[0]
        target[T_CHANGES] += 1
        target[T_CHANGE_SQ] = row[S_VARIANCE] + row[S_MEAN] ** 2
    row = shared.scaler[first + LEVEL]
    row[:] = moved(config, row, y, True)[0]
    target[T_LABELS] += 1
    target[T_LABEL_MEAN] = row[S_MEAN]
    return own.observe(config, shared, *key, y)


def becomes_base(config: Config, shared: Shared, key: Key, y: float) -> bool:
    """Whether changes are measured from `y` from now on; see `kernels.cpu.heads.target`."""
    head, unit = key.head, key.unit
    if config.task != REGRESSION or head[H_LABELS] == 0:
        return True
    row = shared.scaler[config.features + LEVEL]
    off, variance = abs(y - row[S_MEAN]), row[S_VARIANCE]
    if unit[U_SCALE] > 0:
        off, variance = abs(y - unit[U_CENTRE]), unit[U_DEVIATION] ** 2
    if row[S_SPAN] < 16 or variance == 0 or off * off <= REACH * REACH * variance:
        return True
    lasts = bool(head[H_AWAY]) and abs(y - head[H_AWAY_LABEL]) <= abs(y - head[H_LABEL])
    head[H_AWAY], head[H_AWAY_LABEL] = 1.0, y
    return lasts


def _observe_agreement(config: Config, shared: Shared, o: float, change: float) -> None:
    """Running means of o z, o o, |z - a o| and |z|, z the change in deviations and a the slope of z on o so far."""
    if not math.isfinite(o - change):
        return
    weight = 1 / min(shared.target[T_LABELS], config.window)
    z = min(max(change, -config.residual_clip), config.residual_clip)
    noted = {T_MISSED: abs(z - _slope(shared) * o), T_MOVED: abs(z), T_AGREEMENT: o * z, T_POWER: o * o}
    for place, value in noted.items():
        shared.target[place] += weight * (value - shared.target[place])
