"""Keys whose labels are of different scale: each has its own where it has earned it, alike ones share one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kernels.cpu.layout import (
    ADDED,
    CHANGE,
    OLDER_HEADS,
    OUTLIER,
    OWN_CHANGE,
    S_VARIANCE,
    T_APART,
    U_CENTRE,
    U_DEVIATION,
    U_LATEST,
    U_SCALE,
)
from kernels.cpu.layout import HEAD as COLUMNS
from learners.base import Folded, MemoryRows
from learners.spec import ModelSpec
from streams.batch import Batch

LINEAR = {"kind": "static", "head": {"kind": "linear"}}
HEADS = ("linear", "kalman")


def learner_of(learner: dict[str, Any], features: int = 2) -> Any:
    names = [f"x{i}" for i in range(features)]
    spec = ModelSpec.model_validate(
        {"name": "m", "features": names, "target": {"kind": "regression"}, "learner": learner}
    )
    return spec.learner.build(spec)


def stream(n: int, keys: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels of size 4 with a noise of 0.5, and the number of each event's key."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    return x, 3.0 * x[:, 0] - 2.0 * x[:, 1] + 0.5 * rng.normal(size=n), rng.integers(0, keys, n)


def fold(made: Any, x: np.ndarray, y: np.ndarray, key: np.ndarray) -> Folded:
    return made.fold(Batch.of(x, y, key=[b"key%d" % k for k in key]))


def unit_of(made: Any, key: int) -> np.ndarray:
    slot = made.rows.lookup(Batch.of(np.zeros((1, 2)), key=[b"key%d" % key]).key)[0]
    return made.rows.columns["unit"][slot]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("size", "begin"), [(1e2, 1500), (1e6, 1500), (1e3, 0)])
def test_a_key_beside_a_much_larger_one_is_predicted_as_if_alone(head, size, begin) -> None:
    n, learner = 7000, {"kind": "static", "head": {"kind": head}}
    x, y, key = stream(n, 2)
    grown = np.where((key == 1) & (np.arange(n) >= begin), size, 1.0)
    clean, made = learner_of(learner), learner_of(learner)
    without, beside = fold(clean, x, y, key).value, fold(made, x, y * grown, key).value
    late = np.arange(n) >= begin + 4500
    for one, by in ((0, 1.0), (1, size)):
        rows = late & (key == one)
        error, right = np.abs(beside / by - y)[rows].mean(), np.abs(without - y)[rows].mean()
        assert error <= 1.1 * right
    small, large = unit_of(made, 0), unit_of(made, 1)
    np.testing.assert_allclose(large[[U_SCALE, U_DEVIATION]] / small[[U_SCALE, U_DEVIATION]], size, rtol=0.1)
    assert abs(small[U_CENTRE]) < 0.1 * small[U_DEVIATION]


@pytest.mark.parametrize("head", HEADS)
def test_one_key_has_the_scale_of_all_whatever_happens_to_it(head) -> None:
    """So nothing that is predicted depends on its own: the scale changes, one label is far off, some come late."""
    x, y, _ = stream(3000, 1)
    y[1000:2000] *= 50.0
    y[500] = 1e30
    made = learner_of({"kind": "static", "head": {"kind": head}})
    fold(made, x, y, np.zeros(3000, int))
    assert not unit_of(made, 0)[:U_LATEST].any()


def test_a_key_alone_has_the_moments_of_all_keys_bit_for_bit() -> None:
    x, y, _ = stream(3000, 1)
    y[700] = 1e30
    made = learner_of(LINEAR)
    fold(made, x, y, np.zeros(3000, int))
    np.testing.assert_array_equal(made.rows.columns["own"][0, OWN_CHANGE], made._shared.scaler[2 + CHANGE])


@pytest.mark.parametrize("tails", [2.5, np.inf])
def test_keys_that_are_alike_share_one_scale(tails) -> None:
    """Heavy tails included: Student's t of so many degrees of freedom; with a key for every fourth label as with 10."""
    rng = np.random.default_rng(1)
    x, y, _ = stream(6000, 1)
    y = y if tails == np.inf else rng.standard_t(tails, 6000)
    for keys in (10, 1500):
        made = learner_of(LINEAR)
        fold(made, x, y, rng.integers(0, keys, 6000))
        assert not made.rows.columns["unit"][:, U_SCALE].any()


def test_what_is_predicted_is_what_the_fold_would_say() -> None:
    x, y, key = stream(3000, 3)
    made = learner_of({"kind": "recurrent", "cell": {"units": 4}})
    fold(made, x, y * 1e3**key, key)
    assert all(unit_of(made, k)[U_SCALE] > 0 for k in range(3))
    for k in range(3):
        event = Batch.of(x[:1] + k, y[:1] * 1e3**k, key=[b"key%d" % k])
        assert made.predict(event).value[0] == made.fold(event).value[0]


