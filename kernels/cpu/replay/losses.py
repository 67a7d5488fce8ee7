"""From the features of a network to logits and back: rows of weights [classes, features], by product or by angle.

    dot_c(f) = w_c f + b_c                      cos_c(f) = w_c f / (max(|w_c|, EPSILON) max(|f|, EPSILON))

and the gradients of cross-entropy and of squared differences with respect to logits.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from kernels.cpu.heads._filter import log
from kernels.cpu.numerics import INLINE, JIT, dot, exp
from kernels.cpu.products import long_dot

EPSILON = 1e-6
"""Least norm that an angle is taken with."""


@nb.njit(**JIT)
def dots(f, w, b, out):
    """Writes w_c f + b_c of every row and class to `out` [n, classes]."""
    zero = w.dtype.type(0)
    for r in range(len(f)):
        for c in range(len(w)):
            out[r, c] = b[c] + dot(f[r], w[c], f.shape[1], zero)


@nb.njit(**JIT)
def dots_back(f, w, d, gw, gb, df):
    """Adds to dL/dw, dL/db and dL/df what dL/d(dots) = `d` [n, classes] makes of them."""
    for r in range(len(f)):
        for c in range(len(w)):
            e = d[r, c]
            gb[c] += e
            row, g, x, dx = w[c], gw[c], f[r], df[r]
            for i in range(len(x)):
                g[i] += e * x[i]
                dx[i] += e * row[i]


@nb.njit(**INLINE)
def _norm(x, zero):
    return max(math.sqrt(dot(x, x, len(x), zero)), EPSILON)


@nb.njit(**JIT)
def cosines(f, w, norms, out):
    """Writes the cosines of every row and class to `out` [n, classes], and the norms of the classes to `norms`."""
    zero = w.dtype.type(0)
    for c in range(len(w)):
        norms[c] = _norm(w[c], zero)
    for r in range(len(f)):
        size = _norm(f[r], zero)
        for c in range(len(w)):
            out[r, c] = dot(f[r], w[c], f.shape[1], zero) / (size * norms[c])


@nb.njit(**JIT)
def cosines_back(f, w, norms, cosine, d, gw, df):
    """Adds to dL/dw and dL/df what dL/d(cosines) = `d` [n, classes] makes of them.

    d cos / dw = (f / |f| - cos w / |w|) / |w|, which is orthogonal to w; a norm below EPSILON counts as constant.
    """
    zero = w.dtype.type(0)
    kind = w.dtype.type
    for r in range(len(f)):
        x, dx = f[r], df[r]
        size = _norm(x, zero)
        for c in range(len(w)):
            row, g = w[c], gw[c]
            across = kind(d[r, c] / (size * norms[c]))
            on_w = kind(d[r, c] * cosine[r, c] / (norms[c] * norms[c]) if norms[c] > EPSILON else 0.0)
            on_f = kind(d[r, c] * cosine[r, c] / (size * size) if size > EPSILON else 0.0)
            for i in range(len(x)):
                g[i] += across * x[i] - on_w * row[i]
                dx[i] += across * row[i] - on_f * x[i]


@nb.njit(**JIT)
def cross_entropy(logits, y, mass, scale, d, loss):
    """-log of the share m_y exp(l_y) / sum_c m_c exp(l_c), and its gradient times `scale` with respect to logits.

    Args:
        logits: [n, classes].
        y: int64 [n].
        mass: float64 [classes], how often a class counts in the sum: 1, or 0 for one left out (never the label's).
        scale: what gradients are multiplied with.
        d: [n, classes], written.
        loss: float64 [n], written.
    """
    for r in range(len(logits)):
        row, label = logits[r], y[r]
        top = -math.inf
        for c in range(len(row)):
            if mass[c] > 0.0:
                top = max(top, float(row[c]))
                if math.isnan(row[c]):
                    top = math.nan
                    break
        total = 0.0
        for c in range(len(row)):
            share = mass[c] * exp(float(row[c]) - top) if mass[c] > 0.0 else 0.0
            d[r, c] = share
            total += share
        loss[r] = log(total / mass[label]) + top - row[label]
        for c in range(len(row)):
            d[r, c] = scale * (d[r, c] / total - (1.0 if c == label else 0.0))


@nb.njit(**JIT)
def squared_distance(logits, stored, known, scale, d):
    """The mean of (l - stored)^2 over what was stored, and its gradient times `scale` with respect to logits.

    Args:
        logits: [n, classes].
        stored: [n, classes].
        known: int64 [n], classes that there were when a row was stored; later columns do not count.
        scale: what gradients are multiplied with.
        d: [n, classes], written.
    """
    count, total = 0, 0.0
    for r in range(len(logits)):
        count += min(known[r], logits.shape[1])
    for r in range(len(logits)):
        for c in range(logits.shape[1]):
            apart = logits[r, c] - stored[r, c] if c < known[r] else logits.dtype.type(0)
            d[r, c] = scale * 2.0 * apart / max(count, 1)
            total += float(apart) * float(apart)
    return total / max(count, 1)


@nb.njit(**INLINE)
def softmax(logits, known, p):
    """The shares of the first `known` classes, to `p` float64; logits are taken as `bounded` says."""
    top = -math.inf
    for c in range(known):
        top = max(top, bounded(logits[c]))
    total = 0.0
    for c in range(known):
        p[c] = exp(bounded(logits[c]) - top)
        total += p[c]
    for c in range(known):
        p[c] /= total


@nb.njit(**INLINE)
def bounded(value):
    """A logit as a finite float64: NaN is 0, the rest is kept within 1e30."""
    wide = float(value)
    if math.isnan(wide):
        return 0.0
    return min(max(wide, -1e30), 1e30)


@nb.njit(**JIT)
def penalty(w, anchor, importance, rate, strength):
    """Draws weights towards an anchor: a step on strength/2 importance (w - anchor)^2, at most all the way."""
    for i in range(len(w)):
        pull = min(1.0, rate * strength * importance[i])
        w[i] -= w.dtype.type(pull) * (w[i] - anchor[i])


@nb.njit(**JIT)
def product(a, b):
    """The sum of a b, in float64 whatever the dtype: see `kernels.cpu.products.long_dot`."""
    return long_dot(a, b)


@nb.njit(**JIT)
def project(g, r, along):
    """G -= along r."""
    step = g.dtype.type(along)
    for i in range(len(g)):
        g[i] -= step * r[i]


@nb.njit(**JIT)
def add_squares(g, most, out):
    """Out += min(|g|, most)^2, and nothing where g is NaN."""
    cap = most * most
    for i in range(len(g)):
        square = np.float64(g[i]) * np.float64(g[i])
        square = cap if square > cap else square
        out[i] += square if square > 0.0 else 0.0
