"""The compiled tally against the metrics that are tested against River, whatever the cuts."""

from __future__ import annotations

import numpy as np
import pytest

from learners.base import Folded
from service.shard.statistics import Statistics
from streams.metrics import Classification


def random_fold(rng: np.random.Generator, rows: int, classes: int) -> Folded:
    """Predictions and labels of one key, a tenth of the rows without a label."""
    label = rng.integers(0, classes, rows).astype(float)
    code = np.where(rng.random(rows) < 0.5, label, rng.integers(0, classes, rows))
    before = np.concatenate([[np.nan], label[:-1]])
    scored = np.column_stack([rng.uniform(0, 1, rows), code, before, label])
    scored[rng.random(rows) < 0.1] = np.nan
    return Folded(scored[:, 0], code.astype(np.int32), np.ones(rows, np.uint8), scored)


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 9)])
def test_majority_and_accuracy_are_those_of_the_columnar_metrics(kind: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    whole, cut, oracle = Statistics(kind), Statistics(kind), Classification()
    for rows in (1, 3, 500, 40):
        fold = random_fold(rng, rows, classes)
        whole.update(fold)
        for i in range(rows):
            columns = (fold.value, fold.code, fold.outcome, fold.scored)
            cut.update(Folded(*(column[i : i + 1] for column in columns)))
        met = fold.scored[~np.isnan(fold.scored[:, 1])]
        oracle.update(met[:, 1].astype(np.int64), met[:, 3], met[:, 0], classes=tuple(range(classes)))
    assert whole.to_dict() | {"seen": None} == cut.to_dict() | {"seen": None}
    values = oracle.values()
    assert whole.metrics()["majority"] == pytest.approx(values["majority"], abs=1e-15)
    assert whole.metrics()["accuracy"] == pytest.approx(values["accuracy"], abs=1e-15)
    assert Statistics.from_dict(kind, whole.to_dict()).metrics() == whole.metrics()
