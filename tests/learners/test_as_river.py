"""Our learners as River's: its own checks on every kind that there is, and its pipelines and evaluations."""

from __future__ import annotations

import copy
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import ValidationError
from river import base, checks, compose, datasets, evaluate, metrics, preprocessing

from learners.registry import load_learners
from learners.river import AsRiver
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import Batch

load_learners()
SMALL = {"recurrent": {"cell": {"units": 4}}}
"""What makes the learners of a kind small, where there is something."""

RIVER = {
    "binary": [{"path": "river.preprocessing.StandardScaler"}, {"path": "river.linear_model.LogisticRegression"}],
    "multiclass": {"path": "river.naive_bayes.GaussianNB"},
    "regression": [{"path": "river.preprocessing.StandardScaler"}, {"path": "river.linear_model.LinearRegression"}],
}
TARGETS = ("binary", "multiclass", "regression")
OURS = sorted(k for k, spec in LearnerSpec.registry.items() if spec.__module__.startswith("learners."))


def learner_of(kind: str, target: str) -> dict:
    extra = {"estimator": RIVER[target]} if kind == "river" else SMALL.get(kind, {})
    return {"kind": kind} | extra


def fits(kind: str, target: str) -> bool:
    given = {"name": "m", "features": ["a"], "target": {"kind": target}, "learner": learner_of(kind, target)}
    try:
        ModelSpec.model_validate(given)
    except ValidationError:
        return False
    return True


PAIRS = [(kind, target) for kind in OURS for target in TARGETS if fits(kind, target)]


def test_every_kind_can_be_wrapped() -> None:
    assert {kind for kind, _ in PAIRS} == set(OURS)
    assert {"recurrent", "river"} <= set(OURS)


@pytest.mark.parametrize(("kind", "target"), PAIRS, ids=lambda name: name)
def test_river_checks_every_kind(kind, target) -> None:
    model = AsRiver(learner_of(kind, target), target)
    wanted = base.Regressor if target == "regression" else base.Classifier
    assert isinstance(model, wanted)
    checks.check_estimator(model)


def test_river_checks_the_forecaster() -> None:
    checks.check_estimator(AsRiver({"cell": {"units": 4}}, "forecast"))


def small(target: str = "binary", **options):
    return AsRiver({"kind": "recurrent", "cell": {"units": 4}}, target, **options)


def test_the_wrapped_learner_says_what_the_fold_says() -> None:
    draws = np.random.default_rng(1)
    x = draws.normal(size=(60, 3)).astype(np.float32)
    x[draws.random(x.shape) < 0.1] = np.nan
    y = (np.nan_to_num(x[:, 0]) > 0).astype(float)
    key = [f"k{k}" for k in draws.integers(0, 4, 60)]
    spec = ModelSpec.model_validate(
        {
            "name": "m",
            "features": [{"name": name, "missing": "mean"} for name in "abc"],
            "target": {"kind": "binary"},
            "learner": {"kind": "recurrent", "cell": {"units": 4}},
        }
    )
    folded = spec.learner.build(spec).fold(Batch.of(x, y, key=[name.encode() for name in key]))
    model = small(key="card")
    for row in range(60):
        event = {name: value for name, value in zip("abc", x[row].tolist()) if row == 0 or not math.isnan(value)}
        event = {"card": key[row], **dict(reversed(event.items()))}
        p = model.predict_proba_one(event)[True]
        assert p == folded.value[row], f"event {row}"
        model.learn_one(event, bool(y[row]))


def test_in_a_pipeline_with_progressive_validation() -> None:
    model = preprocessing.StandardScaler() | AsRiver({"cell": {"units": 8}})
    score = evaluate.progressive_val_score(datasets.Phishing(), model, metrics.ROCAUC())
    assert score.get() > 0.9
    assert isinstance(model, base.Classifier)
    # Text becomes numbers in a transformer before it.
    text = compose.Select("a") | preprocessing.OneHotEncoder() | small("multiclass")
    for value, label in [("x", "red"), ("y", 2), ("x", "red"), ("y", 2)] * 30:
        text.learn_one({"a": value}, label)
    assert (text.predict_one({"a": "x"}), text.predict_one({"a": "y"})) == ("red", 2)


def test_regression_beats_the_mean() -> None:
    model = small("regression")
    score = evaluate.progressive_val_score(datasets.TrumpApproval(), model, metrics.MAE())
    assert score.get() < 0.5


