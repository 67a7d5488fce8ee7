"""One step of exact real-time recurrent learning of any cell, its derivatives taken from `forward` by autograd.

A trace is dh/dw. Of element-wise cells unit i depends on column i of every parameter only, so a trace is as long as
its parameter times ORDER, and the derivative of the sum over the units is that of every unit. Traces are
[R, ORDER, N] with one row for each row of parameters: M J of the matrices, then V of the vectors. A complex (TIED)
matrix has one trace, that of its real part: dh/dW_im = i dh/dW_re.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from kernels.cpu.rtrl import LARGEST_TRACE
from kernels.reference.cells import forward, split


class Step(NamedTuple):
    """One step of a cell and of its traces."""

    h: torch.Tensor
    """[ORDER, N]."""
    traces: torch.Tensor
    """[R, ORDER, N]."""
    factor: torch.Tensor
    """[M, ORDER, N]: dh/d(pre-activation): its derivative by the bias, whose input is 1."""


def step(
    cell: Any, flat: torch.Tensor, x: torch.Tensor, before: torch.Tensor, gap: float, traces: torch.Tensor
) -> Step:
    """Carries the state `before` [ORDER, N] and the `traces` of a layer with the weights `flat` one step.

    traces <- dh/dh_ traces + dh/dw with h_ held fixed, kept within `LARGEST_TRACE`.
    """
    width = len(x)
    weights, past = flat.detach().clone().requires_grad_(), before.detach().clone().requires_grad_()
    h = forward(cell, split(cell, weights, width), x, past, gap)
    jac, immediate = [], []
    for part in h:
        by_weights, by_past = torch.autograd.grad(part.sum(), [weights, past], retain_graph=True)
        jac.append(by_past)
        immediate.append(_rows(cell, by_weights, width))
    new = torch.stack(immediate, 1)
    factor = new[: cell.MATRICES * width].view(cell.MATRICES, width, cell.ORDER, cell.units)[:, -1]
    carried = torch.einsum("den,ren->rdn", torch.stack(jac), traces) + new
    return Step(h.detach(), carried.clamp(-LARGEST_TRACE, LARGEST_TRACE), factor)


def gradient(cell: Any, traces: torch.Tensor, error: torch.Tensor, width: int) -> torch.Tensor:
    """dL/dw of the recurrence, flat as its weights, from the traces and the error dL/dh [ORDER, N]."""
    rows = cell.MATRICES * width
    total = (traces * error).sum(1)
    matrices = total[:rows].view(cell.MATRICES, 1, width, cell.units)
    if cell.TIED:
        first, second = traces[:rows].view(cell.MATRICES, 1, width, 2, cell.units).unbind(3)
        matrices = torch.cat([matrices, error[1] * first - error[0] * second], 1)
    return torch.cat([matrices.reshape(-1), total[rows:].reshape(-1)])


def inputs_error(cell: Any, flat: torch.Tensor, factor: torch.Tensor, error: torch.Tensor, width: int) -> torch.Tensor:
    """dL/dx [J] through the recurrence at this event, by the pre-activations that `factor` was taken from."""
    at_pre_activation = (factor * error).sum(1)
    matrices = split(cell, flat, width).matrices
    if cell.TIED:
        turned = error[1] * factor[:, 0] - error[0] * factor[:, 1]
        return torch.einsum("mjn,mn->j", matrices.real, at_pre_activation) + torch.einsum(
            "mjn,mn->j", matrices.imag, turned
        )
    return torch.einsum("mjn,mn->j", matrices, at_pre_activation)


def _rows(cell: Any, flat: torch.Tensor, width: int) -> torch.Tensor:
    """What lies like the weights, as the rows of traces [R, N]: of complex matrices the real part."""
    w = split(cell, flat, width)
    matrices = w.matrices.real if cell.TIED else w.matrices
    return torch.cat([matrices.reshape(-1, cell.units), w.vectors])
