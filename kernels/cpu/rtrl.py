"""Exact real-time recurrent learning of a layer of element-wise units: traces, gradients, optimizer steps.

    order 1   S <- jac S + factor x_j          (vectors: + vec),   dL/dw = e S
    order 2   (S1, S2) <- [[jac11, jac12], [jac21, jac22]] (S1, S2) + (f1, f2) x_j,   dL/dw = e1 S1 + e2 S2
              tied: S is complex, dL/dW_re = e1 S1 + e2 S2,  dL/dW_im = e2 S1 - e1 S2
with S = dh/dw carried forward from event to event and e = dL/dh of this one (Irie et al. 2024; Zucchet et al. 2023).

A trace is as long as its parameter times ORDER and lies beside it in memory: [MATRICES, J, ORDER, N], then
[VECTORS, ORDER, N]. In `carry_and_step` every trace, weight and moment is read and written once.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.cells import columns, gather, made_of
from kernels.cpu.layout import ADAM, LINE, SGD
from kernels.cpu.numerics import CALL, INLINE, dot, fma, prefetch
from kernels.cpu.optimizers import adam_element, adam_scalars, least_of, step_row

LARGEST_TRACE = 1e6
"""Bound on the traces of a cell that may expand: such a trace is far from any gradient of use, and finite."""

LARGEST_ERROR = 1e12
"""Bound on sum |dL/dh| and |dL/do| for an update to be applied: below it no product with a trace (at most
`LARGEST_TRACE`) or an input (bounded by the clip) and no square of one overflows float32."""

WIDE = 1024
"""Units beyond which memory is asked for what comes next in the rows themselves: it cannot be in a near cache."""

PART, AHEAD = 128, 512
"""Of a wide row: the numbers that are asked for at a time, and how far ahead of their use."""


@nb.njit(**INLINE)
def bounded(value, most):
    """`value` within [-most, most]; NaN becomes `most`."""
    value = value if value <= most else most
    return value if value >= -most else -most


@nb.njit(**INLINE)
def limit(values):
    """Keeps `values` within `LARGEST_TRACE`, in place; NaN stays, so that the guard sees it."""
    most = values.dtype.type(LARGEST_TRACE)
    for i in range(len(values)):
        value = most if values[i] > most else values[i]
        values[i] = -most if value < -most else value


@nb.njit(**INLINE)
def _faded(value, least, zero):
    """`value`, or 0 where it is below `least`: what fades for ever would become a denormal number, and stay one."""
    return zero if abs(value) < least else value


@nb.njit(**INLINE)
def ask_for(values, at, size):
    """Asks memory for `values[at:at + size]`, as far as they go; changes nothing."""
    for i in range(at, min(at + size, len(values)), LINE // values.itemsize):
        prefetch(values, i)  # type: ignore[call-arg]


@nb.njit(**INLINE)
def _carry_row(trace, after, at, units, order, contracts, jac, new, at_new, xj):
    """Carries one row of traces: `new` [.., N] holds the immediate terms, multiplied by `xj`."""
    ask_for(after, at, order * units)
    most, least, zero = trace.dtype.type(LARGEST_TRACE), trace.dtype.type(least_of(trace)), trace.dtype.type(0)
    if order == 1:
        row = trace[at : at + units]
        keep = jac[0]
        f = new[at_new]
        for i in range(units):
            row[i] = _faded(fma(keep[i], row[i], f[i] * xj), least, zero)
        if not contracts:
            for i in range(units):
                row[i] = bounded(row[i], most)
    else:
        first = trace[at : at + units]
        second = trace[at + units : at + 2 * units]
        j11, j12, j21, j22 = jac[0], jac[1], jac[2], jac[3]
        f1 = new[at_new]
        f2 = new[at_new + 1]
        for i in range(units):
            a = first[i]
            b = second[i]
            first[i] = _faded(bounded(fma(j11[i], a, fma(j12[i], b, f1[i] * xj)), most), least, zero)
            second[i] = _faded(bounded(fma(j21[i], a, fma(j22[i], b, f2[i] * xj)), most), least, zero)


@nb.njit(**INLINE)
def _gradient_row(trace, at, units, order, error, g):
    """dL/dw of one row of traces."""
    row = trace[at : at + units]
    if order == 1:
        for i in range(units):
            g[i] = error[i] * row[i]
    else:
        second = trace[at + units : at + 2 * units]
        for i in range(units):
            g[i] = error[i] * row[i] + error[units + i] * second[i]


@nb.njit(**INLINE)
def _imaginary_row(trace, at, units, error, g):
    """dL/dw of the imaginary part of a tied row."""
    first = trace[at : at + units]
    second = trace[at + units : at + 2 * units]
    for i in range(units):
        g[i] = error[units + i] * first[i] - error[i] * second[i]


@nb.njit(**INLINE)
def _carry_and_step_block(config, scalars, trace, after, w, m, v, first, rows, units, keep, f, x, at_x, error):
    """The common case in one pass, `rows` rows from row `first` on: order 1, contracting, Adam or SGD.

    One loop nest over arrays that begin at the block: the compiler proves once per block that they do not overlap.
    """
    if units > WIDE:
        _carry_and_step_wide(config, scalars, trace, w, m, v, first, rows, units, keep, f, x, at_x, error)
        return
    begin, end = first * units, (first + rows) * units
    least, zero = scalars[6], scalars[7]
    trace, w = trace[begin:end], w[begin:end]
    if config.optimizer == ADAM:
        m, v = m[begin:end], v[begin:end]
        for j in range(rows):
            xj = x[at_x + j]
            a = j * units
            ask_for(after, begin + a, units)
            for i in range(units):
                k = a + i
                t = _faded(fma(keep[i], trace[k], f[i] * xj), least, zero)
                trace[k] = t
                m[k], v[k], change = adam_element(scalars, m[k], v[k], error[i] * t)
                w[k] -= change
    else:
        rate = scalars[0]
        for j in range(rows):
            xj = x[at_x + j]
            a = j * units
            ask_for(after, begin + a, units)
            for i in range(units):
                k = a + i
                t = _faded(fma(keep[i], trace[k], f[i] * xj), least, zero)
                trace[k] = t
                w[k] = fma(-rate, error[i] * t, w[k])


@nb.njit(**CALL)
def _carry_and_step_wide(config, scalars, trace, w, m, v, first, rows, units, keep, f, x, at_x, error):
    """The same for many units, in the order of memory; a processor's own look ahead ends with every page."""
    rate, least, zero = scalars[0], scalars[6], scalars[7]
    for j in range(rows):
        xj = x[at_x + j]
        for low in range(0, units, PART):
            size = min(units - low, PART)
            keep_, f_, error_ = keep[low : low + size], f[low : low + size], error[low : low + size]
            at = (first + j) * units + low
            ask_for(trace, at + AHEAD, size)
            ask_for(w, at + AHEAD, size)
            trace_, w_ = trace[at : at + size], w[at : at + size]
            if config.optimizer == ADAM:
                ask_for(m, at + AHEAD, size)
                ask_for(v, at + AHEAD, size)
                m_, v_ = m[at : at + size], v[at : at + size]
                for i in range(size):
                    t = _faded(fma(keep_[i], trace_[i], f_[i] * xj), least, zero)
                    trace_[i] = t
                    m_[i], v_[i], change = adam_element(scalars, m_[i], v_[i], error_[i] * t)
                    w_[i] -= change
            else:
                for i in range(size):
                    t = _faded(fma(keep_[i], trace_[i], f_[i] * xj), least, zero)
                    trace_[i] = t
                    w_[i] = fma(-rate, error_[i] * t, w_[i])


