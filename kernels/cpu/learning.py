"""What a label does: errors back through the layers, the divergence guard, one optimizer step on every weight.

An update whose error is not finite, or so large that a product with a trace could overflow, is not applied: the state
goes on, the traces too, no weight and no moment changes.
"""

from __future__ import annotations

import numba as nb
from numba.extending import overload

from kernels.cpu import ekf, rtrl
from kernels.cpu.cells import made_of
from kernels.cpu.encoder import categories_named, encoder_step
from kernels.cpu.heads import error, step
from kernels.cpu.layers import backward_all, layer, output_norms, output_step
from kernels.cpu.layout import C_OBSERVED, C_STEPS, C_UPDATED, L_BODY, L_WEIGHTS, L_WIDTH
from kernels.cpu.numerics import CALL, INLINE
from kernels.cpu.optimizers import needs_whole_gradient, scale_of, step_scalars
from kernels.cpu.rtrl import LARGEST_ERROR


@nb.njit(**INLINE)
def _write_state(order, contracts, config, body, after, s, k):
    """Writes the new state of layer `k` to a key's row and returns where its traces begin."""
    at = s.plan[k, L_BODY]
    rtrl.ask_for(after, at, order * config.units)
    state = body[at : at + order * config.units]
    for i in range(order * config.units):
        state[i] = s.h[k, i]
    if not contracts:
        most = body.dtype.type(rtrl.LARGEST_TRACE)
        for i in range(order * config.units):
            state[i] = rtrl.bounded(state[i], most)
    return at + order * config.units


@nb.njit(**CALL)
def carry_all(cell, config, body, after, s):
    """Writes the new states and carries all traces, without learning; `after`: see `carry_and_learn`."""
    kind = made_of(cell)
    for k in range(config.layers):
        at = _write_state(kind.order, kind.contracts, config, body, after, s, k)
        rtrl.carry(cell, body[at:], after[at:], config.units, s.plan[k, L_WIDTH], layer(s, k))


@nb.njit(**INLINE)
def _errors(cell, head, config, shared, base, y, draw, elapsed, s):
    """dL/do and dL/dh of every layer, in `s`. Returns (logits, whether the update may be applied)."""
    top = config.layers - 1
    rows, finite = error(head, config, shared, base, y, s.phi[top], s.inputs, draw, elapsed, s.d_phi[top], s)
    finite = finite and backward_all(cell, config, shared.cell, s) <= LARGEST_ERROR
    for k in range(rows):
        finite = finite and abs(s.d_logits[k]) <= LARGEST_ERROR
    return rows, finite


@nb.njit(**CALL)
def _scale_errors(cell, config, body, rows, s):
    """Scales all errors, so that the gradient of all weights has the size that the optimizer allows."""
    kind = made_of(cell)
    phi_sum, phi_squares = rtrl.row_norms(s.phi[config.layers - 1], config.hidden)
    x_sum, x_squares = rtrl.row_norms(s.inputs, config.width)
    absolute = squares = largest = 0.0
    for k in range(rows):
        d = abs(s.d_logits[k])
        largest = d if d > largest else largest
        absolute += d * (phi_sum + x_sum)
        squares += d * d * (phi_squares + x_squares)
    for k in range(config.layers):
        trace = body[s.plan[k, L_BODY] + kind.order * config.units :]
        a, b = rtrl.norms(cell, trace, config.units, s.plan[k, L_WIDTH], layer(s, k))
        c, d = output_norms(s, k)
        absolute += a + c
        squares += b + d
    if config.encoded > 0:
        a, b = rtrl.row_norms(s.d_encoded, config.encoded)
        named = categories_named(config, s)
        absolute += a * (x_sum + named)
        squares += b * (x_squares + named)
    scale = scale_of(config, largest, absolute, squares)
    factor = s.error.dtype.type(scale)
    for k in range(rows):
        s.d_logits[k] *= scale
    for k in range(config.layers):
        for i in range(kind.order * config.units):
            s.error[k, i] *= factor
        for i in range(s.d_out.shape[1]):
            s.d_out[k, i] *= factor
    for i in range(config.encoded):
        s.d_encoded[i] *= factor


@nb.njit(**CALL)
def _step_all(cell, head, config, shared, base, y, elapsed, body, rows, s):
    """One step on every weight, with the traces in `body` as they are."""
    kind = made_of(cell)
    if needs_whole_gradient(config):
        _scale_errors(cell, config, body, rows, s)
    r, q = step_scalars(config, shared.decay)
    for k in range(config.layers):
        at = s.plan[k, L_WEIGHTS]
        w, m, v = shared.cell[at:], shared.m_cell[at:], shared.v_cell[at:]
        trace = body[s.plan[k, L_BODY] + kind.order * config.units :]
        share = r * config.recurrent_rate
        rtrl.step(cell, config, trace, w, m, v, config.units, s.plan[k, L_WIDTH], layer(s, k), share, q)
        output_step(config, shared, s, k, r, q)
    if config.encoded > 0:
        encoder_step(config, shared, s, r, q)
    step(head, config, shared, base, y, s.phi[config.layers - 1], s.inputs, elapsed, rows, r, q, s)


