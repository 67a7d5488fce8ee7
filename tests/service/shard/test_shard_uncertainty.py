"""How sure predictions are, from the learner to the client, and the metrics that check it on the labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from shard_harness import TARGETS, LocalShard, batch_of, columns, events, spec_of

from learners.base import Folded, Predicted
from learners.compiled import CompiledLearner
from learners.methods.recurrent import RecurrentSpec
from learners.spec import ModelSpec
from service.client import Client, PredictionBatch
from service.wire import UNCERTAIN
from streams.batch import Batch

HALF_WIDTH = 0.75


class SureSpec(RecurrentSpec):
    """The recurrent learner with an opinion on its own uncertainty."""

    kind: Literal["sure"] = "sure"  # type: ignore[assignment]

    def build(self, model: ModelSpec) -> CompiledLearner:
        return SureLearner(model)


class SureLearner(CompiledLearner):
    """Gives every regression the same interval; the variance depends on the first feature, and is not always known."""

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        variance = np.where(batch.x[:, 0] > 0, batch.x[:, 0].astype(float), np.nan)
        width = np.full(len(batch), HALF_WIDTH)
        said = super().predict(batch, probabilities)
        return replace(said, variance=variance, epistemic=variance / 3, interval=width)

    def fold(self, batch: Batch) -> Folded:
        folded = super().fold(batch)
        folded.scored[~np.isnan(folded.scored[:, 1]), 4] = HALF_WIDTH
        return folded


def taught(client: Client, spec: ModelSpec, kind: str) -> tuple[dict[str, Any], PredictionBatch]:
    """Creates the model and teaches it 400 events; returns them and the answers."""
    client.models.create(spec)
    given = events(kind, 400, keys=5)
    (answer,) = client.learn(spec.name, [columns(spec, given)])
    return given, answer.predictions


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_served_is_what_the_learner_knows(shard: LocalShard, client: Client, name: str, kind: str) -> None:
    spec = spec_of(name, kind)
    taught(client, spec, kind)
    asked = {"x": events(kind, 20, seed=3)["x"], "key": [f"k{i}" for i in range(20)]}
    known = shard.learner(name).predict(batch_of(spec, asked))
    answer = client.predict(name, asked["x"], key=asked["key"], uncertainty=True)
    assert (answer.epistemic, answer.interval) == (None, None)
    if kind == "regression":
        assert answer.variance is known.variance is None
    else:
        np.testing.assert_array_equal(answer.variance, known.variance)
        np.testing.assert_allclose(answer.variance, answer.value * (1 - answer.value), rtol=0, atol=1e-12)
    plain = client.predict(name, asked["x"], key=asked["key"])
    assert [getattr(plain, part) for part in UNCERTAIN] == [None] * 3
    np.testing.assert_array_equal(plain.value, answer.value)


@pytest.mark.parametrize("kind", sorted(TARGETS))
def test_a_kalman_head_is_served_with_all_it_knows(shard: LocalShard, client: Client, name: str, kind: str) -> None:
    model = spec_of(name, kind).model_dump(mode="json")
    spec = ModelSpec.model_validate({**model, "learner": {"cell": {"units": 4}, "head": {"kind": "kalman"}}})
    given, _ = taught(client, spec, kind)
    asked = {"x": events(kind, 20, seed=3)["x"], "key": [f"k{i}" for i in range(20)]}
    known = shard.learner(name).predict(batch_of(spec, asked))
    answer = client.predict(name, asked["x"], key=asked["key"], uncertainty=True)
    for part in UNCERTAIN:
        np.testing.assert_array_equal(getattr(answer, part), getattr(known, part))
    assert (answer.variance > 0).all()
    assert (answer.epistemic > 0).all()
    assert (answer.interval is None) == (kind != "regression")
    metrics = client.models.statistics(name).metrics
    if kind == "regression":
        assert (answer.epistemic < answer.variance).all()
        # What lies far from every event is known less well.
        far = client.predict(name, given["x"][200] + [[0.0] * 3, [4.0] * 3], key=given["key"][200], uncertainty=True)
        assert far.epistemic[1] > 2 * far.epistemic[0]
        assert 0.8 < metrics["interval_coverage"] < 1
        assert metrics["interval_width"] > 0
    else:
        np.testing.assert_allclose(answer.variance, answer.value * (1 - answer.value), rtol=0, atol=1e-12)
        assert 0 < metrics["calibration_error"] < 0.3


def test_everything_known_arrives_and_only_when_asked_for(client: Client, name: str) -> None:
    model = spec_of(name, "regression").model_dump(mode="json")
    spec = ModelSpec.model_validate({**model, "learner": {"kind": "sure", "cell": {"units": 4}}})
    given, _ = taught(client, spec, "regression")
    answer = client.predict(name, given["x"][:50], key=given["key"][:50], uncertainty=True)
    first = given["x"][:50, 0].astype(float)
    np.testing.assert_array_equal(answer.variance, np.where(first > 0, first, np.nan))
    np.testing.assert_array_equal(answer.epistemic, answer.variance / 3)
    np.testing.assert_array_equal(answer.interval, np.full(50, HALF_WIDTH))
    one = client.predict(name, event=dict(zip("abc", [0.5, 0.0, 0.0])), uncertainty=True)
    assert (one.variance.tolist(), one.interval.tolist()) == ([0.5], [HALF_WIDTH])
    plain = client.predict(name, given["x"][:50], key=given["key"][:50], probabilities=True)
    assert [getattr(plain, part) for part in UNCERTAIN] == [None] * 3


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_the_calibration_error_is_that_of_the_answers(client: Client, name: str, kind: str) -> None:
    spec = spec_of(name, kind)
    given, answer = taught(client, spec, kind)
    sure = np.maximum(answer.value, 1 - answer.value) if kind == "binary" else answer.value
    known = answer.code >= 0
    right = np.array([one == label for one, label in zip(answer.predicted(), given["y"])])
    error = 0.0
    for b in range(15):
        here = known & (np.ceil(sure * 15) == b + 1)
        error += abs(right[here].sum() - sure[here].sum()) / known.sum()
    metrics = client.models.statistics(name).metrics
    assert metrics["calibration_error"] == pytest.approx(error, rel=1e-12)
    assert 0 < error < 1
    assert not {"interval_coverage", "interval_width"} & set(metrics)


def test_the_coverage_is_that_of_the_answers(client: Client, name: str) -> None:
    model = spec_of(name, "regression").model_dump(mode="json")
    spec = ModelSpec.model_validate({**model, "learner": {"kind": "sure", "cell": {"units": 4}}})
    given, answer = taught(client, spec, "regression")
    metrics = client.models.statistics(name).metrics
    inside = np.abs(answer.value - given["y"]) <= HALF_WIDTH
    assert metrics["interval_coverage"] == inside.mean()
    assert metrics["interval_width"] == 2 * HALF_WIDTH
    assert 0 < inside.mean() < 1
    assert "calibration_error" not in metrics
