"""Features with categories, and how much of a predicted change is believed."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from learners.spec import ModelSpec
from streams.batch import Batch


def model(encoder: dict | None, categories: int, target: str = "binary", **learner) -> ModelSpec:
    learner = {"kind": "recurrent", "cell": {"kind": "mingru", "units": 8}, "dtype": "float64", **learner}
    return ModelSpec(
        name="m",
        features=[{"name": "number"}, {"name": "place", "categories": categories}],
        target={"kind": target},
        learner={**learner, "encoder": encoder} if encoder else learner,
    )


def test_categories_without_an_encoder_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"place.*learner\.encoder"):
        model(None, 3)


@pytest.mark.parametrize(
    ("learner", "features"),
    [
        ({"encoder": {"units": 4096}}, [{"name": "place", "categories": 65_536}]),
        ({"cell": {"kind": "elstm", "units": 65_536}}, ["number"]),
    ],
)
def test_weights_that_would_not_fit_are_refused(learner, features) -> None:
    with pytest.raises(ValidationError, match=r"bytes of weights, at most"):
        ModelSpec(name="m", features=features, target={"kind": "binary"}, learner={"kind": "recurrent", **learner})


def test_a_category_is_learned_as_a_category() -> None:
    """The label is a function of the category that no line through its numbers fits."""
    rng = np.random.default_rng(0)
    n = 3000
    place = rng.integers(0, 6, n)
    x = np.column_stack([rng.normal(size=n), place])
    y = np.isin(place, (0, 3, 4)).astype(float)
    hits = {}
    for categories in (0, 6):
        learner = model({"units": 8}, categories, previous_label=False).learner.build
        spec = model({"units": 8}, categories, previous_label=False)
        folded = learner(spec).fold(Batch.of(x, y))
        hits[categories] = ((folded.value >= 0.5) == y)[-1000:].mean()
    assert hits[6] > 0.99
    assert hits[6] > hits[0]


def test_what_names_no_category_counts_as_missing_and_leaves_the_tables_alone() -> None:
    spec = model({"units": 4}, 3)
    learner = spec.learner.build(spec)
    before = learner.shared_arrays()["cell"].copy()
    for strange in (-1.0, 3.0, 0.5, np.nan, 1e30):
        learner.fold(Batch.of(np.array([[1.0, strange]]), np.array([1.0])))
    after = learner.shared_arrays()["cell"].copy()
    tables = slice(-3 * 4, None)
    np.testing.assert_array_equal(after[tables], before[tables])
    assert not np.array_equal(after, before)
    learner.fold(Batch.of(np.array([[1.0, 2.0]]), np.array([1.0])))
    changed = (learner.shared_arrays()["cell"] != after)[tables].reshape(3, 4)
    assert changed.any(axis=1).tolist() == [False, False, True]


def test_changes_that_cannot_be_predicted_are_forecast_as_none() -> None:
    """On a random walk the forecast must be close to no change, whatever the read-out learned from the noise."""
    rng = np.random.default_rng(1)
    n = 6000
    x, y = rng.normal(size=(n, 2)), np.cumsum(rng.normal(size=n))
    spec = ModelSpec(name="m", features=["a", "b"], target={"kind": "regression"}, learner={"dtype": "float64"})
    forecast = spec.learner.build(spec).fold(Batch.of(x, y)).value
    no_change = np.concatenate([[0.0], y[:-1]])
    assert np.abs(forecast - y)[1:].mean() <= 1.001 * np.abs(no_change - y)[1:].mean()
