"""The diagonal filter of all weights against a dense one that is told nothing of units, traces or logits."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numba as nb
import numpy as np
import pytest
import torch

from kernels.cpu.ekf import make_filter, solve
from kernels.cpu.ekf_rows import LEAST_VARIANCE, add_products, clear, see_by_unit, spread, update_by_unit
from kernels.cpu.encoder import encode
from kernels.cpu.heads import predict
from kernels.cpu.heads.linear import Linear
from kernels.cpu.layers import forward_all
from kernels.cpu.layout import (
    BINARY,
    C_CLASSES,
    EKF,
    L_OUT_COLUMNS,
    MULTICLASS,
    REGRESSION,
    RMSPROP,
    T_CHANGE_SQ,
    T_LABELS,
)
from kernels.cpu.learning import carry_all, carry_and_learn
from kernels.cpu.numerics import JIT
from kernels.reference import ekf, encoder, heads, stack
from kernels.reference.cells import features, forward, split
from tests.kernels.conftest import make_plan
from tests.kernels.test_reference import assert_same_fold

NAMES = ("cell", "out", "skip")
FORMS = {"decoupled": 0, "variational": 1}


def with_filter(model, variational=0, prior=0.5, recurrent=0.3, gamma=0.99, floor=1e-3) -> SimpleNamespace:
    """The model with the filter as its optimizer; it was made for RMSprop, which keeps as many numbers."""
    config, dtype = model.config, model.shared.out.dtype
    plan = make_plan(model.cell, config)
    longest = len(model.scratch.row)
    sizes = (max(1, config.max_classes), config.layers, model.cell.ORDER * config.units)
    sizes += (int(plan[:-1, L_OUT_COLUMNS].max()), config.encoded, longest)
    made = make_filter((variational, prior, recurrent, gamma**2, floor), sizes, dtype)
    model.config = config._replace(optimizer=EKF, filter=made)
    return model


def make_model(build, task, cell, rng, units=5, features=3, dtype=np.float64, changes=None, **settings):
    config = build.config(task, cell, units, features, optimizer=RMSPROP, **(changes or {}))
    return with_filter(build.model(config, cell, rng, dtype=dtype), **settings)


@nb.njit(**{**JIT, "cache": False})
def run(cell, head, config, shared, body, xs, ys, s):
    """Inputs xs [n, J] (categories by number) one by one, each with its label (NaN: none). Returns updates applied."""
    applied = 0
    for t in range(len(ys)):
        for j in range(config.width):
            s.inputs[j] = xs[t, j]
        if config.encoded > 0:
            encode(config, shared.cell, xs[t], s)
        forward_all(cell, config, shared.cell, body, 1.0, s)
        predict(head, config, shared, 0.0, s.phi[config.layers - 1], s.inputs, 0, 0.0, s)
        if math.isnan(ys[t]):
            carry_all(cell, config, body, body[:0], s)
        else:
            applied += carry_and_learn(cell, head, config, shared, 0.0, ys[t], 0, 0.0, body, body[:0], s)
    return applied


def fold(model, xs, ys) -> int:
    dtype = model.shared.out.dtype
    model.scratch.unit[0] = math.sqrt(model.shared.target[T_CHANGE_SQ])
    return run(
        model.cell, Linear(), model.config, model.shared, model.rows.body[0], xs.astype(dtype), ys, model.scratch
    )


def dense(model, xs, y, classes):
    """Weights and variances after the last label, by the whole Jacobian through the whole sequence, J P J' and R^-1."""
    config, shared, f = model.config, model.shared, model.config.filter
    leaves = tuple(torch.tensor(getattr(shared, name)) for name in NAMES)

    def logits(cell, out, skip):
        h = torch.zeros(model.cell.ORDER, config.units, dtype=torch.float64)
        w = split(model.cell, cell, config.width)
        for x in torch.tensor(xs):
            h = forward(model.cell, w, x, h, 1.0)
        return (out @ features(model.cell, w, x, h) + skip @ x)[:classes]

    o = logits(*leaves)
    jacobian = torch.autograd.functional.jacobian(logits, leaves)
    h = torch.cat([part.reshape(classes, -1) for part in jacobian], 1)
    priors = [torch.full_like(leaf, f.prior) for leaf in leaves]
    for place in stack.places(model.cell, config):
        priors[0][place.recurrence] = f.recurrent
    prior = torch.cat([part.reshape(-1) for part in priors])
    v = torch.cat([torch.tensor(getattr(shared, "v_" + name)).reshape(-1) for name in NAMES])
    p = torch.diag(f.keep * torch.where(v > 0, v, prior) + (1 - f.keep) * prior)
    if config.task == REGRESSION:
        r = torch.eye(1).double() * shared.decay[0]
        residual = torch.clamp(
            y / math.sqrt(shared.target[T_CHANGE_SQ]) - o, -config.residual_clip, config.residual_clip
        )
    elif config.task == BINARY:
        mean = torch.sigmoid(o)
        r = (mean * (1 - mean)).clamp(min=f.floor).view(1, 1)
        residual, h = y - mean, r @ h
    else:
        mean = torch.softmax(o, 0)
        r = torch.diag(mean) - torch.outer(mean, mean) + f.floor * torch.eye(classes)
        residual, h = torch.nn.functional.one_hot(torch.tensor(int(y)), classes) - mean, r @ h
    s = r + h @ p @ h.T
    gain = p @ h.T @ torch.linalg.inv(s)
    after = p - gain @ s @ gain.T
    if f.variational:
        after = torch.diag(1 / (1 / p.diag() + (h.T @ torch.linalg.inv(r) @ h).diag()))
    live = torch.cat([torch.ones(len(leaves[0])), *(torch.ones_like(w) * 0 for w in map(torch.flatten, leaves[1:]))])
    for k, at in ((1, len(leaves[0])), (2, len(leaves[0]) + leaves[1].numel())):
        live[at : at + classes * leaves[k].shape[1]] = 1
    weights = torch.cat([leaf.reshape(-1) for leaf in leaves]) + gain @ residual
    return weights.numpy(), torch.where(live > 0, after.diag(), v).numpy(), (residual, s, r)


