"""The sampled softmax of a bank of filters (see `kernels.cpu.heads.kalman`): its probabilities and their gradient.

Samples are the inner axis of every array, so that all loops run over them and vectorise whatever the number of classes.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads._bank import D_ALPHA, D_SPREAD, DEVIATION, LEAST_SCORE, POSTERIOR
from kernels.cpu.heads._filter import normals
from kernels.cpu.numerics import INLINE, dot, exp


@nb.njit(**INLINE)
def _odds_of_two(alpha, width, output, normal, wide, chance, inverse):
    """What `_odds_of_many` says of two classes, to the last bit, with half the exponentials."""
    first, second, eps, other = chance[0], chance[1], normal[0], normal[1]
    middle, second_middle = alpha * output[0], alpha * output[1]
    for j in range(wide):
        gap = (second_middle + width * other[j]) - (middle + width * eps[j])
        odds = exp(-abs(gap))
        first[j] = odds if gap > 0.0 else 1.0
        second[j] = 1.0 if gap > 0.0 else odds
        inverse[j] = 1.0 / (1.0 + odds)


@nb.njit(**INLINE)
def _odds_of_many(alpha, width, output, normal, classes, wide, chance, top, inverse):
    """Each class's odds against the likeliest one, in `chance` [classes, S], and `inverse` [S] of their sums."""
    for j in range(wide):
        top[j] = -math.inf
        inverse[j] = 0.0
    for k in range(classes):
        row, eps, middle = chance[k], normal[k], alpha * output[k]
        for j in range(wide):
            logit = middle + width * eps[j]
            row[j] = logit
            top[j] = logit if logit > top[j] else top[j]
    for k in range(classes):
        row = chance[k]
        for j in range(wide):
            odds = exp(row[j] - top[j])
            row[j] = odds
            inverse[j] += odds
    for j in range(wide):
        inverse[j] = 1.0 / inverse[j]


@nb.njit(**INLINE)
def sampled_softmax(samples, seed, alpha, weights, work, classes, draw, p):
    """The mixture of the members' sampled softmaxes in `p` [classes], each sample's in `work.chance`."""
    wide = max(1, samples)
    if samples > 0:
        normals(seed, draw, classes, samples, work.lanes, work.normal)
    else:
        for k in range(classes):
            work.normal[k, 0] = 0.0
    top, inverse = work.sample[0], work.sample[1]
    for k in range(classes):
        p[k] = 0.0
    for g in range(len(weights)):
        chance, output, share = work.chance[g], work.output[g], weights[g] / wide
        width = alpha * work.member[g, DEVIATION]
        if classes == 2:
            _odds_of_two(alpha, width, output, work.normal, wide, chance, inverse)
        else:
            _odds_of_many(alpha, width, output, work.normal, classes, wide, chance, top, inverse)
        for k in range(classes):
            row = chance[k]
            p[k] += share * dot(row, inverse, wide, 0.0)
            for j in range(wide):
                row[j] *= inverse[j]


@nb.njit(**INLINE)
def _total(a, n):
    """Sum of a[i] for i < n, in four interleaved partial sums."""
    s0 = s1 = s2 = s3 = 0.0
    whole = n - n % 4
    for i in range(0, whole, 4):
        s0 += a[i]
        s1 += a[i + 1]
        s2 += a[i + 2]
        s3 += a[i + 3]
    total = (s0 + s2) + (s1 + s3)
    for i in range(whole, n):
        total += a[i]
    return total


@nb.njit(**INLINE)
def sampled_error(alpha, weights, work, classes, y, p_y):
    """Posterior weights, dL/d(M- z), dL/d(deviation) and dL/dlog(alpha) of L = -log p_y.

    Each sample of each member counts by its share q of p_y, and passes alpha q (chance - onehot) on to its logits.
    """
    wide = work.sample.shape[1]
    q, turned = work.sample[0], work.sample[1]
    gradient = 0.0
    for g in range(len(weights)):
        chance, d_output, note = work.chance[g], work.d_output[g], work.member[g]
        right, eps, share = chance[y], work.normal[y], weights[g] / (wide * p_y)
        own = _total(right, wide)
        all_q = share * own
        for j in range(wide):
            q[j] = share * right[j]
            turned[j] = -eps[j]
        for k in range(classes):
            row, normal = chance[k], work.normal[k]
            d_output[k] = alpha * (dot(row, q, wide, 0.0) - (all_q if k == y else 0.0))
            for j in range(wide):
                turned[j] += row[j] * normal[j]
        own /= wide
        note[POSTERIOR] = weights[g] * (own if own > LEAST_SCORE else LEAST_SCORE)
        note[D_SPREAD] = alpha * dot(turned, q, wide, 0.0)
        gradient += dot(work.output[g], d_output, classes, 0.0) + note[DEVIATION] * note[D_SPREAD]
    work.said[D_ALPHA] = gradient
