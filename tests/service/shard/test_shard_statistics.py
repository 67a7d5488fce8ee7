"""The compiled tally against the metrics of whole columns and against plain definitions, whatever the cuts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from kernels.cpu import tally
from learners.base import Folded
from service.api import continual_v1_pb2 as pb
from service.shard.statistics import Statistics
from streams import metrics
from streams.metrics import Classification, Regression

KINDS = [("binary", 2), ("multiclass", 9), ("regression", 0)]


def random_fold(rng: np.random.Generator, rows: int, classes: int) -> Folded:
    """Predictions and labels of one key; a tenth of the rows without a label, a tenth without a confidence."""
    label = rng.integers(0, classes, rows).astype(float) if classes else rng.normal(size=rows)
    code = np.where(rng.random(rows) < 0.5, label, rng.integers(0, classes, rows) if classes else -1.0)
    before = np.concatenate([[np.nan], label[:-1]])
    sure = np.where(rng.random(rows) < 0.5, rng.random(rows), rng.integers(0, 16, rows) / 15)
    sure[rng.random(rows) < 0.1] = np.nan
    scored = np.column_stack([rng.uniform(0, 1, rows), code if classes else -np.ones(rows), before, label, sure])
    scored[rng.random(rows) < 0.1] = np.nan
    return Folded(scored[:, 0], code.astype(np.int32), np.ones(rows, np.uint8), scored)


def random_folds(kind: str, classes: int) -> tuple[Statistics, Statistics, np.ndarray]:
    """Random folds taken in whole, and one event at a time with a snapshot now and then; and what was scored."""
    rng = np.random.default_rng(classes)
    whole, cut, scored = Statistics(kind), Statistics(kind), []
    for rows in (1, 3, 500, 40):
        fold = random_fold(rng, rows, classes)
        whole.update(fold)
        for i in range(rows):
            columns = (fold.value, fold.code, fold.outcome, fold.scored)
            cut.update(Folded(*(column[i : i + 1] for column in columns)))
        cut = Statistics.from_dict(kind, json.loads(json.dumps(cut.to_dict())))
        scored.append(fold.scored[~np.isnan(fold.scored[:, 1])])
    return whole, cut, np.concatenate(scored)


@pytest.mark.parametrize(("kind", "classes"), KINDS)
def test_cuts_and_snapshots_change_no_bit(kind: str, classes: int) -> None:
    whole, cut, _ = random_folds(kind, classes)
    assert whole.to_dict() | {"seen": None} == cut.to_dict() | {"seen": None}
    assert whole.metrics() == cut.metrics() == Statistics.from_dict(kind, whole.to_dict()).metrics()


@pytest.mark.parametrize(("kind", "classes"), KINDS[:2])
def test_classes_are_scored_as_by_the_columnar_metrics(kind: str, classes: int) -> None:
    whole, _, met = random_folds(kind, classes)
    oracle = Classification()
    columns = (met[:, 1].astype(np.int64), met[:, 3], met[:, 0])
    oracle.update(*columns, classes=tuple(range(classes)), confidence=met[:, 4])
    values = oracle.values()
    for name in ("majority", "accuracy", "calibration_error"):
        assert whole.metrics()[name] == pytest.approx(values[name], abs=1e-15)
    assert (whole.bins.T.tolist(), whole.confidence.tolist()) == ([oracle.sure, oracle.sure_hits], oracle.confidence)


def test_intervals_are_scored_as_by_the_columnar_metrics() -> None:
    whole, _, met = random_folds("regression", 0)
    oracle = Regression()
    oracle.update(met[:, 0], met[:, 3], interval=met[:, 4])
    for name in ("mae", "interval_coverage", "interval_width"):
        assert whole.metrics()[name] == oracle.values()[name]
    assert 0 < whole.metrics()["interval_coverage"] < 1


def test_the_calibration_error_is_that_of_its_definition() -> None:
    whole, _, met = random_folds("multiclass", 9)
    sure, right = met[:, 4], met[:, 1] == met[:, 3]
    error, known = 0.0, ~np.isnan(sure)
    for b in range(15):
        here = (np.ceil(sure * 15) == b + 1) | ((sure == 0) & (b == 0))
        if here.any():
            error += here.sum() / known.sum() * abs(right[here].mean() - sure[here].mean())
    assert (tally.BINS, metrics.BINS) == (15, 15)
    assert whole.metrics()["calibration_error"] == pytest.approx(error, rel=1e-12)


def test_the_coverage_is_that_of_its_definition() -> None:
    whole, _, met = random_folds("regression", 0)
    given = met[~np.isnan(met[:, 4])]
    low, high = given[:, 0] - given[:, 4], given[:, 0] + given[:, 4]
    inside = (low <= given[:, 3]) & (given[:, 3] <= high)
    assert whole.metrics()["interval_coverage"] == inside.mean()
    assert whole.metrics()["interval_width"] == pytest.approx((high - low).mean(), rel=1e-12)


@pytest.mark.parametrize(("kind", "code"), [("multiclass", 0.0), ("regression", -1.0)])
def test_what_nobody_told_is_left_out(kind: str, code: float) -> None:
    row = np.array([[0.5, code, 0.0, 0.0, math.nan]])
    held = Statistics(kind)
    held.update(Folded(row[:, 0], row[:, 1].astype(np.int32), np.ones(1, np.uint8), row))
    assert not {"calibration_error", "interval_coverage", "interval_width"} & set(held.metrics())
    assert held.counts()["labels"] == 1


def test_a_confidence_in_no_class_and_one_out_of_range_are_passed_over() -> None:
    row = np.array([[0.5, -1.0, 0.0, 0.0, 0.5], [0.5, 0.0, 0.0, 0.0, 1.5], [0.5, 0.0, 0.0, 0.0, -0.5]])
    held = Statistics("multiclass")
    held.update(Folded(row[:, 0], row[:, 1].astype(np.int32), np.ones(3, np.uint8), row))
    assert (held.counts()["labels"], held.bins.sum()) == (3, 0)


def test_every_outcome_is_counted_under_a_name_of_its_own() -> None:
    names = set()
    for flag in pb.Outcome.values():
        held = Statistics("binary")
        held.update(Folded(np.zeros(1), np.zeros(1, np.int32), np.full(1, flag, np.uint8), np.full((1, 5), math.nan)))
        named = {name for name, count in held.counts().items() if count} - {"events"}
        assert len(named) == (flag > 0)
        names |= named
    assert len(names) == len(pb.Outcome.values()) - 1


def test_a_snapshot_from_before_calibration_begins_it_at_nothing() -> None:
    whole, _, _ = random_folds("multiclass", 9)
    old = whole.to_dict()
    old |= {"labels": old["labels"][:6], "sums": old["sums"][:3]}
    del old["bins"], old["confidence"]
    expected = whole.metrics()
    del expected["calibration_error"]
    assert Statistics.from_dict("multiclass", old).metrics() == expected
