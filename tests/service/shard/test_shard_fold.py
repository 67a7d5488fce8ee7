"""What the service answers and holds is the fold of its log: any delivery, any prediction, few slots."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from shard_harness import (
    FEATURES,
    TARGETS,
    batch_of,
    columns,
    cut,
    digest,
    events,
    fold,
    same_answers,
    spec_of,
)

from kernels.cpu import fold as kernel
from service.wire import Schema

KINDS = sorted(TARGETS)


def row(given, i):
    return dict(zip(FEATURES, given["x"][i].tolist())), given["y"][i], given["key"][i]


def bits(value):
    return np.asarray(value, np.float64).view(np.int64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [4, 1000])
def test_a_prediction_is_what_the_fold_says_and_changes_nothing(shard, client, name, kind, slots):
    spec = spec_of(name, kind, slots=slots)
    client.models.create(spec)
    given = events(kind, 300, keys=9)
    list(client.learn(name, [columns(spec, events(kind, 300, keys=9, seed=1))]))
    met = {"unknown": 0, "resident": 0, "cold": 0}
    for i in range(60):
        features, label, key = row(given, i)
        if i % 10 == 0:
            key = f"new{i}"
        rows = shard.learner(name).rows
        slot = int(rows.lookup(batch_of(spec, {"x": given["x"][:1], "key": [key]}).key)[0])
        met["resident" if slot >= 0 else "unknown" if key.startswith("new") else "cold"] += 1
        kept = sorted(rows.key(s) for s in np.flatnonzero(rows._used))
        before = digest(client, name), rows.columns["head"].copy(), len(rows)
        predictions = [
            client.predict(name, event=features, key=key),
            client.predict(name, given["x"][i], key=key, probabilities=True),
        ]
        after = digest(client, name), rows.columns["head"], len(rows)
        assert before[0] == after[0]
        assert before[2] == after[2] == client.models.statistics(name).keys_resident
        np.testing.assert_array_equal(before[1], after[1])
        assert kept == sorted(rows.key(s) for s in np.flatnonzero(rows._used))
        updated = client.update(name, features, label, key=key)
        for predicted in predictions:
            assert predicted.position == updated.position == 300 + i
            assert bits(predicted.value) == bits(updated.value)
            assert predicted.code.tolist() == updated.code.tolist()
        if kind != "regression":
            table = predictions[1].probabilities[0]
            assert table.sum() == pytest.approx(1, abs=1e-5)
            assert np.argmax(table) == predictions[1].code[0]
    assert met["unknown"]
    assert met["resident"]
    assert met["cold"] or slots > 4


def test_predicting_a_key_does_not_keep_it_in_memory(shard, client, name):
    """The next eviction takes the same key whether or not it was asked for just before."""
    kept = []
    for asked in (False, True):
        spec = spec_of(f"{name}-{asked}", slots=4)
        client.models.create(spec)
        given = events("binary", 5)
        for i, key in enumerate("abcd"):
            client.update(spec.name, row(given, i)[0], "UP", key=key)
        if asked:
            for _ in range(5):
                client.predict(spec.name, given["x"][0], key="a")
                client.predict(spec.name, given["x"][0], key="stranger")
        client.update(spec.name, row(given, 4)[0], "UP", key="e")
        rows = shard.learner(spec.name).rows
        kept.append(sorted(rows.key(s) for s in np.flatnonzero(rows._used)))
    assert kept[0] == kept[1] == [b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prediction_of_many_rows_is_each_row_as_the_next_event(client, name, kind):
    spec = spec_of(name, kind, slots=4)
    client.models.create(spec)
    given = events(kind, 200, keys=9)
    list(client.learn(name, [columns(spec, given)]))
    keys = [*given["key"][:20], "new"]
    together = client.predict(name, given["x"][:21], key=keys)
    one_by_one = [client.predict(name, given["x"][i], key=keys[i]) for i in range(21)]
    assert bits(together.value).tolist() == [int(bits(one.value)[0]) for one in one_by_one]


@pytest.mark.parametrize("kind", KINDS)
def test_any_delivery_gives_the_same_bits(client, name, kind):
    given = events(kind, 1500, keys=23)
    whole = spec_of(name, kind)
    learner, folded = fold(whole, batch_of(whole, given))
    assert kind != "multiclass" or set(map(type, learner.classes())) == {int, str}
    deliveries = {
        "at-once": (itertools.repeat(1500), 1),
        "by-one": (itertools.repeat(1), 64),
        "even": (itertools.repeat(64), 8),
        "uneven": (iter(np.random.default_rng(5).integers(1, 300, 1000).tolist()), 3),
    }
    for how, (sizes, in_flight) in deliveries.items():
        spec = spec_of(f"{name}-{how}", kind, slots=4 if how == "uneven" else 1000)
        client.models.create(spec)
        pieces = cut(columns(spec, given), Schema.of(spec), sizes)
        results = list(client.learn(spec.name, pieces, in_flight=in_flight))
        same_answers(results, folded)
        assert results[-1].predictions.labels == (() if kind == "regression" else learner.classes())
        assert digest(client, spec.name) == learner.digest(), how


@pytest.mark.parametrize("kind", KINDS)
def test_updates_one_by_one_give_the_same_bits(client, name, kind):
    spec = spec_of(name, kind, slots=4)
    client.models.create(spec)
    given = events(kind, 250, keys=9, by_id=True)
    learner, folded = fold(spec, batch_of(spec, given))
    for i in range(250):
        features, label, key = row(given, i)
        answer = client.update(name, features, label, key=key, id=f"e{i}")
        assert (answer.position, bits(answer.value)[0]) == (i, bits(folded.value)[i])
        assert answer.outcome.tolist() == [folded.outcome[i]]
    assert digest(client, name) == learner.digest()


def test_streams_and_updates_at_once_are_one_log(client, name):
    """Their order is that of the positions in the answers; replayed in that order, the fold says the same."""
    spec = spec_of(name, "multiclass", slots=5)
    client.models.create(spec)
    parts = [events("multiclass", 600, keys=11, seed=seed) for seed in (1, 2)]
    alone = events("multiclass", 80, keys=11, seed=3)

    def stream(part):
        pieces = cut(columns(spec, part), Schema.of(spec), itertools.repeat(37))
        results = client.learn(name, pieces)
        return [(r.predictions.position, r.predictions.value) for r in results]

    def update(i):
        features, label, key = row(alone, i)
        answer = client.update(name, features, label, key=key)
        return answer.position, answer.value

    with ThreadPoolExecutor(8) as pool:
        streams = [pool.submit(stream, part) for part in parts]
        updates = list(pool.map(update, range(80)))
        answers = [stream.result() for stream in streams]
    log = []
    for part, replies in zip(parts, answers):
        at = 0
        for position, value in replies:
            log += [(position + i, part, at + i, v) for i, v in enumerate(value)]
            at += len(value)
    log += [(position, alone, i, value[0]) for i, (position, value) in enumerate(updates)]
    log.sort(key=lambda entry: entry[0])
    assert [entry[0] for entry in log] == list(range(1280))
    joined = {
        "x": np.array([part["x"][i] for _, part, i, _ in log]),
        "y": [part["y"][i] for _, part, i, _ in log],
        "key": [part["key"][i] for _, part, i, _ in log],
    }
    learner, folded = fold(spec, batch_of(spec, joined))
    assert bits([entry[3] for entry in log]).tolist() == bits(folded.value).tolist()
    assert digest(client, name) == learner.digest()


def test_observations_advance_the_state_and_learn_nothing(client, name):
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 40)
    given["y"] = [label if i % 3 else None for i, label in enumerate(given["y"])]
    learner, folded = fold(spec, batch_of(spec, given))
    same_answers(list(client.learn(name, [columns(spec, given)])), folded)
    counts = client.models.statistics(name).counts
    assert counts["observed"] == 40
    assert counts["learned"] == 40 - 14
    assert digest(client, name) == learner.digest()


def test_nothing_is_compiled_after_the_first_batch(shard, client, name):
    """Other sizes, keys, labels, kinds of columns and ways in meet the functions that are there."""
    functions = (kernel.fold, kernel.predict_each)
    for kind in KINDS:
        spec = spec_of(f"{name}-{kind}", kind, slots=4)
        client.models.create(spec)
        list(client.learn(spec.name, [columns(spec, events(kind, 64))]))
        client.predict(spec.name, np.zeros((1, 3)))
        compiled = [list(function.signatures) for function in functions]
        given = events(kind, 700, keys=50, seed=4, by_id=True)
        given["time"] = np.arange(700)
        given["kind"] = np.where(np.arange(700) % 5, 1, 0)
        given["y"] = [label if i % 5 else None for i, label in enumerate(given["y"])]
        list(client.learn(spec.name, cut(columns(spec, given), Schema.of(spec), [1, 3, 500, 96, 100])))
        features, label, key = row(given, 1)
        client.update(spec.name, features, label, key=key, time=5)
        client.update(spec.name, features, key=key)
        client.predict(spec.name, given["x"], key=given["key"], probabilities=True)
        client.predict(spec.name, event=features, key="another")
        assert [list(function.signatures) for function in functions] == compiled
