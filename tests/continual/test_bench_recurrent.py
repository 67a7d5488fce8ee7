"""`continual bench recurrent`: equal conditions for peers, baselines and metrics by hand, every part at a tiny size."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from continual import data
from continual.bench import bench
from continual.bench.accuracy import interval
from continual.bench.recurrent import drift, peers, plasticity, streams
from continual.peers import NoChange, Peer, River
from learners.methods.recurrent import RecurrentSpec
from streams.batch import Batch
from streams.metrics import Classification


class Zero:
    """A model that always predicts 0, and keeps what it was taught."""

    def __init__(self) -> None:
        self.seen: list[tuple[dict, float]] = []
        self.asked: list[dict] = []

    def predict_one(self, x: dict) -> float:
        self.asked.append(x)
        return 0.0

    def learn_one(self, x: dict, y: float) -> None:
        self.seen.append((x, y))


def numbers(n: int = 400, seed: int = 0) -> Batch:
    """A random walk with two inputs."""
    rng = np.random.default_rng(seed)
    return Batch.of(rng.normal(size=(n, 2)), 100 + np.cumsum(rng.normal(size=n)))


def walk(n: int = 400) -> streams.Stream:
    return streams.Stream("walk", "regression", ("a", "b"), (numbers(n),), "two")


def coins(n: int = 400) -> streams.Stream:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(n, 3))
    return streams.Stream("coins", "binary", ("a", "b", "c"), (Batch.of(x, x[:, 0] > 0),), "three")


def held(name: str, events: int | None = None) -> streams.Stream:
    try:
        return streams.STREAMS[name]().first(events)
    except data.NoData as reason:
        pytest.skip(str(reason))


def no_change(batch: Batch) -> np.ndarray:
    return NoChange("no change", "regression").run(batch).predicted


# Equal conditions


@pytest.mark.parametrize("wrap", [peers.OnChanges, peers.OnOurInputs])
def test_a_peer_that_predicts_zero_is_the_no_change_forecast(wrap: type) -> None:
    batch = numbers()
    result = wrap(River("zero", "regression", Zero)).run(batch)
    np.testing.assert_array_equal(result.predicted, np.append(0.0, batch.y[:-1]))
    assert drift.number_figures(result.predicted, batch)["ratio"] == 1.0


def test_a_peer_gets_the_columns_the_last_label_and_the_last_change() -> None:
    batch, model = numbers(50), Zero()
    peers.OnChanges(River("zero", "regression", lambda: model)).run(batch)
    asked = np.array([[x[column] for column in range(4)] for x in model.asked])
    np.testing.assert_array_equal(asked[:, :2], batch.x.astype(float))
    np.testing.assert_allclose(asked[1:, 2], batch.y[:-1], rtol=1e-6)
    assert len(model.seen) == len(batch) - 1, "the first event has no change to learn"
    change = np.diff(batch.y)
    deviation = np.sqrt(np.cumsum(change**2) / np.arange(1, len(change) + 1))
    np.testing.assert_allclose(asked[2:, 3], np.clip(change[:-1] / deviation[:-1], -5, 5), rtol=1e-5)
    np.testing.assert_allclose([y for _, y in model.seen], change / deviation, rtol=1e-12)


def test_changes_by_hand() -> None:
    told = peers.changes(Batch.of(np.zeros((4, 1)), [10.0, 13.0, 9.0, 9.0]), window=2)
    assert told.base.tolist() == [0, 10, 13, 9]
    # Mean squared changes: 9, then (9 + 16) / 2, then half way to 0.
    np.testing.assert_allclose(told.scale, [0, 0, 3, math.sqrt(12.5)])
    np.testing.assert_allclose(told.batch.y[1:], [1, -4 / math.sqrt(12.5), 0])
    assert math.isnan(told.batch.y[0])
    np.testing.assert_allclose(told.batch.x[:, 2], [0, 0, 1, -4 / math.sqrt(12.5)], rtol=1e-6)
    np.testing.assert_allclose(told.label(np.full(4, 2.0)), [0, 10, 19, 9 + 2 * math.sqrt(12.5)])


def test_changes_of_a_constant_are_zero_and_of_several_keys_refused() -> None:
    told = peers.changes(Batch.of(np.zeros((3, 1)), [7.0, 7.0, 7.0]))
    assert told.batch.y[1:].tolist() == [0, 0]
    assert told.label(np.full(3, 1e9))[1:].tolist() == [7, 7]
    with pytest.raises(ValueError, match="one key and a label"):
        peers.changes(Batch.of(np.zeros((2, 1)), [1.0, 2.0], key=[b"a", b"b"]))
    with pytest.raises(ValueError, match="one key and a label"):
        peers.changes(Batch.of(np.zeros((2, 1)), [1.0, np.nan]))


def test_no_forecast_of_the_transform_knows_its_own_label() -> None:
    batch = numbers(60)
    other = replace(batch, y=np.append(batch.y[:30], batch.y[30:] + 50))
    one, two = peers.changes(batch), peers.changes(other)
    np.testing.assert_array_equal(one.batch.x[:31], two.batch.x[:31])
    np.testing.assert_array_equal(one.label(np.ones(60))[:31], two.label(np.ones(60))[:31])
    np.testing.assert_array_equal(peers.inputs(batch, "regression")[:31], peers.inputs(other, "regression")[:31])
    assert one.batch.y[30] != two.batch.y[30]


def test_transform_is_that_of_the_default_spec() -> None:
    spec = RecurrentSpec()
    assert (spec.window, spec.clip, spec.residual_clip) == (peers.WINDOW, peers.CLIP, peers.CLIP)


@pytest.mark.parametrize("make", [walk, coins])
def test_standardisation_is_that_of_our_learner(make) -> None:
    stream = make(300)
    batch = stream.batches[0]
    spec = drift.model(stream, {"kind": "recurrent", "window": 50})
    learner = spec.learner.build(spec)
    learner.fold(batch)
    count, mean, variance, *_ = learner.shared_arrays()["scaler"][0]
    seen = batch.x[:, :1].astype(np.float64)
    z = peers.standardised(seen, window=50, clip=1e9)
    # The last event's standardised value and the learner's moments, which include that event, are the same numbers.
    assert count == 300
    assert z[-1, 0] == pytest.approx((seen[-1, 0] - mean) / math.sqrt(variance), rel=1e-9)
    np.testing.assert_allclose(peers.standardised(np.full((5, 1), 3.0)), np.zeros((5, 1)))


def test_binary_inputs_end_with_the_last_label() -> None:
    stream = coins(50)
    given = peers.inputs(stream.batches[0], "binary")
    assert given[0, -1] == 0
    np.testing.assert_array_equal(given[1:, -1], 2 * stream.batches[0].y[:-1] - 1)


def test_river_models_all_run_under_the_same_names() -> None:
    for stream in (walk(150), coins(150)):
        listed = peers.rivers(stream)
        assert all(peer.name.startswith("River") for peer in listed)
        assert len({peer.name for peer in listed}) == len(listed)
        for peer in listed:
            figures = drift.run_peer(stream, peer)
            assert math.isfinite(figures[drift.headline(stream.target)])
            assert figures["us"] > 0


# Baselines and metrics by hand


def season(y: list[float], time: list[int], span: int) -> list[float]:
    batch = Batch.of(np.zeros((len(y), 1)), y, time=np.array(time))
    return peers.SeasonalNoChange("s", "regression", span).run(batch).predicted.tolist()


def test_seasonal_no_change_by_hand() -> None:
    # The last label until three units have passed, then the label of three units ago.
    assert season([1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5], 3) == [0, 1, 2, 1, 2, 3]
    # Time 2 is missing: at 5 the last event that is three units old is that of 1; two events at one time: the later.
    assert season([1, 2, 3, 4, 5, 6], [0, 1, 3, 4, 5, 5], 3) == [0, 1, 1, 2, 2, 2]


def test_a_season_needs_order_and_length() -> None:
    with pytest.raises(ValueError, match="order of time"):
        season([1, 2], [1, 0], 3)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        season([1, 2], [0, 1], 0)


def test_errors_by_hand() -> None:
    batch = Batch.of(np.zeros((4, 1)), [100.0, 102.0, 101.0, 105.0])
    figures = drift.number_figures(np.array([0.0, 101.0, 101.5, 103.0]), batch)
    assert figures["mae"] == pytest.approx((1 + 0.5 + 2) / 3), "the first event has no forecast by no-change"
    assert figures["ratio"] == pytest.approx(3.5 / 7)


def test_kappa_temporal_by_hand() -> None:
    # Labels 0 1 1 0 0 1: no-change is right at the 3rd and the 5th (the first counts as an error), 2 of 6.
    metrics = Classification()
    metrics.update_binary(np.array([0.4, 0.9, 0.8, 0.7, 0.2, 0.1]), np.array([0.0, 1, 1, 0, 0, 1]))
    figures = drift.class_figures(metrics.values())
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["kappa_temporal"] == pytest.approx((4 / 6 - 2 / 6) / (1 - 2 / 6))
    assert figures["log_loss"] == pytest.approx(-np.log([0.6, 0.9, 0.8, 0.3, 0.8, 0.1]).mean())


def test_interval_is_scipys() -> None:
    values = [0.91, 0.93, 0.90, 0.92, 0.925]
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert interval(values) == pytest.approx((high - low) / 2)


def test_verdicts_by_hand() -> None:
    one = {"us": 1.0}
    number, binary = replace(walk(3), tolerance=0.01), coins(3)
    runs = {
        "a": [{"ratio": 1.0, **one}, {"ratio": 1.02, **one}],
        "b": [{"ratio": 1.02, **one}],
        "no change": [{"ratio": 1.0, **one}],
        "River linear": [{"ratio": 1.015, **one}],
    }
    assert drift.at_or_above_no_change(number, runs, "a")
    assert not drift.at_or_above_no_change(replace(number, tolerance=0.0), runs, "a")
    assert not drift.at_or_above_no_change(number, runs, "b")
    assert drift.above_every_river(number, runs, "a")
    assert not drift.above_every_river(number, runs, "b")
    tied = {name: [{"accuracy": 0.8}] for name in ("a", "no change", "River linear")}
    assert drift.at_or_above_no_change(binary, tied, "a")
    assert not drift.above_every_river(binary, tied, "a"), "a tie is not above"
    assert plasticity.verdict(0.0, math.nan) == "yes"
    assert plasticity.verdict(-0.1, 0.2) == "within +-"
    assert plasticity.verdict(-0.3, 0.2) == "NO"
    assert plasticity.verdict(-0.3, math.nan) == "NO"


# Streams


FACTS = [("elec2", 45_312, 8, 1), ("weather", 18_159, 8, 1), ("sea", 40_000, 3, 1)]
FACTS += [("bike", 17_379, 36, 1), ("etth1", 17_419, 7, 1), ("exchange", 7587, 8, 8)]


@pytest.mark.parametrize(("name", "events", "features", "models"), FACTS)
def test_streams_are_whole_and_in_order(name: str, events: int, features: int, models: int) -> None:
    stream = held(name)
    assert (stream.events, len(stream.features), len(stream.batches)) == (events, features, models)
    for batch in stream.batches:
        assert batch.x.shape == (events, features)
        assert np.isfinite(batch.x).all()
        assert np.isfinite(batch.y).all()
        assert (np.diff(batch.time) >= 0).all()
        assert (not stream.season) or (np.diff(batch.time) > 0).all()
    assert stream.first(100).events == 100


def test_labels_lie_one_step_ahead_of_what_is_given() -> None:
    hour = held("etth1")
    oil = hour.features.index("OT")
    np.testing.assert_allclose(hour.batches[0].x[1:, oil], hour.batches[0].y[:-1], rtol=1e-6)
    rates = held("exchange")
    for series, batch in enumerate(rates.batches):
        np.testing.assert_array_equal(batch.x[1:, series], batch.y[:-1].astype(np.float32))


def test_bike_knows_the_hour_twice_and_not_the_parts_of_the_count() -> None:
    stream = held("bike", 500)
    assert not {"casual", "registered", "cnt"} & set(stream.features)
    x = stream.batches[0].x
    assert (x[:, -24:].sum(axis=1) == 1).all()
    np.testing.assert_array_equal(x[:, -24:].argmax(axis=1), x[:, stream.features.index("hr")])


def test_recurring_concepts() -> None:
    stream, concept = streams.recurring(800, seed=3, block=20)
    longer, _ = streams.recurring(1600, seed=3, block=20)
    np.testing.assert_array_equal(longer.batches[0].x[:800], stream.batches[0].x)
    np.testing.assert_array_equal(longer.batches[0].y[:800], stream.batches[0].y)
    assert concept[:100].tolist() == [*[0] * 20, *[1] * 20, *[2] * 20, *[3] * 20, *[0] * 20]
    other, _ = streams.recurring(800, seed=4, block=20)
    assert (other.batches[0].y != stream.batches[0].y).mean() > 0.3


def test_recurring_labels_follow_from_this_event_and_the_three_before() -> None:
    stream, _ = streams.recurring(20_000, seed=0, block=20_000)
    x, y = stream.batches[0].x.astype(float), stream.batches[0].y
    past = sum(np.roll(x, lag, axis=0) for lag in (1, 2, 3))

    def fitted(columns: np.ndarray) -> float:
        weights = np.linalg.lstsq(columns, 2 * y - 1, rcond=None)[0]
        return float(((columns @ weights > 0) == (y == 1)).mean())

    assert fitted(np.column_stack([x, past])) == pytest.approx(1 - streams.NOISE, abs=0.015)
    assert fitted(x) < 0.9


def test_accuracy_by_tenth_and_concept() -> None:
    concept = np.tile(np.repeat(np.arange(4), 5), 10)
    right = np.ones(200, bool)
    right[:5] = False
    right[195:198] = False
    found = plasticity.by_tenth(right, concept)
    expected = np.ones((10, 4))
    expected[0, 0], expected[9, 3] = 0, 0.4
    np.testing.assert_allclose(found, expected)
    rows = plasticity.rows("a", np.stack([found, found]))
    assert [row["change"] for row in rows] == ["+100.00", "+0.00", "+0.00", "-60.00", "+10.00"]
    assert [row["as good"] for row in rows] == ["yes", "yes", "yes", "NO", "yes"]


# The command


def run(out: Path, *options: str) -> str:
    done = CliRunner().invoke(bench, ["recurrent", "--out", str(out), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_drift_at_a_tiny_size(tmp_path: Path) -> None:
    for name in ("elec2", "exchange"):
        held(name)
    few = ("--events", "300", "--seeds", "2", "--no-forest", "--cells", "mingru", "--json")
    run(tmp_path, "--stream", "elec2", "--stream", "exchange", *few)
    document = json.loads((tmp_path / "recurrent-drift.json").read_text())
    details = document["details"]
    elec2 = details["runs"]["elec2"]
    assert len(elec2["mingru"]) == 2
    assert elec2["mingru"][0]["accuracy"] != elec2["mingru"][1]["accuracy"]
    assert {"no change", "a day ago", "River linear", "River Hoeffding tree", "mingru, rate x 3"} <= set(elec2)
    assert set(details["runs"]["exchange"]["no change"][0]) == {"mae", "ratio", "us"}
    assert details["runs"]["exchange"]["no change"][0]["ratio"] == 1.0
    rates = [details["specs"][name]["optimizer"]["rate"] for name in ("mingru", "mingru, rate x 3")]
    assert rates[1] == pytest.approx(3 * rates[0])
    assert (tmp_path / "recurrent-drift.png").read_bytes().startswith(b"\x89PNG")


def test_plasticity_at_a_tiny_size(tmp_path: Path) -> None:
    output = run(tmp_path, "--part", "plasticity", "--events", "4100", "--seeds", "2", "--cells", "mingru")
    assert "4,000 events" in output
    document = json.loads((tmp_path / "recurrent-plasticity.json").read_text())
    assert np.shape(document["details"]["accuracy"]["mingru"]) == (2, 10, 4)
    assert (tmp_path / "recurrent-plasticity.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_run_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        done = CliRunner().invoke(bench, ["recurrent", *options])
        assert done.exit_code != 0
        return done.output

    assert "unknown ['nonesuch']; accepted: mingru" in refused("--cells", "nonesuch")
    assert "at least 200" in refused("--part", "plasticity", "--events", "199")
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path))
    assert "not in the data folder" in refused("--stream", "elec2")


def test_cells_are_those_of_the_spec() -> None:
    kinds = drift.cells()
    assert kinds[0] == RecurrentSpec().cell.kind
    for kind in kinds:
        assert drift.model(coins(3), {"kind": "recurrent", "cell": {"kind": kind}}).learner.cell.kind == kind


def test_the_frozen_arm_keeps_its_recurrence_and_learns_the_rest() -> None:
    cell, frozen = drift.arms(["mingru"], steps=False)
    assert (cell.role, frozen.role) == ("cell", "frozen")
    stream = coins(200)
    spec = drift.model(stream, frozen.learner)
    learner = spec.learner.build(spec)
    before = learner.shared_arrays()
    before = {name: np.array(array) for name, array in before.items()}
    learner.fold(stream.batches[0])
    after = learner.shared_arrays()
    np.testing.assert_array_equal(before["cell"], after["cell"])
    assert (before["skip"] != after["skip"]).any()
    assert (before["out"] != after["out"]).any()


def test_a_peer_that_is_missing_is_an_error() -> None:
    peer: Peer = NoChange("no change", "regression")
    peer.requires = "no_such_module"
    with pytest.raises(Exception, match="not installed"):
        drift.run_peer(walk(5), peer)
