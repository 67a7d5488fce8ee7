"""The trained encoder of inputs: a dense layer below the recurrence, whose weights for a category are its embedding.

    e = act(W x + sum over categorical features f of T_f[category of f])             e: what the first layer sees

W [J, U] comes after the weights of the layers in `Shared.cell`, then the tables [categories, U], one row per category.
The gradient comes through the first layer at this event (not through its past: like a lower layer's, it is not exact).
A row of a table is touched by the events of its category only, its moments too.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.layout import L_WEIGHTS
from kernels.cpu.numerics import CALL, INLINE, tanh
from kernels.cpu.optimizers import shrink_row, step_row
from kernels.cpu.products import product


@nb.njit(**INLINE)
def category_of(value, categories):
    """The category that a feature's value names, -1 if it names none."""
    if not (value >= 0.0 and value < categories):
        return -1
    category = int(value)
    return category if float(category) == value else -1


@nb.njit(**CALL)
def encode(config, cell_weights, features, s):
    """Writes e and the constant 1 to `s.x[0]`; categorical inputs become 0 and `s.code` their rows (-1: none)."""
    for f in range(config.features):
        s.code[f] = -1
        if s.tables[f, 0] > 0:
            s.inputs[f] = cell_weights.dtype.type(0)
            category = category_of(float(features[f]), s.tables[f, 0])
            if category >= 0:
                s.code[f] = s.tables[f, 1] + category
    size, at = config.encoded, s.plan[config.layers, L_WEIGHTS]
    e = s.x[0]
    product(cell_weights, at, s.inputs, size, config.width, e)
    for f in range(config.features):
        if s.code[f] >= 0:
            row = cell_weights[at + s.code[f] * size : at + (s.code[f] + 1) * size]
            for i in range(size):
                e[i] += row[i]
    if config.encoder_tanh > 0:
        for i in range(size):
            e[i] = tanh(e[i])
    e[size] = cell_weights.dtype.type(1)


@nb.njit(**INLINE)
def through_activation(config, s):
    """From dL/de to dL/d(pre-activation), in `s.d_encoded`."""
    if config.encoder_tanh > 0:
        for i in range(config.encoded):
            s.d_encoded[i] *= s.d_encoded.dtype.type(1) - s.x[0, i] * s.x[0, i]


@nb.njit(**INLINE)
def categories_named(config, s):
    """How many categorical features have a category in this event."""
    many = 0
    for f in range(config.features):
        many += s.code[f] >= 0
    return many


@nb.njit(**CALL)
def encoder_step(config, shared, s, r, q):
    """One optimizer step on the encoder."""
    size, at = config.encoded, s.plan[config.layers, L_WEIGHTS]
    for j in range(config.width):
        for i in range(size):
            s.row[i] = s.d_encoded[i] * s.inputs[j]
        shrink_row(config, shared.cell, at + j * size, size)
        step_row(config, shared.cell, shared.m_cell, shared.v_cell, at + j * size, s.row, size, r, q)
    for f in range(config.features):
        if s.code[f] >= 0:
            first = at + s.code[f] * size
            shrink_row(config, shared.cell, first, size)
            step_row(config, shared.cell, shared.m_cell, shared.v_cell, first, s.d_encoded, size, r, q)
