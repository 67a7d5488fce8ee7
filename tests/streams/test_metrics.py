from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import metrics as river_metrics

from streams.batch import Keys
from streams.metrics import Classification, KeyCodes, Regression


def classified(seed: int, n: int, classes: int, keys: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n).astype(float)
    y[rng.random(n) < 0.1] = np.nan
    return rng.integers(0, classes, n), y, rng.random(n), rng.integers(0, keys, n)


@pytest.mark.parametrize("classes", [2, 5])
def test_agrees_with_river_on_classes(classes: int) -> None:
    predicted, y, probability, _ = classified(1, 3000, classes, 1)
    ours = Classification()
    ours.update(predicted, y, probability, classes=range(classes))
    accuracy, kappa = river_metrics.Accuracy(), river_metrics.CohenKappa()
    for guess, label in zip(predicted, y):
        if not math.isnan(label):
            accuracy.update(int(label), int(guess))
            kappa.update(int(label), int(guess))
    assert ours.values()["accuracy"] == pytest.approx(accuracy.get(), rel=1e-12)
    assert ours.values()["kappa"] == pytest.approx(kappa.get(), rel=1e-9)


def test_agrees_with_river_on_log_loss() -> None:
    _, y, probability, _ = classified(2, 3000, 2, 1)
    ours, theirs = Classification(), river_metrics.LogLoss()
    ours.update_binary(probability, y)
    for p, label in zip(probability, y):
        if not math.isnan(label):
            theirs.update(bool(label), p)
    assert ours.values()["log_loss"] == pytest.approx(theirs.get(), rel=1e-12)


def test_log_loss_is_clipped() -> None:
    ours = Classification()
    ours.update_binary(np.array([0.0]), np.array([1.0]))
    assert ours.values()["log_loss"] == -np.log(1e-6)


def test_agrees_with_river_on_numbers() -> None:
    rng = np.random.default_rng(3)
    predicted, y = rng.normal(size=2000), rng.normal(size=2000)
    ours, mae, rmse = Regression(), river_metrics.MAE(), river_metrics.RMSE()
    ours.update(predicted, y)
    for guess, label in zip(predicted, y):
        mae.update(label, guess)
        rmse.update(label, guess)
    assert ours.values()["mae"] == pytest.approx(mae.get(), rel=1e-12)
    assert ours.values()["rmse"] == pytest.approx(rmse.get(), rel=1e-12)


def test_the_calibration_error_is_that_of_its_definition() -> None:
    predicted, y, probability, _ = classified(8, 3000, 4, 1)
    sure = np.where(probability < 0.2, np.nan, np.round(probability * 15) / 15)  # on the edges of the bins
    sure[::3] = probability[::3]
    ours = Classification()
    ours.update(predicted, y, probability, classes=range(4), confidence=sure)
    known = ~np.isnan(y) & ~np.isnan(sure)
    right, sure = (predicted == y)[known], sure[known]
    error = 0.0
    for b in range(15):
        here = (np.ceil(sure * 15) == b + 1) | ((sure == 0) & (b == 0))
        error += abs(right[here].mean() - sure[here].mean()) * here.mean() if here.any() else 0.0
    assert ours.values()["calibration_error"] == pytest.approx(error, rel=1e-12)


def test_the_calibration_of_a_binary_target_is_that_of_the_predicted_class() -> None:
    ours = Classification()
    ours.update_binary(np.array([0.1, 0.1, 0.9, 0.6]), np.array([0.0, 1.0, 1.0, 0.0]))
    # 0.9 three times, twice right; 0.6 once, never right
    assert ours.values()["calibration_error"] == pytest.approx((abs(2 - 2.7) + 0.6) / 4)


def test_coverage_and_width_by_hand() -> None:
    ours = Regression()
    ours.update(np.zeros(4), np.array([1.0, 2.0, 3.0, np.nan]), interval=np.array([1.0, 1.5, np.nan, 9.0]))
    assert (ours.values()["interval_coverage"], ours.values()["interval_width"]) == (0.5, 2.5)


def test_baselines_by_hand() -> None:
    # labels      a  a  b  b  b  a     keys 0 1 0 1 0 1
    # no-change   -  -  a  a  b  b     hits: only the fifth (key 0: b after b)
    # majority    -  a  a  a  a  b     (a leads 2:1, then 2:2 and a came first, then b 3:2); hits: the second
    # predicted   a  a  b  a  b  a     five of six
    y = np.array([0, 0, 1, 1, 1, 0], float)
    ours = Classification()
    ours.update(np.array([0, 0, 1, 0, 1, 0]), y, np.ones(6), classes="ab", key=np.array([0, 1, 0, 1, 0, 1]))
    values = ours.values()
    assert values["accuracy"] == 5 / 6
    assert values["no_change"] == 1 / 6
    assert values["majority"] == 1 / 6
    assert values["kappa_temporal"] == pytest.approx((5 / 6 - 1 / 6) / (1 - 1 / 6))
    # shares predicted a 4/6, b 2/6; occurred 3/6 each: chance 1/2
    assert values["kappa"] == pytest.approx((5 / 6 - 1 / 2) / (1 - 1 / 2))


