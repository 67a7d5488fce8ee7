"""LoFi: a small network as one head, its weights filtered with a low-rank precision (Chang et al., CoLLAs 2023).

    h = tanh(A z),   o = B [h, 1]                      theta = (A, B), P numbers
    belief       N(theta, (eta I + U diag(L^2) U')^-1)                        U [P, r] orthonormal
    transition   theta <- theta0 + gamma (theta - theta0),   covariance <- gamma^2 covariance + q I; in that form
                 eta <- eta / (gamma^2 + q eta)
                 L^2 <- gamma^2 L^2 / ((gamma^2 + q eta) (gamma^2 + q eta + q L^2))
    label        W = [U L, J' F],   theta <- theta + (eta I + W W')^-1 J' e,   U, L <- the r largest singular pairs of W

with J = do/dtheta, e what the label says against the prediction and F F' = R its covariance:

    classes      o are the logits of every class but the first, which is the reference (classes are appended as they
                 appear); e = onehot(y) - p, R = diag(p) - p p' of those logits, the moments of the categorical. As the
                 link is canonical H = R J and H' R^-1 H = J' R J: R is never inverted, so that it needs no floor.
    regression   e = t - o, R = 1: the covariance is in units of the noise v, the running mean of e^2 / S with
                 S = 1 + J covariance J'; the variance of t is v S, its epistemic part v (S - 1).

The singular pairs come from the Gram matrix W' W [r + outputs] by Jacobi rotations. It is formed anew from U, so what
is lost of orthogonality is found again at the next label. Cost P r (r + 2) / 2 + P r^2 and about 40 (r + outputs)^3 per
label, P r per prediction. The theta0 of A is a draw (equal units would stay equal), that of B is zero.
At r = P this is the extended Kalman filter.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import error, predict, step
from kernels.cpu.heads._closed_form import (
    features_of,
    in_deviations,
    is_finite,
    say_class,
    say_nothing,
    say_number,
    take,
)
from kernels.cpu.heads._low_rank import factorise, update
from kernels.cpu.layout import C_CLASSES, MULTICLASS, REGRESSION
from kernels.cpu.numerics import INLINE, dot, exp, tanh

MOST_UNITS, MOST_RANK = 256, 64

MOST_CLASSES = 32
"""Every label costs the cube of rank and classes."""

LEAST_NOISE = 1e-6
"""Bound on v from below: a stream of equal labels must not make the predictive density endless."""


class State(NamedTuple):
    """What is carried."""

    hidden: np.ndarray
    """float64 [N, m]: A."""
    origin: np.ndarray
    """float64 [N, m]: A before the first label."""
    out: np.ndarray
    """float64 [K, N + 1]: B, a row per class but the first; the last is room."""
    basis: np.ndarray
    """float64 [N, r m]: of each unit the part of the r directions U that moves its row of A."""
    basis_out: np.ndarray
    """float64 [K, r (N + 1)]: of each output the part that moves its row of B."""
    strength: np.ndarray
    """float64 [r]: L^2, largest first."""
    precision: np.ndarray
    """float64 [1]: eta."""
    noise: np.ndarray
    """float64 [2]: labels of a regression, and v."""


class Work(NamedTuple):
    """Scratch: what `predict` leaves for `step`, with C = 32 rows for outputs; then that of the step itself."""

    z: np.ndarray
    """float64 [m]."""
    h: np.ndarray
    """float64 [N + 1]: h, and 1."""
    mean: np.ndarray
    """float64 [C]: o."""
    back: np.ndarray
    """float64 [C, N]: do/d(pre-activation)."""
    through: np.ndarray
    """float64 [N, r]: of each direction and unit the product with z."""
    project: np.ndarray
    """float64 [C, r]: J U."""
    strength: np.ndarray
    """float64 [r]: L^2 after the transition."""
    now: np.ndarray
    """float64 [4]: gamma and eta of the transition, the variance of t and S - 1 of a regression."""
    residual: np.ndarray
    """float64 [C]: e."""
    pull: np.ndarray
    """float64 [C]: what e leaves to the directions of J after those of W."""
    cross: np.ndarray
    """float64 [C, C]: J J'."""
    factor: np.ndarray
    """float64 [C, C]: F, lower triangle."""
    gram: np.ndarray
    """float64 [r + C, r + C]: W' W, then its eigenvalues."""
    vectors: np.ndarray
    """float64 [r + C, r + C]."""
    along: np.ndarray
    """float64 [r + C]: W' J' e."""
    coefficient: np.ndarray
    """float64 [r + C]: what of W is taken off J' e."""
    mix: np.ndarray
    """float64 [r, r]: each new direction by the old ones."""
    mix_out: np.ndarray
    """float64 [r, C]: and by the rows of J."""
    block: np.ndarray
    """float64 [r, max(m, N + 1)]: the part of the new directions for one unit or output."""


