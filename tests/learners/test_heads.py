"""Heads in a learner: what they share with the rest of the fold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from kernels.cpu.layout import LEARNED, OUTLIER
from learners.base import MemoryRows
from learners.conformance.logs import random_log
from learners.filters import FilterFields, RandomFilters
from learners.heads.base import MAX_STATE_BYTES, HeadSpec
from learners.spec import ModelSpec
from streams.batch import Batch


def make_spec(target: str, **learner) -> ModelSpec:
    plain = {"kind": "recurrent", "cell": {"units": 9}}
    return ModelSpec.model_validate(
        {"name": "m", "features": ["a", "b", "c"], "target": {"kind": target}, "learner": plain | learner}
    )


@pytest.mark.parametrize("target", ["binary", "multiclass", "regression"])
def test_beside_the_filters_a_cell_learns_as_under_a_linear_head(target) -> None:
    specs = [make_spec(target, head=head) for head in ({"kind": "linear"}, {"kind": "kalman", "robust": 0})]
    log = random_log(specs[0], 5, plain=True)
    learners = [spec.learner.build(spec) for spec in specs]
    values = [learner.fold(log).value for learner in learners]
    linear, kalman = (learner.shared_arrays() for learner in learners)
    for name in ("cell", "m_cell", "v_cell", "out", "skip"):
        np.testing.assert_array_equal(linear[name], kalman[name], err_msg=name)
    assert np.ptp(linear["cell"] - make_initial(specs[0])["cell"]) > 0
    assert not np.array_equal(*values)


def make_initial(spec: ModelSpec) -> dict[str, np.ndarray]:
    return spec.learner.build(spec).shared_arrays()


def a_walk(n: int = 400) -> Batch:
    rng = np.random.default_rng(3)
    return Batch.of(rng.normal(0, 1, (n, 3)).astype(np.float32), np.cumsum(rng.normal(0, 1, n)))


def test_outliers_change_nothing_but_a_level_is_learned() -> None:
    """An outlier is as if it had no label; after three of a key in a row the next one is learned."""
    spec = make_spec("regression", head={"kind": "kalman", "robust": 5.0})
    walk, y = a_walk(1600), a_walk(1600).y.copy()
    y[800] += 1e4
    y[1200:] += 1e4
    learner, other = spec.learner.build(spec), spec.learner.build(spec)
    folded = learner.fold(replace(walk, y=y))
    refused = np.flatnonzero(folded.outcome & OUTLIER)
    assert refused.tolist() == [800, 1200, 1201, 1202]
    assert not (folded.outcome[refused] & LEARNED).any()
    unlabelled = replace(walk, y=y, kind=np.where(np.isin(np.arange(len(y)), refused), 0, walk.kind).astype(np.uint8))
    same = other.fold(unlabelled)
    np.testing.assert_array_equal(folded.value[:1203], same.value[:1203])
    assert abs(folded.value[1204] - y[1204]) < 1e3, "the new level is the last label"


def test_without_robust_weights_nothing_is_refused() -> None:
    spec = make_spec("regression", head={"kind": "kalman", "robust": 0})
    walk = a_walk()
    y = walk.y.copy()
    y[200] += 1e4
    assert not (spec.learner.build(spec).fold(replace(walk, y=y)).outcome & OUTLIER).any()


@pytest.mark.parametrize(
    ("target", "learner", "says"),
    [
        ("regression", {"head": {"kind": "lda"}}, "cannot learn a regression"),
        ("binary", {"head": {"kind": "svm"}}, "known: kalman"),
        ("binary", {"head": {"kind": "kalman", "prior": -1.0}}, "prior"),
        ("binary", {"head": {"kind": "kalman", "prior": float("nan")}}, "prior"),
        ("binary", {"head": {"kind": "kalman", "noise": 0.0}}, "noise"),
        ("binary", {"head": {"kind": "kalman", "gammas": [1.1]}}, "gammas"),
        ("binary", {"head": {"kind": "kalman", "gamma_rate": 0.1}}, "moves a single gamma"),
        ("binary", {"head": {"kind": "ridge", "penalties": [0.0]}}, "penalties"),
        ("multiclass", {"head": {"kind": "lofi"}}, "at most 32 classes"),
        ("multiclass", {"head": {"kind": "ridge"}, "cell": {"units": 8000}}, f"at most {MAX_STATE_BYTES}"),
        ("binary", {"kind": "static", "cell": None, "head": {"kind": "ridge"}}, "cell"),
        ("binary", {"kind": "static", "features": {"kind": "random_conv"}}, "features.random_conv.image"),
    ],
    ids=str,
)
def test_heads_that_cannot_work_are_refused(target, learner, says) -> None:
    with pytest.raises(ValidationError, match=says):
        make_spec(target, **learner)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image": [1, 4, 5]}, r"learner.features.image \[1, 4, 5\] has 20 numbers; .* as there are features, 16"),
        ({"pool": 4, "patch": 2}, "learner.features.pool 4: patches of 2 every 2 are laid 2 times"),
        ({"filters": 65_536, "patch": 64, "image": [1, 64, 64]}, "learner.features.filters 65536.* at most"),
        ({"units": 5}, "units"),
    ],
    ids=str,
)
def test_images_that_do_not_fit_are_refused(changes, says) -> None:
    features = {"kind": "random_conv", "image": [1, 4, 4], "patch": 2, "filters": 3} | changes
    size = 4096 if features["patch"] == 64 else 16
    with pytest.raises(ValidationError, match=says):
        ModelSpec.model_validate(
            {
                "name": "m",
                "features": [f"f{k}" for k in range(size)],
                "target": {"kind": "binary"},
                "learner": {"kind": "static", "features": features | ({"pool": 1} if size == 4096 else {})},
            }
        )


def test_raw_features_are_the_inputs() -> None:
    features = {"name": "m", "features": ["a"], "target": {"kind": "binary"}}
    for kind in sorted(set(HeadSpec.known()) - {"linear"}):
        with pytest.raises(ValidationError, match="nothing to see"):
            ModelSpec.model_validate(
                features | {"learner": {"kind": "static", "head": {"kind": kind, "inputs": False}}}
            )


@pytest.mark.parametrize("target", ["binary", "multiclass"])
def test_state_of_another_shape_is_refused_by_name(target) -> None:
    """Classes may be fewer than there is room for; every other size is that of the spec."""
    spec = make_spec(target, head={"kind": "kalman"})
    learner = spec.learner.build(spec)
    learner.fold(random_log(spec, 5, plain=True))
    state = learner.shared_arrays()
    spec.learner.build(spec).load(state, MemoryRows())
    for name in ("head.cov", "head.mean"):
        with pytest.raises(ValueError, match=f"array {name}: shape .*, this version holds"):
            spec.learner.build(spec).load(state | {name: state[name][..., :-1]}, MemoryRows())


@pytest.mark.parametrize("head", [{"kind": "ridge"}, {"kind": "lda", "refresh": 1}, {"kind": "nearest_mean"}], ids=str)
def test_a_head_in_closed_form_knows_no_order_of_classes_where_nothing_is_standardised(head) -> None:
    """Running moments follow the class of the hour, so what was learned earlier stands on another scale."""
    rng = np.random.default_rng(4)
    y, asked = np.repeat([0, 1, 2], 60), Batch.of(rng.normal(0, 1, (200, 3)))
    x, names = rng.normal(0, 0.5, (180, 3)) + 1.5 * np.eye(3)[y], ("a", "b", "c")
    orders = np.arange(180), rng.permutation(180)
    same = {}
    for standardise in (False, True):
        learner = {"kind": "static", "head": head, "previous_label": False, "standardise": standardise}
        spec = ModelSpec.model_validate(
            {"name": "m", "features": ["a", "b", "c"], "target": {"kind": "multiclass"}, "learner": learner}
        )
        said = []
        for order in orders:
            built = spec.learner.build(spec)
            built.fold(Batch.of(x[order], y[order], classes=names))
            said.append([built.classes()[code] for code in built.predict(asked).code])
        same[standardise] = said[0] == said[1]
    assert same == {False: True, True: False}


def test_a_head_on_random_filters_is_that_head_on_their_features() -> None:
    rng, filters = np.random.default_rng(7), {"image": [2, 6, 5], "filters": 5, "patch": 3, "stride": 1, "pool": 2}
    x, y = rng.normal(size=(150, 60)).astype(np.float32), rng.integers(0, 3, 150)
    x = np.clip(x + y[:, None] * np.linspace(-1, 1, 60, dtype=np.float32), -5, 5)  # as the learner does
    features = RandomFilters(FilterFields.model_validate(filters), 9, np.dtype(np.float64))(x.astype(np.float64))
    assert features.shape == (150, 20)
    said = []
    for seen, below in ((x, {"kind": "random_conv", **filters}), (features.astype(np.float32), {"kind": "raw"})):
        head = {"kind": "ridge", "inputs": below["kind"] == "raw"}
        learner = {"kind": "static", "head": head, "features": below, "previous_label": False, "standardise": False}
        names, target = [f"f{k}" for k in range(seen.shape[1])], {"kind": "multiclass"}
        spec = ModelSpec.model_validate(
            {"name": "m", "features": names, "target": target, "learner": learner | {"dtype": "float64", "seed": 9}}
        )
        folded = spec.learner.build(spec).fold(Batch.of(seen, y, classes=("a", "b", "c")))
        said.append(folded.scored[:, 0])
    assert np.ptp(said[0]) > 0.3
    np.testing.assert_allclose(*said, rtol=1e-5, atol=1e-6)


def test_features_that_are_not_standardised_are_clipped_and_filled_by_their_mean() -> None:
    learner = {"kind": "static", "head": {"kind": "nearest_mean"}, "previous_label": False, "standardise": False}
    features = [{"name": "a", "missing": "mean"}]
    spec = ModelSpec.model_validate(
        {"name": "m", "features": features, "target": {"kind": "binary"}, "learner": learner | {"clip": 3.0}}
    )
    built = spec.learner.build(spec)
    built.fold(Batch.of(np.array([[1.0], [np.nan], [100.0], [-100.0]]), np.array([0.0, 0.0, 1.0, 1.0])))
    arrays = built.shared_arrays()
    assert arrays["head.mean"][:2, 0].tolist() == [1.0, 0.0]  # of 1 and the mean so far; of 3 and -3
    assert arrays["scaler"][0, 0] == 3
