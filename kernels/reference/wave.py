"""A wave of the RTRL of element-wise cells: one event each of B distinct keys, with shared weights, in plain PyTorch.

`forward` takes every key one step and gives what the head needs; `learn` takes dL/dh from it, carries the traces,
reduces the gradient over the keys and applies one optimizer step. `kernels.cuda.wave` has the same two functions.

Sizes: B keys of the wave, J inputs (the last is the constant 1), N units; a cell has order D (reals per unit), M
matrices and V vectors. The state of a key is one row of the pool [S, D N (1 + M J + V)]: state [D, N], then traces
[M, J, D, N] of the matrices and [V, D, N] of the vectors. Weights are one vector: matrices [M, J, N] (tied: complex,
[M, 2, J, N]), then vectors [V, N]. With S a trace, x the inputs, e = dL/dh:

    order 1   S <- jac S + factor x_j          (vectors: + vec),   dL/dw = e S
    order 2   (S1, S2) <- [[j11, j12], [j21, j22]] (S1, S2) + (f1, f2) x_j,   dL/dw = e1 S1 + e2 S2
              tied: dL/dW_re = e1 S1 + e2 S2,  dL/dW_im = e2 S1 - e1 S2
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.reference.wave_cells import Cell, one_step, split_weights

LARGEST_ERROR = 1e15
"""A key whose sum |dL/dh| is larger, or NaN, is carried on without a gradient."""

LARGEST_TRACE = 1e6
"""Bound on the traces of a cell that may expand."""

LARGEST_GRADIENT = 1e18
"""A parameter whose gradient is larger, or NaN, is left as it is: squares up to here are finite in float32."""

SGD, ADAM, RMSPROP = "sgd", "adam", "rmsprop"
KINDS = (SGD, ADAM, RMSPROP)


@dataclass
class Optimizer:
    """Moments and scalars of an optimizer; everything lies on the device of the weights.

    Attributes:
        kind: one of `KINDS`.
        hyper: float64 [5]: rate of the matrices, rate of the vectors, beta1, beta2, epsilon.
        decay: float64 [2]: beta1^t, beta2^t after t steps.
        m: like the weights; used by Adam.
        v: like the weights; used by Adam and RMSprop.
    """

    kind: str
    hyper: Tensor
    decay: Tensor
    m: Tensor
    v: Tensor


def optimizer(
    weights: Tensor,
    kind: str = ADAM,
    rate: float = 1e-3,
    vector_rate: float | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
) -> Optimizer:
    """A fresh optimizer for `weights`: SGD, Adam (Kingma & Ba 2015), or RMSprop (Tieleman & Hinton 2012).

    Args:
        weights: T [P].
        kind: one of `KINDS`.
        rate: step size.
        vector_rate: step size of the weights per unit (decays, phases); `rate` when None.
        betas: decay of the first and second moment; RMSprop uses the second.
        epsilon: added to the root of the second moment.

    Raises:
        ValueError: `kind` is not known.
    """
    if kind not in KINDS:
        raise ValueError(f"optimizer kind must be one of {', '.join(KINDS)}, got {kind!r}")
    scalars = [rate, rate if vector_rate is None else vector_rate, *betas, epsilon]
    moments = [torch.zeros_like(weights if used else weights[:0]) for used in (kind == ADAM, kind != SGD)]
    hyper = torch.tensor(scalars, dtype=torch.float64, device=weights.device)
    return Optimizer(kind, hyper, torch.ones_like(hyper[:2]), *moments)


def forward(
    cell: Cell, weights: Tensor, pool: Tensor, rows: Tensor, x: Tensor, gap: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of every key of the wave; changes nothing.

    Args:
        cell: the cell.
        weights: T [P].
        pool: T [S, body].
        rows: int [B]: the row of each key, distinct; negative: padding.
        x: [B, J], T or bfloat16.
        gap: T [B]: time since the key's last event (S5 only); 1 when None.

    Returns:
        h T [B, D, N] and `local` T [B, D^2 + (M + V) D, N], to be given to `learn`. Both are unspecified in padding.
    """
    width = x.shape[1]
    units = split_weights(cell, weights, width)[0].shape[2]
    h = pool[rows.long().clamp(min=0), : cell.order * units].view(-1, cell.order, units)
    step = one_step(cell, weights, h, x, gap)
    return step.h, torch.cat([step.jac, step.factor, step.vec], 1)


