"""Every metric of continual learning against numbers worked out by hand, and against Avalanche's."""

from __future__ import annotations

import json
import math
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual.metrics import cost, curves, matrix, probabilities, stream
from continual.metrics.curves import Curve
from learners.spec import ModelSpec
from streams.batch import Batch

R = np.array([[0.9, 0.1, 0.2], [0.6, 0.8, 0.0], [0.5, 0.7, 1.0]])
AVALANCHE = os.environ.get("CONTINUAL_AVALANCHE", "")


def test_matrix_metrics_of_a_known_matrix() -> None:
    assert matrix.average_accuracy(R) == pytest.approx((0.5 + 0.7 + 1.0) / 3)
    assert matrix.average_incremental_accuracy(R) == pytest.approx((0.9 + (0.6 + 0.8) / 2 + (0.5 + 0.7 + 1.0) / 3) / 3)
    assert matrix.forgetting(R) == pytest.approx(((0.9 - 0.5) + (0.8 - 0.7)) / 2)
    assert matrix.backward_transfer(R) == pytest.approx(((0.5 - 0.9) + (0.7 - 0.8)) / 2)
    assert matrix.forward_transfer(R, [0.3, 0.2, 0.1]) == pytest.approx(((0.1 - 0.2) + (0.0 - 0.1)) / 2)


def test_the_best_accuracy_may_come_after_the_own_experience_but_not_from_the_last_row() -> None:
    later = np.array([[0.5, 0.9, 0.0], [0.7, 0.4, 0.0], [0.6, 0.8, 0.3]])
    # Test 0: best 0.7 after experience 1. Test 1: what it had before its own experience does not count.
    assert matrix.forgetting(later) == pytest.approx(((0.7 - 0.6) + (0.4 - 0.8)) / 2)


def test_a_frozen_model_forgets_nothing() -> None:
    frozen = np.tile([0.3, 0.5, 0.7, 0.1], (4, 1))
    assert matrix.forgetting(frozen) == 0.0
    assert matrix.backward_transfer(frozen) == 0.0


def test_one_experience_leaves_nothing_to_forget() -> None:
    one = np.array([[0.4]])
    assert matrix.average_accuracy(one) == 0.4
    assert all(map(math.isnan, (matrix.forgetting(one), matrix.backward_transfer(one))))
    assert math.isnan(matrix.forward_transfer(one, [0.1]))


@pytest.mark.parametrize("wrong", [np.zeros((2, 3)), np.zeros(3), np.zeros((0, 0))])
def test_what_is_no_matrix_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="as many rows as columns"):
        matrix.average_accuracy(wrong)
    with pytest.raises(ValueError, match="2 accuracies, the matrix has 3"):
        matrix.forward_transfer(R, [0.1, 0.2])


CURVE = Curve(
    events=np.array([10, 20, 30, 40, 50]),
    during=np.array([0, 0, 1, 1, 2]),
    accuracy=np.array(
        [[0.5, 0.0, 0.0], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.7, 0.8, 0.0], [0.6, 0.5, 0.9]]
    ),
)


def test_curve_metrics_of_a_known_curve() -> None:
    met = [0.5, 0.9, (0.4 + 0.6) / 2, (0.7 + 0.8) / 2, (0.6 + 0.5 + 0.9) / 3]
    np.testing.assert_allclose(CURVE.met(), met)
    assert curves.average_anytime_accuracy(CURVE) == pytest.approx(sum(met) / 5)
    # Test 0 ended at point 1 (0.9, 0.4, 0.7, 0.6), test 1 at point 3 (0.8, 0.5).
    assert curves.min_accuracy(CURVE) == pytest.approx((0.4 + 0.5) / 2)
    assert curves.min_accuracy(CURVE, 3) == pytest.approx(0.4)
    assert math.isnan(curves.min_accuracy(CURVE, 1))
    assert curves.worst_case_accuracy(CURVE) == pytest.approx(0.9 / 3 + (1 - 1 / 3) * 0.45)
    assert curves.worst_case_accuracy(CURVE, 1) == 0.9
    # Falls within two points: test 0: 0.9 -> 0.4; test 1: 0.8 -> 0.5; test 2: none.
    assert curves.windowed_forgetting(CURVE, 2) == pytest.approx((0.5 + 0.3 + 0.0) / 3)
    # Rises within two points: 0.5 -> 0.9, 0.1 -> 0.6, 0.0 -> 0.9; within three test 1 rises from 0.1 to 0.8.
    assert curves.windowed_plasticity(CURVE, 2) == pytest.approx((0.4 + 0.5 + 0.9) / 3)
    assert curves.windowed_plasticity(CURVE, 3) == pytest.approx((0.4 + 0.7 + 0.9) / 3)
    assert curves.learning_curve_area(np.array([[0.0, 0.5, 1.0], [0.2, 0.4, 0.3]])) == pytest.approx(2.4 / 6)


def test_a_window_needs_two_points() -> None:
    with pytest.raises(ValueError, match="window 1"):
        curves.windowed_forgetting(CURVE, 1)