def state(model):
    return tuple(np.concatenate([getattr(model.shared, kind + n).reshape(-1) for n in NAMES]) for kind in ("", "v_"))


STEPS = [(BINARY, 1), (REGRESSION, 1), (MULTICLASS, 2), (MULTICLASS, 3)]


@pytest.mark.parametrize("cell", ["elstm", "rtu"])
def test_one_label_is_the_dense_filter_with_its_diagonal(build, cell) -> None:
    """Order 1 with an output stage; order 2 with a complex matrix. Every target, from any variances."""
    for number, (task, classes) in enumerate(STEPS):
        for variational in (0, 1):
            rng = np.random.default_rng([number, variational])
            model = make_model(build, task, cell, rng, variational=variational)
            model.shared.counters[C_CLASSES] = classes
            model.shared.target[[T_CHANGE_SQ, T_LABELS]] = 1.7, 4.0
            model.shared.decay[0] = 0.6
            for name in NAMES:
                v = getattr(model.shared, "v_" + name)
                v[:] = np.where(rng.random(v.shape) < 0.8, rng.uniform(0.01, 1, v.shape), 0.0)
            xs = np.column_stack([rng.normal(0, 1, (7, model.config.width - 1)), np.ones(7)])
            y = float(rng.integers(0, max(2, classes))) if task != REGRESSION else 1.3
            weights, variances, (residual, s, r) = dense(model, xs, y, classes)
            before = state(model)
            assert fold(model, xs, np.array([*[math.nan] * 6, y])) == 1
            moved = state(model)
            for ours, oracle, start in zip(moved, (weights, variances), before):
                assert np.linalg.norm(oracle - start) > 0
                assert np.linalg.norm(ours - oracle) <= 1e-9 * np.linalg.norm(oracle - start), (cell, task, classes)
            if task == REGRESSION:
                surprise = (r * residual**2 / s).item()
                np.testing.assert_allclose(model.shared.decay[0], 0.6 + (surprise - 0.6) / 14)


