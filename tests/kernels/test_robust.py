"""One bad value captures no scaler and no clock; the compiled rules are those of the reference."""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np
import pytest

from kernels.cpu import clock, inputs
from kernels.cpu.layout import (
    S_COUNT,
    S_MEAN,
    S_VARIANCE,
    SCALER,
    T_CLOCK,
    T_PACE,
    TARGET,
    TARGET_COLUMNS,
    whole_scaler,
)
from kernels.reference import clock as reference_clock
from kernels.reference import inputs as reference

N = 3000


class Config(NamedTuple):
    """What the scaler asks of a config."""

    window: float = 5000.0
    clip: float = 5.0
    scaled: int = 1


@nb.njit
def _run(config, scaler, x, out, commit, target, own):
    for t in range(len(x)):
        out[t] = inputs.standardise_either(config, scaler, 0, x[t], commit, target, own)


def run(x, config=None, target=False, scaler=None, own=False) -> tuple[np.ndarray, np.ndarray]:
    """(z [n], the row of statistics), of a feature, a target, or a target of one key: its `own`."""
    scaler, out = np.zeros((1, SCALER)) if scaler is None else scaler, np.empty(len(x))
    _run(config or Config(), scaler, np.asarray(x, np.float64), out, True, target, own)
    return out, scaler[0]


