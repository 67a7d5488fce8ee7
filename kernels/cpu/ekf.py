"""The diagonal extended Kalman filter of all weights, from the traces of RTRL, as an optimizer of the fold.

Every weight w has a variance p of its own. With H_w [C] = do/dw the Jacobian of the logits, g [C] = -dL/do the score of
the label and F [C, C] the Fisher information of the logits,
    M = sum_w p H_w H_w'            u = (1 + F M)^-1 g            B = (1 + F M)^-1 F
    w += p H_w' u
    decoupled     p <- p (1 - p H_w' B H_w)                       ("FDEKF")
    variational   1 / p <- 1 / p + H_w' F H_w                     ("VDEKF")
This is the filter with S = R + J P J' for the mean of the label with the Jacobian J = F H and the covariance R = F of
the moments, written so that nothing is divided by a covariance that may be singular. Before each label p <- gamma^2 p +
(1 - gamma^2) prior. Sources: Puskorius & Feldkamp (1991); Chang, Duran-Martin, Shestopaloff, Jones & Murphy (CoLLAs
2023), whose decoupled and variational diagonal filters these are.

    binary        F = max(p (1 - p), floor)                       one logit
    multi-class   F = diag(p) - p p' + floor                      all logits, at most `MOST_CLASSES`
    regression    F = 1 / v,  g = r / v                           r the bounded residual, v its running noise scale

The logits see a weight of unit i through its state alone, so H_w = e1 t1 + e2 t2 with (t1, t2) the trace and e_c =
do_c/dh_i: sums over the traces of a unit come first, then products of logits: O(P + N C^2) per label.

The variances are the `v_*` arrays of `Shared`; 0 stands for the prior, what no label has reached yet. The noise scale
of a regression is `decay[0]`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.cells import made_of
from kernels.cpu.ekf_rows import (
    A1,
    A2,
    B11,
    B12,
    B22,
    Q11,
    Q12,
    Q22,
    add_products,
    clear,
    constants,
    see_by_input,
    see_by_pair,
    see_by_unit,
    see_row,
    spread,
    update_by_input,
    update_by_pair,
    update_by_unit,
    update_row,
)
from kernels.cpu.heads import error
from kernels.cpu.layers import backward_all
from kernels.cpu.layout import (
    BINARY,
    L_BODY,
    L_OUT,
    L_OUT_COLUMNS,
    L_OUT_ROWS,
    L_WEIGHTS,
    L_WIDTH,
    REGRESSION,
    T_LABELS,
)
from kernels.cpu.numerics import CALL, INLINE
from kernels.cpu.rtrl import LARGEST_ERROR

MOST_CLASSES = 16
"""Bound on the logits: each is one more backward pass and one more row of every product."""

PRIOR_LABELS = 10.0
"""Labels that the first noise scale of a regression, the deviation of the changes, counts for."""


class Filter(NamedTuple):
    """Settings of the filter and its working memory, which holds nothing between labels."""

    variational: int
    prior: float
    """Variance of a weight before any label."""
    recurrent: float
    """The same of the recurrence."""
    keep: float
    """gamma^2."""
    floor: float
    error: np.ndarray
    """T [L, C, ORDER N]: do/dh."""
    d_out: np.ndarray
    """T [L, C, columns]: do/d(pre-activation of the output stage)."""
    d_encoded: np.ndarray
    """T [C, U]: do/d(pre-activation of the encoder)."""
    rows: np.ndarray
    """T [8, longest row]: sums over traces, then what an update takes of each unit."""
    small: np.ndarray
    """float64 [5, C, C]: M, F, its Cholesky factor, that of 1 + L' M L, B."""
    score: np.ndarray
    """float64 [2, C]: g, u."""


SEEN, FISHER, ROOT, INNER, SHRINK = range(5)


def make_filter(
    settings: tuple[int, float, float, float, float], sizes: tuple[int, int, int, int, int, int], dtype: np.dtype
) -> Filter:
    """A filter with room for its work.

    Args:
        settings: variational, prior, recurrent, keep, floor, as in `Filter`.
        sizes: logits, layers, reals of state of a layer, columns of its output stage, outputs of the encoder, and the
            longest row of weights.
        dtype: of the weights.
    """
    logits, layers, state, columns, encoded, longest = sizes
    return Filter(
        *settings,
        error=np.zeros((layers, logits, state), dtype),
        d_out=np.zeros((layers, logits, columns), dtype),
        d_encoded=np.zeros((logits, encoded), dtype),
        rows=np.zeros((8, longest), dtype),
        small=np.zeros((5, logits, logits)),
        score=np.zeros((2, logits)),
    )


