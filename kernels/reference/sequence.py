"""The loss of a whole sequence: autograd through it is the oracle of what RTRL carries forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from kernels.cpu.layout import Config
from kernels.reference import heads
from kernels.reference.cells import features, forward, split
from kernels.reference.stack import places


class Labelled(NamedTuple):
    """The label of step `at` of a sequence, as the loss sees it.

    Attributes:
        at: index of the observation that the label belongs to.
        target: binary: 0 or 1; multi-class: a class; regression: the change in deviations, (y - base) / scale.
        classes: logits in use when the label was learned (1 unless multi-class).
    """

    at: int
    target: float
    classes: int


def sequence_loss(
    cell: Any,
    config: Config,
    weights: torch.Tensor,
    out: torch.Tensor,
    skip: torch.Tensor,
    inputs: torch.Tensor,
    gaps: Sequence[float],
    labels: Sequence[Labelled],
    through: int,
) -> torch.Tensor:
    """Sum of the losses of the labels of one key's sequence with the weights held fixed.

    Args:
        cell: the named tuple of `kernels.cpu.cells`.
        config: task, layers, units and residual_clip are used.
        weights: [C] of all layers.
        out: [K, H], features of the top layer to logits.
        skip: [K, J], inputs to logits.
        inputs: [T, J], standardised.
        gaps: T, time since the step before.
        labels: what was learned, in any order.
        through: layers above this one forget, for the gradient, how they came to their past states: what autograd
            then gives for layer `through` is spatial backpropagation above it and exact in its own past. Of the top
            layer it is the gradient of the loss.

    Returns:
        A scalar of the dtype of `weights`.
    """
    where = places(cell, config)
    ws = [split(cell, weights[place.weights], place.width) for place in where]
    states = [torch.zeros(cell.ORDER, cell.units, dtype=weights.dtype) for _ in where]
    tops = []
    for step, gap in zip(inputs, gaps):
        x = step
        for k, w in enumerate(ws):
            before = states[k].detach() if k > through else states[k]
            states[k] = forward(cell, w, x, before, gap)
            phi = features(cell, w, x, states[k])
            x = torch.cat([phi, phi.new_ones(1)])
        tops.append(phi)
    total = torch.zeros((), dtype=weights.dtype)
    for at, target, classes in labels:
        o = heads.logits(out, skip, tops[at], inputs[at], classes)
        total = total + heads.loss(config.task, o, target, config.residual_clip)
    return total
