"""Policies of labels that come later: what they hold, what they teach, what becomes of those that never come."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu.layout import LATE, LEARNED, OBSERVED, UNKNOWN_ID
from learners import conformance
from learners.spec import ModelSpec
from streams.batch import LABEL, OBSERVATION, Batch, Keys

TARGETS = {"binary": 1, "multiclass": "seven", "regression": 101.5}
"""Kinds of target, and a default label."""


def spec_of(target: str = "binary", learner: dict | None = None, **labels) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": [{"name": "a", "missing": "mean"}, "b", "c"],
            "target": {"kind": target},
            "labels": {"arrive": "delayed", "pending": 3} | labels,
            "learner": learner or {"kind": "recurrent", "cell": {"units": 9}, "dtype": "float64"},
        }
    )


def alternating(log: Batch) -> Batch:
    """Every labelled event as an observation, followed by its label."""
    both = np.repeat(np.arange(len(log)), 2)
    kind = np.tile(np.array([OBSERVATION, LABEL], np.uint8), len(log))
    x, y = log.x[both].copy(), log.y[both].copy()
    x[kind == LABEL], y[kind == OBSERVATION] = 0.0, np.nan
    keys = Keys.pack([log.key[row] for row in both.tolist()])
    return Batch(x, kind, y, keys, log.time[both], log.id[both], log.classes)


@pytest.mark.parametrize("target", TARGETS)
def test_head_credit_and_default_labels_pass_the_kit(target) -> None:
    for number, labels in enumerate(
        (
            {"credit": "head"},
            {"default_label": TARGETS[target], "horizon": 12},
            {"credit": "head", "default_label": TARGETS[target], "horizon_time": 8000, "pending": 1},
        )
    ):
        conformance.check_learner(spec_of(target, **labels), seed=number)


def test_other_heads_and_learners_pass_it_too() -> None:
    kalman = {"kind": "recurrent", "cell": {"units": 4}, "head": {"kind": "kalman", "samples": 4}, "dtype": "float64"}
    conformance.check_learner(spec_of("multiclass", kalman, credit="head", default_label=7, horizon=12), seed=3)
    river = {"kind": "river", "estimator": {"path": "river.linear_model.LinearRegression"}}
    conformance.check_learner(spec_of("regression", river, default_label=99.0, horizon=12), seed=4)


@pytest.mark.parametrize("target", TARGETS)
def test_at_once_the_head_learns_what_it_learns_above_a_frozen_recurrence(target) -> None:
    """A minGRU has no output stage: all that a label can change above its frozen recurrence is the head."""
    frozen = {"kind": "recurrent", "cell": {"units": 9}, "recurrent_rate": 0.0}
    specs = [spec_of(target, frozen), spec_of(target, credit="head")]
    specs[1] = specs[1].model_copy(update={"learner": specs[1].learner.model_copy(update={"dtype": "float32"})})
    log = conformance.random_log(specs[0], 5, plain=True)
    whole, split = (spec.learner.build(spec) for spec in specs)
    said, apart = whole.fold(log), split.fold(alternating(log))
    assert said.value.tobytes() == apart.value[::2].tobytes()
    for name in ("cell", "out", "skip", "m_out", "v_skip", "decay"):
        assert whole.shared_arrays()[name].tobytes() == split.shared_arrays()[name].tobytes(), name


def test_head_credit_leaves_the_recurrence_and_holds_less() -> None:
    exact, head = (spec_of(credit=credit).learner.build(spec_of(credit=credit)) for credit in ("exact", "head"))
    log = alternating(conformance.random_log(spec_of(), 6, plain=True))
    before = head.shared_arrays()["cell"].copy()
    for learner in (exact, head):
        learner.fold(log)
    assert (head.shared_arrays()["cell"] == before).all()
    assert (head.shared_arrays()["out"] != 0).any()
    assert (exact.shared_arrays()["cell"] != before).any()
    held = [learner.rows.columns["pending_body"].shape[-1] for learner in (exact, head)]
    inputs = 3 + 2 + 1  # features, last label and its age, the constant
    assert held[1] == 9 + inputs
    assert held[0] == inputs + 2 * 9 + 9 * (1 + 2 * inputs), "inputs, factors, state and traces"


def events(rows: list[tuple], keys: list[bytes] | None = None) -> Batch:
    """From (kind, id, label, time)."""
    kind, id, y, time = (np.array(column) for column in zip(*rows))
    x = np.where(kind[:, None] == LABEL, 0.0, np.random.default_rng(0).normal(size=(len(rows), 3)))
    return Batch.of(x, y.astype(float), kind=kind, time=time, id=np.stack([id, id], 1).astype(np.uint64), key=keys)


NAN = float("nan")


def test_an_observation_that_expires_is_learned_with_the_default_label() -> None:
    """Once, at the next event of its key; a label that comes after that is late, and one for what is unknown is not."""
    spec = spec_of(default_label=1, horizon_time=100)
    log = events(
        [
            (OBSERVATION, 1, NAN, 1000),
            (OBSERVATION, 2, NAN, 1050),
            (LABEL, 2, 0, 1090),
            (OBSERVATION, 3, NAN, 1101),  # the first is past the horizon
            (LABEL, 1, 0, 1102),
            (LABEL, 3, 0, 1300),  # its own lateness makes it learned with the default
            (LABEL, 3, 0, 1300),
            (LABEL, 9, 0, 1300),
        ]
    )
    learner = spec.learner.build(spec)
    folded = learner.fold(log)
    assert folded.outcome.tolist() == [OBSERVED, OBSERVED, LEARNED, OBSERVED, LATE, LATE, LATE, UNKNOWN_ID]
    assert np.flatnonzero(folded.expired[:, 3] == 1).tolist() == [3, 5]
    assert np.isnan(np.delete(folded.expired, [3, 5], 0)).all()
    assert folded.expired[[3, 5], 0].tolist() == folded.value[[0, 3]].tolist(), "scored as they were predicted"
    assert learner.shared_arrays()["counters"][1] == 3, "steps of the optimizer"


def test_a_default_label_teaches_what_the_same_label_by_id_teaches() -> None:
    """The observation leaves after the event that finds it expired: the same as a label for it just then."""
    rows = [(OBSERVATION, 1, NAN, 1000), (OBSERVATION, 2, NAN, 1200)]
    default, given = spec_of(default_label=1, horizon_time=100), spec_of(pending=4)
    by_default, by_id = default.learner.build(default), given.learner.build(given)
    by_default.fold(events(rows))
    by_id.fold(events([*rows, (LABEL, 1, 1, 1200)]))
    a, b = by_default.shared_arrays(), by_id.shared_arrays()
    for name in ("cell", "m_cell", "out", "v_out", "skip", "target", "scaler"):
        assert a[name].tobytes() == b[name].tobytes(), name


def test_what_is_pushed_out_is_learned_or_dropped() -> None:
    rows = [(OBSERVATION, i, NAN, 1000 + i) for i in range(1, 6)]
    for default in (None, 1):
        spec = spec_of(pending=2, default_label=default, horizon=1000 if default else 0)
        folded = spec.learner.build(spec).fold(events(rows))
        assert np.flatnonzero(~np.isnan(folded.expired[:, 1])).tolist() == [2, 3, 4]
        assert np.isnan(folded.expired[:, 3]).all() == (default is None)
        assert folded.expired[2:, 0].tolist() == folded.value[:3].tolist()


@pytest.mark.parametrize(
    ("target", "labels", "said"),
    [
        ("binary", {"credit": "traces"}, "'exact' or 'head'"),
        ("binary", {"arrive": "immediate", "pending": 0, "credit": "head"}, "credit 'head' needs pending >= 1"),
        ("binary", {"arrive": "immediate", "pending": 0, "horizon_time": 5}, "horizon_time 5 needs pending >= 1"),
        ("binary", {"horizon_time": -1}, "greater than or equal to 0"),
        ("binary", {"default_label": 1}, "default_label needs horizon or horizon_time"),
        ("binary", {"default_label": 2, "horizon": 5}, r"default_label 2: a binary target accepts one of \[0, 1\]"),
        ("multiclass", {"default_label": 0.5, "horizon": 5}, "accepts an integer of 64 bits, or text"),
        ("multiclass", {"default_label": "x" * 300, "horizon": 5}, "text of at most 256 bytes"),
        ("regression", {"default_label": "1", "horizon": 5}, "accepts a number, at most 1e100"),
        ("regression", {"default_label": 1e101, "horizon": 5}, "accepts a number, at most 1e100"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(target, labels, said) -> None:
    with pytest.raises(ValueError, match=said):
        spec_of(target, **labels)


def test_the_size_of_what_is_held_is_bounded_and_says_what_would_be_smaller() -> None:
    many = {"kind": "recurrent", "cell": {"units": 512}, "dtype": "float32"}
    with pytest.raises(ValueError, match=r"20000 pending observations with credit 'exact' .*'head' holds 2072 bytes"):
        spec_of("binary", many, pending=20_000)
    spec_of("binary", many, pending=20_000, credit="head")


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ({"kind": "recurrent", "optimizer": {"kind": "ekf"}}, "moves all weights together, 'exact' is accepted"),
        ({"kind": "river", "estimator": {"path": "river.dummy.NoChangeClassifier"}}, "accept 'exact' only"),
    ],
)
def test_learners_that_have_no_head_to_teach_alone_say_so(learner, said) -> None:
    with pytest.raises(ValueError, match=said):
        spec_of("binary", learner, credit="head")
