"""Read-outs, their losses and the gradients of those, one event at a time.

Logits are o = V phi + U x with V = `out` [K, H] and U = `skip` [K, J].
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from kernels.cpu.layout import BINARY, MULTICLASS


def logits(out: torch.Tensor, skip: torch.Tensor, phi: torch.Tensor, x: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits [classes] from the features `phi` [H] of the top layer and the inputs `x` [J]."""
    return out[:classes] @ phi + skip[:classes] @ x


def predict(task: int, o: torch.Tensor, base: float, scale: float) -> tuple[float, int]:
    """(value, code): the likeliest class and its probability, or `base + scale o` and -1 for a regression.

    `code` of a binary target is 1 from a probability of one half; its value is the probability of class 1. Without
    any class yet: (0, -1).
    """
    if task == BINARY:
        positive = torch.sigmoid(o[0]).item()
        return positive, int(positive >= 0.5)
    if task == MULTICLASS:
        if len(o) == 0:
            return 0.0, -1
        p = torch.softmax(o, 0)
        code = int(torch.argmax(p))
        return p[code].item(), code
    return base + scale * o[0].item(), -1


def loss(task: int, o: torch.Tensor, target: float, residual_clip: float) -> torch.Tensor:
    """The loss of one label: log-loss, or Huber's loss of the change in deviations."""
    if task == MULTICLASS:
        return functional.cross_entropy(o, torch.tensor(int(target)))
    wanted = torch.tensor(target, dtype=o.dtype)
    if task == BINARY:
        return functional.binary_cross_entropy_with_logits(o[0], wanted)
    return functional.huber_loss(o[0], wanted, delta=residual_clip)


def error(task: int, o: torch.Tensor, target: float, residual_clip: float) -> torch.Tensor:
    """dL/do [classes] in closed form."""
    if task == MULTICLASS:
        return torch.softmax(o, 0) - functional.one_hot(torch.tensor(int(target)), len(o)).to(o.dtype)
    if task == BINARY:
        return torch.sigmoid(o) - target
    return torch.clamp(o - target, -residual_clip, residual_clip)


def change_in_deviations(y: float, base: float, scale: float, o: torch.Tensor) -> float:
    """The target of a regression; where nothing has changed yet the prediction itself, so that the error is zero."""
    return (y - base) / scale if scale > 0.0 else o[0].item()


def largest(o_error: torch.Tensor, h_errors: float) -> float:
    """The size that the divergence guard bounds, of dL/do and the sum of |dL/dh|; NaN if anything is."""
    size = max(o_error.abs().max().item(), h_errors)
    return math.nan if o_error.isnan().any() or math.isnan(h_errors) else size
