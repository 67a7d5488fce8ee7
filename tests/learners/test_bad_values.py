"""One bad value must not ruin a compiled learner: labels, features, clocks, in every head and optimizer."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu.layout import AWAY, OLDER_HEADS, OUTLIER
from learners.base import MemoryRows
from learners.spec import ModelSpec
from streams.batch import Batch

N, AT = 6000, 3000
BAD = pytest.mark.parametrize("bad", [1e3, 1e6, 1e30])


def learner_of(target: str, learner: dict, features=("a", "b"), **labels):
    spec = ModelSpec.model_validate(
        {"name": "m", "features": list(features), "target": {"kind": target}, "learner": learner, "labels": labels}
    )
    return spec.learner.build(spec)


NUMBERS = {
    "linear": {"kind": "static"},
    "kalman": {"kind": "static", "head": {"kind": "kalman"}},
    "ridge": {"kind": "static", "head": {"kind": "ridge"}},
    "neighbours": {"kind": "static", "head": {"kind": "neighbours"}},
    "lofi": {"kind": "static", "head": {"kind": "lofi"}},
}


@BAD
@pytest.mark.parametrize("name", NUMBERS)
def test_one_label_costs_nothing_after_a_thousand_events(name, bad) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 2)).astype(np.float32)
    clean = 3.0 * x[:, 0] - 2.0 * x[:, 1] + 0.1 * rng.normal(size=N)
    error = {}
    for at in (None, AT):
        y = clean.copy()
        if at:
            y[at] = bad
        made = learner_of("regression", NUMBERS[name])
        error[at] = np.abs(made.fold(Batch.of(x, y)).value - clean)[AT + 1000 : AT + 2000].mean()
        assert all(np.isfinite(array).all() for array in made.shared_arrays().values())
    assert error[AT] <= 1.1 * error[None]


@pytest.mark.parametrize("bad", [-9999.0, 1e6, 1e30])
@pytest.mark.parametrize("head", ["linear", "lda", "nearest_mean", "kalman"])
def test_one_feature_costs_no_accuracy(head, bad) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 2)).astype(np.float32)
    y = (x[:, 0] + 0.5 * x[:, 1] > 0) * 1.0
    right = {}
    for at in (None, AT):
        seen = x.copy()
        if at:
            seen[at, 0] = bad
        made = learner_of("binary", {"kind": "static", "head": {"kind": head}})
        right[at] = (made.fold(Batch.of(seen, y)).code == y)[AT + 1000 : AT + 2000].mean()
    assert right[AT] >= right[None] - 0.01


def test_a_rare_cause_is_learned_by_the_kalman_head() -> None:
    rng = np.random.default_rng(0)
    n = 12_000
    promotion = (rng.random(n) < 0.02) & (np.arange(n) > 100)
    x = np.stack([promotion, rng.normal(size=n)], 1).astype(np.float32)
    y = 1.0 + 0.1 * x[:, 1] + 0.05 * rng.normal(size=n) + 10.0 * promotion
    folded = learner_of("regression", NUMBERS["kalman"]).fold(Batch.of(x, y))
    late = promotion & (np.arange(n) > 8000)
    assert np.abs(folded.value - y)[late].mean() < 1.0
    assert not (folded.outcome[late] & OUTLIER).any()


def test_a_wrong_clock_is_told_and_stops_no_forgetting() -> None:
    head = {"kind": "kalman", "forget_unit": 1e6, "gammas": [0.99], "robust": 0}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4000, 2)).astype(np.float32)
    y = np.where(np.arange(4000) < 2000, 3.0, -3.0) * x[:, 0] + 0.1 * rng.normal(size=4000)
    time = 1_700_000_000_000_000 + 10**6 * np.arange(4000)
    key = [b"k%d" % (i % 50) for i in range(4000)]
    said = {}
    for wrong in (False, True):
        if wrong:
            time[1000], key[1000] = 4_102_444_800_000_000, b"stranger"
        folded = learner_of("regression", {"kind": "static", "head": head}).fold(Batch.of(x, y, key=key, time=time))
        said[wrong] = np.abs(folded.value - y)[3000:].mean()
        assert np.flatnonzero(folded.outcome & AWAY == AWAY).tolist() == [1000] * wrong
    assert said[True] <= 1.02 * said[False]


def test_a_wrong_clock_does_not_shut_its_key_out() -> None:
    time = 1_700_000_000_000_000 + 10**6 * np.arange(400)
    time[200] = 4_102_444_800_000_000
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    made = learner_of("binary", {"kind": "static"}, out_of_order="ignore")
    folded = made.fold(Batch.of(x, (x[:, 0] > 0) * 1.0, key=[b"one"] * 400, time=time))
    assert (folded.outcome & 2 == 2).all()


def test_snapshots_of_the_version_before_open() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2)).astype(np.float32)
    made = learner_of("regression", NUMBERS["linear"])
    batch = Batch.of(x, x[:, 0].astype(np.float64), key=[b"k%d" % (i % 3) for i in range(200)])
    made.fold(batch)
    shared = {name: array.copy() for name, array in made.shared_arrays().items()}
    shared["scaler"], shared["target"] = shared["scaler"][:3, :3].copy(), shared["target"][:9].copy()
    cold = MemoryRows()
    older = 8 * OLDER_HEADS[0]
    extra = 8 * made.rows.columns["head"].shape[1] - older
    for key, content in made.rows.all_rows(made.position):
        cold.put_rows([(key, made.position, content[:older] + content[older + extra :])])
    again = learner_of("regression", NUMBERS["linear"])
    again.load(shared, cold)
    a, b = made.fold(batch), again.fold(batch)
    np.testing.assert_allclose(a.value[0], b.value[0], rtol=1e-6)
    assert np.isfinite(b.value).all()