@pytest.mark.parametrize(("where", "value"), [("cell", np.nan), ("out", np.nan), ("skip", np.nan), ("out", 1e30)])
def test_a_label_of_no_use_changes_no_weight_and_no_variance(build, where, value) -> None:
    for task in (BINARY, MULTICLASS, REGRESSION):
        rng = np.random.default_rng(4)
        model = make_model(build, task, "elstm", rng)
        model.shared.counters[C_CLASSES] = 2
        model.shared.target[[T_CHANGE_SQ, T_LABELS]] = 1.0, 4.0
        xs, y = rng.normal(0, 1, (3, model.config.width)), np.array([math.nan, math.nan, 1.0])
        assert fold(model, xs, y) == 1
        getattr(model.shared, where).reshape(-1)[0] = value
        before, noise = state(model), model.shared.decay[0]
        assert fold(model, xs, y) == 0
        for was, now in zip(before, state(model)):
            np.testing.assert_array_equal(was, now)
        assert model.shared.decay[0] == noise


def test_orthogonal_inputs_give_the_kalman_filter(build) -> None:
    """Where no label sees two weights the full covariance stays diagonal, and the variances are exact."""
    rng = np.random.default_rng(5)
    changes = {"residual_clip": 1e6, "label_inputs": 0, "window": 1e9}
    model = make_model(build, REGRESSION, "elstm", rng, features=5, changes=changes, gamma=1.0, prior=2.0)
    model.shared.cell[:] = 0.0
    model.shared.out[:] = 0.0
    model.shared.skip[:] = 0.0
    model.shared.target[T_CHANGE_SQ] = 1.0
    size, n = model.config.width, 300
    inputs = rng.integers(0, size, n)
    xs = np.zeros((n, size))
    xs[np.arange(n), inputs] = rng.normal(0, 1, n)
    ys = xs @ rng.normal(0, 1, size) + rng.normal(0, 0.3, n)
    mean, covariance, noise = np.zeros(size), 2.0 * np.eye(size), 1.0
    for x, y in zip(xs, ys):
        s, residual = noise + x @ covariance @ x, y - x @ mean
        gain = covariance @ x / s
        mean, covariance = mean + gain * residual, covariance - s * np.outer(gain, gain)
        noise += (noise * residual**2 / s - noise) / 10
        noise = max(noise, 1e-3)
    assert fold(model, xs, ys) == n
    np.testing.assert_allclose(model.shared.skip[0], mean, rtol=1e-9)
    np.testing.assert_allclose(model.shared.v_skip[0], np.diag(covariance), rtol=1e-9)


@nb.njit(**{**JIT, "cache": False})
def labels(f, variational, v, w, traces, errors, logits, scalars):
    """Labels one by one: row t of `traces` [n, R, N] and `errors` [n, C, N]. Returns how many could be solved."""
    solved, rows, n = 0, f.rows, v.shape[1]
    for t in range(len(traces)):
        for c in range(logits):
            f.score[0, c] = 0.5
            for d in range(c + 1):
                f.small[0, c, d] = 0.0
                f.small[1, c, d] = 1e-3 if c == d else 0.0
        clear(rows, n)
        see_by_unit(rows[0], v.reshape(-1), traces[t].reshape(-1), len(v), n, scalars)
        add_products(f.small[0], rows, logits, errors[t], 1, n)
        solved += solve(f.small, f.score, logits)
        spread(rows, logits, errors[t], 1, n, f.score[1], f.small[1] if variational else f.small[4])
        update_by_unit(
            variational, w.reshape(-1), v.reshape(-1), traces[t].reshape(-1), rows[3], rows[5], len(v), n, scalars
        )
    return solved


@pytest.mark.parametrize("form", FORMS)
def test_variances_stay_positive_and_below_the_prior(form) -> None:
    """1e5 labels in float32 that nothing forgets, traces and errors of any size, some larger than any of use."""
    rng, logits, units, prior = np.random.default_rng(6), 2, 4, np.float32(0.5)
    f = make_filter((FORMS[form], 0.5, 0.5, 1.0, 1e-3), (logits, 1, units, 0, 0, units), np.float32)
    v, w = np.zeros((3, units), np.float32), np.zeros((3, units), np.float32)
    scalars = tuple(np.float32([1, 0, prior, LEAST_VARIANCE, 1e-7, 0, 1]))
    n = 1000
    for _ in range(100):
        traces = (rng.normal(0, 1, (n, 3, units)) * 10.0 ** rng.integers(-6, 6, (n, 1, 1))).astype(np.float32)
        errors = (rng.normal(0, 1, (n, logits, units)) * 10.0 ** rng.integers(-6, 3, (n, 1, 1))).astype(np.float32)
        assert labels(f, FORMS[form], v, w, traces, errors, logits, scalars) == n
        assert np.isfinite(w).all()
        assert (v > 0).all()
        assert (v <= prior).all()


