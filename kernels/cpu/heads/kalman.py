"""Kalman head (Titsias et al., ICLR 2024, arXiv 2306.08448): a bank of filters that forget at different rates.

Each of G members holds a Gaussian over K rows of weights, N(M_k, A), with one covariance A for all of them:

    transition   w <- a w + N(0, (1 - a^2) sw I), a = gamma^elapsed:  M- = a M,  A- = a^2 A + (1 - a^2) sw I
    innovation   r = t - M- z,  S = z' A- z + s2                      t one-hot, or the change in deviations (s2 = 1)
    update       M = M- + r u' / S,  A = A- - u u' / S,  u = A- z

gamma = 1 is recursive ridge regression with penalty s2 / sw. A- is never formed: predicting reads one triangle of A
once, and learning reads and writes it once. A class that appears is a row of zeros: exact, the prior has mean zero.

    classes      p = mean over S samples of softmax(alpha (M- z + sqrt(z' A- z) eps)), alpha by gradient descent
    regression   t ~ N(M- z, v S) with v the running mean of r^2 / S; interval = mean +- factor x deviation, the factor
                 moved by each hit and miss (adaptive conformal inference, Gibbs and Candes 2021)
    bank         weight <- (1 - sigma) posterior + sigma / G (fixed share, Herbster and Warmuth 1998), on the score of
                 what each member said; the prediction is the mixture

Options: gamma of a single member by the gradient of the evidence; for regression the weight w^2 = c^2 / (c^2 + r^2 /
(v S)) of WoLF (Duran-Martin et al., ICML 2024), which divides the observation noise. Its influence falls to nothing, so
a cause that has hardly been seen would be refused for ever: of an event whose own direction keeps more than `RARE` of
its prior variance, z' A- z / (sw z' z), in every member, the label weighs w instead of w^2. Then a residual of any size
moves M by at most c deviations times A- z / sqrt(S), almost all of it along what only such events say.

Without that option, and while a head is cold, a residual of more than `GROSS` deviations counts as one of `GROSS`: up
to there the solution is the exact one. v moves by at most `LARGEST_SURPRISE` v / window at a label, without the option
by at most `PLAIN_SURPRISE` v / window: a burst leaves any head where it was, but for a little.

Everything is in float64. The random numbers are a function of (seed, draw, sample, class), in antithetic pairs, and the
same for all members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import REFUSED, error, predict, step, weight
from kernels.cpu.heads._bank import (
    ALPHA,
    ALPHAS,
    D_ALPHA,
    D_SPREAD,
    FACTOR,
    HALF,
    LARGEST_GAP,
    LEAST_NOISE,
    LEAST_SCORE,
    MEAN,
    POSTERIOR,
    SCALE,
    TOTAL,
    VALUE,
    VARIANCE,
    State,
    Work,
    back,
    bounded,
    carry,
    is_finite,
    move_gamma,
    move_weights,
    update,
)
from kernels.cpu.heads._belief import believed, is_rare, squared_residual, surprise, wolf
from kernels.cpu.heads._closed_form import NORMAL_90, classes_of, scale_of, take
from kernels.cpu.heads._filter import LANES, log, places, whole
from kernels.cpu.heads._natural import coordinates, take_on
from kernels.cpu.heads._sampled import sampled_error, sampled_softmax
from kernels.cpu.heads.linear import Linear
from kernels.cpu.layout import AVERAGED, BINARY, KEPT, REGRESSION, SUMMED, on_lines
from kernels.cpu.numerics import INLINE, exp

GAMMAS = (1.0, 0.9999, 0.999, 0.99)
"""Members of the bank by default."""

NOTHING, PREDICTIVE, READ_OUT = range(3)


class Kalman(NamedTuple):
    """Settings of a Kalman head, and its arrays."""

    inputs: int
    """1: the features are [phi, x]; 0: [phi, 1]."""
    teaches: int
    """What the map below learns from: NOTHING, the PREDICTIVE loss, or that of a linear READ_OUT beside the filters."""
    seed: int
    samples: int
    """S; 0: softmax(alpha M- z)."""
    noise: float
    """s2 of one-hot targets."""
    window: float
    """Labels over which the noise of a regression runs."""
    switching: float
    """sigma of the fixed share."""
    alpha_rate: float
    gamma_rate: float
    """Rate of the gradient on delta = -2 log(gamma); 0: fixed."""
    interval_rate: float
    robust: float
    """c, in deviations; 0: every label has weight 1."""
    state: State
    work: Work

    @classmethod
    def make(
        cls,
        *,
        features: int,
        classes: int,
        inputs: int = 1,
        teaches: int = PREDICTIVE,
        seed: int = 0,
        gammas: Sequence[float] = GAMMAS,
        priors: Sequence[float] = (0.1,),
        samples: int = 16,
        noise: float = 0.1,
        alpha: float = 5.0,
        alpha_rate: float = 0.01,
        gamma_rate: float = 0.0,
        window: float = 100.0,
        switching: float = 1e-3,
        interval_rate: float = 0.05,
        robust: float = 0.0,
    ) -> Kalman:
        """A head that has learned nothing, its members every pair of a gamma and a prior variance.

        Args:
            features: m.
            classes: room for so many classes; 1 for a regression.
            inputs: 1 when the features include the inputs of the event, 0 for a constant only.
            teaches: NOTHING, PREDICTIVE or READ_OUT.
            seed: of the random numbers.
            gammas: each in (0, 1].
            priors: sw, variances of a weight before any label, each positive.
            samples: of the predictive softmax.
            noise: variance of a one-hot target.
            alpha: where the calibration starts.
            alpha_rate: of its gradient descent.
            gamma_rate: of the gradient ascent on the evidence; for a single member.
            window: labels over which the noise of a regression runs.
            switching: probability that another member becomes the best.
            interval_rate: by how much a miss moves the factor of the interval.
            robust: WoLF's c; 0 for none.

        Raises:
            ValueError: naming the argument, its value and what is accepted.
        """
        for name, values, good in (
            ("gammas", gammas, lambda v: 0.0 < v <= 1.0),
            ("priors", priors, lambda v: 0.0 < v < math.inf),
            ("noise", (noise,), lambda v: 0.0 < v < math.inf),
            ("alpha", (alpha,), lambda v: ALPHAS[0] <= v <= ALPHAS[1]),
            ("switching", (switching,), lambda v: 0.0 <= v <= 1.0),
            ("window", (window,), lambda v: 1.0 <= v < math.inf),
            ("robust", (robust,), lambda v: 0.0 <= v < math.inf),
        ):
            if len(values) == 0 or not all(good(value) for value in values):
                raise ValueError(f"{name}={values!r}: {_ACCEPTED[name]}")
        members = [(gamma, prior) for gamma in gammas for prior in priors]
        if gamma_rate and len(members) != 1:
            raise ValueError(f"gamma_rate={gamma_rate} moves the gamma of one member, and there are {len(members)}")
        bank, room = len(members), whole(features)
        row, column = places(features)
        gamma, prior = (np.array(column, np.float64) for column in zip(*members))
        wide = max(1, samples)
        state = State(
            mean=np.zeros((bank, classes, room)),
            cov=prior[:, None] * (row == column),
            gamma=gamma,
            prior=prior,
            weight=np.full(bank, 1.0 / bank),
            noise=np.ones(bank),
            scalar=np.array([alpha, NORMAL_90]),
            labels=np.zeros(1, np.int64),
        )
        work = Work(
            z=np.zeros(room),
            u=np.zeros((bank, room)),
            output=np.zeros((bank, classes)),
            normal=np.zeros((classes, wide + -wide % 4)),
            lanes=np.zeros((2, 64)),
            chance=np.zeros((bank, classes, wide)),
            sample=np.zeros((3, wide)),
            d_output=np.zeros((bank, classes)),
            d_z=np.zeros(room),
            member=np.zeros((bank, 6)),
            said=np.zeros(6),
        )
        rates = (alpha_rate, gamma_rate, interval_rate, robust)
        settings = (inputs, teaches, seed, samples, noise, window, switching, *rates)
        return cls(*settings, state=State(*map(on_lines, state)), work=Work(*map(on_lines, work)))

    def coordinates(self, classes: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """See `_natural.coordinates`."""
        return coordinates(self.state, self._lasting(), classes)

    def take_on(self, summed: dict[str, np.ndarray], averaged: dict[str, np.ndarray]) -> bool:
        """See `_natural.take_on`."""
        return take_on(self.state, self._lasting(), summed, averaged)

    def _lasting(self) -> np.ndarray:
        """Which members forget nothing, bool [G]."""
        return (self.state.gamma == 1.0) & (self.gamma_rate == 0.0)


Kalman.EXCHANGED = {  # type: ignore[attr-defined]
    **dict.fromkeys(("mean", "cov"), SUMMED),
    **dict.fromkeys(("gamma", "weight", "noise", "scalar"), AVERAGED),
    **dict.fromkeys(("prior", "labels"), KEPT),
}
Kalman.PER_CLASS = {"mean": 1, "output": 1, "normal": 0, "chance": 1, "d_output": 1}  # type: ignore[attr-defined]


def numbers(features: int, classes: int) -> int:
    """Numbers that a member keeps of its weights and their covariance."""
    room = whole(features)
    return room * (room + LANES) // 2 + classes * room


_ACCEPTED: dict[str, str] = {
    "gammas": "at least one number in (0, 1]",
    "priors": "at least one positive number",
    "noise": "a positive number",
    "alpha": f"a number in [{ALPHAS[0]}, {ALPHAS[1]}]",
    "switching": "a number in [0, 1]",
    "window": "a number of at least 1",
    "robust": "0 or a positive number",
}


@nb.njit(**INLINE)
def _say_class(head, config, classes, s):
    best = 0
    for k in range(1, classes):
        best = k if s.logits[k] > s.logits[best] else best
    if config.task == BINARY:
        best = 1 if s.logits[1] >= 0.5 else 0
    value = s.logits[1] if config.task == BINARY else s.logits[best]
    s.spread[0] = value * (1.0 - value)
    s.spread[1] = 0.0
    for g in range(len(head.state.weight)):
        s.spread[1] += head.state.weight[g] * head.work.member[g, VARIANCE]
    s.spread[2] = math.nan
    return value, best


@nb.njit(**INLINE)
def _say_number(head, base, s):
    """The mean of the mixture, and its variance: within the members and between them."""
    state, work = head.state, head.work
    mean, total, known = 0.0, 0.0, 0.0
    for g in range(len(state.weight)):
        mean += state.weight[g] * work.output[g, 0]
    for g in range(len(state.weight)):
        off = work.output[g, 0] - mean
        epistemic = state.noise[g] * work.member[g, VARIANCE] + off * off
        known += state.weight[g] * epistemic
        total += state.weight[g] * (epistemic + state.noise[g])
    scale = scale_of(s)
    work.said[VALUE] = base + scale * mean
    work.said[HALF] = state.scalar[FACTOR] * scale * math.sqrt(total)
    work.said[SCALE] = scale
    work.said[MEAN] = mean
    work.said[TOTAL] = total
    s.spread[0] = scale * scale * total
    s.spread[1] = scale * scale * known
    s.spread[2] = work.said[HALF]
    return work.said[VALUE], -1


@implements(predict, Kalman)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    m = take(head, config, phi, x)
    if config.task == REGRESSION:
        carry(head.state, head.work, m, 1, elapsed)
        return _say_number(head, base, s)
    classes = classes_of(config, shared)
    if classes == 0:
        s.spread[0] = s.spread[1] = s.spread[2] = math.nan
        return 0.0, -1
    carry(head.state, head.work, m, classes, elapsed)
    alpha = head.state.scalar[ALPHA]
    sampled_softmax(head.samples, head.seed, alpha, head.state.weight, head.work, classes, draw, s.logits)
    return _say_class(head, config, classes, s)


@implements(weight, Kalman)
def _weight(head, config, shared, base, y, s):
    if config.task != REGRESSION:
        return 1.0
    trust = wolf(head, squared_residual(head, base, y))
    if trust < REFUSED and is_rare(head):
        return max(REFUSED, math.sqrt(trust))
    return trust


@nb.njit(**INLINE)
def _number_error(head, config, t, trust):
    """Posterior weights, dL/d(M- z) and dL/dS of L = -log p(t), times `trust`, with residuals bounded in deviations."""
    state, work = head.state, head.work
    best = -math.inf
    for g in range(len(state.weight)):
        variance = state.noise[g] * (work.member[g, VARIANCE] + 1.0)
        off = t - work.output[g, 0]
        score = -0.5 * (log(variance) + off * off / variance)
        work.member[g, POSTERIOR] = score
        best = score if score > best else best
    total = 0.0
    for g in range(len(state.weight)):
        likely = exp(work.member[g, POSTERIOR] - best)
        total += state.weight[g] * likely
        work.member[g, D_SPREAD] = state.weight[g] * likely
        work.member[g, POSTERIOR] = state.weight[g] * (likely if likely > LEAST_SCORE else LEAST_SCORE)
    bound = config.residual_clip
    for g in range(len(state.weight)):
        innovation = work.member[g, VARIANCE] + 1.0
        deviation = math.sqrt(state.noise[g] * innovation)
        off = (t - work.output[g, 0]) / deviation
        off = bound if off > bound else off
        off = -bound if off < -bound else off
        share = trust * work.member[g, D_SPREAD] / total
        work.d_output[g, 0] = -share * off / deviation
        work.member[g, D_SPREAD] = 0.5 * share * (1.0 - off * off) / innovation


@implements(error, Kalman)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    regression = config.task == REGRESSION
    hidden = config.hidden if head.teaches == PREDICTIVE else 0
    rows = 1
    for i in range(config.hidden):
        d_phi[i] = d_phi.dtype.type(0)
    if regression:
        scale = scale_of(s)
        if not scale > 0.0:
            return 0, True
        _number_error(head, config, (y - base) / scale, wolf(head, squared_residual(head, base, y)))
    else:
        rows = classes_of(config, shared)
        label = int(y)
        sampled_error(head.state.scalar[ALPHA], head.state.weight, head.work, rows, label, s.logits[label])
    if hidden > 0:
        back(head.state, head.work, rows, regression)
    for i in range(hidden):
        d_phi[i] = d_phi.dtype.type(head.work.d_z[i])
    finite = is_finite(head.work, rows, hidden)
    if head.teaches != READ_OUT:
        return 0, finite
    predict(Linear(), config, shared, base, phi, x, draw, elapsed, s)
    rows, fits = error(Linear(), config, shared, base, y, phi, x, draw, elapsed, d_phi, s)
    return rows, finite and fits


@nb.njit(**INLINE)
def _learn_class(head, classes, y, elapsed):
    state, work = head.state, head.work
    move_weights(state, work, head.switching)
    if head.alpha_rate > 0.0:
        alpha = state.scalar[ALPHA] * exp(-head.alpha_rate * bounded(work.said[D_ALPHA], LARGEST_GAP))
        state.scalar[ALPHA] = min(max(alpha, ALPHAS[0]), ALPHAS[1])
    for g in range(len(state.gamma)):
        for k in range(classes):
            work.d_output[g, k] = (1.0 if k == y else 0.0) - work.output[g, k]
        if head.gamma_rate > 0.0:
            move_gamma(state, work, classes, head.noise, 1.0, elapsed, head.gamma_rate)
        update(state, work, classes, g, head.noise)


@nb.njit(**INLINE)
def _move_interval(head, y):
    said, scalar = head.work.said, head.state.scalar
    if said[HALF] > 0.0:
        missed = abs(y - said[VALUE]) > said[HALF]
        factor = scalar[FACTOR] + head.interval_rate * (0.9 if missed else -0.1)
        scalar[FACTOR] = factor if factor > head.interval_rate else head.interval_rate


@nb.njit(**INLINE)
def _learn_number(head, t, y, trusted, elapsed):
    state, work = head.state, head.work
    if trusted:
        move_weights(state, work, head.switching)
        _move_interval(head, y)
    share = 1.0 / min(state.labels[0] + 2.0, head.window)
    rare = not trusted and is_rare(head)
    for g in range(len(state.gamma)):
        r = t - work.output[g, 0]
        work.d_output[g, 0] = r
        squared = r * r / ((work.member[g, VARIANCE] + 1.0) * state.noise[g])
        trust = believed(head, squared, rare)
        if head.gamma_rate > 0.0 and trusted:
            move_gamma(state, work, 1, 1.0, state.noise[g], elapsed, head.gamma_rate)
        update(state, work, 1, g, 1.0 / trust)
        noise = state.noise[g] * (1.0 + share * (surprise(head, squared) - 1.0))
        if trusted or not rare:  # one that is not trusted and yet learned is the newest of a row: the noise is larger
            state.noise[g] = noise if noise > LEAST_NOISE else LEAST_NOISE


@implements(step, Kalman)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    if config.task == REGRESSION:
        scale = scale_of(s)
        if not scale > 0.0:
            return
        trusted = wolf(head, squared_residual(head, base, y)) >= REFUSED
        _learn_number(head, (y - base) / scale, y, trusted, elapsed)
    else:
        _learn_class(head, classes_of(config, shared), int(y), elapsed)
    if rows > 0:
        step(Linear(), config, shared, base, y, phi, x, elapsed, rows, r, q, s)
    head.state.labels[0] += 1
