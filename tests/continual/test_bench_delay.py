"""The benches of late labels and of drift: what they compare with, what they count, and that they run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from continual import data
from continual.bench import bench
from continual.bench.delay import ARMS, Wait, baselines, score
from continual.bench.detection import DETECTORS, generated, verdicts
from streams import delays


@pytest.mark.parametrize("seed", range(5))
def test_the_baselines_know_only_what_has_arrived(seed) -> None:
    rng = np.random.default_rng(seed)
    n = 200
    y, wait = rng.integers(0, 2, n).astype(float), Wait("some", rng.integers(0, 30, n))
    last, most = [], []
    for event in range(n):
        there = [(j + int(wait.events[j]), j) for j in range(event) if j + wait.events[j] < event]
        last.append(y[max(there)[1]] if there else 0.0)
        most.append(float(2 * sum(y[j] for _, j in there) > len(there)))
    found = baselines(y, wait)
    assert found["no change"]["accuracy"] == np.mean(np.array(last) == y)
    assert found["majority"]["accuracy"] == np.mean(np.array(most) == y)


def test_scores_are_against_the_last_label_that_has_arrived() -> None:
    y = np.array([0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    wait = Wait("1", delays.fixed(6, 1))
    figures = score(np.array([0.1, 0.8, 0.6, 0.4, 0.7, 0.2]), y, wait)
    unchanged = np.mean(y == [0, 0, 0, 1, 1, 0])  # the labels two events before, 0 at first
    assert figures["accuracy"] == 5 / 6
    assert figures["kappa_temporal"] == pytest.approx((5 / 6 - unchanged) / (1 - unchanged))
    assert figures["log_loss"] == pytest.approx(-np.mean(np.log([0.9, 0.8, 0.6, 0.6, 0.3, 0.8])))


def test_signals_are_judged_by_the_changes() -> None:
    stream = generated("abrupt", 0)
    assert stream.changes == (10_000, 20_000, 30_000)
    positions = np.array([5, 10_001, 10_060, 16_000, 20_075])
    found = verdicts(stream, positions)
    assert (found["noticed"], found["delay"], found["false"]) == (2 / 3, 37.0, 5.0)


def test_generated_streams_change_where_they_say() -> None:
    """With an abrupt change the labels turn round; with moving inputs they keep their meaning."""
    abrupt, gradual, moved = (generated("s", 1, **how) for how in ({}, {"gradual": True}, {"inputs": True}))

    def agreement(stream, one: slice, other: slice) -> float:
        """Of least-squares planes of two stretches."""
        planes = [np.linalg.lstsq(stream.batch.x[part], 2 * stream.batch.y[part] - 1)[0] for part in (one, other)]
        return float(np.corrcoef(*planes)[0, 1])

    before, after = slice(5000, 10_000), slice(10_000, 15_000)
    assert agreement(abrupt, before, after) < -0.9
    assert agreement(gradual, before, slice(11_000, 15_000)) < -0.9
    assert abs(np.mean(moved.batch.x[after, 0]) - np.mean(moved.batch.x[before, 0])) > 1.0


def run(*arguments: str) -> dict:
    done = CliRunner().invoke(bench, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_delay_runs() -> None:
    done = run("delay", "--stream", "shuttle", "--events", "400", "--seeds", "1", "--late", "3")
    learned = [row["learned with"] for row in done["rows"] if row["labels late by"] == "3"]
    assert learned == ["no change", "majority", *ARMS]
    assert all(0 < float(row["accuracy, %"]) <= 100 for row in done["rows"])


@pytest.mark.skipif(data.folder() is None, reason="SEA is read from the data folder")
def test_detection_runs() -> None:
    done = run("detection", "--part", "detectors", "--events", "200", "--seeds", "1")
    assert {row["detector"] for row in done["rows"]} == set(DETECTORS)
    assert {row["stream"] for row in done["rows"]} == {"SEA file, no change", "SEA", "abrupt", "gradual", "inputs move"}