CHANGES = [
    (BINARY, {"layers": 2}, {"variational": 1}),
    (MULTICLASS, {"encoded": 4}, {"gamma": 1.0, "floor": 0.01}),
    (REGRESSION, {"encoded": 4, "encoder_tanh": 1, "layers": 2}, {"recurrent": 0.0}),
]
TASKS = ["binary", "multiclass", "regression"]


@pytest.mark.parametrize("cell", ["elstm", "rtu"])
@pytest.mark.parametrize(("task", "changes", "settings"), CHANGES, ids=TASKS)
def test_stacks_and_encoder_equal_the_reference(build, task, changes, settings, cell) -> None:
    """Deeper layers, the encoder and its tables, a recurrence that is frozen; many labels of a sequence."""
    results = []
    for form in ("compiled", "reference"):
        rng = np.random.default_rng(task)
        model = make_model(build, task, cell, rng, changes=changes, **settings)
        model.shared.counters[C_CLASSES] = 3
        model.shared.target[[T_CHANGE_SQ, T_LABELS]] = 1.0, 4.0
        n, width = 25, model.config.width
        xs = np.column_stack([rng.normal(0, 1, (n, width - 1)), np.ones(n)])
        categories = model.scratch.tables[:, 0] > 0
        xs[:, : model.config.features][:, categories] = rng.integers(-1, 5, (n, categories.sum()))
        ys = np.where(rng.random(n) < 0.7, rng.integers(0, 2, n), np.nan)
        by = fold if form == "compiled" else by_reference
        assert by(model, xs, ys) == np.isfinite(ys).sum()
        results.append((*state(model), model.shared.decay, model.rows.body))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def by_reference(model, xs, ys) -> int:
    """What `fold` does, by `kernels.reference`."""
    cell, config, shared = model.cell, model.config, model.shared
    body, weights, applied = torch.from_numpy(model.rows.body[0]), torch.from_numpy(shared.cell), 0
    place = slice(stack.places(cell, config)[-1].weights.stop, len(weights))
    tables = model.scratch.tables
    for x, y in zip(torch.tensor(xs), ys.tolist()):
        rows = torch.from_numpy(encoder.rows_of(x[: config.features].numpy(), tables))
        x[: config.features][torch.from_numpy(tables[:, 0] > 0)] = 0.0
        low = torch.cat([encoder.encode(config, weights[place], x, rows), x[-1:]]) if config.encoded else x
        moments = stack.advance(cell, config, weights, body, low, 1.0)
        stack.write(cell, config, moments, body)
        if math.isnan(y):
            continue
        phi = stack.top(cell, config, weights, moments)
        live = int(shared.counters[C_CLASSES]) if config.task == MULTICLASS else 1
        o = heads.logits(torch.from_numpy(shared.out), torch.from_numpy(shared.skip), phi, x, live)
        error = heads.error(config.task, o, y, config.residual_clip)
        applied += ekf.learn(cell, config, shared, moments, x, rows, phi, o, error)
    return applied


@pytest.mark.long
@pytest.mark.parametrize(("task", "changes", "settings"), CHANGES, ids=TASKS)
def test_the_whole_fold_equals_the_reference(build, task, changes, settings) -> None:
    """Order 2, with labels by id."""
    plain = build.config(task, "hgrn", units=6, features=5, optimizer=RMSPROP, **{"pending": task and 3, **changes})

    def model(config, *args):
        made = build.model(plain, *args)
        made.config = config
        return made

    config = with_filter(build.model(plain, "hgrn", np.random.default_rng()), **settings).config
    assert_same_fold(SimpleNamespace(**{**vars(build), "model": model}), config, "hgrn", n=120)
