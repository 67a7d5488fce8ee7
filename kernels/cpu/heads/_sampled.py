"""The sampled softmax of a bank of filters (see `kernels.cpu.heads.kalman`): its probabilities and their gradient.

Samples are the inner axis of every array, so that all loops run over them and vectorise whatever the number of classes.
"""

from __future__ import annotations

import math

import numba as nb

from kernels.cpu.heads._bank import D_ALPHA, D_SPREAD, DEVIATION, LEAST_SCORE, POSTERIOR
from kernels.cpu.heads._filter import normals
from kernels.cpu.numerics import CALL, dot, exp


@nb.njit(**CALL)
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
        chance, output = work.chance[g], work.output[g]
        width = alpha * work.member[g, DEVIATION]
        for j in range(wide):
            top[j] = -math.inf
            inverse[j] = 0.0
        for k in range(classes):
            row, normal, middle = chance[k], work.normal[k], alpha * output[k]
            for j in range(wide):
                logit = middle + width * normal[j]
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
        share = weights[g] / wide
        for k in range(classes):
            row = chance[k]
            p[k] += share * dot(row, inverse, wide, 0.0)
            for j in range(wide):
                row[j] *= inverse[j]


@nb.njit(**CALL)
def sampled_error(alpha, weights, work, classes, y, p_y):
    """Posterior weights, dL/d(M- z), dL/d(deviation) and dL/dlog(alpha) of L = -log p_y.

    Each sample of each member counts by its share q of p_y, and passes alpha q (chance - onehot) on to its logits.
    """
    wide = work.sample.shape[1]
    q, turned = work.sample[0], work.sample[1]
    gradient = 0.0
    for g in range(len(weights)):
        chance, d_output, note = work.chance[g], work.d_output[g], work.member[g]
        own, all_q = 0.0, 0.0
        for j in range(wide):
            own += chance[y, j]
            q[j] = weights[g] * chance[y, j] / (wide * p_y)
            all_q += q[j]
            turned[j] = -work.normal[y, j]
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