def test_a_curve_is_whole_and_goes_forward() -> None:
    with pytest.raises(ValueError, match="as many events"):
        Curve(np.arange(2), np.zeros(2, int), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="do not go back"):
        Curve(np.arange(2), np.array([1, 0]), np.zeros((2, 2)))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_worst_case_is_at_most_the_accuracy(tasks: int, per: int, seed: int) -> None:
    accuracy = np.random.default_rng(seed).uniform(size=(tasks * per, tasks))
    curve = Curve(np.arange(tasks * per), np.repeat(np.arange(tasks), per), accuracy)
    assert curves.worst_case_accuracy(curve) <= accuracy[-1].mean() + 1e-12
    constant = Curve(curve.events, curve.during, np.full_like(accuracy, 0.25))
    assert curves.average_anytime_accuracy(constant) == pytest.approx(0.25)
    assert curves.windowed_forgetting(constant) == curves.windowed_plasticity(constant) == 0.0


def test_near_future_accuracy_of_a_repeater_is_the_rate_at_which_labels_repeat() -> None:
    labels = np.repeat([0, 1, 0, 1], 50)
    # One step ahead the last label is right but for the three changes; 50 further ahead never; 100 always.
    assert stream.repeat_rate(labels, 0) == pytest.approx(1 - 3 / 199)
    assert stream.repeat_rate(labels, 49) == 0.0
    assert stream.repeat_rate(labels, 99) == 1.0
    assert stream.near_future_accuracy(labels[50:] == labels[:-50]) == 0.0
    # By chance it is right half the time; the rate falls by 2 of 3 changes per shift and meets 0.51 there.
    shift = stream.least_shift(labels, 100)
    assert shift is not None
    assert stream.repeat_rate(labels, shift) <= 0.51 < stream.repeat_rate(labels, shift - 1)
    assert stream.least_shift(np.zeros(50), 30) == 0  # chance itself is 1
    assert stream.least_shift(labels, 3) is None
    assert math.isnan(stream.near_future_accuracy(np.zeros(0, bool)))


def test_scores_of_known_probabilities() -> None:
    table = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0]])
    labels = np.array([0, 2, 2])
    found = probabilities.scores(table, labels)
    assert found["brier"] == pytest.approx(((0.25 + 0.09 + 0.04) + (0.01 + 0.64 + 0.81) + 0.0) / 3)
    assert found["log_loss"] == pytest.approx(-(math.log(0.5) + math.log(0.1) + 0.0) / 3)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["calibration_error"] == pytest.approx((0.5 + 0.8 + 0.0) / 3)
    assert math.isnan(probabilities.brier_score(np.zeros((0, 2)), np.zeros(0, int)))


def test_a_slow_learner_takes_its_share_of_the_batches() -> None:
    assert cost.learned_in_time(6, 1.0).all()
    assert cost.learned_in_time(6, 0.3).all()
    np.testing.assert_array_equal(cost.learned_in_time(6, 2.0), [1, 0, 1, 0, 1, 0])
    # 2.5 batches each: busy until 2.5, then from 3 until 5.5, then from 6.
    np.testing.assert_array_equal(cost.learned_in_time(8, 2.5), [1, 0, 0, 1, 0, 0, 1, 0])
    with pytest.raises(ValueError, match="above 0"):
        cost.learned_in_time(3, 0.0)


def test_state_is_counted_with_every_row() -> None:
    spec = {"name": "m", "features": ["a"], "target": {"kind": "binary"}, "learner": {"kind": "static"}}
    model = ModelSpec.model_validate(spec)
    learner = model.learner.build(model)
    shared = sum(array.nbytes for array in learner.shared_arrays().values())
    assert cost.state_bytes(learner) == shared
    learner.fold(Batch.of(np.ones((3, 1)), [0, 1, 1], key=[b"a", b"b", b"a"]))
    row = sum(column[0].nbytes for column in learner.rows.columns.values())
    assert 0 < cost.state_bytes(learner) - shared <= 2 * (row + 64)
    digest = learner.digest()
    cost.state_bytes(learner)
    assert learner.digest() == digest


@pytest.mark.skipif(not AVALANCHE, reason="CONTINUAL_AVALANCHE names no interpreter that has avalanche-lib")
def test_metrics_are_those_of_avalanche_where_it_defines_the_same() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 10, (4, 60))
    after = np.where(rng.uniform(size=(5, 4, 60)) < 0.6, labels, rng.integers(0, 10, (5, 4, 60)))
    script = Path(__file__).with_name("avalanche_metrics.py")
    given = json.dumps({"labels": labels.tolist(), "after": after.tolist()})
    done = subprocess.run([AVALANCHE, script], input=given, capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    ours = (after == labels).mean(axis=2)
    np.testing.assert_allclose(ours, theirs["matrix"], rtol=1e-6)
    backward = np.mean([value for test, value in theirs["bwt"].items() if int(test) < 3])
    assert matrix.backward_transfer(ours[1:]) == pytest.approx(backward, abs=1e-6)
    assert matrix.forward_transfer(ours[1:], ours[0]) == pytest.approx(np.mean(list(theirs["fwt"].values())), abs=1e-6)
