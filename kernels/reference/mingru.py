"""minGRU (Feng et al. 2024, arXiv 2410.01201) with a tanh candidate, its RTRL traces, and the loss of a whole sequence.

Shapes: N units, J inputs (the last is the constant 1), K logits. Parameters of the cell are one tensor [2, J, N]:
`cell[0]` is Wz, `cell[1]` is Wh; traces have the same shape.

    z = sigmoid(x Wz),  c = tanh(x Wh),  h = (1 - z) h_ + z c
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from kernels.reference import heads


class Step(NamedTuple):
    """What one step of the cell computes, each [N]."""

    h: torch.Tensor
    z: torch.Tensor
    c: torch.Tensor


def forward(cell: torch.Tensor, x: torch.Tensor, h_before: torch.Tensor) -> Step:
    """One step from the hidden state `h_before` [N] with the inputs `x` [J]."""
    z = torch.sigmoid(x @ cell[0])
    c = torch.tanh(x @ cell[1])
    return Step((1 - z) * h_before + z * c, z, c)


def advance(x: torch.Tensor, h_before: torch.Tensor, step: Step, trace: torch.Tensor) -> torch.Tensor:
    """The traces dh/dcell [2, J, N] after the step, from those before it.

    Unit i depends on column i of each matrix only, and dh_i/dh_before_i = 1 - z_i: the recursion is element-wise.
    """
    _, z, c = step
    to_gate = (c - h_before) * z * (1 - z)
    to_candidate = z * (1 - c * c)
    return (1 - z) * trace + torch.stack([torch.outer(x, to_gate), torch.outer(x, to_candidate)])


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
    task: int,
    cell: torch.Tensor,
    out: torch.Tensor,
    skip: torch.Tensor,
    inputs: torch.Tensor,
    labels: Sequence[Labelled],
    residual_clip: float,
) -> torch.Tensor:
    """Sum of the losses of the labels of one key's sequence with the weights held fixed.

    Autograd through the whole sequence gives the gradient that RTRL carries forward; it is the oracle of the traces.

    Args:
        task: BINARY, MULTICLASS or REGRESSION of `kernels.cpu.layout`.
        cell: [2, J, N].
        out: [K, N], hidden state to logits.
        skip: [K, J], inputs to logits.
        inputs: [T, J], standardised.
        labels: what was learned, in any order.
        residual_clip: Huber's bound.

    Returns:
        A scalar of the dtype of `cell`.
    """
    h = torch.zeros(cell.shape[2], dtype=cell.dtype)
    hidden = []
    for x in inputs:
        h = forward(cell, x, h).h
        hidden.append(h)
    total = torch.zeros((), dtype=cell.dtype)
    for at, target, classes in labels:
        o = heads.logits(out, skip, hidden[at], inputs[at], classes)
        total = total + heads.loss(task, o, target, residual_clip)
    return total
