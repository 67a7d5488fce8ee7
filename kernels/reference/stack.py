"""A stack of layers of one cell, event by event: states and traces of every layer, and the errors between them.

Layer 0 sees the inputs of the event, layer l the features of layer l - 1 and the constant 1. Errors go down through
the layers at this event only (spatial backpropagation, Zucchet et al., NeurIPS 2023).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from kernels.cpu.layout import Config
from kernels.cpu.rtrl import LARGEST_TRACE
from kernels.reference import rtrl
from kernels.reference.cells import features, shapes, split


class Place(NamedTuple):
    """Where a layer has its weights in `Shared.cell`, and of these the recurrence, and its numbers in a key's row."""

    width: int
    weights: slice
    recurrence: slice
    state: slice
    traces: slice


class Moment(NamedTuple):
    """A layer as it stood after an event."""

    x: torch.Tensor
    """[J]."""
    factor: torch.Tensor
    """[M, ORDER, N]."""
    h: torch.Tensor
    """[ORDER, N]."""
    traces: torch.Tensor
    """[R, ORDER, N]."""


def places(cell: Any, config: Config) -> list[Place]:
    """The place of every layer, from the bottom."""
    found, weights, body = [], 0, 0
    for layer in range(config.layers):
        below = config.hidden if layer else config.encoded
        width = below + 1 if below else config.width
        sizes = [math.prod(shape) for shape in shapes(cell, width)]
        stage = math.prod(cell.output_stage(width))
        end, state = weights + sum(sizes), body + cell.ORDER * cell.units
        traces = cell.ORDER * (cell.MATRICES * width + cell.VECTORS) * cell.units
        found.append(
            Place(
                width,
                slice(weights, end),
                slice(weights, end - stage),
                slice(body, state),
                slice(state, state + traces),
            )
        )
        weights, body = end, found[-1].traces.stop
    return found


def advance(
    cell: Any, config: Config, weights: torch.Tensor, body: torch.Tensor, x: torch.Tensor, gap: float
) -> list[Moment]:
    """One event with the inputs `x` [J], from the states and traces in `body`; changes nothing."""
    moments = []
    for place in places(cell, config):
        before = body[place.state].view(cell.ORDER, cell.units)
        traces = body[place.traces].view(-1, cell.ORDER, cell.units)
        step = rtrl.step(cell, weights[place.weights], x, before, gap, traces)
        h = step.h.clamp(-LARGEST_TRACE, LARGEST_TRACE)  # NaN stays, for the guard
        moments.append(Moment(x, step.factor, h, step.traces))
        x = torch.cat([_features(cell, weights, place, moments[-1]), x.new_ones(1)])
    return moments


def write(cell: Any, config: Config, moments: list[Moment], body: torch.Tensor) -> None:
    """Writes states and traces to a key's row."""
    for place, moment in zip(places(cell, config), moments):
        body[place.state] = rtrl.bounded(moment.h).reshape(-1)
        body[place.traces] = moment.traces.reshape(-1)


def hold(moments: list[Moment], between: torch.Tensor, body: torch.Tensor) -> torch.Tensor:
    """What a label that comes later needs: inputs and factors of every layer, `between`, then the key's row `body`."""
    inputs = [part.reshape(-1) for moment in moments for part in (moment.x, moment.factor)]
    return torch.cat([*inputs, between, body])


def recall(cell: Any, config: Config, held: torch.Tensor, seen: int) -> tuple[list[Moment], torch.Tensor]:
    """The moments that `hold` made `held` of, and the `seen` numbers that it put between them and the row."""
    n, order, where, inputs = cell.units, cell.ORDER, places(cell, config), []
    for place in where:
        x, held = held[: place.width], held[place.width :]
        factor, held = held[: cell.MATRICES * order * n], held[cell.MATRICES * order * n :]
        inputs.append((x, factor.view(-1, order, n)))
    between, held = held[:seen], held[seen:]
    moments = [
        Moment(*pair, held[place.state].view(order, n), held[place.traces].view(-1, order, n))
        for place, pair in zip(where, inputs)
    ]
    return moments, between


def top(cell: Any, config: Config, weights: torch.Tensor, moments: list[Moment]) -> torch.Tensor:
    """The features [H] of the top layer, by the weights of today."""
    return _features(cell, weights, places(cell, config)[-1], moments[-1])


def gradients(
    cell: Any, config: Config, weights: torch.Tensor, moments: list[Moment], d_phi: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """dL/dw of all layers, flat as the weights, dL/dx of the lowest, and sum |dL/dh|; from dL/dphi [H] of the top."""
    gradient, size = torch.zeros_like(weights), 0.0
    for place, moment in reversed(list(zip(places(cell, config), moments))):
        error, d_x, by_stage = _through_features(cell, weights[place.weights], moment, d_phi)
        d_x = d_x + rtrl.inputs_error(cell, weights[place.weights], moment.factor, error, place.width)
        gradient[place.weights] = by_stage
        gradient[place.recurrence] = rtrl.gradient(cell, moment.traces, error, place.width)
        size += error.abs().sum().item()
        d_phi = d_x[:-1]
    return gradient, d_phi, size


def _features(cell: Any, weights: torch.Tensor, place: Place, moment: Moment) -> torch.Tensor:
    return features(cell, split(cell, weights[place.weights], place.width), moment.x, moment.h)


def _through_features(
    cell: Any, flat: torch.Tensor, moment: Moment, d_phi: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dL/dh, dL/dx through the output stage, dL/dw of the output stage) from dL/dphi."""
    leaves = [part.detach().clone().requires_grad_() for part in (moment.h, moment.x, flat)]
    h, x, w = leaves
    phi = features(cell, split(cell, w, len(x)), x, h)
    by_h, by_x, by_w = torch.autograd.grad(phi, leaves, d_phi, allow_unused=True, materialize_grads=True)
    return by_h, by_x, by_w