# Small matrices, in float64.


@nb.njit(**CALL)
def _factor(a, root, n):
    """The Cholesky factor of the lower half of `a`, to `root`. Returns whether `a` is positive and finite."""
    for i in range(n):
        for j in range(i + 1):
            total = a[i, j]
            for k in range(j):
                total -= root[i, k] * root[j, k]
            if i > j:
                root[i, j] = total / root[j, j]
            elif total > 0.0 and total < math.inf:
                root[i, i] = math.sqrt(total)
            else:
                return False
        for j in range(i + 1, n):
            root[i, j] = 0.0
    return True


@nb.njit(**CALL)
def solve(small, score, n):
    """From M (lower half), F and g to B and u. Returns whether all that was positive and finite.

    With F = L L' and 1 + L' M L = D D':  B = X' X for X = D^-1 L',  u = X' D^-1 L^-1 g.
    """
    seen, root, inner, x = small[SEEN], small[ROOT], small[INNER], small[SHRINK]
    for i in range(n):
        for j in range(i):
            seen[j, i] = seen[i, j]
    if not _factor(small[FISHER], root, n):
        return False
    for i in range(n):  # L' M
        for j in range(n):
            x[i, j] = 0.0
            for k in range(i, n):
                x[i, j] += root[k, i] * seen[k, j]
    for i in range(n):  # 1 + L' M L; `seen` is free from here on
        for j in range(i + 1):
            inner[i, j] = 1.0 if i == j else 0.0
            for k in range(j, n):
                inner[i, j] += x[i, k] * root[k, j]
    if not _factor(inner, seen, n):
        return False
    for i in range(n):  # D^-1 L' to `inner`, D^-1 L^-1 g to the second row of `score`
        score[1, i] = score[0, i]
        for k in range(i):
            score[1, i] -= root[i, k] * score[1, k]
        score[1, i] /= root[i, i]
    for i in range(n):
        for j in range(n):
            total = root[j, i]
            for k in range(i):
                total -= seen[i, k] * inner[k, j]
            inner[i, j] = total / seen[i, i]
        for k in range(i):
            score[1, i] -= seen[i, k] * score[1, k]
        score[1, i] /= seen[i, i]
    for i in range(n):
        score[0, i] = 0.0
        for k in range(n):
            score[0, i] += inner[k, i] * score[1, k]
        for j in range(n):
            x[i, j] = 0.0
            for k in range(n):
                x[i, j] += inner[k, i] * inner[k, j]
    for i in range(n):
        score[1, i] = score[0, i]
        if not abs(score[1, i]) < math.inf:
            return False
    return True


@nb.njit(**INLINE)
def _information(config, decay, logits, d_logits, rows, f):
    """F and g of the label; `logits` holds what is left there by a linear head: probabilities, or o."""
    fisher, score = f.small[FISHER], f.score[0]
    if config.task == REGRESSION:
        scale = max(decay[0], f.floor)
        fisher[0, 0] = 1.0 / scale
        score[0] = -d_logits[0] / scale
        return
    for c in range(rows):
        score[c] = -d_logits[c]
        for d in range(c + 1):
            fisher[c, d] = -logits[c] * logits[d]
        fisher[c, c] = logits[c] - logits[c] * logits[c] + f.floor
    if config.task == BINARY:
        fisher[0, 0] = max(logits[0] * logits[1], f.floor)


# The layers.


@nb.njit(**INLINE)
def _jacobians(cell, config, shared, rows, f, s):
    """do/dh, do/d(output stage) and do/d(encoder) of every logit to `f`. Returns whether they are of use."""
    kind = made_of(cell)
    top = config.layers - 1
    finite = True
    for c in range(rows):
        for i in range(config.hidden):
            s.d_phi[top, i] = shared.out[c, i]
        finite = finite and backward_all(cell, config, shared.cell, s) <= LARGEST_ERROR
        for k in range(config.layers):
            for i in range(kind.order * config.units):
                f.error[k, c, i] = s.error[k, i]
            for i in range(s.d_out.shape[1]):
                f.d_out[k, c, i] = s.d_out[k, i]
        for i in range(config.encoded):
            f.d_encoded[c, i] = s.d_encoded[i]
    return finite