@nb.njit(**CALL)
def learn_head(head, config, shared, base, y, draw, elapsed, s):
    """Teaches the head alone the label `y`, by the features in `s`. Returns whether the update was applied."""
    phi = s.phi[config.layers - 1]
    rows, finite = error(head, config, shared, base, y, phi, s.inputs, draw, elapsed, s.d_phi[config.layers - 1], s)
    absolute = squares = largest = 0.0
    for k in range(rows):
        d = abs(s.d_logits[k])
        finite = finite and d <= LARGEST_ERROR
        largest = d if d > largest else largest
        absolute += d
        squares += d * d
    if finite:
        if needs_whole_gradient(config):
            a, b = rtrl.row_norms(phi, config.hidden)
            c, d = rtrl.row_norms(s.inputs, config.width)
            scale = scale_of(config, largest, absolute * (a + c), squares * (b + d))
            for k in range(rows):
                s.d_logits[k] *= scale
        r, q = step_scalars(config, shared.decay)
        step(head, config, shared, base, y, phi, s.inputs, elapsed, rows, r, q, s)
    _note_step(shared, finite)
    return finite


@nb.njit(**INLINE)
def _note_step(shared, applied):
    if applied:
        shared.counters[C_STEPS] += 1
        shared.counters[C_UPDATED] = shared.counters[C_OBSERVED]


def _carry_and_learn(filter, cell, head, config, shared, base, y, draw, elapsed, body, after, s):
    raise NotImplementedError("for compiled code")


@overload(_carry_and_learn, jit_options=INLINE)  # type: ignore[arg-type]
def _carry_and_learn_of(filter, cell, head, config, shared, base, y, draw, elapsed, body, after, s):
    return _descend if isinstance(filter, nb.types.NoneType) else _filter


def _learn_held(filter, cell, head, config, shared, base, y, draw, elapsed, body, s):
    raise NotImplementedError("for compiled code")


@overload(_learn_held, jit_options=INLINE)  # type: ignore[arg-type]
def _learn_held_of(filter, cell, head, config, shared, base, y, draw, elapsed, body, s):
    return _descend_held if isinstance(filter, nb.types.NoneType) else _filter_held


def _filter(filter, cell, head, config, shared, base, y, draw, elapsed, body, after, s):
    """With the extended Kalman filter, whose gain takes all traces first."""
    carry_all(cell, config, body, after, s)
    return ekf.learn(cell, head, config, shared, base, y, draw, elapsed, body, s)


def _filter_held(filter, cell, head, config, shared, base, y, draw, elapsed, body, s):
    return ekf.learn(cell, head, config, shared, base, y, draw, elapsed, body, s)


def _descend(filter, cell, head, config, shared, base, y, draw, elapsed, body, after, s):
    """By a step on the gradient."""
    kind = made_of(cell)
    rows, finite = _errors(cell, head, config, shared, base, y, draw, elapsed, s)
    if not finite or needs_whole_gradient(config):
        carry_all(cell, config, body, after, s)
        if finite:
            _step_all(cell, head, config, shared, base, y, elapsed, body, rows, s)
    else:
        r, q = step_scalars(config, shared.decay)
        for k in range(config.layers):
            at = _write_state(kind.order, kind.contracts, config, body, after, s, k)
            trace, trace_after = body[at:], after[at:]
            at = s.plan[k, L_WEIGHTS]
            w, m, v = shared.cell[at:], shared.m_cell[at:], shared.v_cell[at:]
            share, width = r * config.recurrent_rate, s.plan[k, L_WIDTH]
            t = layer(s, k)
            rtrl.carry_and_step(cell, config, trace, trace_after, w, m, v, config.units, width, t, share, q)
            output_step(config, shared, s, k, r, q)
        if config.encoded > 0:
            encoder_step(config, shared, s, r, q)
        step(head, config, shared, base, y, s.phi[config.layers - 1], s.inputs, elapsed, rows, r, q, s)
    return finite


def _descend_held(filter, cell, head, config, shared, base, y, draw, elapsed, body, s):
    rows, finite = _errors(cell, head, config, shared, base, y, draw, elapsed, s)
    if finite:
        _step_all(cell, head, config, shared, base, y, elapsed, body, rows, s)
    return finite


@nb.njit(**INLINE)
def carry_and_learn(cell, head, config, shared, base, y, draw, elapsed, body, after, s):
    """Carries states and traces one step and learns the label `y`. Returns whether the update was applied.

    `after` is the row that comes next, or the beginning of it that memory should be asked for; empty: none.
    """
    finite = _carry_and_learn(config.filter, cell, head, config, shared, base, y, draw, elapsed, body, after, s)
    _note_step(shared, finite)
    return finite


@nb.njit(**CALL)
def learn_held(cell, head, config, shared, base, y, draw, elapsed, body, s):
    """Learns the label `y` from states and traces that were held. Returns whether the update was applied."""
    finite = _learn_held(config.filter, cell, head, config, shared, base, y, draw, elapsed, body, s)
    _note_step(shared, finite)
    return finite
