"""What River is given of labels stays near their level, so that one bad label is no input of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels.cpu.inputs import REACH
from learners.base import MemoryRows
from learners.river.level import Level
from learners.spec import ModelSpec
from streams.batch import Batch


def served(learner: dict[str, Any]) -> ModelSpec:
    model = {"name": "m", "features": ["a"], "target": {"kind": "regression"}}
    return ModelSpec.model_validate({**model, "learner": learner})


def test_a_level_is_the_mean_and_leaves_what_is_near_as_it_is() -> None:
    y = np.random.default_rng(0).normal(50, 3, 500)
    level = Level()
    assert level.mean == 0.0
    for n, label in enumerate(y, 1):
        level.learn(float(label))
        # Of two labels that differ nobody knows yet which one is far out: the second counts with the third.
        assert level.near(float(label)) == (label if n != 2 else y[0])
    assert level.mean == pytest.approx(y.mean(), rel=1e-12)


@pytest.mark.parametrize("value", [1e3, 1e6, 1e30, -9999.0])
@pytest.mark.parametrize("at", [0, 1, 200])
def test_no_label_alone_moves_a_level_far(value, at) -> None:
    y = np.random.default_rng(0).normal(50, 3, 400)
    y[at] = value
    level = Level()
    for label in y:
        level.learn(float(label))
    assert abs(level.mean - 50) < 2
    assert abs(level.near(value) - 50) < 2 * REACH * 3


@pytest.mark.parametrize("predicts", ["level", "change"])
def test_one_bad_label_leaves_no_trace_in_what_river_is_given(predicts) -> None:
    """Steps of a passive-aggressive regression are bounded, so it forgets a label; an input of any size it does not."""
    estimator = [
        {"path": "river.preprocessing.StandardScaler"},
        {"path": "river.linear_model.PARegressor", "parameters": {"C": 0.01}},
    ]
    learner = {"kind": "river", "estimator": estimator, "predicts": predicts}
    spec = served(learner)
    x = np.random.default_rng(1).normal(size=(3000, 1)).astype(np.float32)
    clean = 2.0 * x[:, 0] + 10
    errors = []
    for bad in (None, 1e6):
        y = clean.copy()
        if bad:
            y[1000] = bad
        said = spec.learner.build(spec).fold(Batch.of(x, y)).value
        errors.append(np.abs(said - clean)[2000:].mean())
    assert errors[1] <= 1.1 * errors[0]


def test_a_state_with_a_mean_alone_still_opens() -> None:
    learner = {"kind": "river", "estimator": [{"path": "river.linear_model.LinearRegression"}]}
    spec = served(learner)
    old = spec.learner.build(spec)
    old.fold(Batch.of(np.ones((4, 1)), [1.0, 2.0, 3.0, 6.0], key=[b"k"] * 4))
    arrays = old.shared_arrays()
    del arrays["level"]
    fresh = spec.learner.build(spec)
    fresh.load({**arrays, "mean": np.array([3.0])}, MemoryRows())
    assert fresh._level.mean == 3.0
    fresh.fold(Batch.of(np.ones((200, 1)), np.random.default_rng(0).normal(4, 1, 200)))
    assert fresh._level.mean == pytest.approx(4, abs=0.3)


def test_the_mean_before_each_label_of_those_that_are_there() -> None:
    y = np.random.default_rng(0).normal(50, 3, 200)
    level = Level()
    before = np.concatenate([level.means(part) for part in (y[:1], np.insert(y[1:120], 7, np.nan), y[120:])])
    expected = np.append(0.0, np.cumsum(y)[:-1] / np.arange(1, len(y)))
    expected[2] = y[0]  # the second counts with the third
    np.testing.assert_allclose(before, np.insert(expected, 8, expected[8]), rtol=1e-12)
    assert level.mean == pytest.approx(y.mean(), rel=1e-12)
