"""What only the state can judge is admitted, counted and answered: labels by id, order, bounds."""

import numpy as np
import pytest
from shard_harness import FEATURES, batch_of, columns, digest, events, fold, same_answers, spec_of

from learners.spec import ModelSpec
from service.api.continual_v1_pb2 import (
    OUTCOME_CLASS_LIMIT,
    OUTCOME_LEARNED,
    OUTCOME_OBSERVED,
    OUTCOME_OUT_OF_ORDER,
    OUTCOME_UNKNOWN_ID,
)

X = dict(zip(FEATURES, (0.5, -0.25, 1.0)))
DELAYED = {"arrive": "delayed", "pending": 2}
LATE = OUTCOME_UNKNOWN_ID | OUTCOME_OUT_OF_ORDER


def state(shard, model):
    """Everything a later event could meet: shared arrays but for the position, and the rows in memory."""
    learner = shard.learner(model)
    shared = {name: array.tobytes() for name, array in learner.shared_arrays().items()}
    shared["counters"] = learner.shared_arrays()["counters"][1:].tobytes()
    return shared, dict(learner.rows.all_rows(learner.position))


def outcome(answer):
    return int(answer.outcome[0])


def made(client, name, kind="binary", **how):
    spec = spec_of(name, kind, **how)
    client.models.create(spec)
    return spec


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_before_the_first_label_no_class_is_said(client, name, kind):
    """In every kind of call alike; of a regression there is no class to say."""
    made(client, name, kind, labels=DELAYED)
    x = np.zeros((2, len(FEATURES)), np.float32)
    learned = next(iter(client.learn(name, [{"x": x, "id": ["e0", "e1"]}])))
    for said in (client.predict(name, x), client.update(name, X, id="e2"), learned.predictions):
        none = kind == "multiclass"
        assert said.code.tolist() == [-1] * len(said) * none
        assert said.predicted() == [None if none else 0.0] * len(said)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_a_label_by_id_teaches_as_the_fold_does(client, name, kind):
    spec = made(client, name, kind, labels=DELAYED)
    label = 1.5 if kind == "regression" else "UP"
    script = {
        "x": np.array([[0.5, -0.25, 1.0], [0.1, 0.2, 0.3], [0, 0, 0], [0, 0, 0], [0.5, -0.25, 1.0]], np.float32),
        "y": [None, None, label, label, None] if kind != "regression" else [np.nan, np.nan, 1.5, 1.5, np.nan],
        "kind": [0, 0, 2, 2, 0],
        "id": ["e0", "e1", "e1", "e0", "e2"],
        "key": ["k", "l", "l", "k", "k"],
    }
    learner, folded = fold(spec, batch_of(spec, script))
    answers = [
        client.update(name, X, key="k", id="e0"),
        client.update(name, dict(zip(FEATURES, (0.1, 0.2, 0.3))), key="l", id="e1"),
        client.label(name, "e1", "l", label),
        client.label(name, "e0", "k", label),
        client.update(name, X, key="k", id="e2"),
    ]
    assert [outcome(answer) for answer in answers] == [2, 2, 1, 1, 2]
    assert np.isnan(answers[2].value[0])
    assert np.concatenate([a.value for a in answers]).tobytes() == folded.value.tobytes()
    assert digest(client, name) == learner.digest()
    counts = client.models.statistics(name).counts
    assert (counts["events"], counts["observed"], counts["learned"], counts["labels"]) == (5, 3, 2, 2)
    streamed = spec_of(name + "s", kind, labels=DELAYED)
    client.models.create(streamed)
    same_answers(list(client.learn(streamed.name, [columns(streamed, script)])), folded)
    assert digest(client, streamed.name) == learner.digest()


@pytest.mark.parametrize("how", ["never seen", "another key", "an unknown key", "pushed out", "expired", "not kept"])
def test_a_label_for_an_id_that_is_not_pending_changes_nothing(shard, client, name, how):
    labels = {"expired": DELAYED | {"horizon": 2}, "not kept": {}}.get(how, DELAYED)
    made(client, name, labels=labels)
    for i, key in enumerate("kkl"):
        client.update(name, X, key=key, id=f"e{i}")
    if how == "pushed out":
        client.update(name, X, key="k", id="e3")
    id, key = {"never seen": ("no", "k"), "another key": ("e0", "l"), "an unknown key": ("e0", "m")}.get(
        how, ("e0", "k")
    )
    before = state(shard, name)
    position = client.models.get(name).position
    answer = client.label(name, id, key, "UP")
    assert outcome(answer) == (LATE if how == "expired" else OUTCOME_UNKNOWN_ID)
    assert np.isnan(answer.value[0])
    assert (answer.position, answer.code.tolist()) == (position, [-1])
    assert state(shard, name) == before
    assert client.models.get(name).position == position + 1
    counts = client.models.statistics(name).counts
    assert (counts["late"], counts["unknown_id"]) == ((1, 0) if how == "expired" else (0, 1))
    assert (counts["out_of_order"], counts["dropped"], counts["defaulted"]) == (0, int(how == "pushed out"), 0)
    if how not in ("not kept", "expired"):
        assert outcome(client.label(name, "e1", "k", "UP")) == OUTCOME_LEARNED


