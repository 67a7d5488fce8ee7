"""The update of a low-rank precision by one label: what `kernels.cpu.heads.lofi` does after its residual is known.

`head` is a `LoFi`; see there for what its arrays hold, and for the equations.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads._linear_algebra import eigen
from kernels.cpu.numerics import CALL, INLINE, dot
from kernels.cpu.products import product

_NO_DIRECTION = 1e-12
"""Share of the largest squared singular value below which a pair is rounding of the Gram matrix."""


@nb.njit(**INLINE)
def factorise(p, outputs, factor):
    """The Cholesky factor of diag(p) - p p' of all classes but the first, in closed form.

    With s_k the probability of the classes after k and of the first, F_kk^2 = p_k s_k / s_(k-1) and
    F_ik = -p_i sqrt(p_k / s_(k-1)) / sqrt(s_k).
    """
    after = p[0]
    for k in range(outputs - 1, -1, -1):
        before = after + p[k + 1]
        share, rest = math.sqrt(p[k + 1] / before), math.sqrt(after)
        for i in range(k):
            factor[i, k] = 0.0
        factor[k, k] = share * rest
        for i in range(k + 1, outputs):
            factor[i, k] = -p[i + 1] * share / rest
        after = before


@nb.njit(**INLINE)
def _fill_cross(head, m, outputs):
    """J J', in `work.cross`."""
    work, n = head.work, head.units
    squares, ones = dot(work.z, work.z, m, 0.0), dot(work.h, work.h, n + 1, 0.0)
    for c in range(outputs):
        for d in range(c + 1):
            value = squares * dot(work.back[c], work.back[d], n, 0.0)
            work.cross[c, d] = work.cross[d, c] = value + ones if c == d else value


@nb.njit(**INLINE)
def _add_products(a, b, c, d, i, j, m, out):
    """out[:m] += the products of the parts i and j of four rows."""
    ai, bi, ci, di = a[i * m :], b[i * m :], c[i * m :], d[i * m :]
    aj, bj, cj, dj = a[j * m :], b[j * m :], c[j * m :], d[j * m :]
    for k in range(m):
        out[k] += (ai[k] * aj[k] + bi[k] * bj[k]) + (ci[k] * cj[k] + di[k] * dj[k])


@nb.njit(**INLINE)
def _along_hidden(basis, i, j, n, m, sums):
    """The part of A in the product of the directions i and j: summed over units first, feature by feature."""
    for k in range(m):
        sums[k] = 0.0
    whole = n - n % 4
    for u in range(0, whole, 4):
        _add_products(basis[u], basis[u + 1], basis[u + 2], basis[u + 3], i, j, m, sums)
    for u in range(whole, n):
        left, right = basis[u, i * m :], basis[u, j * m :]
        for k in range(m):
            sums[k] += left[k] * right[k]
    total = 0.0
    for k in range(m):
        total += sums[k]
    return total


@nb.njit(**INLINE)
def _fill_gram(head, m, outputs):
    """W' W in `work.gram`, with U' U as it is."""
    state, work, n, rank = head.state, head.work, head.units, len(head.state.strength)
    gram = work.gram
    for i in range(rank):
        for j in range(i + 1):
            total = _along_hidden(state.basis, i, j, n, m, work.block[0])
            for c in range(outputs):
                basis = state.basis_out[c]
                total += dot(basis[i * (n + 1) :], basis[j * (n + 1) :], n + 1, 0.0)
            gram[i, j] = gram[j, i] = total * math.sqrt(work.strength[i] * work.strength[j])
    for k in range(outputs):
        for i in range(rank):
            total = 0.0
            for c in range(k, outputs):
                total += work.project[c, i] * work.factor[c, k]
            gram[i, rank + k] = gram[rank + k, i] = math.sqrt(work.strength[i]) * total
        for j in range(k + 1):
            total = 0.0
            for c in range(k, outputs):
                total += work.factor[c, k] * dot(work.cross[c, j:], work.factor[j:, j], outputs - j, 0.0)
            gram[rank + k, rank + j] = gram[rank + j, rank + k] = total


@nb.njit(**INLINE)
def _fill_along(head, outputs):
    """W' J' e, in `work.along`."""
    work, rank = head.work, len(head.state.strength)
    for i in range(rank):
        total = 0.0
        for c in range(outputs):
            total += work.project[c, i] * work.residual[c]
        work.along[i] = math.sqrt(work.strength[i]) * total
    for k in range(outputs):
        total = 0.0
        for c in range(k, outputs):
            total += work.factor[c, k] * dot(work.cross[c], work.residual, outputs, 0.0)
        work.along[rank + k] = total