# A whole layer. What a cell is made of is known to the compiler, which drops what a cell does not have.


@nb.njit(**INLINE)
def carry(cell, trace, after, units, width, s):
    """Carries the traces of a layer one step, without learning; `after`: see `carry_and_step`."""
    kind = made_of(cell)
    one = trace.dtype.type(1)
    step = kind.order * units
    for k in range(kind.matrices):
        for j in range(width):
            at = (k * width + j) * step
            _carry_row(trace, after, at, units, kind.order, kind.contracts, s.jac, s.factor, k * kind.order, s.x[j])
    for k in range(kind.vectors):
        at = (kind.matrices * width + k) * step
        _carry_row(trace, after, at, units, kind.order, kind.contracts, s.jac, s.vec, k * kind.order, one)


@nb.njit(**INLINE)
def carry_and_step(cell, config, trace, after, w, m, v, units, width, s, r, q):
    """Carries the traces one step and applies the optimizer to the recurrence of the layer, in one pass.

    Meanwhile memory is asked for `after`, the traces of the layer that come next, as far as they are given: a row of
    theirs with every row, since a processor waits for a few dozen lines at a time.
    """
    kind = made_of(cell)
    if kind.order == 1 and kind.contracts and not kind.shared and config.optimizer in (ADAM, SGD):
        scalars = adam_scalars(config, w, r, q)
        for k in range(kind.matrices):
            f = s.factor[k]
            _carry_and_step_block(
                config, scalars, trace, after, w, m, v, k * width, width, units, s.jac[0], f, s.x, 0, s.error
            )
        for k in range(kind.vectors):  # their input is the constant
            first, f = kind.matrices * width + k, s.vec[k]
            _carry_and_step_block(
                config, scalars, trace, after, w, m, v, first, 1, units, s.jac[0], f, s.x, width - 1, s.error
            )
        return
    _rows(cell, config, True, trace, after, w, m, v, units, width, s, r, q)


