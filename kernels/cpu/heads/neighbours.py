"""k nearest neighbours in a memory of the last examples, first in first out in the order of the log.

Neighbour i at the distance d_i weighs v_i = d_1 / d_i (1 at the nearest, and where d_i = 0): the inverse distance of
Dudani (1976), free of the unit of the features. With V = sum v_i over the k nearest and t = (y - base) / scale,

    classes      p_c = (sum over the neighbours of class c of v_i + 1 / K) / (V + 1)
    regression   mean = sum v_i t_i / V,   variance = (sum v_i (t_i - mean)^2 + e) / (V + 1)

so one more neighbour that says nothing keeps every probability above zero, and one that misses by the head's own
running squared error e (1 before the first label; over `config.window` labels) keeps the variance above zero where
neighbours agree. The epistemic part is variance sum v_i^2 / V^2. Of equally near examples the newer ones count.
Distances are of features rounded to float32, as they are kept. O(B m) per prediction, O(m) per label.
It gives no gradient: the cell below stays as drawn.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import error, predict, step
from kernels.cpu.heads._closed_form import (
    classes_of,
    features_of,
    in_deviations,
    no_gradient,
    say_class,
    say_nothing,
    say_number,
    take,
)
from kernels.cpu.layout import REGRESSION
from kernels.cpu.numerics import INLINE

MOST_NEIGHBOURS = 256
"""Largest k: the nearest are kept by insertion."""


class State(NamedTuple):
    """What is carried."""

    memory: np.ndarray
    """float32 [m, B]: features; an example is a column, so that distances to all are sums of rows."""
    label: np.ndarray
    """float64 [B]: the class, or t."""
    ring: np.ndarray
    """int64 [2]: examples held, and the place of the next."""
    error: np.ndarray
    """float64 [2]: labels of a regression, and e."""


class Work(NamedTuple):
    """Scratch."""

    z: np.ndarray
    """float64 [m]."""
    rounded: np.ndarray
    """float32 [m]: z."""
    distance: np.ndarray
    """float64 [B]: squared."""
    near: np.ndarray
    """int64 [k]: places of the nearest, in order of distance."""
    weight: np.ndarray
    """float64 [k]."""
    mean: np.ndarray
    """float64 [1]: what `predict` said of t."""


class Neighbours(NamedTuple):
    """The head."""

    inputs: int
    """1: z = [phi, x]; 0: z = [phi, 1]."""
    neighbours: int
    """k."""
    state: State
    work: Work

    @classmethod
    def make(
        cls, features: int, *, inputs: int = 1, memory: int = 1000, neighbours: int = 10, classes: int
    ) -> Neighbours:
        """A fresh head for z of `features` numbers that keeps `memory` examples; `classes` takes no room.

        Raises:
            ValueError: for a setting out of bounds.
        """
        if not 1 <= neighbours <= MOST_NEIGHBOURS:
            raise ValueError(f"neighbours is {neighbours}; accepted: 1 to {MOST_NEIGHBOURS}")
        if memory < neighbours:
            raise ValueError(f"memory is {memory}; accepted: as many examples as neighbours ({neighbours}) or more")
        state = State(
            np.zeros((features, memory), np.float32),
            np.zeros(memory),
            np.zeros(2, np.int64),
            np.array([0.0, 1.0]),
        )
        work = Work(
            np.zeros(features),
            np.zeros(features, np.float32),
            np.zeros(memory),
            np.zeros(neighbours, np.int64),
            np.zeros(neighbours),
            np.zeros(1),
        )
        return cls(inputs, neighbours, state, work)


Neighbours.PER_CLASS = {}  # type: ignore[attr-defined]


@nb.njit(**INLINE)
def _place(distance, near, found, most, i):
    """Puts the example `i` among the `found` nearest, which are at most `most`; returns how many they are then."""
    d = distance[i]
    if found == most and not d < distance[near[most - 1]]:
        return found
    at = found if found < most else most - 1
    while at > 0 and d < distance[near[at - 1]]:
        near[at] = near[at - 1]
        at -= 1
    near[at] = i
    return found + 1 if found < most else found


@nb.njit(**INLINE)
def _add_squares(a, b, c, d, z, i, n, out):
    """out[:n] += the squared differences of four rows from z[i], z[i + 1], ...: `out` is read a quarter as often."""
    za, zb, zc, zd = np.float64(z[i]), np.float64(z[i + 1]), np.float64(z[i + 2]), np.float64(z[i + 3])
    for j in range(n):
        p = za - np.float64(a[j])
        q = zb - np.float64(b[j])
        r = zc - np.float64(c[j])
        t = zd - np.float64(d[j])
        out[j] += (p * p + q * q) + (r * r + t * t)


@nb.njit(**INLINE)
def _distances(z, memory, m, n, out):
    """The squared distances in float64 from `z` [m] to the first `n` columns of `memory` [m, B]."""
    for j in range(n):
        out[j] = 0.0
    whole = m - m % 4
    for i in range(0, whole, 4):
        _add_squares(memory[i], memory[i + 1], memory[i + 2], memory[i + 3], z, i, n, out)
    for i in range(whole, m):
        row, zi = memory[i], np.float64(z[i])
        for j in range(n):
            p = zi - np.float64(row[j])
            out[j] += p * p


@nb.njit(**INLINE)
def _find(head, m):
    """The nearest examples in `work.near`, their weights in `work.weight`; returns how many."""
    state, work = head.state, head.work
    held, after = state.ring[0], state.ring[1]
    for i in range(m):
        work.rounded[i] = np.float32(work.z[i])
    _distances(work.rounded, state.memory, m, held, work.distance)
    found = 0
    for i in range(after - 1, -1, -1):
        found = _place(work.distance, work.near, found, head.neighbours, i)
    for i in range(held - 1, after - 1, -1):
        found = _place(work.distance, work.near, found, head.neighbours, i)
    for i in range(found):
        d = work.distance[work.near[i]]
        work.weight[i] = math.sqrt(work.distance[work.near[0]] / d) if d > 0.0 else 1.0
    return found


@nb.njit(**INLINE)
def _vote(head, found, classes, s):
    total = 1.0
    for k in range(classes):
        s.logits[k] = 1.0 / classes
    for i in range(found):
        total += head.work.weight[i]
        s.logits[int(head.state.label[head.work.near[i]])] += head.work.weight[i]
    for k in range(classes):
        s.logits[k] /= total


@nb.njit(**INLINE)
def _moments(head, found):
    """Mean, variance and epistemic variance of t."""
    work, label = head.work, head.state.label
    total = squares = mean = 0.0
    for i in range(found):
        total += work.weight[i]
        squares += work.weight[i] * work.weight[i]
        mean += work.weight[i] * label[work.near[i]]
    mean = mean / total if found > 0 else 0.0
    spread = head.state.error[1]
    for i in range(found):
        off = label[work.near[i]] - mean
        spread += work.weight[i] * (off * off)
    variance = spread / (total + 1.0)
    return mean, variance, variance * (squares / (total * total)) if found > 0 else variance


@implements(predict, Neighbours)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    m = take(head, config, phi, x)
    if config.task == REGRESSION:
        mean, variance, epistemic = _moments(head, _find(head, m))
        head.work.mean[0] = mean
        return say_number(base, mean, variance, epistemic, s)
    classes = classes_of(config, shared)
    if classes == 0:
        return say_nothing(s)
    _vote(head, _find(head, m), classes, s)
    return say_class(config, classes, s)


@implements(error, Neighbours)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    return no_gradient(head, config, base, y, d_phi)


@implements(step, Neighbours)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    state, place = head.state, head.state.ring[1]
    if config.task == REGRESSION:
        t = in_deviations(base, y, s)
        off = t - head.work.mean[0]
        state.error[0] += 1.0
        state.error[1] += (off * off - state.error[1]) / min(state.error[0] + 1.0, config.window)
        y = t
    for i in range(features_of(head, config)):
        state.memory[i, place] = head.work.rounded[i]
    state.label[place] = y
    room = len(state.label)
    state.ring[0] = min(state.ring[0] + 1, room)
    state.ring[1] = (place + 1) % room