@nb.njit(**INLINE)
def _fill_coefficients(head, outputs):
    """(eta I + W' W)^-1 W' J' e in `work.coefficient`, what of e it leaves in `work.pull`; whether all is finite."""
    work, rank, eta = head.work, len(head.state.strength), head.work.now[1]
    for k in range(rank + outputs):
        work.coefficient[k] = 0.0
    finite = True
    for j in range(rank + outputs):
        vector = work.vectors[j]
        share = dot(vector, work.along, rank + outputs, 0.0) / (eta + max(work.gram[j, j], 0.0))
        finite = finite and math.isfinite(share)
        for k in range(rank + outputs):
            work.coefficient[k] += share * vector[k]
    for i in range(rank):
        work.coefficient[i] *= math.sqrt(work.strength[i])
    for c in range(outputs):
        work.pull[c] = work.residual[c] - dot(work.factor[c], work.coefficient[rank:], c + 1, 0.0)
    return finite


@nb.njit(**INLINE)
def _choose(head, outputs):
    """The largest eigenpairs: their values to `state.strength`, how the new directions are made to `mix`, `mix_out`."""
    state, work, rank = head.state, head.work, len(head.state.strength)
    least = 0.0
    for i in range(rank):
        best = 0
        for j in range(1, rank + outputs):
            best = j if work.gram[j, j] > work.gram[best, best] else best
        value = work.gram[best, best]
        work.gram[best, best] = -1.0
        least = _NO_DIRECTION * value if i == 0 else least
        kept = value > least
        state.strength[i] = value if kept else 0.0
        scale = 1.0 / math.sqrt(value) if kept else 0.0
        for k in range(rank):
            work.mix[i, k] = work.vectors[best, k] * math.sqrt(work.strength[k]) * scale
        for c in range(outputs):
            work.mix_out[i, c] = dot(work.factor[c], work.vectors[best, rank:], c + 1, 0.0) * scale


@nb.njit(**INLINE)
def _move(head, weights, basis, inputs, width, pulled):
    """Adds (pulled inputs - the directions by `coefficient`) / eta to `weights` [width]."""
    work, eta = head.work, head.work.now[1]
    row = work.block[0]
    product(basis, 0, work.coefficient, width, len(work.strength), row)
    for j in range(width):
        weights[j] += (pulled * inputs[j] - row[j]) / eta


@nb.njit(**INLINE)
def _turn(head, basis, inputs, width, outputs, unit, output):
    """The part of the new directions for a hidden unit (`output` -1) or an output, in place of the old."""
    work, rank = head.work, len(head.work.strength)
    for i in range(rank):
        row, g = work.block[i], 0.0
        product(basis, 0, work.mix[i], width, rank, row)
        if output >= 0:
            g = work.mix_out[i, output]
        else:
            for c in range(outputs):
                g += work.back[c, unit] * work.mix_out[i, c]
        for j in range(width):
            row[j] += g * inputs[j]
    for i in range(rank):
        row, place = work.block[i], basis[i * width :]
        for j in range(width):
            place[j] = row[j]


@nb.njit(**CALL)
def update(head, m, outputs):
    """Lets the residual e of covariance F F' into weights and directions; nothing where that would not be finite."""
    state, work, n = head.state, head.work, head.units
    _fill_cross(head, m, outputs)
    _fill_gram(head, m, outputs)
    _fill_along(head, outputs)
    eigen(work.gram, work.vectors, len(state.strength) + outputs)
    if not _fill_coefficients(head, outputs):
        return
    state.precision[0] = work.now[1]
    _choose(head, outputs)
    gamma = work.now[0]
    for u in range(n):
        hidden, origin, pulled = state.hidden[u], state.origin[u], 0.0
        if gamma != 1.0:
            for j in range(m):
                hidden[j] = origin[j] + gamma * (hidden[j] - origin[j])
        for c in range(outputs):
            pulled += work.back[c, u] * work.pull[c]
        _move(head, hidden, state.basis[u], work.z, m, pulled)
        _turn(head, state.basis[u], work.z, m, outputs, u, -1)
    for c in range(outputs):
        out = state.out[c]
        for u in range(n + 1):
            out[u] *= gamma
        _move(head, out, state.basis_out[c], work.h, n + 1, work.pull[c])
        _turn(head, state.basis_out[c], work.h, n + 1, outputs, -1, c)
