"""A stack of recurrent layers: where each has its weights and state, and the errors between them.

Layer 0 sees the inputs of the event, layer l the features of layer l - 1 and the constant 1. Every layer carries its
own traces (exact for its own recurrence); the error of a layer below comes through the layers above at this event only
(spatial backpropagation, Zucchet et al., NeurIPS 2023): with one layer the gradient is exact, with more only that of
the top one is, since the paths through the past of the layers above are left out.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.cells import backward, features, forward, made_of
from kernels.cpu.encoder import through_activation
from kernels.cpu.layout import L_BODY, L_HELD, L_OUT, L_OUT_COLUMNS, L_OUT_ROWS, L_WEIGHTS, L_WIDTH, Scratch
from kernels.cpu.numerics import INLINE, sum_of_sizes
from kernels.cpu.optimizers import shrink_row, step_row
from kernels.cpu.rtrl import inputs_error, limit, row_norms


@nb.njit(**{**INLINE, "inline": "always"})
def layer(s, k):
    """The working memory of layer `k`; inlined, as no view can be returned without reference counts."""
    return Scratch(
        s.plan, s.x[k], s.work, s.h[k], s.phi[k], s.jac[k], s.factor[k], s.vec[k], s.error[k], s.d_phi[k],
        s.out_inputs[k], s.out_gate[k], s.d_out[k], s.row, s.logits, s.spread, s.unit, s.d_logits,
        s.inputs, s.tables, s.code, s.d_encoded,
    )  # fmt: skip


@nb.njit(**INLINE)
def forward_all(cell, config, cell_weights, body, gap, s):
    """One step of every layer from the states in `body`; states, factors and features are left in `s`."""
    one = cell_weights.dtype.type(1)
    for k in range(config.layers):
        t = layer(s, k)
        width = s.plan[k, L_WIDTH]
        w = cell_weights[s.plan[k, L_WEIGHTS] :]
        forward(cell, w, t.x, body[s.plan[k, L_BODY] :], gap, config.units, width, t)
        if not made_of(cell).contracts:
            limit(t.h)  # here already, so that a label that comes later meets the features of the prediction
        features(cell, cell_weights[s.plan[k, L_OUT] :], t.x, t.h, config.units, width, t)
        if k + 1 < config.layers:
            for i in range(config.hidden):
                s.x[k + 1, i] = t.phi[i]
            s.x[k + 1, config.hidden] = one


@nb.njit(**INLINE)
def backward_all(cell, config, cell_weights, s):
    """From dL/dphi of the top layer to dL/dh of every layer. Returns sum |dL/dh| over all of them (NaN if any is)."""
    zero = cell_weights.dtype.type(0)
    total = zero
    for up in range(config.layers):
        k = config.layers - 1 - up
        t = layer(s, k)
        width = s.plan[k, L_WIDTH]
        d_x = s.d_phi[k - 1] if k > 0 else s.d_encoded
        for i in range(len(d_x)):
            d_x[i] = zero
        backward(cell, cell_weights[s.plan[k, L_OUT] :], t.h, config.units, width, t, d_x)
        if len(d_x) > 0:
            inputs_error(cell, cell_weights[s.plan[k, L_WEIGHTS] :], config.units, width, t, d_x)
        total += sum_of_sizes(t.error, zero)
    if config.encoded > 0:
        through_activation(config, s)
    return total


@nb.njit(**INLINE)
def output_step(config, shared, s, k, r, q):
    """One optimizer step on the output stage of layer `k`."""
    columns = s.plan[k, L_OUT_COLUMNS]
    for row in range(s.plan[k, L_OUT_ROWS]):
        x = s.out_inputs[k, row]
        for i in range(columns):
            s.row[i] = s.d_out[k, i] * x
        at = s.plan[k, L_OUT] + row * columns
        shrink_row(config, shared.cell, at, columns)
        step_row(config, shared.cell, shared.m_cell, shared.v_cell, at, s.row, columns, r, q)


@nb.njit(**INLINE)
def output_norms(s, k):
    """(sum |g|, sum g^2) of the output stage of layer `k`: its gradient is an outer product."""
    columns, rows = s.plan[k, L_OUT_COLUMNS], s.plan[k, L_OUT_ROWS]
    a, b = row_norms(s.d_out[k], columns)
    c, d = row_norms(s.out_inputs[k], rows)
    return a * c, b * d


@nb.njit(**INLINE)
def hold(cell, config, body, s, held):
    """Copies what a label that comes later needs: inputs and factors of every layer, then states and traces."""
    kind = made_of(cell)
    for k in range(config.layers):
        at = s.plan[k, L_HELD]
        width = s.plan[k, L_WIDTH]
        for j in range(width):
            held[at + j] = s.x[k, j]
        at += width
        for f in range(kind.matrices * kind.order):
            for i in range(config.units):
                held[at + f * config.units + i] = s.factor[k, f, i]
    rest = s.plan[config.layers, L_HELD]
    if config.encoded > 0:
        at = rest - config.width - config.features
        for j in range(config.width):
            held[at + j] = s.inputs[j]
        for f in range(config.features):
            held[at + config.width + f] = s.code[f]
    for i in range(len(body)):
        held[rest + i] = body[i]


@nb.njit(**INLINE)
def hold_features(config, s, held):
    """Copies what a label that comes later needs to teach the head alone: features and inputs."""
    for i in range(config.hidden):
        held[i] = s.phi[config.layers - 1, i]
    for j in range(config.width):
        held[config.hidden + j] = s.inputs[j]


@nb.njit(**INLINE)
def take_up_features(config, held, s):
    """Brings features and inputs in `s` to what they were when `held` was held."""
    for i in range(config.hidden):
        s.phi[config.layers - 1, i] = held[i]
    for j in range(config.width):
        s.inputs[j] = held[config.hidden + j]


@nb.njit(**INLINE)
def take_up(cell, config, cell_weights, held, s):
    """Brings `s` to where it was when `held` was held, the features by today's weights.

    States and traces are what of `held` follows from `plan[layers, L_HELD]`.
    """
    kind = made_of(cell)
    end = s.plan[config.layers, L_HELD]
    rest = held[end:]
    if config.encoded > 0:
        at = end - config.width - config.features
        for j in range(config.width):
            s.inputs[j] = held[at + j]
        for f in range(config.features):
            s.code[f] = int(held[at + config.width + f])
    for k in range(config.layers):
        at = s.plan[k, L_HELD]
        width = s.plan[k, L_WIDTH]
        for j in range(width):
            s.x[k, j] = held[at + j]
        at += width
        for f in range(kind.matrices * kind.order):
            for i in range(config.units):
                s.factor[k, f, i] = held[at + f * config.units + i]
        state = rest[s.plan[k, L_BODY] :]
        for i in range(kind.order * config.units):
            s.h[k, i] = state[i]
        t = layer(s, k)
        features(cell, cell_weights[s.plan[k, L_OUT] :], t.x, t.h, config.units, width, t)