def test_one_bad_label_does_not_capture_the_unit_of_a_small_key() -> None:
    x, y, key = stream(6000, 3)
    grown = np.where(key > 0, 1e4, 1.0)
    bad = y * grown
    at = np.flatnonzero(key == 0)[800]
    bad[at] = 1e30
    clean, made = learner_of(LINEAR), learner_of(LINEAR)
    fold(clean, x[:at], (y * grown)[:at], key[:at])
    fold(made, x[: at + 1], bad[: at + 1], key[: at + 1])
    share = 1.0 / 800
    most = 1.01 * np.sqrt(1.0 + 64.0 * share)
    assert unit_of(made, 0)[U_SCALE] <= most * unit_of(clean, 0)[U_SCALE]
    right, said = fold(clean, x[at:], (y * grown)[at:], key[at:]), fold(made, x[at + 1 :], bad[at + 1 :], key[at + 1 :])
    rows = key[at + 1 :] == 0
    rows[:300] = False
    truth = y[at + 1 :][rows]
    assert np.abs(said.value[rows] - truth).mean() <= 1.1 * np.abs(right.value[1:][rows] - truth).mean()


@pytest.mark.parametrize("bad", [1e30, -9999.0])
def test_a_burst_of_bad_labels_of_a_key_is_recovered_from(bad) -> None:
    x, y, key = stream(9000, 2)
    y = y * np.where(key > 0, 1e2, 1.0)
    worse = y.copy()
    worse[np.flatnonzero(key == 0)[1000:1020]] = bad
    clean, made = learner_of(LINEAR), learner_of(LINEAR)
    right, said = fold(clean, x, y, key).value, fold(made, x, worse, key).value
    rows = (key == 0) & (np.arange(9000) > 7000)
    assert np.abs(said - y)[rows].mean() <= 1.1 * np.abs(right - y)[rows].mean()
    np.testing.assert_allclose(unit_of(made, 0)[U_SCALE], unit_of(clean, 0)[U_SCALE], rtol=0.2)


def test_a_scale_that_falls_is_noticed() -> None:
    x, y, key = stream(16_000, 2)
    y = y * np.where((key == 1) & (np.arange(16_000) < 4000), 1e3, 1.0)
    made = learner_of(LINEAR)
    fold(made, x, y, key)
    np.testing.assert_allclose(unit_of(made, 1)[U_SCALE] / unit_of(made, 0)[U_SCALE], 1.0, rtol=0.5)


def test_labels_that_no_scale_shows_yet_teach_nothing() -> None:
    """The first of a new scale are clipped as ever, those that follow wait until it has lasted."""
    x, y, key = stream(4000, 2)
    y = y * np.where((key == 1) & (np.arange(4000) >= 3000), 1e4, 1.0)
    outcome = fold(learner_of(LINEAR), x, y, key).outcome
    waiting = np.flatnonzero(outcome & OUTLIER)
    assert (key[waiting] == 1).all()
    assert 20 <= len(waiting) <= 32
    assert waiting[0] >= 3000
    assert waiting[-1] < 3120


def test_rows_of_earlier_versions_open() -> None:
    """Without a scale of their own, and with fewer columns of the head; of the learners in a drift learner too."""
    x, y, key = stream(300, 3)
    for learner in (LINEAR, {"kind": "drift", "learner": LINEAR, "reaction": {"kind": "challenger"}}):
        for columns in (COLUMNS, *OLDER_HEADS):
            made = learner_of(learner)
            fold(made, x, y, key)
            cold = MemoryRows()
            for name, content in made.rows.all_rows(made.position):
                cold.put_rows([(name, made.position, older(made, content, columns))])
            again = learner_of(learner)
            again.load({name: array.copy() for name, array in made.shared_arrays().items()}, cold)
            probe = Batch.of(x[:3], key=[b"key0", b"key1", b"key2"])
            np.testing.assert_allclose(again.predict(probe).value, made.predict(probe).value)
            assert np.isfinite(fold(again, x, y, key).value).all()


def older(made: Any, content: bytes, columns: int) -> bytes:
    """A row as it was without `ADDED`, and with so many columns of `head`."""
    parts, at = [], 0
    for name, column in made.rows.columns.items():
        size, plain = column[0].nbytes, name.rpartition(".")[2]
        held = 0 if plain in ADDED else 8 * columns if plain == "head" else size
        parts.append(content[at : at + held])
        at += size
    assert at == len(content)
    return b"".join(parts)


def test_apart_is_small_where_keys_are_alike() -> None:
    x, y, key = stream(5000, 20)
    made = learner_of(LINEAR)
    fold(made, x, y, key)
    assert abs(made._shared.target[T_APART]) < 0.05
    assert made.rows.columns["own"][0, OWN_CHANGE, S_VARIANCE] > 0


@pytest.mark.parametrize("kind", ["river", "er"])
def test_a_clock_of_an_earlier_version_is_read(kind) -> None:
    """It is kept in an array of the size of `Shared.target`, which has grown."""
    estimator = {"estimator": [{"path": "river.linear_model.LogisticRegression"}]} if kind == "river" else {}
    spec = ModelSpec.model_validate(
        {"name": "m", "features": ["a", "b"], "target": {"kind": "binary"}, "learner": {"kind": kind, **estimator}}
    )
    x = np.random.default_rng(0).normal(size=(100, 2))
    batch = Batch.of(x, (x[:, 0] > 0) * 1.0, time=10**15 + np.arange(100))
    made, again = spec.learner.build(spec), spec.learner.build(spec)
    made.fold(batch)
    arrays = {name: array.copy() for name, array in made.shared_arrays().items()}
    again.load(arrays | {"clock": arrays["clock"][:13]}, MemoryRows())
    np.testing.assert_array_equal(again.shared_arrays()["clock"], arrays["clock"])
    assert arrays["clock"].any()
