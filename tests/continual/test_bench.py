"""Every benchmark at a tiny size: it checks its results, prints its table, writes its files. No figure is judged."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from continual.bench import _helpers as helpers
from continual.bench import bench
from continual.bench.accuracy import interval
from continual.bench.cost import _bytes_moved
from streams.batch import Batch

needs_vw = pytest.mark.skipif(importlib.util.find_spec("vowpalwabbit") is None, reason="vowpalwabbit is missing")


def run(name: str, out: Path, *options: str) -> dict:
    """Runs a benchmark on the stream that ships with River, and reads what it left."""
    done = CliRunner().invoke(bench, [name, "--stream", "shuttle", "--out", str(out), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads((out / f"{name}.json").read_text())
    assert document["title"] in (out / f"{name}.md").read_text()
    for row in document["rows"]:
        assert list(row) == list(document["rows"][0])
    return document


def ratios(document: dict) -> dict[str, dict]:
    """The rows with a target, by figure; a verdict stands beside every one, and follows from the figures."""
    rows = {row["figure"] + " / " + row["against"]: row for row in document["rows"] if row["target"]}
    for row in rows.values():
        sign, bound = row["target"].split()
        value = row["ratio"] if row["against"] else row["ours"]
        assert row["met"] == ("yes" if (value <= float(bound) if sign == "<=" else value >= float(bound)) else "NO")
        if row["against"]:
            assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"])
    return rows


@needs_vw
def test_cost(tmp_path: Path) -> None:
    document = run("cost", tmp_path, "--events", "3000", "--rounds", "1")
    assert len(ratios(document)) == 6
    assert set(document["details"]["min_us"]) == set(document["details"]["median_us"])


@needs_vw
def test_files(tmp_path: Path) -> None:
    document = run("files", tmp_path, "--events", "3000", "--rounds", "1")
    assert len(ratios(document)) == 1
    assert {"64 units x1", "64 units x10", "VW x1", "VW x10"} <= set(document["details"]["median_s"])


@needs_vw
def test_accuracy(tmp_path: Path) -> None:
    document = run("accuracy", tmp_path, "--events", "1500", "--seeds", "2")
    runs = document["details"]["runs"]
    assert len(runs["default, 64 units"]) == 2
    assert runs["default, 64 units"][0]["log_loss"] != runs["default, 64 units"][1]["log_loss"]
    assert all(run["events"] == 1500 for values in runs.values() for run in values)


def test_start(tmp_path: Path) -> None:
    document = run("start", tmp_path, "--events", "2000", "--rounds", "1")
    assert len(ratios(document)) == 5
    assert all(0 < one["shard"] < one["all"] for one in document["details"]["held_mb"])
    assert document["details"]["second_s"][0] > 0


def test_recovery(tmp_path: Path) -> None:
    document = run("recovery", tmp_path, "--events", "2000", "--replayed", "3000", "--rounds", "2")
    assert len(ratios(document)) == 1
    for kill in document["details"]["kills"]:
        assert kill["healthy"] > kill["load"] + kill["replay"] > 0


def test_serving(tmp_path: Path) -> None:
    sizes = ("--events", "2000", "--rounds", "1", "--calls", "50", "--learned", "4000", "--rows", "500")
    document = run("serving", tmp_path, *sizes, "--trees", "5", "--idle", "0.2", "--warm")
    assert len(ratios(document)) == 14
    unary = document["details"]["unary_ms"]
    assert {"predict echo", "predict", "update echo", "append", "update", "client update"} <= set(unary)
    assert document["details"]["snapshot"]["rows"] >= 500


def test_wrong_results_are_not_compared() -> None:
    with pytest.raises(helpers.WrongResult, match="as many events"):
        helpers.check(False, "as many events")


def test_rows_hold_figures_to_their_targets() -> None:
    assert helpers.ratio_row("a", 1.0, "b", 4.0, 0.25)["met"] == "yes"
    assert helpers.ratio_row("a", 1.1, "b", 4.0, 0.25)["met"] == "NO"
    assert helpers.ratio_row("a", 3.0, "b", 4.0, 0.8, at_least=True)["met"] == "NO"
    assert helpers.ratio_row("a", 1.0, "b", 4.0, math.nan)["met"] == ""
    assert helpers.value_row("a", 11.0, 10.0)["met"] == "NO"


def test_a_file_holds_the_same_events(tmp_path: Path) -> None:
    from continual import data

    stream = helpers.load("shuttle", 500)
    copied = data.load(helpers.write_csv(stream, tmp_path / "two.csv", 2), stream.mapping)
    both = Batch.concat([stream.batch, stream.batch])
    np.testing.assert_array_equal(copied.x, both.x)
    np.testing.assert_array_equal(copied.y, both.y)


def test_work_is_done_in_turn() -> None:
    done: list[str] = []

    def one(name: str) -> float:
        done.append(name)
        return float(len(done))

    assert helpers.alternate(2, {"a": lambda: one("a"), "b": lambda: one("b")}) == {"a": [1.0, 3.0], "b": [2.0, 4.0]}


def test_interval_is_that_of_student() -> None:
    # Of 1, 2, 3: t(0.975; 2) = 4.302653, deviation 1, three values.
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert math.isnan(interval([1.0]))


def test_bytes_moved_are_those_of_the_arrays() -> None:
    stream = helpers.load("shuttle", 10)
    model = helpers.spec(stream, 16)
    learner = model.learner.build(model)
    learner.fold(stream.batch)
    float32 = [array for array in learner.shared_arrays().values() if array.dtype == np.float32]
    arrays = [*float32, learner.rows.columns["body"][0]]
    assert _bytes_moved(stream, 16) == 2 * sum(array.nbytes for array in arrays)