@nb.njit(**INLINE)
def _see_layer(cell, config, shared, body, logits, k, f, s):
    """Adds what the weights of layer `k` bring to M."""
    kind = made_of(cell)
    n, at, rows, seen = config.units, s.plan[k, L_WEIGHTS], f.rows, f.small[SEEN]
    trace = body[s.plan[k, L_BODY] + kind.order * n :]
    v = shared.v_cell[at:]
    scalars = constants(f, f.recurrent, shared.v_cell)
    clear(rows, n)
    if kind.order == 1:
        see_by_unit(rows[Q11], v, trace, kind.matrices * s.plan[k, L_WIDTH] + kind.vectors, n, scalars)
    else:
        one, width = v.dtype.type(1), s.plan[k, L_WIDTH]
        q11, q12, q22 = rows[Q11], rows[Q12], rows[Q22]
        start = 0
        for m in range(kind.matrices):
            part = trace[2 * m * width * n :]
            see_by_pair(q11, q12, q22, one, v[start * n :], part, width, n, scalars)
            start += width
            if kind.tied:  # of the imaginary part the trace is (-t2, t1)
                see_by_pair(q22, q12, q11, -one, v[start * n :], part, width, n, scalars)
                start += width
        part = trace[2 * kind.matrices * width * n :]
        see_by_pair(q11, q12, q22, one, v[start * n :], part, kind.vectors, n, scalars)
    add_products(seen, rows, logits, f.error[k], kind.order, n)
    columns = s.plan[k, L_OUT_COLUMNS]
    if columns > 0:
        scalars = constants(f, f.prior, shared.v_cell)
        clear(rows, columns)
        v = shared.v_cell[s.plan[k, L_OUT] :]
        see_by_input(rows[Q11], v, s.out_inputs[k], s.plan[k, L_OUT_ROWS], columns, scalars)
        add_products(seen, rows, logits, f.d_out[k], 1, columns)


@nb.njit(**INLINE)
def _update_layer(cell, config, shared, body, logits, k, form, f, s):
    """Moves the weights of layer `k` and their variances."""
    kind = made_of(cell)
    n, at, rows, variational = config.units, s.plan[k, L_WEIGHTS], f.rows, f.variational
    trace = body[s.plan[k, L_BODY] + kind.order * n :]
    w, v = shared.cell[at:], shared.v_cell[at:]
    scalars = constants(f, f.recurrent, shared.v_cell)
    spread(rows, logits, f.error[k], kind.order, n, f.score[1], form)
    a1, a2, b11, b12, b22 = rows[A1], rows[A2], rows[B11], rows[B12], rows[B22]
    if kind.order == 1:
        many = kind.matrices * s.plan[k, L_WIDTH] + kind.vectors
        update_by_unit(variational, w, v, trace, a1, b11, many, n, scalars)
    else:
        one, width = v.dtype.type(1), s.plan[k, L_WIDTH]
        start = 0
        for m in range(kind.matrices):
            part = trace[2 * m * width * n :]
            w_, v_ = w[start * n :], v[start * n :]
            update_by_pair(variational, w_, v_, part, a1, a2, b11, b12, b22, one, width, n, scalars)
            start += width
            if kind.tied:  # t1 e2 - t2 e1
                w_, v_ = w[start * n :], v[start * n :]
                update_by_pair(variational, w_, v_, part, a2, a1, b22, b12, b11, -one, width, n, scalars)
                start += width
        part = trace[2 * kind.matrices * width * n :]
        w_, v_ = w[start * n :], v[start * n :]
        update_by_pair(variational, w_, v_, part, a1, a2, b11, b12, b22, one, kind.vectors, n, scalars)
    columns = s.plan[k, L_OUT_COLUMNS]
    if columns > 0:
        scalars = constants(f, f.prior, shared.v_cell)
        spread(rows, logits, f.d_out[k], 1, columns, f.score[1], form)
        w, v = shared.cell[s.plan[k, L_OUT] :], shared.v_cell[s.plan[k, L_OUT] :]
        many = s.plan[k, L_OUT_ROWS]
        update_by_input(variational, w, v, s.out_inputs[k], rows[A1], rows[B11], many, columns, scalars)


