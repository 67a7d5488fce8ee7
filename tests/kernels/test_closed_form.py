"""Nearest mean, streaming LDA and nearest neighbours against their definitions, batch and one event at a time."""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import pytest

from kernels.cpu.heads import error, predict, step
from kernels.cpu.heads._linear_algebra import cholesky, eigen, packed, solve
from kernels.cpu.heads.lda import EMPIRICAL, LDA, UNIFORM
from kernels.cpu.heads.nearest_mean import NearestMean
from kernels.cpu.heads.neighbours import Neighbours
from kernels.cpu.layout import BINARY, C_CLASSES, MULTICLASS, REGRESSION, TARGET
from kernels.reference import closed_form as reference


class Config(NamedTuple):
    task: int
    hidden: int
    width: int
    window: float
    residual_clip: float


class Shared(NamedTuple):
    target: np.ndarray
    counters: np.ndarray


class Said(NamedTuple):
    logits: np.ndarray
    spread: np.ndarray
    unit: np.ndarray


@nb.njit(error_model="numpy", fastmath=False)
def run(head, config, shared, phi, x, y, elapsed, said, p, value, code, spread, d_phi):
    """Predicts and learns each event; a label of a new class makes it known and is predicted again, as in a fold."""
    learned = 0
    for t in range(len(y)):
        value[t], code[t] = predict(head, config, shared, 0.5, phi[t], x[t], t, elapsed, said)
        for k in range(len(said.logits)):
            p[t, k] = said.logits[k]
        for k in range(3):
            spread[t, k] = said.spread[k]
        if config.task == MULTICLASS and y[t] >= shared.counters[C_CLASSES]:
            shared.counters[C_CLASSES] = int(y[t]) + 1
            predict(head, config, shared, 0.5, phi[t], x[t], t, elapsed, said)
        rows, finite = error(head, config, shared, 0.5, y[t], phi[t], x[t], t, elapsed, d_phi[t], said)
        if finite:
            step(head, config, shared, 0.5, y[t], phi[t], x[t], elapsed, rows, 0.0, 0.0, said)
            learned += 1
    return learned


class Ran(NamedTuple):
    p: np.ndarray
    value: np.ndarray
    code: np.ndarray
    spread: np.ndarray
    d_phi: np.ndarray
    learned: int


def fold(head, task, phi, x, y, classes=6, scale=2.0, window=50.0, elapsed=1.0, known=0) -> Ran:
    config = Config(task, phi.shape[1], x.shape[1], window, 3.0)
    shared = Shared(np.zeros(TARGET), np.zeros(3, np.int64))
    shared.counters[C_CLASSES] = known
    n, d_phi = len(y), np.full_like(phi, np.nan)
    p, value, code, spread = np.zeros((n, classes)), np.zeros(n), np.zeros(n, np.int64), np.zeros((n, 3))
    said = Said(np.full(classes, np.nan), np.full(3, np.nan), np.array([scale]))
    learned = run(head, config, shared, phi, x, y, elapsed, said, p, value, code, spread, d_phi)
    return Ran(p, value, code, spread, d_phi, learned)


