"""The traces part of `continual bench recurrent`: where nothing changes, the two gradients are one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from continual.bench.recurrent import traces
from continual.bench.recurrent.streams import Stream
from streams.batch import Batch


@pytest.fixture(scope="module")
def coins() -> Stream:
    """60 labelled events of one key, two columns, one value missing."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (60, 2)).astype(np.float32) * 3 + 1
    x[5, 0] = np.nan
    return Stream("coins", "binary", ("a", "b"), (Batch.of(x, rng.integers(0, 2, 60) > 0),), "two columns")


def learner(kind: str, rate: float, recurrent_rate: float = 1.0) -> dict:
    cell = {"kind": kind, "units": 8}
    optimizer = {"kind": "adam", "rate": rate}
    return {"kind": "recurrent", "cell": cell, "optimizer": optimizer, "recurrent_rate": recurrent_rate}


@pytest.mark.parametrize("kind", ["mingru", "lru"])
def test_weights_that_stay_give_the_gradient_that_is_exact(kind: str, coins: Stream) -> None:
    cosine, size = traces.compare(coins, learner(kind, 1e-2, recurrent_rate=0.0), 0, [60])[0]
    assert (cosine, size) == (pytest.approx(1, abs=1e-9), pytest.approx(1, abs=1e-9))


def test_weights_that_change_more_give_more_of_a_difference(coins: Stream) -> None:
    slow, fast = (traces.compare(coins, learner("mingru", rate), 0, [60])[0, 0] for rate in (1e-3, 1e-1))
    assert fast < slow < 1
    assert fast < 0.999


def test_an_event_without_a_gradient_is_left_out(coins: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = traces.compare(coins, learner("mingru", 1e-2), 0, [60])
    gradient, calls = traces.Compared._gradient, iter(range(1000))

    def certain(*args: object) -> np.ndarray:
        return gradient(*args) * (next(calls) >= 2)  # type: ignore[arg-type]

    monkeypatch.setattr(traces.Compared, "_gradient", certain)
    but_one = traces.compare(coins, learner("mingru", 1e-2), 0, [60])
    assert np.isfinite(but_one).all()
    assert (but_one != whole).all()


def test_the_table_names_each_cell_and_position(coins: Stream, tmp_path: Path) -> None:
    traces.measure(("mingru", "lru"), coins, seeds=2, out=tmp_path)
    document = json.loads((tmp_path / "recurrent-traces.json").read_text())
    assert [(row["cell"], *list(row)[1:]) for row in document["rows"]] == [
        ("mingru", "60", "size"),
        ("lru", "60", "size"),
    ]
    assert np.shape(document["details"]["cosine and size"]["lru"]) == (2, 1, 2)
