"""One step of exact real-time recurrent learning of any cell, its derivatives taken from `forward` by autograd.

A trace is dh/dw. Of element-wise cells unit i depends on one column of every parameter only, so traces are
[R, ORDER, N] with one row for each row of parameters, M J of the matrices, then V of the vectors, and the derivative
of the sum over the units is that of every unit. A complex (TIED) matrix has one trace, that of its real part:
dh/dW_im = i dh/dW_re.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from kernels.cpu.rtrl import LARGEST_TRACE
from kernels.reference.cells import forward, reach, split


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

    traces <- dh/dh_ traces + dh/dw with h_ held fixed.
    """
    weights = split(cell, flat, len(x))
    leaves = [part.detach().clone().requires_grad_() for part in (weights.matrices, weights.vectors, before)]
    matrices, vectors, past = leaves
    h = forward(cell, weights._replace(matrices=matrices, vectors=vectors), x, past, gap)
    jac, immediate, factor = [], [], []
    for part in h:
        by_matrices, by_vectors, by_past = torch.autograd.grad(
            part.sum(), leaves, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        by_matrices = by_matrices.real if cell.TIED else by_matrices
        jac.append(by_past)
        immediate.append(torch.cat([by_matrices.reshape(-1, cell.units), by_vectors]))
        factor.append(by_matrices[:, -1])
    carried = torch.einsum("den,ren->rdn", torch.stack(jac), traces) + torch.stack(immediate, 1)
    return Step(h.detach(), bounded(carried), torch.stack(factor, 1))


def bounded(values: torch.Tensor) -> torch.Tensor:
    """States and traces as they are kept: within `LARGEST_TRACE`, which also takes the place of NaN."""
    return values.nan_to_num(LARGEST_TRACE).clamp(-LARGEST_TRACE, LARGEST_TRACE)


def gradient(cell: Any, traces: torch.Tensor, error: torch.Tensor, width: int) -> torch.Tensor:
    """dL/dw of the recurrence, flat as its weights, from the traces and the error dL/dh [ORDER, N].

    Units that share a weight add up.
    """
    rows = cell.MATRICES * width
    matrices = traces[:rows].view(cell.MATRICES, width, cell.ORDER, cell.units)
    parts = []
    for trace, index in zip(matrices, reach(cell)):
        found = [(trace * error).sum(1)]
        if cell.TIED:
            found.append(error[1] * trace[:, 0] - error[0] * trace[:, 1])
        columns = int(index.max()) + 1
        parts += [one.new_zeros(width, columns).index_add(1, index, one).reshape(-1) for one in found]
    return torch.cat([*parts, (traces[rows:] * error).sum(1).reshape(-1)])


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