@nb.njit(**CALL)
def _see_encoder(config, shared, logits, f, s):
    """Adds what the encoder brings to M: of its tables the rows that the event named, whose input is 1."""
    size, at = config.encoded, s.plan[config.layers, L_WEIGHTS]
    scalars = constants(f, f.prior, shared.v_cell)
    clear(f.rows, size)
    see_by_input(f.rows[Q11], shared.v_cell[at:], s.inputs, config.width, size, scalars)
    for j in range(config.features):
        if s.code[j] >= 0:
            v = shared.v_cell[at + s.code[j] * size :]
            see_by_input(f.rows[Q11], v, s.inputs[config.width - 1 :], 1, size, scalars)
    add_products(f.small[SEEN], f.rows, logits, f.d_encoded, 1, size)


@nb.njit(**CALL)
def _update_encoder(config, shared, logits, form, f, s):
    size, at, a, b = config.encoded, s.plan[config.layers, L_WEIGHTS], f.rows[A1], f.rows[B11]
    scalars = constants(f, f.prior, shared.v_cell)
    spread(f.rows, logits, f.d_encoded, 1, size, f.score[1], form)
    w, v = shared.cell[at:], shared.v_cell[at:]
    update_by_input(f.variational, w, v, s.inputs, a, b, config.width, size, scalars)
    for j in range(config.features):
        if s.code[j] >= 0:
            first = s.code[j] * size
            one = s.inputs[config.width - 1 :]
            update_by_input(f.variational, w[first:], v[first:], one, a, b, 1, size, scalars)


@nb.njit(**INLINE)
def _see_all(cell, config, shared, body, logits, f, s):
    """M of all weights, its lower half."""
    seen, phi = f.small[SEEN], s.phi[config.layers - 1]
    scalars = constants(f, f.prior, shared.v_out)
    for c in range(logits):
        for d in range(c + 1):
            seen[c, d] = 0.0
        see_row(seen, f.rows, c, shared.v_out[c], phi, config.hidden, scalars)
        see_row(seen, f.rows, c, shared.v_skip[c], s.inputs, config.width, scalars)
    for k in range(config.layers):
        _see_layer(cell, config, shared, body, logits, k, f, s)
    if config.encoded > 0:
        _see_encoder(config, shared, logits, f, s)


@nb.njit(**INLINE)
def _update_all(cell, config, shared, body, logits, f, s):
    """Moves all weights and variances, by u and by B (variational: F)."""
    form = f.small[FISHER] if f.variational else f.small[SHRINK]
    phi = s.phi[config.layers - 1]
    scalars = constants(f, f.prior, shared.v_out)
    for k in range(config.layers):
        _update_layer(cell, config, shared, body, logits, k, form, f, s)
    if config.encoded > 0:
        _update_encoder(config, shared, logits, form, f, s)
    for c in range(logits):
        u, b = f.score[1, c], form[c, c]
        out, skip = shared.out[c], shared.skip[c]
        update_row(f.variational, f.rows, out, shared.v_out[c], phi, config.hidden, u, b, scalars)
        update_row(f.variational, f.rows, skip, shared.v_skip[c], s.inputs, config.width, u, b, scalars)


@nb.njit(**CALL)
def learn(cell, head, config, shared, base, y, draw, elapsed, body, s):
    """Learns the label `y` of a linear head from states and traces in `body`. Returns whether the update was applied.

    It is not, and nothing changes, where a Jacobian, M or u is not finite or too large.
    """
    f, top = config.filter, config.layers - 1
    logits, finite = error(head, config, shared, base, y, s.phi[top], s.inputs, draw, elapsed, s.d_phi[top], s)
    for c in range(logits):
        finite = finite and abs(s.d_logits[c]) <= LARGEST_ERROR
    finite = finite and _jacobians(cell, config, shared, logits, f, s)
    noise = total = 1.0
    if finite:
        _information(config, shared.decay, s.logits, s.d_logits, logits, f)
        _see_all(cell, config, shared, body, logits, f, s)
        noise = 1.0 / f.small[FISHER, 0, 0]
        total = noise + f.small[SEEN, 0, 0]
        finite = solve(f.small, f.score, logits)
    if finite:
        if f.variational:
            for c in range(logits):
                for d in range(c):
                    f.small[FISHER, d, c] = f.small[FISHER, c, d]
        _update_all(cell, config, shared, body, logits, f, s)
        if config.task == REGRESSION:
            count = min(shared.target[T_LABELS] + PRIOR_LABELS, config.window)
            surprise = noise * s.d_logits[0] * s.d_logits[0] / total
            shared.decay[0] += (surprise - shared.decay[0]) / count
    return finite
