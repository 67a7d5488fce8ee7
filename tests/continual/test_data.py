from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from continual import data
from streams.batch import Batch, Keys
from streams.metrics import Classification, Regression


def held(load: Callable[[], Batch]) -> Batch:
    try:
        return load()
    except data.NoData as reason:
        pytest.skip(str(reason))


def test_shuttle_ships_inside_river() -> None:
    batch = data.shuttle()
    assert batch.x.shape == (49_097, 9)
    assert batch.y.sum() == 3511


SIZES = [
    *[(data.elec2, 45_312, 8), (data.sea, 40_000, 3), (data.weather, 18_159, 8)],
    *[(data.etth1, 17_420, 6), (data.bike, 17_379, 12), (data.exchange, 7587, 8)],
]


@pytest.mark.parametrize(("load", "rows", "features"), SIZES, ids=[load.__name__ for load, *_ in SIZES])
def test_streams_are_whole(load: Callable[[], Batch], rows: int, features: int) -> None:
    batch = held(load)
    assert batch.x.shape == (rows, features)
    assert np.isfinite(batch.x).all()
    assert not np.isnan(batch.y).any()


def test_baselines_of_elec2_are_the_published_ones() -> None:
    batch = held(data.elec2)
    metrics = Classification()
    metrics.update_binary(np.zeros(len(batch)), batch.y)
    assert round(metrics.values()["no_change"], 4) == 0.8533
    assert round(metrics.values()["accuracy"], 4) == 0.5755


@pytest.mark.parametrize(("load", "mae"), [(data.bike, 64.93), (data.etth1, 0.614), (data.exchange, 0.00365)])
def test_no_change_of_numbers_is_the_known_one(load: Callable[[], Batch], mae: float) -> None:
    batch = held(load)
    metrics = Regression()
    metrics.update(np.zeros(len(batch)), batch.y)
    assert metrics.values()["no_change_mae"] == pytest.approx(mae, rel=2e-3)


def test_event_times_advance() -> None:
    for load in (data.bike, data.etth1):
        assert (np.diff(held(load).time) > 0).all()


def test_concatenating_keeps_events(tmp_path: Path) -> None:
    one = Batch.of(np.ones((2, 1)), [0.0, 1.0], key=[b"a", b"bc"], classes=("x", "y"))
    two = Batch.of(np.zeros((3, 1)), [1.0, np.nan, 0.0], key=Keys.empty(3), classes=("z", "y"))
    both = data.concatenate([one, two])
    assert both.classes == ("x", "y", "z")
    np.testing.assert_array_equal(both.y, [0, 1, 1, np.nan, 2])
    assert [both.key[row] for row in range(5)] == [b"a", b"bc", b"", b"", b""]
    with pytest.raises(ValueError, match="at least one"):
        data.concatenate([])


def test_what_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path))
    with pytest.raises(data.NoData, match=r"elec2/elec2\.csv\.gz: not in the data folder"):
        data.elec2()
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(data.NoData, match="is not a folder"):
        data.elec2()
