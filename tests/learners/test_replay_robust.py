"""Learners from mini-batches after values that are far too large: bounded inputs, bounded steps, finite states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kernels.cpu.replay import bounds, losses
from learners.base import MemoryRows
from learners.replay.memory import Buffer, Memory
from learners.replay.resnet import ResNet
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import Batch

KINDS = ("finetune", "ewc", "agem", "er", "er_ace", "der", "mir", "uer", "pcr", "pec")
EVENTS, AT = 3000, 1000


def spec(kind: str, features: int = 2, **fields: Any) -> ModelSpec:
    small = {"units": 6, "teacher": 40, "outputs": 8} if kind == "pec" else {"network": {"hidden": [24]}}
    model = {"name": "m", "features": [f"x{i}" for i in range(features)], "target": {"kind": "binary"}}
    return ModelSpec.model_validate({**model, "learner": {"kind": kind, **small, **fields}})


def stream() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(1).normal(size=(EVENTS, 2))
    return x.astype(np.float32), (x[:, 0] + 0.5 * x[:, 1] > 0).astype(float)


def folded(model: ModelSpec, x: np.ndarray, y: np.ndarray) -> tuple[Any, np.ndarray]:
    """The learner afterwards, and which predictions were right."""
    learner = model.learner.build(model)
    return learner, learner.fold(Batch.of(x, y)).code == y


def assert_finite(learner: Any) -> None:
    for name, array in learner.shared_arrays().items():
        assert np.isfinite(array).all(), name


@pytest.mark.parametrize("value", [1e3, 1e6, 1e30, -9999.0], ids="{:g}".format)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_inputs_leave_no_trace(kind, value) -> None:
    x, y = stream()
    _, clean = folded(spec(kind), x, y)
    for first, last in ((0, 1), (AT, AT + 1), (AT, AT + 3), (AT, AT + 20)):
        bad = x.copy()
        bad[first:last, 0] = value
        learner, hit = folded(spec(kind), bad, y)
        assert hit[-1000:].mean() >= clean[-1000:].mean() - 0.01, f"events {first} to {last}"
        assert_finite(learner)
        assert learner.shared_arrays()["counters"][4] == 0, "no step was refused"


@pytest.mark.parametrize("value", [1e6, 1e30, -9999.0], ids="{:g}".format)
@pytest.mark.parametrize("kind", ["er", "der", "pec"])
def test_bad_inputs_of_a_learner_that_standardises_and_of_random_filters(kind, value) -> None:
    x, y = stream()
    fields = {"standardise": True}
    if kind == "der":  # an image, encoded by fixed filters
        fields = {"network": {"kind": "random_conv", "image": [1, 4, 4], "patch": 2, "stride": 1, "filters": 16}}
        x = np.tile(x, 8)
    model = spec(kind, x.shape[1], **fields)
    bad = x.copy()
    bad[AT, 0] = value
    learner, hit = folded(model, bad, y)
    _, clean = folded(model, x, y)
    assert hit[-500:].mean() >= clean[-500:].mean() - 0.02
    assert_finite(learner)


def test_a_larger_level_that_lasts_is_accepted() -> None:
    x, y = stream()
    grown = np.where(np.arange(EVENTS)[:, None] < 500, x, 30 * x).astype(np.float32)
    learner, _ = folded(spec("er"), grown, y)
    assert bounds.ROOM * learner.shared_arrays()["bound"][bounds.LARGEST] > np.abs(grown[-500:]).max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_of_before_the_bounds_still_opens(kind) -> None:
    x, y = stream()
    old, _ = folded(spec(kind), x[:200], y[:200])
    new = ("bound", "model.step_bound")
    arrays = {name: array.copy() for name, array in old.shared_arrays().items() if name not in new}
    fresh = old.spec.learner.build(old.spec)
    fresh.load(arrays, MemoryRows())
    assert not fresh.shared_arrays()["bound"].any()
    fresh.fold(Batch.of(x[200:400], y[200:400]))
    assert fresh.position == 400
    assert fresh.shared_arrays()["bound"][bounds.LARGEST] > 0


# The bound


def followed(values: list[float], window: float) -> tuple[list[float], list[float]]:
    """The rule as it is written down: the bounds that the values met, and M after each."""
    largest, seen, met, after = 0.0, 0, [], []
    for raw in values:
        value = raw if raw <= 1e30 else 1e30
        met.append(2 * largest if largest else math.inf)
        if value > 0:
            early = 4 / (seen + 5)
            if seen < 32:
                largest = min(largest, 1000 * value)
            if largest == 0:
                largest = value
            else:
                sunk = (1 - max(early, 1 / window)) * largest
                largest = max(sunk, min(value, (1 + max(early, 0.01)) * largest))
            seen += 1
        after.append(largest)
    return met, after


@pytest.mark.parametrize("seed", range(12))
def test_inputs_are_kept_within_the_bound_that_the_rule_gives(seed) -> None:
    rng = np.random.default_rng(seed)
    rows, columns, window = int(rng.integers(1, 200)), int(rng.integers(1, 40)), float(rng.integers(10, 500))
    dtype = (np.float32, np.float64)[seed % 2]
    x = rng.normal(size=(rows, columns)) * 10.0 ** rng.normal(0, (0, 1, 8)[seed % 3], (rows, 1))
    x[rng.random(x.shape) < 0.02] = 0
    for bad in (np.inf, -np.inf, np.nan, 1e30):
        x[rng.random(x.shape) < 0.003] = bad
    x = x.astype(dtype)
    sizes = np.where(np.isfinite(x).all(axis=1), np.abs(x).max(axis=1), 1e30).astype(float).tolist()
    met, after = followed(sizes, window)
    state, mine = np.zeros(2), x.copy()
    for start in range(0, rows, 17):  # in any pieces
        piece = mine[start : start + 17]
        bounds.hold(state, window, np.ones(len(piece), np.uint8), piece)
    assert state[bounds.LARGEST] == pytest.approx(after[-1], rel=1e-6)
    wide = np.nan_to_num(x.astype(float), nan=0.0, posinf=1e30, neginf=-1e30)
    most = np.minimum(met, 1e30)[:, None]
    np.testing.assert_allclose(mine, np.clip(wide, -most, most), rtol=1e-5)


def test_predictions_see_each_event_as_the_next_one() -> None:
    state, x = np.array([100.0, 1.0]), np.array([[5.0], [-7.0], [0.5]])
    bounds.hold(state, 1000.0, np.zeros(3, np.uint8), x)
    assert x.ravel().tolist() == [2.0, -2.0, 0.5]
    assert state.tolist() == [100.0, 1.0]


def test_a_first_value_that_was_far_too_large_is_forgotten_at_once() -> None:
    x = np.array([[1e30], *[[0.9], [1.0]] * 5])
    state = np.zeros(2)
    bounds.hold(state, 5000.0, np.ones(len(x), np.uint8), x)
    assert state[bounds.LARGEST] <= 10


# The step


def net(kind: str = "finetune", **fields: Any) -> Any:
    learner = {"kind": kind, "dtype": "float64", "network": {"hidden": [5]}, **fields}
    model = LearnerSpec.by_kind(learner, None).model(3)
    model.reserve(2)
    model.net.known = 2
    return model


@pytest.mark.parametrize("seed", range(5))
def test_a_step_is_at_most_eight_times_the_longest_of_late(seed) -> None:
    rng = np.random.default_rng(seed)
    classifier, largest = net().net, 0.0
    first = math.sqrt(sum(float(w @ w) for w in classifier.weights[:2])) / 0.1  # without biases
    for size in 10.0 ** rng.normal(0, 3, 60):
        gradient = [rng.normal(size=g.shape) for g in classifier.gradients]
        norm = math.sqrt(sum(float(g @ g) for g in gradient))
        for mine, g in zip(classifier.gradients, gradient):
            mine[:] = g * size / norm
        before = [w.copy() for w in classifier.weights]
        most = min(8 * largest, 10 * first) if largest else first
        assert classifier.longest(0.1) == pytest.approx(most, rel=1e-9)
        assert classifier.descend(0.1)
        share = min(1.0, most / size)
        for w, old, g in zip(classifier.weights, before, classifier.gradients):
            np.testing.assert_allclose(w, old - 0.1 * share * g, rtol=1e-9, atol=1e-12)
        held = min(size, most)
        largest = max(0.999 * largest, min(held, 1.1 * largest)) if largest else held


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_no_step(bad) -> None:
    classifier = net().net
    for g in classifier.gradients:
        g[:] = 1
    assert classifier.descend(0.1)
    before = [array.copy() for array in (*classifier.weights, classifier.step_bound)]
    classifier.gradients[0][2] = bad
    assert not classifier.descend(0.1)
    for array, old in zip((*classifier.weights, classifier.step_bound), before):
        np.testing.assert_array_equal(array, old)


def test_a_gradient_whose_square_overflows_is_shortened() -> None:
    classifier = net(dtype="float32").net
    for g in classifier.gradients:
        g[:] = 1e25
    assert classifier.descend(0.1)
    assert all(np.isfinite(w).all() for w in classifier.weights)


def test_a_step_aside_leaves_no_trace_in_the_bound() -> None:
    model = net("mir", candidates=12, replay=2, buffer={"size": 20})
    rng = np.random.default_rng(0)
    for _ in range(3):
        model.step(rng.normal(size=(5, 3)), rng.integers(0, 2, 5), 2)
    before = model.net.step_bound.copy()
    model._most_interfered(1e6 * rng.normal(size=(5, 3)), rng.integers(0, 2, 5))
    np.testing.assert_array_equal(model.net.step_bound, before)


# What is kept


def test_importance_counts_no_gradient_for_more_than_the_bound() -> None:
    out = np.zeros(5)
    losses.add_squares(np.array([0.5, -3.0, np.nan, np.inf, -np.inf]), 2.0, out)
    assert out.tolist() == [0.25, 4.0, 0.0, 4.0, 4.0]


def test_what_is_held_comes_within_a_bound_that_came_down() -> None:
    memory = Memory(Buffer(size=4), 2, 0, np.dtype(np.float64), noted=True)
    memory.insert(np.array([[1e9, 0.5], [0.5, -0.5]]), np.array([0, 1]), np.array([[7.0, 8.0], [1.0, 2.0]]))
    memory.limit(np.array([50.0, 1.0]))
    held = {tuple(row): noted for row, noted in zip(memory.x[:2].tolist(), memory.noted_classes.tolist())}
    assert held == {(2.0, 0.5): 0, (0.5, -0.5): 2}, "logits of an input that was another one do not count"


def test_moments_of_batch_normalisation_stay_finite() -> None:
    body = ResNet((1, 4, 4), 2, 0, np.dtype(np.float32))
    x = np.random.default_rng(0).normal(size=(6, 16)).astype(np.float32)
    body.forward(x, True)
    before = body.arrays()["body.moments"]
    for bad in (np.nan, np.inf, 3e38):
        wrong = x.copy()
        wrong[2, 3] = bad
        body.backward(np.ones_like(body.forward(wrong, True)))
        np.testing.assert_array_equal(body.arrays()["body.moments"], before)
    body.forward(x, True)
    assert (body.arrays()["body.moments"] != before).any()
