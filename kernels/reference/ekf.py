"""The diagonal extended Kalman filter of all weights as in `kernels.cpu.ekf`, from the whole Jacobian of the logits.

H is [C, P], one row of `stack.gradients` per logit, and p [P]; nothing is taken apart by units.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from kernels.cpu.ekf import PRIOR_LABELS
from kernels.cpu.ekf_rows import LEAST_VARIANCE
from kernels.cpu.layout import BINARY, REGRESSION, T_LABELS, Config, Shared
from kernels.cpu.rtrl import LARGEST_ERROR
from kernels.reference import encoder, stack

NAMES = ("cell", "out", "skip")


class Part(NamedTuple):
    """The weights of one array of `Shared` as the filter sees them."""

    jacobian: torch.Tensor
    """[C, P]."""
    prior: torch.Tensor
    """[P]: variance before any label."""
    live: torch.Tensor
    """bool [P]: what this label may change."""


def learn(
    cell: Any,
    config: Config,
    shared: Shared,
    moments: list[stack.Moment],
    inputs: torch.Tensor,
    rows: torch.Tensor,
    phi: torch.Tensor,
    o: torch.Tensor,
    error: torch.Tensor,
) -> bool:
    """Learns from dL/do `error` [C] at the logits `o` [C]; changes nothing and says no where that is not finite.

    `inputs` [J] and `rows` [D] are those of the event (see `kernels.reference.fold.Seen`), `phi` [H] the features.
    """
    f, logits = config.filter, len(o)
    parts, size = _parts(cell, config, shared, moments, inputs, rows, phi, logits)
    if not max(size, error.abs().max().item()) <= LARGEST_ERROR or error.isnan().any():
        return False
    information, score = _information(config, shared, o, error)
    before = {name: _variance(f, torch.from_numpy(getattr(shared, "v_" + name)), parts[name]) for name in NAMES}
    seen = torch.zeros(logits, logits, dtype=torch.float64)
    for name in NAMES:
        seen += (parts[name].jacobian * before[name]) @ parts[name].jacobian.T
    inner = torch.eye(logits, dtype=torch.float64) + information @ seen
    lift, form = torch.linalg.solve(inner, score), torch.linalg.solve(inner, information)
    if not lift.isfinite().all():
        return False
    for name in NAMES:
        part, p = parts[name], before[name]
        w, v = (torch.from_numpy(getattr(shared, kind + name)).view(-1) for kind in ("", "v_"))
        h = part.jacobian
        if f.variational:
            after = 1 / (1 / p + torch.einsum("cp,cd,dp->p", h, information.to(h), h))
        else:
            after = p * (1 - p * torch.einsum("cp,cd,dp->p", h, form.to(h), h))
        least = part.prior.clamp(max=LEAST_VARIANCE)
        w[part.live] += (p * (h.T @ lift.to(h)))[part.live]
        v[part.live] = torch.maximum(after, least)[part.live]
    if config.task == REGRESSION:
        noise = 1 / information.item()
        surprise = noise * error.item() ** 2 / (noise + seen.item())
        count = min(shared.target[T_LABELS] + PRIOR_LABELS, config.window)
        shared.decay[0] += (surprise - shared.decay[0]) / count
    return True


def _variance(f: Any, v: torch.Tensor, part: Part) -> torch.Tensor:
    """Variances [P] before the label, of what is kept in `v`: 0 stands for the prior."""
    v = v.reshape(-1)
    return f.keep * torch.where(v > 0, v, part.prior) + (1 - f.keep) * part.prior


def _information(
    config: Config, shared: Shared, o: torch.Tensor, error: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """F [C, C] and g [C] of the label, float64."""
    floor, error = config.filter.floor, error.double()
    if config.task == REGRESSION:
        noise = max(shared.decay[0], floor)
        return torch.full((1, 1), 1 / noise, dtype=torch.float64), -error / noise
    if config.task == BINARY:
        p = torch.sigmoid(o.double())
        return (p * (1 - p)).clamp(min=floor).view(1, 1), -error
    p = torch.softmax(o.double(), 0)
    return torch.diag(p + floor) - torch.outer(p, p), -error


def _parts(
    cell: Any,
    config: Config,
    shared: Shared,
    moments: list[stack.Moment],
    inputs: torch.Tensor,
    rows: torch.Tensor,
    phi: torch.Tensor,
    logits: int,
) -> tuple[dict[str, Part], float]:
    """The weights of every array, and the largest sum |do/dh|."""
    f, weights = config.filter, torch.from_numpy(shared.cell)
    place = slice(stack.places(cell, config)[-1].weights.stop, len(weights))
    by_cell, largest = weights.new_zeros(logits, len(weights)), 0.0
    for c in range(logits):
        by_cell[c], d_x, size = stack.gradients(cell, config, weights, moments, torch.from_numpy(shared.out[c]))
        largest = size if math.isnan(size) else max(largest, size)
        if config.encoded:
            by_cell[c, place] = encoder.gradient(config, weights[place], inputs, rows, moments[0].x[:-1], d_x)
    prior, live = torch.full_like(weights, f.prior), torch.ones(len(weights), dtype=torch.bool)
    for layer in stack.places(cell, config):
        prior[layer.recurrence] = f.recurrent
    if config.encoded:
        named = torch.zeros((place.stop - place.start) // config.encoded, dtype=torch.bool)
        named[: config.width] = True
        named[rows[rows >= 0].long()] = True
        live[place] = named.repeat_interleave(config.encoded)
    parts = {"cell": Part(by_cell, prior, live)}
    for name, sees in (("out", phi), ("skip", inputs)):
        shape = (logits, *getattr(shared, name).shape)
        jacobian = phi.new_zeros(shape)
        jacobian[range(logits), range(logits)] = sees
        known = torch.zeros(shape[1:], dtype=torch.bool)
        known[:logits] = True
        parts[name] = Part(jacobian.view(logits, -1), phi.new_full((known.numel(),), f.prior), known.view(-1))
    return parts, largest