def learn(
    cell: Cell,
    weights: Tensor,
    optimizer: Optimizer,
    pool: Tensor,
    rows: Tensor,
    x: Tensor,
    h: Tensor,
    local: Tensor,
    error: Tensor,
    labelled: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Writes the new states, carries the traces and applies one optimizer step, all in place.

    A key is learned from when it is labelled and its error is within `LARGEST_ERROR`; the others are carried on. When
    no key is, weights and optimizer stay as they are.

    Args:
        cell: the cell.
        weights: T [P].
        optimizer: of the weights.
        pool: T [S, body].
        rows: int [B], as in `forward`.
        x: [B, J], as in `forward`.
        h: as `forward` returned it.
        local: as `forward` returned it.
        error: T [B, D, N]: dL/dh of each key.
        labelled: bool [B]; None: all are.
        reduction: "mean" over the keys learned from, or "sum".

    Returns:
        bool [B]: the keys that were learned from.
    """
    live = rows >= 0
    learned = live & (error.abs().sum((1, 2)) <= LARGEST_ERROR)
    if labelled is not None:
        learned &= labelled
    some = (rows[live], x[live], h[live], local[live], error[live], learned[live])
    learn_rows(cell, weights, optimizer, pool, *some, reduction)
    return learned


def learn_rows(
    cell: Cell,
    weights: Tensor,
    optimizer: Optimizer,
    pool: Tensor,
    rows: Tensor,
    x: Tensor,
    h: Tensor,
    local: Tensor,
    error: Tensor,
    learned: Tensor | None = None,
    reduction: str = "mean",
) -> None:
    """`learn` for a wave without padding, given which keys to learn from (None: all)."""
    keys, width, units = len(rows), x.shape[1], h.shape[2]
    state = cell.order * units
    jac, factor, vec = local.split([cell.order**2, cell.matrices * cell.order, cell.vectors * cell.order], 1)
    body = pool[rows.long()]
    immediate = [
        (factor.view(keys, cell.matrices, 1, cell.order, units) * x.to(h.dtype)[:, None, :, None, None]).flatten(1, 2),
        vec.view(keys, cell.vectors, cell.order, units),
    ]
    trace = carry(cell, body[:, state:].view(keys, -1, cell.order, units), jac, torch.cat(immediate, 1))
    pool[rows.long()] = torch.cat([h.flatten(1), trace.flatten(1)], 1)
    if learned is not None:  # what is not learned from may not be finite: it must not meet the sum at all
        trace, error = trace[learned], error[learned]
    g = gradient(cell, trace, error, width)
    count = torch.tensor(len(trace), device=g.device)
    if reduction == "mean":
        g = g / count.clamp(min=1)
    step(optimizer, weights, g, count, cell.products() * width * units)


def carry(cell: Cell, trace: Tensor, jac: Tensor, immediate: Tensor) -> Tensor:
    """The traces [B, R, D, N] one step on; R rows: M J of the matrices, V of the vectors."""
    if cell.order == 1:
        new = jac[:, None] * trace + immediate
    else:
        matrix = jac.view(-1, 1, 2, 2, jac.shape[2])
        new = (matrix * trace[:, :, None]).sum(3) + immediate
    return new if cell.contracts else new.clamp(-LARGEST_TRACE, LARGEST_TRACE)


def gradient(cell: Cell, trace: Tensor, error: Tensor, width: int) -> Tensor:
    """dL/dw T [P], summed over the keys: the traces [B, R, D, N] and errors [B, D, N] contracted."""
    g = torch.einsum("bdn,brdn->rn", error, trace)
    if not cell.tied:
        return g.flatten()
    rows = cell.matrices * width
    turned = torch.stack([error[:, 1], -error[:, 0]], 1)
    imaginary = torch.einsum("bdn,brdn->rn", turned, trace[:, :rows])
    matrices = torch.stack([part.reshape(cell.matrices, -1) for part in (g[:rows], imaginary)], 1)
    return torch.cat([matrices.flatten(), g[rows:].flatten()])


def step(optimizer: Optimizer, weights: Tensor, g: Tensor, count: Tensor, cell_size: int) -> None:
    """One optimizer step with the gradient `g` T [P], in place; none at all when `count` is 0.

    Adam's bias corrections are two scalars: w -= r m / (sqrt(v) + q) with r = rate sqrt(1 - b2^t) / (1 - b1^t) and
    q = epsilon sqrt(1 - b2^t). RMSprop has m = g and no corrections. `cell_size` weights are of matrices.
    """
    rate, vector_rate, beta1, beta2, epsilon = optimizer.hyper
    some = count > 0
    apply = some & (g.abs() <= LARGEST_GRADIENT)
    rates = torch.where(torch.arange(len(g), device=g.device) < cell_size, rate, vector_rate)
    if optimizer.kind == SGD:
        weights.copy_(torch.where(apply, weights - rates.to(g.dtype) * g, weights))
        return
    m = g
    if optimizer.kind == ADAM:
        decay = optimizer.decay * optimizer.hyper[2:4]
        root = torch.sqrt(1.0 - decay[1])
        rates, epsilon = rates * root / (1.0 - decay[0]), epsilon * root
        optimizer.decay.copy_(torch.where(some, decay, optimizer.decay))
        m = beta1.to(g.dtype) * optimizer.m + (1.0 - beta1).to(g.dtype) * g
        optimizer.m.copy_(torch.where(apply, m, optimizer.m))
    v = beta2.to(g.dtype) * optimizer.v + (1.0 - beta2).to(g.dtype) * (g * g)
    optimizer.v.copy_(torch.where(apply, v, optimizer.v))
    new = weights - rates.to(g.dtype) * m / (torch.sqrt(v) + epsilon.to(g.dtype))
    weights.copy_(torch.where(apply, new, weights))
