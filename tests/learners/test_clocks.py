"""One clock of the year 2100 shuts no key and no label out, whatever learns; it is told, and earlier states load."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from kernels.cpu.layout import AWAY, LEARNED, OBSERVED, OUT_OF_ORDER
from learners.base import MemoryRows
from learners.spec import ModelSpec
from streams.batch import LABEL, OBSERVATION, Batch

MINUTE, START, WRONG = 60_000_000, 1_700_000_000_000_000, 4_102_444_800_000_000
EVENTS, AT = 200, 100

LINEAR = [{"path": "river.preprocessing.StandardScaler"}, {"path": "river.linear_model.LogisticRegression"}]
LEARNERS: dict[str, dict[str, Any]] = {
    "compiled": {"kind": "static"},
    "mini-batches": {"kind": "er", "batch": 7, "replay": 4, "network": {"hidden": [4]}},
    "pec": {"kind": "pec", "units": 4, "teacher": 8, "outputs": 4},
    "river": {"kind": "river", "estimator": LINEAR},
    "drift": {
        "kind": "drift",
        "learner": {"kind": "recurrent", "cell": {"units": 3}},
        "detector": {"kind": "ddm"},
        "reaction": {"kind": "signal"},
    },
}


def built(learner: str, **labels: Any) -> Any:
    model = {"name": "m", "features": ["a", "b"], "target": {"kind": "binary"}, "labels": labels}
    spec = ModelSpec.model_validate(model | {"learner": LEARNERS[learner]})
    return spec.learner.build(spec)


def labelled(wrong: bool = True) -> Batch:
    """Labelled events of one key, one a minute; the clock of one of them is wrong."""
    time = START + MINUTE * np.arange(EVENTS)
    if wrong:
        time[AT] = WRONG
    x = np.random.default_rng(0).normal(size=(EVENTS, 2)).astype(np.float32)
    return Batch.of(x, (x[:, 0] > 0) * 1.0, key=[b"one"] * EVENTS, time=time)


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_wrong_clock_is_told_and_does_not_shut_its_key_out(learner: str) -> None:
    outcome = built(learner, out_of_order="ignore").fold(labelled()).outcome
    assert (outcome & (OBSERVED | LEARNED) == OBSERVED | LEARNED).all()
    assert not (outcome & OUT_OF_ORDER).any()
    assert np.flatnonzero(outcome & AWAY == AWAY).tolist() == [AT]


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_wrong_clock_does_not_shut_labels_out(learner: str) -> None:
    """Observations, each followed by its label; of one pair the observation has the wrong clock, of one the label."""
    n = 2 * EVENTS
    time = START + MINUTE * np.arange(n)
    time[AT], time[n - AT + 1] = WRONG, WRONG
    kind = np.where(np.arange(n) % 2, LABEL, OBSERVATION)
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    id = np.zeros((n, 2), np.uint64)
    id[:, 0] = np.arange(n) // 2 + 1
    policy = {"arrive": "delayed", "pending": 4, "horizon_time": 10 * MINUTE}
    log = Batch.of(x, np.arange(n) // 2 % 2 * 1.0, kind=kind, key=[b"one"] * n, time=time, id=id)
    outcome = built(learner, **policy).fold(log).outcome
    assert (outcome[kind == LABEL] == LEARNED).all()
    assert np.flatnonzero(outcome == AWAY).tolist() == [AT]


@pytest.mark.parametrize("order", ["learn", "ignore"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_stream_that_jumps_is_believed_in_any_delivery(learner: str, order: str) -> None:
    log = labelled(wrong=False)
    log.time[AT:] += 10**15
    log.time[AT - 20] = log.time[AT + 50] = WRONG
    log.time[AT + 60] -= 5 * MINUTE
    whole = built(learner, out_of_order=order)
    outcome = whole.fold(log).outcome
    away = np.flatnonzero(outcome & AWAY == AWAY).tolist()
    assert away == [AT - 20, *range(AT, AT + 15), AT + 50]
    assert np.flatnonzero(outcome & OUT_OF_ORDER).tolist() == [AT + 60]
    for cuts in ((AT + 8,), (3, AT - 20, AT - 19, AT + 14, AT + 51, AT + 61), range(1, EVENTS)):
        pieces = built(learner, out_of_order=order)
        edges = [0, *cuts, EVENTS]
        parts = [pieces.fold(log.slice(a, b)).outcome for a, b in pairwise(edges)]
        np.testing.assert_array_equal(np.concatenate(parts), outcome)
        assert pieces.digest() == whole.digest()


@pytest.mark.parametrize("learner", ["mini-batches", "pec", "river"])
def test_states_without_a_clock_load(learner: str) -> None:
    log, old = labelled(), built(learner, out_of_order="ignore")
    old.fold(log.slice(0, AT))
    shared = {name: array for name, array in old.shared_arrays().items() if name != "clock"}
    rows = MemoryRows()
    rows.put_rows([(key, old.position, content) for key, content in old.rows.all_rows(old.position)])
    made = built(learner, out_of_order="ignore")
    made.load(shared, rows)
    outcome = made.fold(log.slice(AT - 5, EVENTS)).outcome
    assert np.flatnonzero(outcome & AWAY == AWAY).tolist() == [5]
    assert (outcome[5:] & LEARNED).all()