class LoFi(NamedTuple):
    """The head."""

    inputs: int
    """1: z = [phi, x]; 0: z = [phi, 1]."""
    units: int
    """N."""
    gamma: float
    """Decay of the weights to where they began, per step of forgetting, in (0, 1]."""
    drift: float
    """q, variance that every weight gains per step of forgetting."""
    state: State
    work: Work

    @classmethod
    def make(
        cls,
        features: int,
        rng: np.random.Generator,
        *,
        inputs: int = 1,
        units: int = 32,
        rank: int = 10,
        precision: float = 0.0,
        gamma: float = 1.0,
        drift: float | None = None,
        classes: int,
    ) -> LoFi:
        """A fresh head for z of `features` numbers, with room for `classes` classes (regression: 1).

        A is drawn from N(0, 1 / m). `precision` is eta before the first label; 0: m, so that the variance of every
        pre-activation is that of the draw. Without `drift` it is (1 - gamma^2) / precision, which keeps eta where it
        is. A larger one lowers eta for good, as what the directions do not hold no label ever raises again: at gamma 1
        without bound, and in the end every label moves too much.

        Raises:
            ValueError: for a setting out of bounds.
        """
        for name, value, most in (("units", units, MOST_UNITS), ("rank", rank, MOST_RANK)):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}; accepted: 1 to {most}")
        if classes > MOST_CLASSES:
            raise ValueError(f"classes is {classes}; accepted: at most {MOST_CLASSES}")
        if not 0.0 <= precision < math.inf:
            raise ValueError(f"precision is {precision}; accepted: a finite number, 0 for the number of features")
        if not 0.0 < gamma <= 1.0:
            raise ValueError(f"gamma is {gamma}; accepted: above 0, at most 1")
        precision = precision or float(features)
        drift = (1.0 - gamma * gamma) / precision if drift is None else drift
        if not 0.0 <= drift < math.inf or (gamma < 1.0 and drift == 0.0):
            raise ValueError(f"drift is {drift}; accepted: a finite number, above 0 where gamma is below 1")
        rows, count = max(1, classes), rank + MOST_CLASSES
        hidden = rng.normal(0.0, 1.0 / math.sqrt(features), (units, features))
        state = State(
            hidden=hidden,
            origin=hidden.copy(),
            out=np.zeros((rows, units + 1)),
            basis=np.zeros((units, rank * features)),
            basis_out=np.zeros((rows, rank * (units + 1))),
            strength=np.zeros(rank),
            precision=np.array([precision]),
            noise=np.array([0.0, 1.0]),
        )
        shapes = {
            "z": (features,),
            "h": (units + 1,),
            "mean": (MOST_CLASSES,),
            "back": (MOST_CLASSES, units),
            "through": (units, rank),
            "project": (MOST_CLASSES, rank),
            "strength": (rank,),
            "now": (4,),
            "residual": (MOST_CLASSES,),
            "pull": (MOST_CLASSES,),
            "cross": (MOST_CLASSES, MOST_CLASSES),
            "factor": (MOST_CLASSES, MOST_CLASSES),
            "gram": (count, count),
            "vectors": (count, count),
            "along": (count,),
            "coefficient": (count,),
            "mix": (rank, rank),
            "mix_out": (rank, MOST_CLASSES),
            "block": (rank, max(features, units + 1)),
        }
        work = Work(**{name: np.zeros(shape) for name, shape in shapes.items()})
        return cls(inputs, units, float(gamma), float(drift), state, work)


LoFi.PER_CLASS = {"out": 0, "basis_out": 0}  # type: ignore[attr-defined]


@nb.njit(**INLINE)
def _outputs(config, shared):
    """Rows of B in use."""
    return shared.counters[C_CLASSES] - 1 if config.task == MULTICLASS else 1


@nb.njit(**INLINE)
def _transition(head, elapsed):
    """gamma, eta and L^2 after `elapsed` steps of forgetting, in `work`."""
    gamma, q = head.gamma, head.drift
    if elapsed != 1.0:
        if gamma < 1.0:
            decayed = exp(elapsed * math.log(gamma))
            q *= (1.0 - decayed * decayed) / (1.0 - gamma * gamma)
            gamma = decayed
        else:
            q *= elapsed
    eta, squared = head.state.precision[0], gamma * gamma
    shrunk = squared + q * eta
    head.work.now[0] = gamma
    head.work.now[1] = eta / shrunk
    for i in range(len(head.state.strength)):
        strength = head.state.strength[i]
        head.work.strength[i] = squared * strength / (shrunk * (shrunk + q * strength))


@nb.njit(**INLINE)
def _forward(head, m, outputs):
    """h, o and do/d(pre-activation), in `work`."""
    state, work, n, gamma = head.state, head.work, head.units, head.work.now[0]
    for u in range(n):
        a = dot(state.hidden[u], work.z, m, 0.0)
        if gamma != 1.0:
            a = gamma * a + (1.0 - gamma) * dot(state.origin[u], work.z, m, 0.0)
        work.h[u] = tanh(a)
    work.h[n] = 1.0
    for c in range(outputs):
        out, back = state.out[c], work.back[c]
        work.mean[c] = gamma * dot(out, work.h, n + 1, 0.0)
        for u in range(n):
            back[u] = gamma * out[u] * (1.0 - work.h[u] * work.h[u])