@nb.njit(**INLINE)
def step(cell, config, trace, w, m, v, units, width, s, r, q):
    """Applies the optimizer to the recurrence of the layer, with the gradient of the traces as they are."""
    _rows(cell, config, False, trace, trace, w, m, v, units, width, s, r, q)


@nb.njit(**INLINE)
def _rows(cell, config, carrying, trace, after, w, m, v, units, width, s, r, q):
    """Row by row: the traces one step on if `carrying`, the gradient, the optimizer."""
    kind = made_of(cell)
    one = trace.dtype.type(1)
    many = kind.order * units
    parts = 2 if kind.tied else 1
    g = s.row
    start = 0
    for k in range(kind.matrices):
        size = columns(cell, k, units)
        for j in range(width):
            at = (k * width + j) * many
            if carrying:
                _carry_row(trace, after, at, units, kind.order, kind.contracts, s.jac, s.factor, k * kind.order, s.x[j])
            _gradient_row(trace, at, units, kind.order, s.error, g)
            gather(cell, k, g, units)
            step_row(config, w, m, v, start + j * size, g, size, r, q)
            if kind.tied:
                _imaginary_row(trace, at, units, s.error, g)
                step_row(config, w, m, v, start + (width + j) * size, g, size, r, q)
        start += parts * width * size
    for k in range(kind.vectors):
        at = (kind.matrices * width + k) * many
        if carrying:
            _carry_row(trace, after, at, units, kind.order, kind.contracts, s.jac, s.vec, k * kind.order, one)
        _gradient_row(trace, at, units, kind.order, s.error, g)
        step_row(config, w, m, v, start + k * units, g, units, r, q)


@nb.njit(**INLINE)
def row_norms(g, size):
    """(sum |g|, sum g^2) of g[:size], in float64."""
    absolute = squares = 0.0
    for i in range(size):
        a = float(g[i])
        absolute += abs(a)
        squares += a * a
    return absolute, squares


@nb.njit(**INLINE)
def norms(cell, trace, units, width, s):
    """(sum |g|, sum g^2) of the gradient of the recurrence of the layer."""
    kind = made_of(cell)
    absolute = squares = 0.0
    for k in range(kind.matrices * width + kind.vectors):
        _gradient_row(trace, k * kind.order * units, units, kind.order, s.error, s.row)
        size = units
        if k < kind.matrices * width:
            gather(cell, k // width, s.row, units)
            size = columns(cell, k // width, units)
        a, b = row_norms(s.row, size)
        absolute += a
        squares += b
        if kind.tied and k < kind.matrices * width:
            _imaginary_row(trace, k * kind.order * units, units, s.error, s.row)
            a, b = row_norms(s.row, units)
            absolute += a
            squares += b
    return absolute, squares


@nb.njit(**INLINE)
def inputs_error(cell, w, units, width, s, d_x):
    """Adds dL/dx through the recurrence at this event (not through earlier ones) to `d_x`."""
    kind = made_of(cell)
    zero = w.dtype.type(0)
    start = 0
    for k in range(kind.matrices):
        size = columns(cell, k, units)
        for i in range(units):
            s.row[i] = s.error[i] * s.factor[k * kind.order, i]
        if kind.order == 2:
            for i in range(units):
                s.row[i] += s.error[units + i] * s.factor[k * kind.order + 1, i]
        gather(cell, k, s.row, units)
        for j in range(len(d_x)):
            at = start + j * size
            d_x[j] += dot(w[at : at + size], s.row, size, zero)
        start += width * size
        if kind.tied:
            for i in range(units):
                s.row[i] = s.error[units + i] * s.factor[2 * k, i] - s.error[i] * s.factor[2 * k + 1, i]
            for j in range(len(d_x)):
                at = start + j * units
                d_x[j] += dot(w[at : at + units], s.row, units, zero)
            start += width * units