@pytest.mark.parametrize("target", [*TARGETS, "forecast"])
def test_copies_go_on_alike(target) -> None:
    model = small(target, key="k")
    labels = {"binary": [True, False], "multiclass": ["a", "b"]}.get(target, [1.5, 2.5])

    def teach(some, rows: range) -> None:
        for row in rows:
            x = {"k": row % 3, "a": math.sin(row), "b": float(row % 5)}
            some.learn_one(labels[row % 2], x) if target == "forecast" else some.learn_one(x, labels[row % 2])

    def ask(some) -> list:
        xs = [{"k": k, "a": 0.3, "b": 1.0} for k in range(4)]
        if target == "forecast":
            return [some.forecast(3, [x] * 3) for x in xs]
        return [some.predict_one(x) if target == "regression" else some.predict_proba_one(x) for x in xs]

    teach(model, range(40))
    copies = [pickle.loads(pickle.dumps(model)), copy.deepcopy(model), model.clone(include_attributes=True)]
    before = ask(model)
    assert [ask(some) for some in copies] == [before] * 3
    fresh = model.clone()
    assert ask(fresh) != before
    teach(copies[0], range(40, 60))
    assert ask(model) == before, "a copy is on its own"
    for some in (model, *copies[1:]):
        teach(some, range(40, 60))
    assert [ask(some) for some in copies] == [ask(model)] * 3
    assert ask(model) != before
    teach(fresh, range(60))
    assert ask(fresh) == ask(model)


def test_more_keys_than_slots_are_in_copies() -> None:
    from learners.river.as_river import Fold

    given = {"name": "m", "features": ["a"], "target": {"kind": "regression"}, "deployment": {"slots": 2}}
    fold = Fold(ModelSpec.model_validate(given | {"learner": {"kind": "recurrent", "cell": {"units": 4}}}))
    keys = [b"%d" % (row % 7) for row in range(50)]
    fold.learner.fold(Batch.of(np.ones((50, 1)), np.arange(50.0), key=keys))
    assert pickle.loads(pickle.dumps(fold)).learner.digest() == fold.learner.digest()


def test_before_anything_is_learned() -> None:
    x = {"a": 1.0}
    assert small().predict_proba_one(x) == {False: 0.5, True: 0.5}
    assert small("multiclass").predict_proba_one(x) == {}
    assert small("multiclass").predict_one(x) is None
    assert small("regression").predict_one(x) == 0.0
    assert small("forecast").forecast(2) == [0.0, 0.0]


def test_features_are_those_of_the_first_event() -> None:
    model, other = small(), small()
    for row in range(20):
        x = {"b": float(row), "a": float(row % 3)}
        model.learn_one(x | ({"c": 99.0} if row else {}), row % 2 == 0)
        other.learn_one(x, row % 2 == 0)
    assert model.predict_proba_one({"a": 1.0, "c": 5.0}) == other.predict_proba_one({"b": None, "a": 1.0})


def test_a_class_too_many_is_observed_only() -> None:
    model = small("multiclass", max_classes=2)
    for label in ("a", "b", "c", "a"):
        model.learn_one({"x": 1.0}, label)
    assert sorted(model.predict_proba_one({"x": 1.0})) == ["a", "b"]


def test_a_forecast_of_one_step_is_the_prediction() -> None:
    series = small("forecast")
    regressor = small("regression")
    for row in range(100):
        series.learn_one(math.sin(row / 5))
        regressor.learn_one({}, math.sin(row / 5))
    assert series.forecast(1) == [regressor.predict_one({})]
    assert abs(series.forecast(1)[0] - math.sin(20)) < 0.2
    with pytest.raises(ValueError, match="xs: got 1 elements; accepted: 2"):
        series.forecast(2, [{}])


@pytest.mark.parametrize(
    ("target", "x", "y", "message"),
    [
        ("binary", {"a": "text"}, True, "feature 'a': got 'text'; accepted: numbers"),
        ("binary", {"a": math.inf}, True, "feature 'a': got inf"),
        ("binary", {"a": 1.0}, 2, "label: got 2; accepted: False or True"),
        ("binary", {"a": 1.0}, "yes", "label: got 'yes'; accepted: False or True"),
        ("regression", {"a": 1.0}, math.nan, "label: got nan; accepted: finite numbers"),
    ],
)
def test_what_is_no_event_is_refused(target, x, y, message) -> None:
    model = small(target)
    with pytest.raises((TypeError, ValueError), match=message):
        model.learn_one(x, y)


def test_what_is_no_learner_is_refused() -> None:
    with pytest.raises(ValueError, match="target: got 'ranking'; accepted: binary, multiclass"):
        AsRiver(target="ranking")
    with pytest.raises(ValidationError, match="unknown learner kind 'other'"):
        AsRiver({"kind": "other"}).learn_one({"a": 1.0}, True)


PAGE = Path(__file__).parents[2] / "docs" / "river.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_examples_of_the_page(capsys) -> None:
    (text,) = blocks("yaml")
    spec = ModelSpec.model_validate(yaml.safe_load(text))
    learner = spec.learner.build(spec)
    learner.fold(Batch.of(np.eye(2), np.array([0.0, 1.0])))
    assert str(learner._model.estimator) == "StandardScaler | LogisticRegression"
    names: dict[str, object] = {}
    for code in blocks("python"):
        exec(code, names)
    score, card, ahead = capsys.readouterr().out.splitlines()
    assert score.startswith("LogLoss: 0.")
    assert abs(float(card) - 61.0) < 5.0
    assert len(ahead.split(",")) == 3