@nb.njit(**INLINE)
def _project(head, m, outputs):
    """J U, in `work`."""
    state, work, n, rank = head.state, head.work, head.units, len(head.state.strength)
    for u in range(n):
        basis = state.basis[u]
        for i in range(rank):
            work.through[u, i] = dot(basis[i * m :], work.z, m, 0.0)
    for c in range(outputs):
        basis, row = state.basis_out[c], work.project[c]
        for i in range(rank):
            row[i] = dot(basis[i * (n + 1) :], work.h, n + 1, 0.0)
        for u in range(n):
            through, g = work.through[u], work.back[c, u]
            for i in range(rank):
                row[i] += g * through[i]


@nb.njit(**INLINE)
def _variance(head, m, c):
    """The variance of o[c]: J covariance J', as a sum of what cannot be negative."""
    work, n = head.work, head.units
    eta, rest, total = work.now[1], dot(work.h, work.h, n + 1, 0.0), 0.0
    rest += dot(work.back[c], work.back[c], n, 0.0) * dot(work.z, work.z, m, 0.0)
    for i in range(len(work.strength)):
        square = work.project[c, i] * work.project[c, i]
        rest -= square
        total += square / (eta + work.strength[i])
    return total + max(rest, 0.0) / eta


@nb.njit(**INLINE)
def _softmax(o, outputs, p):
    """The probabilities of the reference class, whose logit is 0, and of the others."""
    top = 0.0
    for c in range(outputs):
        top = max(top, o[c])
    p[0] = total = exp(-top)
    for c in range(outputs):
        p[c + 1] = exp(o[c] - top)
        total += p[c + 1]
    for k in range(outputs + 1):
        p[k] /= total


@implements(predict, LoFi)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    m, work = take(head, config, phi, x), head.work
    outputs = _outputs(config, shared)
    if outputs < 0:
        return say_nothing(s)
    _transition(head, elapsed)
    _forward(head, m, outputs)
    _project(head, m, outputs)
    variance = 0.0
    for c in range(outputs):
        variance += _variance(head, m, c) / outputs
    if config.task == REGRESSION:
        noise = head.state.noise[1]
        work.now[2], work.now[3] = noise * (1.0 + variance), variance
        return say_number(base, work.mean[0], work.now[2], noise * variance, s)
    _softmax(work.mean, outputs, s.logits)
    value, code = say_class(config, outputs + 1, s)
    s.spread[1] = variance
    return value, code


@implements(error, LoFi)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    """The gradient of -log p through the mean.

    That through the variance of a regression is left out, and its residual is bounded by `residual_clip` deviations
    of the prediction, in what is learned too: one label moves the noise by at most their square, in its share.
    """
    work, outputs = head.work, _outputs(config, shared)
    finite = is_finite(work.z, features_of(head, config), y)
    if config.task == REGRESSION:
        work.residual[0] = in_deviations(base, y, s) - work.mean[0]
        deviation = math.sqrt(work.now[2])
        pulled = work.residual[0] / deviation
        pulled = config.residual_clip if pulled > config.residual_clip else pulled
        pulled = -config.residual_clip if pulled < -config.residual_clip else pulled
        work.pull[0] = pulled / deviation
        work.residual[0] = pulled * deviation
    else:
        for c in range(outputs):
            work.residual[c] = (1.0 if c + 1 == int(y) else 0.0) - s.logits[c + 1]
            work.pull[c] = work.residual[c]
    for c in range(outputs):
        finite = finite and math.isfinite(work.residual[c]) and math.isfinite(work.mean[c])
    _to_features(head, config, outputs, d_phi)
    return 0, finite


@nb.njit(**INLINE)
def _to_features(head, config, outputs, d_phi):
    """dL/dphi, with -dL/do in `work.pull`."""
    state, work, gamma = head.state, head.work, head.work.now[0]
    row = work.block[0]
    for i in range(config.hidden):
        row[i] = 0.0
    for u in range(head.units):
        g = 0.0
        for c in range(outputs):
            g -= work.back[c, u] * work.pull[c]
        hidden, origin = state.hidden[u], state.origin[u]
        for i in range(config.hidden):
            row[i] += g * (origin[i] + gamma * (hidden[i] - origin[i]))
    for i in range(config.hidden):
        d_phi[i] = d_phi.dtype.type(row[i])


@implements(step, LoFi)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    outputs, work, noise = _outputs(config, shared), head.work, head.state.noise
    if config.task == REGRESSION:
        work.factor[0, 0] = 1.0
        noise[0] += 1.0
        surprise = work.residual[0] * work.residual[0] / (1.0 + work.now[3])
        noise[1] += (surprise - noise[1]) / min(noise[0] + 1.0, config.window)
        noise[1] = max(noise[1], LEAST_NOISE)
    else:
        factorise(s.logits, outputs, work.factor)
    update(head, features_of(head, config), outputs)