def stream(task, n=300, hidden=5, width=3, classes=6, seed=0):
    """Features float32, inputs with a constant, labels of classes that appear one by one (or numbers)."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(0, 1, (hidden, hidden))
    if task == REGRESSION:
        phi = rng.normal(0, 1, (n, hidden))
        y = 0.5 + phi[:, 0] + 0.1 * rng.normal(0, 1, n)
    else:
        y = rng.integers(0, 2, n) if task == BINARY else np.minimum(rng.integers(0, classes, n), np.arange(n) // 9)
        phi = rng.normal(0, 1.0, (classes, hidden))[y] + rng.normal(0, 0.7, (n, hidden)) @ mix
    x = rng.normal(0, 1, (n, width))
    x[:, -1] = 1.0
    phi, x = phi.astype(np.float32), x.astype(np.float32)
    z = np.hstack([phi, x]).astype(np.float64)
    return phi, x, y.astype(np.float64), z


def close(a, b, tolerance=1e-9):
    a, b = np.asarray(a), np.asarray(b)
    return np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-12)


MAKERS = {
    "nearest": (
        lambda m, classes: NearestMean.make(m, classes=classes),
        reference.NearestMean,
    ),
    "lda": (
        lambda m, classes: LDA.make(m, shrinkage=0.05, refresh=20, classes=classes),
        lambda m: reference.LDA(m, 0.05, 20),
    ),
    "uniform": (
        lambda m, classes: LDA.make(m, shrinkage=1e-3, refresh=1, prior=UNIFORM, classes=classes),
        lambda m: reference.LDA(m, 1e-3, 1, uniform=True),
    ),
    "neighbours": (
        lambda m, classes: Neighbours.make(m, memory=40, neighbours=7, classes=classes),
        lambda m: reference.Neighbours(40, 7),
    ),
}


@pytest.mark.parametrize("task", [BINARY, MULTICLASS])
@pytest.mark.parametrize("name", MAKERS)
def test_classes_are_those_of_the_reference(name, task):
    for seed, (hidden, width) in enumerate([(5, 3), (1, 1), (17, 9)]):
        phi, x, y, z = stream(task, hidden=hidden, width=width, seed=seed)
        head, oracle = MAKERS[name][0](z.shape[1], 6), MAKERS[name][1](z.shape[1])
        ran = fold(head, task, phi, x, y)
        assert ran.learned == len(y)
        assert (ran.d_phi == 0).all()
        known = 2 if task == BINARY else 0
        for t in range(len(y)):
            if known == 0:
                assert ran.value[t] == 0.0
                assert ran.code[t] == -1
            else:
                p = oracle.predict(z[t], known)
                assert close(ran.p[t, :known], p), t
                assert abs(p.sum() - 1.0) < 1e-12
                code = ran.code[t]
                assert p[code] >= p.max() - 1e-9
                value = p[1] if task == BINARY else p.max()
                assert abs(ran.value[t] - value) < 1e-9
                assert abs(ran.spread[t, 0] - value * (1 - value)) < 1e-9
            known = max(known, int(y[t]) + 1)
            oracle.learn(z[t], int(y[t]))


def test_neighbours_of_numbers_are_those_of_the_reference():
    for seed in range(2):
        phi, x, y, z = stream(REGRESSION, seed=seed)
        ran = fold(Neighbours.make(8, memory=50, neighbours=5, classes=0), REGRESSION, phi, x, y)
        oracle = reference.Neighbours(50, 5, window=50.0)
        for t in range(len(y)):
            mean, variance, epistemic = oracle.predict_number(z[t])
            said = [ran.value[t], *ran.spread[t]]
            assert close(said, [0.5 + 2 * mean, 4 * variance, 4 * epistemic, 2 * 1.6448536269514722 * variance**0.5])
            oracle.learn_number(z[t], (y[t] - 0.5) / 2.0)
        missed = np.abs(y - ran.value)[100:]
        assert 0.8 < (missed < ran.spread[100:, 2]).mean() < 0.99
        assert missed.mean() < 0.8 * np.abs(y - 0.5).mean()


def test_without_the_inputs_the_features_are_phi_and_one():
    phi, x, y, _ = stream(MULTICLASS)
    head = NearestMean.make(6, inputs=0, classes=6)
    ran = fold(head, MULTICLASS, phi, x, y)
    oracle = reference.NearestMean(6)
    z = np.hstack([phi, np.ones((len(y), 1))]).astype(np.float64)
    for t in range(len(y) - 1):
        oracle.learn(z[t], int(y[t]))
    assert close(ran.p[-1, :6], oracle.predict(z[-1], 6))


def batch_lda(z, y, at, shrinkage, uniform):
    """Log-odds of class k against class 0 by the textbook: class means, pooled covariance, its inverse."""
    classes = np.unique(y)
    means = np.array([z[y == k].mean(0) for k in classes])
    sigma = sum((z[y == k] - means[i]).T @ (z[y == k] - means[i]) for i, k in enumerate(classes)) / len(y)
    m = z.shape[1]
    inverse = np.linalg.inv((1 - shrinkage) * sigma + shrinkage * np.trace(sigma) / m * np.eye(m))
    prior = np.array([1 / len(classes) if uniform else (y == k).mean() for k in classes])
    odds = np.log(prior) - 0.5 * np.array([(at - mean) @ inverse @ (at - mean) for mean in means])
    return np.exp(odds - odds.max()) / np.exp(odds - odds.max()).sum()


@pytest.mark.parametrize("prior", [EMPIRICAL, UNIFORM])
def test_lda_is_batch_lda_at_a_refresh_in_any_order(prior):
    phi, x, y, z = stream(MULTICLASS, n=401, hidden=12, width=4)
    expected = batch_lda(z[:400], y[:400], z[400], 0.01, prior == UNIFORM)
    for seed in range(2):
        order = np.append(np.random.default_rng(seed).permutation(400), 400)
        names = {}
        for k in y[order]:
            names.setdefault(k, len(names))
        renamed = np.array([names[k] for k in y[order]], np.float64)
        head = LDA.make(16, shrinkage=0.01, prior=prior, refresh=100, classes=6)
        ran = fold(head, MULTICLASS, phi[order], x[order], renamed)
        assert head.state.labels[0] == 401
        assert close(ran.p[-1, [names[float(k)] for k in range(6)]], expected)


def test_lda_does_not_depend_on_the_unit_of_the_features():
    phi, x, y, _ = stream(MULTICLASS)
    first = fold(LDA.make(6, inputs=0, classes=6), MULTICLASS, phi, x, y)
    again = fold(LDA.make(6, inputs=0, classes=6), MULTICLASS, phi * np.float32(1024), x, y)
    # The constant feature is not scaled, but it never varies either.
    assert np.abs(first.p[60:] - again.p[60:]).max() < 1e-9


@pytest.mark.parametrize("name", MAKERS)
def test_heads_learn(name):
    rng = np.random.default_rng(3)
    y = rng.integers(0, 6, 1000).astype(np.float64)
    phi = (rng.normal(0, 1.5, (6, 8))[y.astype(int)] + rng.normal(0, 1, (1000, 8))).astype(np.float32)
    ran = fold(MAKERS[name][0](9, 6), MULTICLASS, phi, np.ones((1000, 1), np.float32), y)
    assert (ran.code == y)[300:].mean() > (0.7 if name == "neighbours" else 0.85)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", ["constant", "collinear", "one class", "large"])
def test_state_stays_finite_on_degenerate_streams(name, kind):
    phi, x, y, _ = stream(MULTICLASS, n=3000)
    if kind == "constant":
        phi[:], x[:] = 0.25, 1.0
    elif kind == "collinear":
        phi[:] = phi[:, :1] * np.arange(1, 6, dtype=np.float32)
    elif kind == "one class":
        phi[:], x[:], y[:] = 0.0, 1.0, 0.0
    else:
        phi *= np.float32(1e15)
    head = MAKERS[name][0](8, 6)
    ran = fold(head, MULTICLASS, phi, x, y)
    assert ran.learned == len(y)
    for part in head.state:
        assert np.isfinite(part).all()
    known = ran.p[ran.code >= 0]
    assert np.isfinite(known[:, 0]).all()
    last = ran.p[-1, : int(y.max()) + 1]
    assert abs(last.sum() - 1.0) < 1e-9


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_not_finite_is_not_learned(name):
    phi, x, y, _ = stream(MULTICLASS, n=20)
    head = MAKERS[name][0](8, 6)
    fold(head, MULTICLASS, phi, x, y)
    before = [part.copy() for part in head.state]
    phi[:, 2] = np.nan
    assert fold(head, MULTICLASS, phi, x, y).learned == 0
    for part, old in zip(head.state, before):
        np.testing.assert_array_equal(part, old)


def test_predicting_changes_no_state():
    phi, x, y, _ = stream(MULTICLASS, n=60)
    for maker, _ in MAKERS.values():
        head, other = maker(8, 6), maker(8, 6)
        fold(head, MULTICLASS, phi, x, y)
        twice = np.repeat(np.arange(60), 2)
        y_twice = y[twice].copy()
        y_twice[::2] = np.nan  # not learned, so predicted only
        assert fold(other, MULTICLASS, phi[twice], x[twice], y_twice).learned == 60
        for part, expected in zip(other.state, head.state):
            np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize("name", MAKERS)
def test_room_for_classes_is_not_state(name):
    phi, x, y, _ = stream(MULTICLASS, n=60)
    roomy, grown = MAKERS[name][0](8, 6), MAKERS[name][0](8, 3)
    fold(roomy, MULTICLASS, phi, x, y)
    few = int(np.argmax(y == 3))
    fold(grown, MULTICLASS, phi[:few], x[:few], y[:few])
    more = {
        part: np.pad(getattr(grown.state, part), [(0, 3 * (axis == i)) for i in range(getattr(grown.state, part).ndim)])
        for part, axis in grown.PER_CLASS.items()
    }
    grown = grown._replace(state=grown.state._replace(**more))
    fold(grown, MULTICLASS, phi[few:], x[few:], y[few:], known=3)
    for part, expected in zip(grown.state, roomy.state):
        np.testing.assert_array_equal(part, expected)


def test_settings_out_of_bounds_are_refused():
    for kind, changes in (
        (LDA, {"shrinkage": 0.0}),
        (LDA, {"shrinkage": 1.5}),
        (LDA, {"refresh": 0}),
        (LDA, {"prior": 2}),
        (Neighbours, {"neighbours": 0}),
        (Neighbours, {"neighbours": 257, "memory": 1000}),
        (Neighbours, {"memory": 4, "neighbours": 5}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(changes))} is .*accepted"):
            kind.make(3, classes=2, **changes)


@pytest.mark.parametrize("n", [1, 2, 7, 20])
def test_cholesky_and_solve(n):
    rng = np.random.default_rng(n)
    root = rng.normal(0, 1, (n, n + 3))
    a, b = root @ root.T, rng.normal(0, 1, n)
    rows = a[np.tril_indices(n)]
    assert len(rows) == packed(n)
    assert cholesky(rows, n)
    lower = np.zeros((n, n))
    lower[np.tril_indices(n)] = rows
    assert close(lower @ lower.T, a, 1e-13)
    x = b.copy()
    solve(rows, x, n)
    assert close(a @ x, b, 1e-11)
    assert not cholesky(-a[np.tril_indices(n)], n)
    assert not cholesky(np.full(packed(n), np.nan), n)


@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_eigen(n):
    rng = np.random.default_rng(n)
    rotation = np.linalg.qr(rng.normal(0, 1, (n, n)))[0]
    a = rotation * 10.0 ** rng.uniform(-3, 3, n) @ rotation.T
    a = 0.5 * (a + a.T)
    work, v = a.copy(), np.empty((n, n))
    eigen(work, v, n)
    assert close(v @ v.T, np.eye(n), 1e-13)
    assert close(v.T * np.diag(work) @ v, a, 1e-13)
    assert close(np.sort(np.diag(work)), np.linalg.eigvalsh(a), 1e-12)


def test_small_eigenvalues_of_a_graded_matrix_are_accurate():
    scale = 10.0 ** np.array([0.0, -4, -8, -12])
    close_to_one = np.eye(4) + 0.1 * np.ones((4, 4))
    a = scale[:, None] * close_to_one * scale
    work, v = a.copy(), np.empty((4, 4))
    eigen(work, v, 4)
    assert close(np.prod(np.diag(work)) / np.prod(scale**2), np.linalg.det(close_to_one), 1e-12)
    assert (np.diag(work) > 0).all()