def test_a_horizon_counts_events_of_the_log(client, name):
    made(client, name, labels=DELAYED | {"horizon": 3})
    for id in ("e0", "e1"):
        client.update(name, X, key="k", id=id)
    client.update(name, X, key="other")
    assert outcome(client.label(name, "e0", "k", "UP")) == OUTCOME_LEARNED  # three events after its own
    assert outcome(client.label(name, "e1", "k", "UP")) == OUTCOME_LEARNED
    client.update(name, X, key="k", id="e2")
    for _ in range(3):
        client.update(name, X, key="other")
    assert outcome(client.label(name, "e2", "k", "UP")) == LATE


def test_a_second_label_for_an_observation_changes_nothing(shard, client, name):
    """In a stream it is an outcome; a repeated unary call is a duplicate, another label a reused id."""
    spec = made(client, name, labels=DELAYED)
    client.update(name, X, key="k", id="e0")
    first = client.label(name, "e0", "k", "UP")
    before = state(shard, name)
    again = client.label(name, "e0", "k", "UP")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.position, outcome(again)) == (first.position, OUTCOME_LEARNED)
    second = columns(spec, {"y": ["DOWN"], "kind": [2], "id": ["e0"], "key": ["k"]})
    (result,) = client.learn(name, [second])
    assert outcome(result.predictions) == OUTCOME_UNKNOWN_ID
    assert state(shard, name) == before


@pytest.mark.parametrize("policy", ["learn", "ignore"])
def test_an_event_older_than_its_keys_last(shard, client, name, policy):
    spec = made(client, name, labels={"out_of_order": policy})
    client.update(name, X, "UP", key="k", time=100)
    client.update(name, X, "UP", key="l", time=200)
    assert outcome(client.update(name, X, "UP", key="k", time=100)) == OUTCOME_LEARNED | OUTCOME_OBSERVED
    before = state(shard, name)
    expected = client.predict(name, event=X, key="k")
    late = client.update(name, X, "DOWN", key="k", time=99)
    assert late.value.tobytes() == expected.value.tobytes()
    if policy == "ignore":
        assert outcome(late) == OUTCOME_OUT_OF_ORDER
        assert state(shard, name) == before
    else:
        assert outcome(late) == OUTCOME_OUT_OF_ORDER | OUTCOME_LEARNED | OUTCOME_OBSERVED
        assert state(shard, name) != before
    assert client.models.statistics(name).counts["out_of_order"] == 1
    given = {
        "x": [list(X.values())] * 4,
        "y": ["UP", "UP", "UP", "DOWN"],
        "key": ["k", "l", "k", "k"],
        "time": [100, 200, 100, 99],
    }
    assert digest(client, name) == fold(spec, batch_of(spec, given))[0].digest()


def test_labels_beyond_the_classes_held_are_counted(client, name):
    spec = spec_of(name, "multiclass").model_dump(mode="json")
    spec["target"]["max_classes"] = 2
    client.models.create(ModelSpec.model_validate(spec))
    answers = [client.update(name, X, label) for label in ("red", 7, "blue", "red")]
    assert [outcome(answer) for answer in answers] == [3, 3, OUTCOME_OBSERVED | OUTCOME_CLASS_LIMIT, 3]
    assert answers[-1].labels == ("red", 7)
    assert client.models.statistics(name).counts["class_limit"] == 1


def test_the_largest_targets_leave_everything_finite(shard, client, name):
    made(client, name, "regression")
    for label in [0.0, 1.0, 2.0, 1e100, -1e100, 1e100, *range(20)]:
        answer = client.update(name, X, float(label))
        assert np.isfinite(answer.value).all()
        assert outcome(answer) & OUTCOME_OBSERVED
    for array in shard.learner(name).shared_arrays().values():
        assert np.isfinite(array).all()
    counts = client.models.statistics(name).counts
    assert counts["learned"] + counts["nonfinite_skipped"] == 26


def test_metrics_are_those_of_the_predictions_as_they_were_made(client, name):
    made(client, name)
    given = events("binary", 300)
    (result,) = client.learn(name, [columns(spec_of(name), given)])
    hits = np.mean([a == b for a, b in zip(result.predictions.predicted(), given["y"])])
    metrics = client.models.statistics(name).metrics
    assert metrics["accuracy"] == pytest.approx(hits, abs=1e-12)
    probability = np.where(np.array(given["y"]) == "UP", result.predictions.value, 1 - result.predictions.value)
    assert metrics["log_loss"] == pytest.approx(-np.log(probability).mean(), rel=1e-9)