def columns(rng) -> dict[str, np.ndarray]:
    plain = rng.normal(3, 2, N)
    step = np.arange(N)

    def with_values(at, value):
        changed = plain.copy()
        changed[at] = value
        return changed

    return {
        "plain": plain,
        **{f"glitch at {at}": with_values(at, 1e30) for at in (0, 1, 2, 5, 40, 1500)},
        "burst": with_values(slice(1500, 1520), 1e6),
        "burst of many sizes": with_values(slice(1500, 1520), 1e6 * rng.normal(size=20)),
        "sentinel": with_values(rng.random(N) < 0.01, -9999.0),
        "sentinel first": with_values(slice(0, 100), -9999.0),
        "units": np.where(step < 1500, plain, 1e3 * plain),
        "flag": (rng.random(N) < 0.01) * 1.0,
        "sparse": (rng.random(N) < 0.05) * rng.lognormal(0, 1.5, N),
        "heavy": rng.standard_cauchy(N),
        "constant": np.full(N, 0.1),
        "rounding": 0.1 + 1e-9 * rng.normal(size=N) * (step > 1500),
        "walk": np.cumsum(rng.normal(size=N)),
        "time": 1.7e9 + step,
        "on and off": np.where(step // 500 % 2, 100.0, 0.0) + 0.1 * rng.normal(size=N),
        "gaps": with_values(rng.random(N) < 0.2, np.nan),
        "largest": with_values(slice(1000, None), 1e308),
    }


@pytest.mark.parametrize("target", [False, True], ids=["feature", "target"])
@pytest.mark.parametrize("window", [20.0, 5000.0])
def test_the_scaler_is_its_reference_to_the_bit(window, target) -> None:
    config = Config(window=window)
    for name, x in columns(np.random.default_rng(0)).items():
        z, row = run(x, config, target)
        other = np.zeros(SCALER)
        told = [reference.standardise(config, other, float(value), True, target) for value in x]
        np.testing.assert_array_equal(row, other, err_msg=name)
        np.testing.assert_array_equal(z, told, err_msg=name)
        assert np.isfinite([*z, *row]).all(), name
        assert (np.abs(z) <= config.clip).all(), name
        if target:
            own, other = run(x, config, True, own=True)[1], np.zeros(SCALER)
            for value in x[~np.isnan(x)]:
                other = reference.moved(config, other, float(value), True, True)[0]
            np.testing.assert_array_equal(own, other, err_msg=name)


GLITCHES = [f"glitch at {at}" for at in (0, 1, 2, 5, 40, 1500)]


@pytest.mark.parametrize("name", ["burst", "burst of many sizes", "sentinel first", *GLITCHES])
@pytest.mark.parametrize("target", [False, True], ids=["feature", "target"])
def test_bad_values_capture_no_scale(name, target) -> None:
    x = columns(np.random.default_rng(0))[name]
    _, row = run(x, target=target)
    clean = np.median(x), np.std(x[np.abs(x) < 100])
    assert row[S_MEAN] == pytest.approx(clean[0], abs=0.25)
    assert row[S_VARIANCE] ** 0.5 == pytest.approx(clean[1], rel=0.1)


def test_a_value_moves_the_statistics_by_a_stated_number_of_deviations() -> None:
    rng = np.random.default_rng(0)
    _, row = run(rng.normal(size=1000))
    before, share = row.copy(), 1.0 / 1001
    for value in (1e3, 1e6, 1e30, -1e300):
        scaler = before[None].copy()
        run([value], scaler=scaler)
        deviation = before[S_VARIANCE] ** 0.5
        assert abs(scaler[0, S_MEAN] - before[S_MEAN]) <= 1.0001 * inputs.REACH * share * deviation
        assert scaler[0, S_VARIANCE] <= (1.0 + inputs.REACH**2 * share) * before[S_VARIANCE]


def test_a_level_that_has_lasted_is_accepted() -> None:
    rng = np.random.default_rng(0)
    for new in (1e3 + rng.normal(size=300), 1e6 * (1 + 0.1 * rng.normal(size=300))):
        z, _ = run(np.concatenate([rng.normal(size=2000), new]))
        assert (z[2000 : 2000 + int(inputs.LASTS) - 1] == 5.0).all()
        assert np.std(z[-100:]) > 0.3, "what happens at the new level is seen"


def test_what_does_not_move_far_has_the_exact_moments() -> None:
    x = np.random.default_rng(3).normal(size=(50, 200))
    for column in x:
        _, row = run(column)
        assert row[S_COUNT] == len(column)
        if abs(row[S_MEAN] - column.mean()) > 1e-9:  # of the first three values one in a hundred is left out
            assert abs(row[S_MEAN] - column.mean()) < 0.1


def test_the_scaler_of_earlier_versions_opens() -> None:
    old = np.array([[10.0, 1.0, 4.0], [7.0, 2.0, 9.0]])
    new = whole_scaler(old)
    np.testing.assert_array_equal(new[:, :3], old)
    np.testing.assert_array_equal(new, whole_scaler(new))
    target = np.zeros(9)
    target[:4] = 6.0, 2.5, 7.0, 1.5
    regression = whole_scaler(old, target)
    assert len(regression) == 1 + TARGET_COLUMNS
    assert regression[-2, S_VARIANCE] == 2.5
    assert regression[-1, S_MEAN] == 1.5
    assert run([1.2], scaler=new[:1].copy())[1][S_COUNT] == 11


@nb.njit
def _keep(target, times, told):
    for t in range(len(times)):
        told[t] = clock.told_time(target, times[t])
        clock.keep_time(target, times[t])


def keep(times) -> tuple[np.ndarray, np.ndarray]:
    """What is told of the times int64 [n], and the target's entries."""
    target, told = np.zeros(TARGET), np.empty(len(times), np.int64)
    _keep(target, times, told)
    return told, target


SECOND, NOW, FAR_OFF = 10**6, 1_700_000_000_000_000, 4_102_444_800_000_000


@pytest.mark.parametrize("seed", range(4))
def test_the_clock_is_its_reference(seed) -> None:
    rng = np.random.default_rng(seed)
    times = NOW + np.cumsum(rng.choice([0, 1, 60, 86_400, 10**8], 800, p=[0.2, 0.4, 0.3, 0.08, 0.02])) * SECOND
    times[rng.random(800) < 0.05] += rng.integers(-(10**15), 10**15)
    times[rng.random(800) < 0.05] = 0
    told, target = keep(times)
    other = np.zeros(TARGET)
    for time, ours in zip(times.tolist(), told.tolist()):
        assert ours == reference_clock.told_time(other, time)
        reference_clock.keep_time(other, time)
    np.testing.assert_array_equal(target, other)


@pytest.mark.parametrize("at", [0, 1, 2, 500])
def test_one_wrong_clock_does_not_move_time(at) -> None:
    times = NOW + np.arange(2000) * SECOND
    times[at] = FAR_OFF
    told, target = keep(times)
    assert target[T_CLOCK] == times[-1]
    np.testing.assert_array_equal(told[1000:], times[1000:])
    if at == 500:
        assert told[at] == 0
        np.testing.assert_array_equal(np.delete(told, at), np.delete(times, at))


def test_a_wrong_second_clock_sets_no_pace() -> None:
    times = NOW + np.arange(200) * SECOND
    wrong = [1, 4, 7]
    times[wrong] = FAR_OFF
    told, target = keep(times)
    assert np.flatnonzero(told == 0).tolist() == wrong
    assert target[T_CLOCK] == times[-1]
    assert target[T_PACE] < 10 * SECOND


def test_a_stream_with_an_event_a_day_has_its_pace_from_the_second() -> None:
    times = NOW + np.arange(100) * 86_400 * SECOND
    told, _ = keep(times)
    assert np.flatnonzero(told == 0).tolist() == [1], "nothing is known of the pace then"


def test_a_stream_that_jumps_is_believed_when_it_has_lasted() -> None:
    times = NOW + np.arange(1000) * SECOND
    times[500:] += 7 * 86_400 * SECOND
    told, target = keep(times)
    assert (told[500 : 500 + int(clock.LASTS) - 1] == 0).all()
    np.testing.assert_array_equal(told[500 + int(clock.LASTS) - 1 :], times[500 + int(clock.LASTS) - 1 :])
    assert target[T_CLOCK] == times[-1]
