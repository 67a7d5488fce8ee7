"""Rows of weights of the diagonal filter (`kernels.cpu.ekf`): what they bring to M, and how a label moves them.

`rows` [8, N] is working memory: of each unit the sums over its traces p t1 t1, p t1 t2, p t2 t2 (Q11, Q12, Q22), then
e1' u, e2' u (A1, A2) and e1' B e1, e1' B e2, e2' B e2 (B11, B12, B22). `scalars` are those of `constants`; all arrays
begin at their block.
"""

from __future__ import annotations

import numba as nb

from kernels.cpu.numerics import CALL, INLINE, dot

LEAST_VARIANCE = 1e-20
"""A variance is kept at least so large (or at its prior, where that is smaller), whatever rounding does."""

Q11, Q12, Q22, A1, A2, B11, B12, B22 = range(8)


@nb.njit(**INLINE)
def constants(f, prior, v):
    """(gamma^2, what the prior adds, prior, least variance, least share kept, 0, 1) in the dtype of v."""
    kind = v.dtype.type
    share = kind(1e-7) if v.itemsize == 4 else kind(1e-16)
    least = kind(min(prior, LEAST_VARIANCE))
    return kind(f.keep), kind((1.0 - f.keep) * prior), kind(prior), least, share, kind(0), kind(1)


@nb.njit(**INLINE)
def _variance(v, scalars):
    """Variance before the label, of what is kept in `v`."""
    keep, add, prior, _, _, zero, _ = scalars
    return keep * (v if v > zero else prior) + add


@nb.njit(**INLINE)
def _learned(variational, p, change, scalars):
    """The variance after a label that brings `change` = p H' B H (variational: p H' F H)."""
    _, _, _, least, share, _, one = scalars
    if variational:
        p = p / (one + change)
    else:
        kept = one - change
        p *= kept if kept > share else share
    return p if p > least else least


@nb.njit(**CALL)
def see_by_unit(q, v, trace, rows, n, scalars):
    """q[i] += sum over rows of p t^2."""
    for j in range(rows):
        a = j * n
        for i in range(n):
            t = trace[a + i]
            q[i] += (_variance(v[a + i], scalars) * t) * t


@nb.njit(**CALL)
def see_by_pair(q11, q12, q22, sign, v, trace, rows, n, scalars):
    """The same of traces (t1, t2) [rows, 2, n]: p t1^2, sign p t1 t2, p t2^2."""
    for j in range(rows):
        first, second = trace[2 * j * n : (2 * j + 1) * n], trace[(2 * j + 1) * n : (2 * j + 2) * n]
        row = v[j * n : (j + 1) * n]
        for i in range(n):
            p = _variance(row[i], scalars)
            s, t = first[i], second[i]
            q11[i] += (p * s) * s
            q12[i] += sign * ((p * s) * t)
            q22[i] += (p * t) * t


@nb.njit(**CALL)
def see_by_input(q, v, x, rows, n, scalars):
    """The same as by unit, where the trace of a whole row is x[j]."""
    for j in range(rows):
        a, t = j * n, x[j]
        for i in range(n):
            q[i] += (_variance(v[a + i], scalars) * t) * t


@nb.njit(**CALL)
def update_by_unit(variational, w, v, trace, a, b, rows, n, scalars):
    """H' u = t a and H' B H = t^2 b."""
    for j in range(rows):
        at = j * n
        for i in range(n):
            k = at + i
            p, t = _variance(v[k], scalars), trace[k]
            gain = p * t
            w[k] += gain * a[i]
            v[k] = _learned(variational, p, gain * (t * b[i]), scalars)


