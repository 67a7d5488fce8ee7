"""What the table of the exchange is made of, on few events."""

from __future__ import annotations

import numpy as np
import pytest

from continual.bench._shards_exchange import APART, LEARNERS, Partitions, drifting, pieces, scores
from streams.batch import Batch


def folded(learner: str, into: int, exchange=APART, events: int = 2000) -> dict[str, float]:
    stream = drifting(events, keys=50)
    partitions = Partitions(stream.spec(learner, 0, exchange), pieces(into))
    partitions.fold(stream.batch)
    return partitions.metrics()


def test_one_partition_is_the_learner_itself() -> None:
    stream = drifting(1000, keys=50)
    spec = stream.spec("ridge", 0)
    folded_whole = spec.learner.build(spec).fold(stream.batch)
    right = (folded_whole.value >= 0.5) == (stream.batch.y == 1)
    assert folded("ridge", 1, events=1000)["accuracy"] == pytest.approx(right.mean())


def test_ridge_that_exchanges_often_is_nearer_to_one_partition_than_apart() -> None:
    """It knows what the others knew some events ago; its calibration, which is averaged, learns as slowly as apart."""
    one, apart = folded("ridge", 1), folded("ridge", 4)
    often = folded("ridge", 4, (8, "mean"))
    assert abs(often["log_loss"] - one["log_loss"]) < 0.5 * abs(apart["log_loss"] - one["log_loss"])


def test_every_way_has_its_column() -> None:
    found = scores(drifting(300, keys=20), "ridge", seeds=2)
    assert list(found)[:3] == ["one", "2 apart", "2, mean every 1,000"]
    assert "4, sum every 100" in found
    assert {len(values) for values in found.values()} == {1}  # ridge draws no random numbers
    assert set(LEARNERS) >= {"recurrent", "ridge"}
    assert isinstance(drifting(10).batch, Batch)
    assert np.isfinite([values[0] for values in found.values()]).all()
