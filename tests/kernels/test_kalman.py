"""The Kalman head: its algebra against the closed forms, the compiled head against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.cpu.heads import REFUSED, _bank, _belief, _filter, kalman
from kernels.cpu.heads.kalman import Kalman
from kernels.cpu.layout import BINARY, MULTICLASS, REGRESSION, T_CHANGE_SQ
from kernels.reference import kalman as reference
from kernels.reference.kalman import Bank, Filter
from tests.kernels.kalman_stream import (
    SEEDS,
    TOLERANCE,
    Stream,
    far,
    features,
    logs_of,
    moved_by,
    normals_of,
    onehot,
    product_of,
    with_constant,
)


@SEEDS
@pytest.mark.parametrize("condition", [1e2, 1e6, 1e10])
def test_without_forgetting_the_head_is_ridge_regression(seed: int, condition: float) -> None:
    rng = np.random.default_rng(seed)
    hidden, classes, n = int(rng.integers(1, 12)), int(rng.integers(2, 7)), 150
    phi, y = features(rng, n, hidden, condition), np.concatenate([np.arange(classes), rng.integers(0, classes, n)])[:n]
    prior, noise = float(rng.uniform(0.5, 2)), float(rng.uniform(0.05, 1))
    stream = Stream(MULTICLASS, hidden, classes, gammas=(1.0,), priors=(prior,), noise=noise)
    stream.run(phi, y)
    z = with_constant(phi)
    precision = (z.T @ z / noise + torch.eye(hidden + 1).double() / prior).numpy()
    allowed = max(TOLERANCE, 100 * np.finfo(float).eps * np.linalg.cond(precision))
    assert far(stream.mean(), reference.ridge(z, onehot(y, classes), noise / prior)) < allowed
    assert far(stream.cov(), np.linalg.inv(precision)) < allowed


@SEEDS
def test_recursive_ridge_is_the_joint_solution_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    phi, y = features(rng, 200, 9), np.sort(rng.permutation(np.arange(200) % 5))
    joint = reference.ridge(with_constant(phi), onehot(y, 5), 0.1)
    for order in (np.arange(200), rng.permutation(200), np.arange(200)[::-1]):
        stream = Stream(MULTICLASS, 9, 5, gammas=(1.0,), priors=(1.0,), alpha_rate=0.0, samples=0)
        stream.run(phi[order], y[order])
        assert far(stream.mean(), joint) < TOLERANCE


@SEEDS
def test_a_batch_at_once_is_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, targets = torch.from_numpy(rng.normal(size=(7, 5))), torch.from_numpy(rng.normal(size=(7, 3)))
    one = Filter.fresh(3, 5, 1.0, 2.0)
    batch = one.learned_batch(z, targets, 0.3)
    for row, target in zip(z, targets):
        one = one.carried().learned(row, target, 0.3)
    assert far(batch.mean, one.mean) < TOLERANCE
    assert far(batch.cov, one.cov) < TOLERANCE


@SEEDS
def test_the_evidence_is_that_of_a_gaussian_process(seed: int) -> None:
    """Kernel gamma^|i - j| sw z_i' z_j + s2 [i = j]; the compiled filter's moments, event by event."""
    rng = np.random.default_rng(seed)
    n, hidden, gamma, prior = 40, 4, float(rng.uniform(0.8, 0.999)), 0.7
    phi, y, times = rng.normal(size=(n, hidden)), rng.normal(size=n), np.cumsum(rng.choice([0.5, 1.0, 3.0], n))
    z = with_constant(phi).numpy()
    kernel = gamma ** np.abs(times[:, None] - times) * prior * (z @ z.T) + np.eye(n)
    joint = torch.distributions.MultivariateNormal(torch.zeros(n).double(), torch.from_numpy(kernel))
    # A fixed noise scale: a window so long that it hardly moves, corrected for below by its value at each event.
    stream = Stream(REGRESSION, hidden, 1, gammas=(gamma,), priors=(prior,))
    total = 0.0
    for t in range(n):
        level = float(stream.head.state.noise[0])
        said = stream.run(phi[t : t + 1], y[t : t + 1], np.array([times[0] if t == 0 else times[t] - times[t - 1]]))
        variance = said.spread[0, 0] / level
        total += -0.5 * (math.log(2 * math.pi * variance) + (y[t] - said.value[0]) ** 2 / variance)
    assert total == pytest.approx(float(joint.log_prob(torch.from_numpy(y))), rel=TOLERANCE)


@SEEDS
def test_the_slope_of_the_evidence_is_its_complex_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, outputs, noise, elapsed = 5, 3, 0.4, float(rng.uniform(0.5, 3))
    root = rng.normal(size=(m, m))
    before = Filter(torch.from_numpy(rng.normal(size=(outputs, m))), torch.from_numpy(root @ root.T), 0.97, 1.3)
    z, target = torch.from_numpy(rng.normal(size=m)), torch.from_numpy(rng.normal(size=outputs))
    delta = -2 * np.log(0.97) + 1e-30j
    decay = np.exp(-0.5 * delta * elapsed)
    cov = decay**2 * before.cov.numpy() + (1 - decay**2) * 1.3 * np.eye(m)
    s = z.numpy() @ cov @ z.numpy() + noise
    r = target.numpy() - decay * (before.mean.numpy() @ z.numpy())
    stepped = (-0.5 * (outputs * np.log(s) + r @ r / s)).imag / 1e-30
    assert reference.evidence_slope(before, z, target, noise, elapsed) == pytest.approx(stepped, rel=TOLERANCE)


GAMMAS = [(1.0,), (0.9,), (1.0, 0.99, 0.9), (1.0, 0.9999, 0.999, 0.99)]


def settings_of(rng: np.random.Generator, seed: int) -> dict:
    gammas = GAMMAS[seed % len(GAMMAS)]
    return {
        "gammas": gammas,
        "priors": (0.5,) if seed % 3 else (0.5, 2.0),
        "switching": float(rng.uniform(0, 0.1)),
        "gamma_rate": 0.05 if len(gammas) == 1 and seed % 3 else 0.0,
    }


def same_bank(stream: Stream, bank: Bank) -> None:
    state = stream.head.state
    assert far(state.weight, bank.weights) < TOLERANCE
    for at, member in enumerate(bank.filters):
        assert far(stream.mean(at), member.mean) < TOLERANCE
        assert far(stream.cov(at), member.cov) < TOLERANCE
        assert state.gamma[at] == pytest.approx(member.gamma, rel=TOLERANCE)


@pytest.mark.parametrize("task", [BINARY, MULTICLASS])
@pytest.mark.parametrize("seed", range(8))
def test_a_compiled_classifier_is_the_reference(task: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, hidden, room = 40, int(rng.integers(1, 14)), int(rng.integers(2, 9))
    room = 2 if task == BINARY else room
    both = {**settings_of(rng, seed), "noise": float(rng.uniform(0.05, 1)), "alpha": float(rng.uniform(1, 6))}
    stream = Stream(task, hidden, room, samples=int(rng.choice([0, 1, 3, 16])), seed=seed, **both)
    bank = Bank.fresh(room, hidden + 1, both.pop("gammas"), both.pop("priors"), True, **both)
    phi, gaps = rng.normal(size=(n, hidden)), rng.choice([1.0, 1.0, 0.25, 4.0], n)
    # Classes in the order in which they appear.
    y = np.minimum(rng.integers(0, room, n), np.maximum.accumulate(np.arange(n) // 3))
    known = 2 if task == BINARY else 0
    for t in range(n):
        z = torch.cat([torch.tensor(phi[t], requires_grad=True), torch.ones(1).double()])
        z.retain_grad()
        draw = stream.at
        said = stream.run(phi[t : t + 1], y[t : t + 1], gaps[t : t + 1], learn=0)
        if known:
            with torch.no_grad():
                p = bank.probabilities(z, gaps[t], stream.eps(draw, known), known)
            assert far(said.logits[0, :known], p) < TOLERANCE
            best = int(p[1] >= 0.5) if task == BINARY else int(p.argmax())
            assert said.code[0] == best
            assert said.value[0] == pytest.approx(float(p[1] if task == BINARY else p[best]), rel=TOLERANCE)
        else:
            assert (said.value[0], said.code[0]) == (0.0, -1)
        known = max(known, int(y[t]) + 1)
        eps = stream.eps(draw, known)
        bank.loss(z, gaps[t], y[t], eps, known).backward()
        assert z.grad is not None
        said = stream.run(phi[t : t + 1], y[t : t + 1], gaps[t : t + 1])
        assert said.finite[0]
        assert far(said.d_phi[0], z.grad[:-1], 1e-6) < TOLERANCE
        bank.learn(z.detach(), gaps[t], y[t], eps, known)
    same_bank(stream, bank)
    assert stream.head.state.scalar[_bank.ALPHA] == pytest.approx(bank.alpha, rel=TOLERANCE)


@pytest.mark.parametrize("robust", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(8))
def test_a_compiled_regression_is_the_reference(seed: int, robust: float) -> None:
    rng = np.random.default_rng(seed)
    n, hidden = 80, int(rng.integers(1, 14))
    both = {**settings_of(rng, seed), "window": float(rng.choice([20.0, 1000.0])), "robust": robust}
    stream = Stream(REGRESSION, hidden, 1, **both)
    bank = Bank.fresh(1, hidden + 1, both.pop("gammas"), both.pop("priors"), False, **both)
    phi, gaps = rng.normal(size=(n, hidden)), rng.choice([1.0, 1.0, 0.25, 4.0], n)
    y = phi @ rng.normal(size=hidden) + rng.standard_t(2, n) * (1 + 50 * (rng.random(n) < 0.1) * (robust > 0))
    for t in range(n):
        z = torch.cat([torch.tensor(phi[t], requires_grad=True), torch.ones(1).double()])
        z.retain_grad()
        trust = bank.weight(z.detach(), gaps[t], y[t])
        (trust * bank.loss(z, gaps[t], y[t], None, 1)).backward()
        assert z.grad is not None
        mean, variance, known = bank.moments(z.detach(), gaps[t])
        half = bank.factor * math.sqrt(variance)
        said = stream.run(phi[t : t + 1], y[t : t + 1], gaps[t : t + 1])
        assert far(said.spread[0], [variance, known, half]) < TOLERANCE
        assert said.value[0] == pytest.approx(mean, rel=TOLERANCE, abs=TOLERANCE)
        assert said.weight[0] == pytest.approx(bank.told_weight(z.detach(), gaps[t], y[t]), rel=TOLERANCE)
        assert far(said.d_phi[0], z.grad[:-1], 1e-6) < TOLERANCE
        bank.learn(z.detach(), gaps[t], y[t])
    same_bank(stream, bank)
    assert far(stream.head.state.noise, bank.levels) < TOLERANCE
    assert stream.head.state.scalar[_bank.FACTOR] == pytest.approx(bank.factor, rel=TOLERANCE)


def test_random_numbers_are_those_of_the_reference_and_normal() -> None:
    out = np.empty((5, 8))
    for seed, draw in ((0, 0), (7, 3), (2**40, 10**9)):
        normals_of(seed, draw, 5, 7, np.empty((2, 5)), out)
        np.testing.assert_allclose(out, reference.normals(seed, draw, 5, 7), rtol=1e-12, atol=1e-12)
    many = np.empty((1000, 400))
    normals_of(1, 2, 1000, 400, np.empty((2, 5)), many)
    np.testing.assert_array_equal(many[:, :200], -many[:, 200:])
    many = many[:, :200]
    assert abs(many.mean()) < 0.01
    assert abs(many.var() - 1) < 0.02
    assert abs((many**4).mean() - 3) < 0.1


@pytest.mark.parametrize("m", [1, 8, 13, 64])
def test_tiles_are_one_triangle_and_stay_symmetric(m: int) -> None:
    """Every entry on or below the diagonal is stored, and what is stored twice stays the same to the last bit."""
    rng = np.random.default_rng(m)
    size = _filter.whole(m)
    row, column = _filter.places(m)
    root = rng.normal(size=(size, size))
    full, z = root + root.T, rng.normal(size=size)
    tiles, u = full[row, column], np.full(size, np.nan)
    product_of(tiles, z, u)
    assert far(u, full @ z) < 1e-12
    for _ in range(50):
        moved_by(tiles, z, 0.999, -1e-3, 0.01)
        full = 0.999 * full - 1e-3 * np.outer(z, z) + 0.01 * np.eye(size)
    assert far(tiles, full[row, column]) < 1e-12
    seen = np.full((size, size), np.nan)
    seen[row, column] = tiles
    twice = ~np.isnan(seen) & ~np.isnan(seen.T)
    np.testing.assert_array_equal(seen[twice], seen.T[twice])
    assert not np.isnan(seen[np.tril_indices(size)]).any()


def test_the_logarithm_is_within_four_places_of_the_last() -> None:
    x = np.concatenate([np.geomspace(1e-300, 1e300, 9999), 1 + np.linspace(-0.3, 0.5, 9999)])
    out = np.empty_like(x)
    logs_of(x, out)
    assert np.all(np.abs(out - np.log(x)) <= 4 * np.spacing(np.abs(np.log(x))))


def test_an_outlier_moves_a_robust_head_little_and_ever_less() -> None:
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(200, 4))
    y = phi @ np.ones(4) + 0.3 * rng.normal(size=200)
    shift = {}
    for robust in (0.0, 2.0):
        for size in (1.0, 10.0, 1e3, 1e6):
            stream = Stream(REGRESSION, 4, 1, robust=robust, gammas=(1.0, 0.99))
            stream.run(phi, y)
            before = [array.copy() for array in stream.head.state]
            said = stream.run(phi[:1], y[:1] + size)
            shift[robust, size] = np.abs(stream.head.state.mean[0] - before[0][0]).max()  # that one does not decay
            if robust and size > 10:
                assert said.weight[0] < REFUSED
                for name in ("weight", "scalar"):
                    at = stream.head.state._fields.index(name)
                    np.testing.assert_array_equal(getattr(stream.head.state, name), before[at])
                noise = before[stream.head.state._fields.index("noise")]
                assert (stream.head.state.noise <= noise * (1.0 + _belief.LARGEST_SURPRISE / 100.0)).all()
    assert shift[0.0, 1.0] < shift[0.0, 1e3] == pytest.approx(shift[0.0, 1e6], rel=1e-2), "a gross one is bounded"
    assert shift[0.0, 1e3] < 2 * _belief.GROSS * shift[0.0, 1.0]
    assert shift[2.0, 1e6] < shift[2.0, 1e3] < shift[2.0, 1.0]


def test_a_noise_that_grew_for_good_is_believed_after_a_while() -> None:
    """No label is refused for ever: those that are learned all the same widen what the head expects."""
    rng = np.random.default_rng(0)
    phi = rng.normal(size=(1200, 4))
    y = phi @ np.ones(4) + rng.normal(size=1200) * np.where(np.arange(1200) < 200, 0.1, 30.0)
    stream = Stream(REGRESSION, 4, 1, robust=5.0, gammas=(1.0,))
    said = stream.run(phi, y)
    assert said.weight[201:210].min() < REFUSED
    assert (said.weight[-200:] > 0.5).mean() > 0.9


@pytest.mark.parametrize("gammas", [(1.0,), kalman.GAMMAS], ids=["one", "bank"])
def test_a_rare_cause_is_learned_and_a_glitch_is_not(gammas) -> None:
    """A flag on 2 % of events explains a label 200 deviations off; one label in a hundred is off unexplained."""
    rng = np.random.default_rng(1)
    n = 4000
    flag, glitch = rng.random(n) < 0.02, rng.random(n) < 0.01
    flag[:100] = False
    phi = np.column_stack([5.0 * flag, rng.normal(size=n)])
    clean = 1.0 + 0.5 * phi[:, 1] + 10.0 * flag
    y = clean + 0.05 * rng.normal(size=n) + np.where(glitch & ~flag, rng.choice([-1e3, 1e3], n), 0.0)
    stream = Stream(REGRESSION, 2, 1, robust=5.0, gammas=gammas)
    said = stream.run(phi, y)
    after = np.flatnonzero(flag)[30:]
    assert np.abs(said.value[after] - clean[after]).mean() < 1.0, "within 30 labels"
    late = np.arange(n) > 2000
    assert np.abs(said.value - clean)[late & ~flag].mean() < 0.05
    assert (said.weight[glitch & ~flag & late] < REFUSED).all()


def test_a_robust_head_that_trusts_everything_is_the_plain_one() -> None:
    """w = 1 to the last bit: while cold, and for a bound so large that no residual counts beside it."""
    rng = np.random.default_rng(0)
    phi, y = rng.normal(size=(60, 4)), rng.standard_t(2, 60)
    y[_belief.COLD :] = rng.normal(size=60 - _belief.COLD)  # the plain head counts gross residuals for less
    plain, cold, wide = (Stream(REGRESSION, 4, 1, robust=robust) for robust in (0.0, 1.0, 1e12))
    cold_said = cold.run(phi[: _belief.COLD], y[: _belief.COLD])
    plain_said = plain.run(phi[: _belief.COLD], y[: _belief.COLD])
    np.testing.assert_array_equal(cold_said.weight, 1.0)
    for a, b in zip((*cold.head.state, *cold_said), (*plain.head.state, *plain_said)):
        np.testing.assert_array_equal(a, b)
    wide.run(phi, y)
    plain.run(phi[_belief.COLD :], y[_belief.COLD :])
    for a, b in zip(wide.head.state, plain.head.state):
        np.testing.assert_array_equal(a, b)


SCALES = pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
BANKS = pytest.mark.parametrize("gammas", [(1.0,), kalman.GAMMAS], ids=["ridge", "bank"])


@SCALES
@BANKS
def test_the_covariance_stays_positive(scale: float, gammas: tuple) -> None:
    """Constant and collinear features; 20,000 events here, a million below."""
    stay_positive(scale, gammas, 20_000)


@pytest.mark.long
@SCALES
@BANKS
def test_the_covariance_stays_positive_over_a_million_events(scale: float, gammas: tuple) -> None:
    stay_positive(scale, gammas, 1_000_000)


def stay_positive(scale: float, gammas: tuple, n: int) -> None:
    rng = np.random.default_rng(0)
    stream = Stream(REGRESSION, 31, 1, gammas=gammas, priors=(1.0,))
    for _ in range(n // 20_000):
        phi = scale * rng.normal(size=(20_000, 31))
        phi[:, 1], phi[:, 2], phi[:, 3] = phi[:, 0], 2 * phi[:, 0] - phi[:, 4], scale
        said = stream.run(phi, phi[:, 5] + rng.normal(size=20_000))
        assert said.finite.all()
        assert (said.spread[:, 1] > 0).all()  # of a single member v z' A z
        for member in range(len(gammas)):
            cov = stream.cov(member)
            assert np.linalg.eigvalsh(cov).min() > 0
            z = with_constant(phi).numpy()
            assert ((z @ cov) * z).sum(1).min() > 0


@pytest.mark.parametrize("seed", range(3))
def test_nine_of_ten_labels_fall_into_the_interval(seed: int) -> None:
    """Heavy tails, noise whose size drifts, features that matter."""
    rng = np.random.default_rng(seed)
    n = 6000
    phi = rng.normal(size=(n, 8))
    y = phi @ rng.normal(size=8) + rng.standard_t(2, n) * np.exp(np.sin(np.arange(n) / 500))
    said = Stream(REGRESSION, 8, 1).run(phi, y)
    covered = np.abs(y - said.value) <= said.spread[:, 2]
    assert 0.87 <= covered.mean() <= 0.93


def test_the_bank_follows_its_best_member() -> None:
    rng = np.random.default_rng(0)
    n, gammas = 4000, (1.0, 0.9999, 0.999, 0.99)
    phi = rng.normal(size=(n, 6))
    w = np.cumsum(rng.normal(0, 0.05, (n, 6)), 0)
    y = (phi * w).sum(1) + rng.normal(size=n)

    def score(*members: float) -> float:
        said = Stream(REGRESSION, 6, 1, gammas=members).run(phi, y)
        return float(np.mean(0.5 * (np.log(said.spread[:, 0]) + (y - said.value) ** 2 / said.spread[:, 0])))

    alone = [score(gamma) for gamma in gammas]
    assert min(alone) < alone[0] - 0.3
    assert score(*gammas) < min(alone) + 0.01


def test_predicting_changes_nothing_and_says_the_same_twice() -> None:
    rng = np.random.default_rng(0)
    stream = Stream(MULTICLASS, 5, 4)
    stream.run(rng.normal(size=(30, 5)), np.arange(30) % 4)
    before = [array.copy() for array in stream.head.state]
    phi, y = rng.normal(size=(10, 5)), np.arange(10) % 4
    once, twice = stream.run(phi, y, learn=1), stream.run(phi, y, learn=1)
    np.testing.assert_array_equal(once.logits, twice.logits)
    np.testing.assert_array_equal(once.d_phi, twice.d_phi)
    for a, b in zip(before, stream.head.state):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("task", [BINARY, REGRESSION])
def test_what_is_not_finite_is_said_to_be(task: int) -> None:
    stream = Stream(task, 3, 2)
    phi = np.ones((3, 3))
    phi[1, 2] = np.nan
    assert stream.run(phi, np.array([1.0, 1.0, 0.0])).finite.tolist() == [True, False, True]
    assert all(np.isfinite(array).all() for array in stream.head.state)


def test_nothing_is_learned_before_a_change_was_seen() -> None:
    stream = Stream(REGRESSION, 3, 1)
    stream.shared.target[T_CHANGE_SQ] = 0.0
    said = stream.run(np.ones((2, 3)), np.array([1.0, 2.0]))
    assert said.finite.all()
    assert not stream.head.state.mean.any()
    assert stream.head.state.labels[0] == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gammas": (1.1,)}, "gammas"),
        ({"gammas": ()}, "gammas"),
        ({"priors": (-1.0,)}, "priors"),
        ({"priors": (math.inf,)}, "priors"),
        ({"noise": -0.1}, "noise"),
        ({"noise": math.nan}, "noise"),
        ({"gamma_rate": 0.1}, "gamma_rate"),
    ],
)
def test_settings_that_are_no_prior_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Kalman.make(features=3, classes=2, **wrong)
