"""Dense recurrences and the approximations of their gradient, in plain PyTorch, by their definitions.

Derivatives are taken by autograd, and influences are full matrices [N, G I N]: slow, and the oracle of
`kernels.cpu.dense`, whose sizes and layout of weights these are.
"""

from __future__ import annotations

import math

import torch

from kernels.cpu.dense.cells import RNN, Dense


def forward(cell: Dense, flat: torch.Tensor, x: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """The state [N] after one step from the state `before` [N] with the inputs x [J]."""
    w = flat.view(cell.gates, cell.width + cell.units, cell.units)
    inputs = torch.cat([x, before])
    if cell.gates == RNN:
        return torch.tanh(inputs @ w[0])
    r, z = torch.sigmoid(inputs @ w[0]), torch.sigmoid(inputs @ w[1])
    n = torch.tanh(x @ w[2, : cell.width] + r * (before @ w[2, cell.width :]))
    return (1 - z) * n + z * before


def run(cell: Dense, flat: torch.Tensor, x: torch.Tensor, start: int = 0) -> torch.Tensor:
    """The state [N] after the steps x [T, J] from zero; the state before step `start` is a constant to autograd."""
    h = torch.zeros(cell.units, dtype=flat.dtype)
    for t, step in enumerate(x):
        h = forward(cell, flat, step, h.detach() if t == start else h)
    return h


def step(
    cell: Dense, flat: torch.Tensor, x: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(state [N], dh/dh_ [N, N], dh/dw with h_ held fixed [N, G I N]) of one step."""
    by_weights, by_state = torch.autograd.functional.jacobian(lambda w, h: forward(cell, w, x, h), (flat, before))
    return forward(cell, flat, x, before), by_state, by_weights


def influence(cell: Dense, flat: torch.Tensor, x: torch.Tensor, snap1: bool = False) -> torch.Tensor:
    """dh/dw [N, G I N] after the steps x [T, J] by RTRL; `snap1` drops what is zero after one step, at every step.

    That pattern does not depend on values: a weight lies in the column of one unit, and reaches that one in one step.
    """
    h = torch.zeros(cell.units, dtype=flat.dtype)
    total = torch.zeros(cell.units, len(flat), dtype=flat.dtype)
    kept = torch.eye(cell.units, dtype=flat.dtype).repeat(1, len(flat) // cell.units) if snap1 else 1.0
    for inputs in x:
        h, by_state, by_weights = step(cell, flat, inputs, h)
        total = kept * (by_state @ total + by_weights)
    return total


def uoro(
    cell: Dense, flat: torch.Tensor, x: torch.Tensor, signs: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(p [N], q [G I N]) of Tallec & Ollivier (2018) after the steps x [T, J], with the signs [T, N]."""
    h, p, q = (torch.zeros(size, dtype=flat.dtype) for size in (cell.units, cell.units, len(flat)))
    for inputs, nu in zip(x, signs):
        h, by_state, by_weights = step(cell, flat, inputs, h)
        a, v = by_state @ p, nu @ by_weights
        r0 = math.sqrt((q.norm() + epsilon) / (a.norm() + epsilon))
        r1 = math.sqrt((v.norm() + epsilon) / (nu.norm() + epsilon))
        p, q = r0 * a + r1 * nu, q / r0 + v / r1
    return p, q