def test_no_change_of_numbers_is_per_key() -> None:
    ours = Regression()
    ours.update(np.zeros(4), np.array([1.0, 10.0, 3.0, 14.0]), key=np.array([0, 1, 0, 1]))
    assert ours.values()["no_change_mae"] == 3.0
    assert ours.values()["no_change_rmse"] == pytest.approx(math.sqrt(10))
    assert ours.values()["mae"] == 7.0


def test_undefined_is_nan() -> None:
    assert all(math.isnan(value) for name, value in Classification().values().items() if name != "events")
    assert all(math.isnan(value) for name, value in Regression().values().items() if name != "events")


cuts = st.lists(st.integers(0, 300), max_size=12).map(sorted)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 40), keys=st.integers(1, 20), cuts=cuts)
def test_cuts_and_storage_change_no_bit_of_classification(
    seed: int, classes: int, keys: int, cuts: list[int]
) -> None:
    predicted, y, probability, key = classified(seed, 300, classes, keys)
    names = [f"c{index}" for index in range(classes)]
    sure = np.where(probability < 0.1, np.nan, probability[::-1])
    whole, parts = Classification(), Classification()
    whole.update(predicted, y, probability, classes=names, key=key, confidence=sure)
    for start, stop in zip([0, *cuts], [*cuts, 300]):
        rows = slice(start, stop)
        parts = Classification(**json.loads(json.dumps(parts.to_dict())))
        order = np.random.default_rng(start).permutation(classes)  # the same labels under other indices
        place = np.argsort(order)
        labels = np.array([np.nan if math.isnan(label) else place[int(label)] for label in y[rows]])
        shuffled = [names[index] for index in order]
        columns = (place[predicted[rows]], labels, probability[rows])
        parts.update(*columns, classes=shuffled, key=key[rows], confidence=sure[rows])
    assert parts.to_dict() == whole.to_dict()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), keys=st.integers(1, 20), cuts=cuts)
def test_cuts_and_storage_change_no_bit_of_regression(seed: int, keys: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    predicted, y, key = rng.normal(size=300), rng.normal(size=300), rng.integers(0, keys, 300)
    width = np.where(rng.random(300) < 0.1, np.nan, rng.random(300))
    whole, parts = Regression(), Regression()
    whole.update(predicted, y, key=key, interval=width)
    for start, stop in zip([0, *cuts], [*cuts, 300]):
        parts = Regression(**json.loads(json.dumps(parts.to_dict())))
        parts.update(predicted[start:stop], y[start:stop], key=key[start:stop], interval=width[start:stop])
    assert json.dumps(parts.to_dict()) == json.dumps(whole.to_dict())


def test_majority_in_pieces_agrees_with_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.metrics.CELLS", 64)
    y = np.random.default_rng(4).zipf(1.5, 2000) % 30
    ours, hits, counts = Classification(), 0, {}
    ours.update(y, y.astype(float), np.ones(2000), classes=range(30))
    for label in y.tolist():
        hits += bool(counts) and max(counts, key=lambda one: counts[one]) == label
        counts[label] = counts.get(label, 0) + 1
    assert ours.majority_hits == hits


def test_merge_adds_and_ends() -> None:
    parts = []
    for seed in (5, 6):
        part = Classification()
        columns = classified(seed, 200, 3, 1)[:3]
        part.update(*columns, classes="abc" if seed == 5 else "bcd", confidence=columns[2])
        parts.append(part)
    both = Classification.merge(parts)
    assert both.events == parts[0].events + parts[1].events
    assert both.hits == parts[0].hits + parts[1].hits
    assert sum(both.sure) == both.events
    assert sum(both.confidence) == pytest.approx(sum(parts[0].confidence) + sum(parts[1].confidence))
    assert set(both.labels) == set("abcd")
    with pytest.raises(ValueError, match="merged"):
        both.update(np.array([0]), np.array([0.0]), np.array([1.0]), classes="a")
    with pytest.raises(ValueError, match="merged"):
        Regression.merge([Regression()]).update(np.zeros(1), np.zeros(1))


def test_nonsense_is_refused() -> None:
    ours = Classification()
    with pytest.raises(ValueError, match=r"1\.5 is none"):
        ours.update_binary(np.array([1.5]), np.array([1.0]))
    with pytest.raises(ValueError, match="rows"):
        ours.update_binary(np.array([0.5, 0.5]), np.array([1.0, 0.0]), key=np.array([1]))
    with pytest.raises(ValueError, match="0 to 1"):
        ours.update(np.array([2]), np.array([0.0]), np.array([1.0]), classes="ab")
    with pytest.raises(ValueError, match="finite"):
        Regression().update(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match=r"-0\.5 is none"):
        ours.update(np.array([0]), np.zeros(1), np.ones(1), classes="ab", confidence=np.array([-0.5]))
    with pytest.raises(ValueError, match="half-widths"):
        Regression().update(np.zeros(1), np.zeros(1), interval=np.array([-1.0]))
    assert ours.to_dict() == Classification().to_dict()


def test_key_codes_are_stable() -> None:
    codes = KeyCodes()
    assert codes(Keys.pack([b"x", b"", b"x", b"y"])).tolist() == [0, 1, 0, 2]
    assert codes(Keys.empty(2)).tolist() == [1, 1]
    assert codes(Keys.pack([b"z", b"y"]).slice(1, 2)).tolist() == [2]
