"""Late labels with a default, and a learner that reacts to drift, behind a shard that is killed."""

from __future__ import annotations

import signal

import numpy as np
from shard_harness import FEATURES, TARGETS, batch_of, columns, digest, fold

from learners.base import Folded
from learners.spec import ModelSpec
from service.client import Client

ROWS = 300


def model(name: str, learner: dict, **labels) -> ModelSpec:
    given = {"name": name, "features": FEATURES, "target": TARGETS["binary"], "learner": learner, "labels": labels}
    return ModelSpec.model_validate(given | {"deployment": {"slots": 4}})


def late_labels(seed: int) -> dict:
    """Observations of seven keys; of three in four the label comes, of some of those past the horizon."""
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    waiting: list[tuple[int, str, str]] = []
    for i in range(ROWS):
        due = [held for held in waiting if held[0] <= i]
        waiting = [held for held in waiting if held[0] > i]
        rows += [(None, "UP" if rng.random() < 0.5 else "DOWN", 2, id, key) for _, id, key in due]
        x, id, key = rng.normal(size=3).astype(np.float32), f"{seed}-{i}", f"k{rng.integers(0, 7)}"
        rows.append((x, None, 0, id, key))
        if rng.random() < 0.75:
            waiting.append((i + int(rng.integers(1, 40)), id, key))
    x, y, kind, id, key = zip(*rows)
    features = [np.zeros(3, np.float32) if one is None else one for one in x]
    return {"x": np.stack(features), "y": list(y), "kind": list(kind), "id": list(id), "key": list(key)}


def turned(part: int) -> dict:
    """Labels that a feature decides, the other way round in every second part."""
    x = np.random.default_rng(part).normal(size=(ROWS, 3)).astype(np.float32)
    y = np.where((x[:, 0] > 0) ^ (part % 2 == 1), "UP", "DOWN").tolist()
    return {"x": x, "y": y, "key": [f"k{i % 7}" for i in range(ROWS)]}


RECURRENT = {"kind": "recurrent", "cell": {"units": 4}, "optimizer": {"kind": "sgd", "rate": 0.05}}
WATCHED = {"kind": "drift", "learner": RECURRENT, "detector": {"kind": "adwin", "on": "error"}}
CASES = {
    "default": (
        {"kind": "recurrent", "cell": {"units": 4}},
        {"arrive": "delayed", "pending": 20, "horizon": 60, "default_label": "DOWN"},
        late_labels,
    ),
    "head": (
        {"kind": "recurrent", "cell": {"units": 4}},
        {"arrive": "delayed", "pending": 20, "horizon": 60, "default_label": "DOWN", "credit": "head"},
        late_labels,
    ),
    "rate": (WATCHED | {"reaction": {"kind": "rate", "span": 100}}, {}, turned),
    "challenger": (WATCHED | {"reaction": {"kind": "challenger", "span": 250, "alpha": 0.2}}, {}, turned),
}


def test_late_labels_and_drift_are_served_killed_and_recovered(start_shard, name, key) -> None:
    """A snapshot after the second part, a kill after the third: answers, state and counts of the plain fold."""
    specs = {case: model(f"{name}-{case}", learner, **labels) for case, (learner, labels, _) in CASES.items()}
    answers: dict[str, list] = {case: [] for case in CASES}
    wanted = {  # first, so that what has to be compiled is compiled here, and no call has to wait for it
        case: fold(spec, *(batch_of(spec, CASES[case][2](part)) for part in range(4))) for case, spec in specs.items()
    }
    shard = start_shard(signing_key=key)
    for part in range(4):
        with Client(shard.target) as client:
            for case, spec in specs.items():
                if part == 0:
                    client.models.create(spec, timeout=300)
                given = CASES[case][2](part)
                answers[case] += list(client.learn(spec.name, [columns(spec, given)]))
                if part == 1:
                    client.models.snapshot(spec.name)
        if part == 2:
            shard.end(signal.SIGKILL)
            shard.start()
    with Client(shard.target) as client:
        for case, spec in specs.items():
            learner, folded = wanted[case]
            assert digest(client, spec.name) == learner.digest(), case
            same_answers_of(answers[case], folded)
            counts = client.models.statistics(spec.name).counts
            expired = folded.expired[:, 3]
            assert counts["defaulted"] == np.count_nonzero(~np.isnan(expired))
            assert (counts["defaulted"] > 20) == ("default_label" in CASES[case][1])
            assert (counts["late"] > 0) == ("default_label" in CASES[case][1])
            assert counts["drift"] == np.count_nonzero(folded.signals[:, 1] == 0)
            assert (counts["drift"] > 0) == (CASES[case][2] is turned)
    assert counts["challenger_started"] > 0
    assert counts["challenger_promoted"] + counts["challenger_dropped"] > 0
    assert counts["challenger_started_last_position"] <= 4 * ROWS


def same_answers_of(results: list, folded: Folded) -> None:
    """As `same_answers`, of a stream that was sent in several calls."""
    at = 0
    for result in results:
        part = folded.take(slice(at, at + result.rows))
        np.testing.assert_array_equal(result.predictions.value.view(np.int64), part.value.view(np.int64))
        np.testing.assert_array_equal(result.predictions.outcome, part.outcome)
        assert result.predictions.position == at
        at += result.rows
