"""LoFi against its reference, the extended Kalman filter it is at full rank, and its invariants on long streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.cpu.heads.lofi import LoFi
from kernels.cpu.layout import BINARY, MULTICLASS, REGRESSION
from kernels.reference import lofi as reference
from tests.kernels.test_closed_form import close, fold, stream


class Kalman:
    """The extended Kalman filter of the same network, with the whole covariance."""

    def __init__(self, hidden, precision, gamma, drift):
        self.network, self.gamma, self.drift = reference.Network(hidden), gamma, drift
        self.variance = 1 / precision
        self.covariance = np.eye(hidden.size) * self.variance

    def predicted(self, outputs):
        """Mean and covariance one step on; what a new output brings has had the same transitions as all."""
        self.network.grow(outputs)
        size = len(self.covariance)
        grown = np.eye(len(self.network.theta)) * self.variance
        grown[:size, :size] = self.covariance
        origin = self.network.origin
        return (
            origin + self.gamma * (self.network.theta - origin),
            self.gamma**2 * grown + self.drift * np.eye(len(grown)),
        )

    def say(self, z, outputs):
        theta, covariance = self.predicted(outputs)
        o, jacobian = self.network.run(theta, z)
        return o, np.trace(jacobian @ covariance @ jacobian.T) / max(1, outputs)

    def learn(self, z, outputs, wanted):
        """`wanted`: the class, or None and the number in `t`."""
        theta, covariance = self.predicted(outputs)
        o, jacobian = self.network.run(theta, z)
        if isinstance(wanted, int):
            p = reference.softmax(o)[1:]
            r = np.diag(p) - np.outer(p, p)
            residual, slope = (np.arange(1, outputs + 1) == wanted) - p, r @ jacobian
        else:
            r, residual, slope = np.eye(1), wanted - o, jacobian
        gain = covariance @ slope.T @ np.linalg.inv(slope @ covariance @ slope.T + r)
        self.network.theta = theta + gain @ residual
        self.covariance = covariance - gain @ slope @ covariance
        self.variance = self.gamma**2 * self.variance + self.drift


def precision_of(head):
    """theta and its precision, from the state of a compiled head, for the outputs that have learned."""
    state, n = head.state, head.units
    rank, m = len(state.strength), state.hidden.shape[1]
    rows = len(state.out)
    basis = np.concatenate(
        [
            state.basis.reshape(n, rank, m).transpose(1, 0, 2).reshape(rank, -1),
            state.basis_out.reshape(rows, rank, n + 1).transpose(1, 0, 2).reshape(rank, -1),
        ],
        1,
    ).T
    theta = np.concatenate([state.hidden.ravel(), state.out.ravel()])
    return theta, state.precision[0] * np.eye(len(theta)) + basis * state.strength @ basis.T, basis


def outputs_of(task, known):
    return known - 1 if task == MULTICLASS else 1


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, REGRESSION])
@pytest.mark.parametrize(("gamma", "drift"), [(1.0, 0.0), (1.0, 1e-4), (0.99, 1e-3)])
def test_at_full_rank_it_is_the_extended_kalman_filter(task, gamma, drift):
    phi, x, y, z = stream(task, n=60, hidden=2, width=2, classes=3)
    classes, t = {BINARY: 2, MULTICLASS: 3, REGRESSION: 1}[task], (y - 0.5) / 2
    full = 2 * 4 + 3 * classes
    head = LoFi.make(4, np.random.default_rng(0), units=2, rank=full, gamma=gamma, drift=drift, classes=classes)
    oracle = Kalman(head.state.origin.copy(), 4.0, gamma, drift)
    ran, known = fold(head, task, phi, x, y, classes=max(2, classes)), 0
    for i in range(60):
        outputs = outputs_of(task, known)
        if outputs > 0:
            o, variance = oracle.say(z[i], outputs)
            if task == REGRESSION:
                assert close(ran.value[i], 0.5 + 2 * o[0]), i
                noise = ran.spread[i, 1] / variance
                assert close(ran.spread[i, 0], noise * (1 + variance))
            else:
                assert close(ran.p[i, : outputs + 1], reference.softmax(o)), i
                assert close(ran.spread[i, 1], variance)
        known = max(known, int(y[i]) + 1) if task == MULTICLASS else known
        oracle.learn(z[i], outputs_of(task, known), t[i] if task == REGRESSION else int(y[i]))
    theta, precision, _ = precision_of(head)
    size = len(oracle.network.theta)
    assert close(theta[:size], oracle.network.theta)
    assert close(np.linalg.inv(precision)[:size, :size], oracle.covariance)


@pytest.mark.parametrize(("gamma", "drift"), [(1.0, 0.0), (0.98, 1e-2)])
def test_at_full_rank_it_is_the_kalman_filter_of_a_linear_model(gamma, drift):
    rng = np.random.default_rng(0)
    m, prior = 6, 0.5

    class Linear(reference.Network):
        def run(self, theta, z):
            return np.array([theta @ z]), z[None]

        def grow(self, outputs):
            return 0

    head = reference.LoFi(np.zeros((1, m)), m, 1 / prior, gamma, drift)
    head.network = Linear(np.zeros((1, m)))
    mean, covariance = np.zeros(m), prior * np.eye(m)
    for _ in range(200):
        z = rng.normal(0, 1, m) * np.array([1, 1, 1, 3, 0.1, 0])
        t = z.sum() + rng.normal()
        mean, covariance = gamma * mean, gamma**2 * covariance + drift * np.eye(m)
        o, variance = head.predict(z, 1)
        assert close([o[0], variance], [mean @ z, z @ covariance @ z])
        gain = covariance @ z / (z @ covariance @ z + 1)
        mean, covariance = mean + gain * (t - mean @ z), covariance - np.outer(gain, z @ covariance)
        head.learn_number(z, t)
        assert close(head.network.theta, mean)
        assert close(head.covariance(), covariance)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, REGRESSION])
@pytest.mark.parametrize(("rank", "gamma", "drift", "elapsed"), [(1, 1.0, 0.0, 1.0), (6, 0.995, 1e-4, 2.5)])
def test_it_is_its_reference(task, rank, gamma, drift, elapsed):
    for seed, (hidden, width, units) in enumerate([(5, 3, 5), (1, 1, 1), (9, 4, 3)]):
        phi, x, y, z = stream(task, n=80, hidden=hidden, width=width, seed=seed)
        made = {"units": units, "rank": rank, "gamma": gamma, "drift": drift, "precision": 3.0}
        head = LoFi.make(z.shape[1], np.random.default_rng(seed), classes=6, **made)
        oracle = reference.LoFi(head.state.origin.copy(), rank, 3.0, gamma, drift, window=50.0, clip=3.0)
        ran, known = fold(head, task, phi, x, y, elapsed=elapsed), 0
        assert ran.learned == len(y)
        for i in range(len(y)):
            outputs = outputs_of(task, known)
            if task == REGRESSION:
                said = [ran.value[i], *ran.spread[i]]
                mean, variance, epistemic = oracle.predict_number(z[i], elapsed)
                half = 2 * 1.6448536269514722 * variance**0.5
                assert close(said, [0.5 + 2 * mean, 4 * variance, 4 * epistemic, half], 1e-7), i
                oracle.learn_number(z[i], (y[i] - 0.5) / 2, elapsed)
                continue
            if outputs >= 0:
                o, variance = oracle.predict(z[i], outputs, elapsed)
                p = reference.softmax(o)
                assert close(ran.p[i, : outputs + 1], p, 1e-7), i
                assert close(ran.spread[i, 1], variance, 1e-7)
                assert p[ran.code[i]] >= p.max() - 1e-7
            known = max(known, int(y[i]) + 1)
            oracle.learn(z[i], int(y[i]), outputs_of(task, known), elapsed)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, REGRESSION])
def test_the_error_is_the_gradient_of_the_loss(task):
    phi, x, y, _ = stream(task, n=40, hidden=4, width=2, classes=4)
    head = LoFi.make(6, np.random.default_rng(0), units=5, rank=4, gamma=0.99, drift=1e-3, classes=4)
    fold(head, task, phi[:-1], x[:-1], y[:-1], classes=4)
    state, known = head.state, 4 if task == MULTICLASS else 0
    outputs = outputs_of(task, known)
    hidden = torch.tensor(state.origin + 0.99 * (state.hidden - state.origin))
    out, noise = torch.tensor(0.99 * state.out[:outputs]), state.noise[1]
    ran = fold(head, task, phi[-1:], x[-1:], y[-1:], classes=4, known=known)
    free = torch.tensor(phi[-1].astype(np.float64), requires_grad=True)
    h = torch.tanh(hidden @ torch.cat([free, torch.tensor(x[-1].astype(np.float64))]))
    o = out @ torch.cat([h, torch.ones(1, dtype=h.dtype)])
    if task == REGRESSION:
        variance = ran.spread[0, 0] / 4
        assert close(variance, noise + ran.spread[0, 1] / 4)
        loss = ((y[-1] - 0.5) / 2 - o[0]) ** 2 / (2 * variance)
    else:
        loss = -torch.log_softmax(torch.cat([torch.zeros(1, dtype=o.dtype), o]), 0)[int(y[-1])]
    loss.backward()
    assert close(ran.d_phi[0], free.grad.numpy(), 1e-6)


@pytest.mark.parametrize("kind", ["random", "constant", "collinear", "large"])
@pytest.mark.parametrize("task", [MULTICLASS, REGRESSION])
def test_directions_stay_orthonormal_and_the_precision_positive(task, kind):
    phi, x, y, _ = stream(task, n=100_000, hidden=3, width=2, classes=3)
    if kind == "constant":
        phi[:] = 1.0
    elif kind == "collinear":
        phi[:] = phi[:, :1]
    elif kind == "large":
        phi *= np.float32(1e4)
    rank = 4
    head = LoFi.make(5, np.random.default_rng(0), units=3, rank=rank, classes=3)
    ran = fold(head, task, phi, x, y, classes=3)
    assert ran.learned == len(y)
    for part in head.state:
        assert np.isfinite(part).all()
    assert head.state.precision[0] > 0
    assert (head.state.strength >= 0).all()
    assert (ran.spread[100:, 1] > 0).all()
    basis = precision_of(head)[2]
    used = head.state.strength > 0
    assert np.abs(basis.T @ basis - np.diag(used)).max() < 1e-9
    assert np.linalg.eigvalsh(precision_of(head)[1]).min() > 0


def test_without_a_drift_of_its_own_forgetting_keeps_the_prior_precision():
    phi, x, y, _ = stream(MULTICLASS, n=3000, hidden=3, width=2, classes=3)
    head = LoFi.make(5, np.random.default_rng(0), units=3, rank=4, gamma=0.99, precision=7.0, classes=3)
    fold(head, MULTICLASS, phi, x, y, classes=3)
    assert abs(head.state.precision[0] - 7.0) < 1e-9
    lasting = LoFi.make(5, np.random.default_rng(0), units=3, rank=4, classes=3)
    fold(lasting, MULTICLASS, phi, x, y, classes=3)
    assert lasting.state.precision[0] == 5.0
    assert head.state.strength.max() < 0.2 * lasting.state.strength.max()


def test_equal_labels_leave_the_noise_above_zero():
    phi, x, y, _ = stream(REGRESSION, n=5000, hidden=3, width=2)
    head = LoFi.make(5, np.random.default_rng(0), units=3, rank=4, classes=1)
    ran = fold(head, REGRESSION, phi, x, np.full_like(y, 0.5))
    assert head.state.noise[1] == 1e-6
    assert (ran.spread[:, 0] > 0).all()


def test_it_learns_what_no_linear_head_can():
    rng = np.random.default_rng(0)
    phi = rng.uniform(-1.5, 1.5, (3000, 2)).astype(np.float32)
    y = (phi[:, 0] * phi[:, 1] > 0).astype(np.float64)
    ran = fold(LoFi.make(3, rng, inputs=0, units=16, rank=10, classes=2), BINARY, phi, phi, y, classes=2)
    assert (ran.code == y)[2000:].mean() > 0.93
    y = phi[:, 0] * phi[:, 1] + 0.1 * rng.normal(0, 1, 3000)
    head = LoFi.make(3, rng, inputs=0, units=16, rank=10, classes=1)
    ran = fold(head, REGRESSION, phi, phi, y, scale=1.0, window=1e4)
    off = np.abs(y - ran.value)[2000:]
    assert np.sqrt((off**2).mean()) < 0.2
    assert 0.85 < (off < ran.spread[2000:, 2]).mean() < 0.99


def test_classes_that_appear_are_learned():
    phi, x, y, _ = stream(MULTICLASS, n=1500, hidden=8, width=1)
    ran = fold(LoFi.make(9, np.random.default_rng(0), units=16, classes=6), MULTICLASS, phi, x, y)
    rng = np.random.default_rng(0)
    linear_floor = (rng.permutation(y) == y).mean()
    assert (ran.code == y)[500:].mean() > linear_floor + 0.4


def test_settings_out_of_bounds_are_refused():
    for changes in (
        {"units": 0},
        {"units": 257},
        {"rank": 65},
        {"classes": 33},
        {"precision": -1.0},
        {"precision": float("nan")},
        {"gamma": 0.0},
        {"gamma": 1.1},
        {"drift": -1.0},
        {"drift": 0.0, "gamma": 0.9},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*accepted"):
            LoFi.make(3, np.random.default_rng(0), **{"classes": 2, **changes})