@nb.njit(**CALL)
def update_by_pair(variational, w, v, trace, a1, a2, b11, b12, b22, sign, rows, n, scalars):
    """H' u = t1 a1 + sign t2 a2, and H' B H = t1^2 b11 + 2 sign t1 t2 b12 + t2^2 b22."""
    zero = scalars[5]
    for j in range(rows):
        first, second = trace[2 * j * n : (2 * j + 1) * n], trace[(2 * j + 1) * n : (2 * j + 2) * n]
        at = j * n
        for i in range(n):
            k = at + i
            p, s, t = _variance(v[k], scalars), first[i], sign * second[i]
            w[k] += p * (s * a1[i] + t * a2[i])
            gain, other = p * s, p * t
            form = gain * (s * b11[i] + t * b12[i]) + other * (s * b12[i] + t * b22[i])
            v[k] = _learned(variational, p, form if form > zero else zero, scalars)


@nb.njit(**CALL)
def update_by_input(variational, w, v, x, a, b, rows, n, scalars):
    """As by unit, where the trace of a whole row is x[j]."""
    for j in range(rows):
        at, t = j * n, x[j]
        for i in range(n):
            k = at + i
            p = _variance(v[k], scalars)
            gain = p * t
            w[k] += gain * a[i]
            v[k] = _learned(variational, p, gain * (t * b[i]), scalars)


# From sums over traces to M, and from B and u to what an update takes of each unit.


@nb.njit(**CALL)
def clear(rows, n):
    """Sets the sums over traces to zero."""
    zero = rows.dtype.type(0)
    for part in range(3):
        for i in range(n):
            rows[part, i] = zero


@nb.njit(**CALL)
def add_products(seen, rows, logits, e, order, n):
    """M += sum over units of e q e', with e [C, order n] and the sums over traces q in `rows`."""
    zero = e.dtype.type(0)
    first, second = rows[A1], rows[A2]
    for c in range(logits):
        one, two = e[c, :n], e[c, n : order * n]
        if order == 1:
            for i in range(n):
                first[i] = one[i] * rows[Q11, i]
        else:
            for i in range(n):
                first[i] = one[i] * rows[Q11, i] + two[i] * rows[Q12, i]
                second[i] = one[i] * rows[Q12, i] + two[i] * rows[Q22, i]
        for d in range(c + 1):
            total = dot(first, e[d, :n], n, zero)
            if order == 2:
                total += dot(second, e[d, n : 2 * n], n, zero)
            seen[c, d] += total


@nb.njit(**CALL)
def see_row(seen, rows, c, v, x, n, scalars):
    """M of logit c by its own weights, whose trace is x."""
    one, zero = rows.dtype.type(1), rows.dtype.type(0)
    q, ones = rows[Q11], rows[A1]
    for i in range(n):
        q[i] = zero
        ones[i] = one
    see_by_unit(q, v, x, 1, n, scalars)
    seen[c, c] += dot(q, ones, n, zero)


@nb.njit(**CALL)
def spread(rows, logits, e, order, n, lift, form):
    """Writes e u to A1 and A2, and e B e to B11, B12 and B22 (B symmetric, as good as positive)."""
    zero = e.dtype.type(0)
    for part in range(A1, B22 + 1):
        for i in range(n):
            rows[part, i] = zero
    for c in range(logits):
        u = e.dtype.type(lift[c])
        for i in range(n):
            rows[A1, i] += u * e[c, i]
        if order == 2:
            for i in range(n):
                rows[A2, i] += u * e[c, n + i]
        for d in range(logits):
            b = e.dtype.type(form[c, d])
            for i in range(n):
                rows[B11, i] += (b * e[c, i]) * e[d, i]
            if order == 2:
                for i in range(n):
                    rows[B12, i] += (b * e[c, i]) * e[d, n + i]
                    rows[B22, i] += (b * e[c, n + i]) * e[d, n + i]
    for i in range(n):
        rows[B11, i] = rows[B11, i] if rows[B11, i] > zero else zero
        rows[B22, i] = rows[B22, i] if rows[B22, i] > zero else zero


@nb.njit(**CALL)
def update_row(variational, rows, w, v, x, n, u, b, scalars):
    """The weights of one logit, whose trace is x."""
    kind = w.dtype.type
    for i in range(n):
        rows[A1, i] = kind(u)
        rows[B11, i] = kind(b)
    update_by_unit(variational, w, v, x, rows[A1], rows[B11], 1, n, scalars)
