"""Messages at the limit of their size, through clients and a real shard: cut, or refused by name and passed."""

import asyncio
import json

import numpy as np
import pytest
from shard_harness import FEATURES, batch_of, digest, events, fold, spec_of

from service.channels import MAX_MESSAGE_BYTES
from service.client import AsyncClient, Client, cutting
from service.shard import models, predict

WIDE = 1000


@pytest.fixture
def wide(client, name):
    features = [f"f{i}" for i in range(WIDE)]
    client.models.create(
        {"name": name, "features": features, "target": {"kind": "binary"}, "learner": {"kind": "static"}}
    )
    yield name
    client.models.delete(name)


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
def test_a_batch_over_the_limit_is_one_result_and_later_ones_go_on(client, shard, wide, how):
    rows = [10, 6000, 10]
    assert 4 * WIDE * rows[1] > MAX_MESSAGE_BYTES
    given = [{"x": np.full((n, WIDE), n, np.float32), "y": np.arange(n) % 2} for n in rows]
    given.insert(1, {"x": np.zeros((1, WIDE), np.float32), "y": [1], "key": ["k" * (MAX_MESSAGE_BYTES + 1)]})

    async def learned():
        async with AsyncClient(shard.target) as one:
            return [result async for result in one.learn(wide, given, on_refused="yield", producer="p")]

    def learn():
        options = {"on_refused": "yield", "producer": "p"}
        return list(client.learn(wide, given, **options)) if how == "blocking" else asyncio.run(learned())

    for again in (False, True):
        got = learn()
        assert [(one.sequence, one.rows) for one in got] == [(0, 10), (10, 1), (11, 6000), (6011, 10)]
        assert got[1].refused.reason == "MESSAGE_TOO_LARGE"
        assert [one.predictions.position for one in got if one.refused is None] == [0, 10, 6010]
        assert len(got[2].predictions) == 6000
        assert all(one.duplicate == again for one in got)
        assert client.models.get(wide).position == 6020
    assert len(client.predict(wide, np.zeros((6000, WIDE)))) == 6000


def test_pieces_fold_as_the_batch_would_in_one_partition_and_in_several(client, two, name, monkeypatch):
    """With small messages: the same state, the same predictions, in the order of the rows."""
    monkeypatch.setattr(cutting, "MAX_MESSAGE_BYTES", 4000)
    monkeypatch.setattr(cutting, "PIECE_BYTES", 1000)
    monkeypatch.setattr(cutting, "BESIDE_BYTES", 200)
    spec = spec_of(name, "multiclass")
    given = events("multiclass", 1000, keys=40)
    learner, folded = fold(spec, batch_of(spec, given))
    for service in (client, Client(two[0].target)):
        service.models.create(spec)
        (one,) = service.learn(name, [given], producer="p")
        assert one.rows == 1000
        np.testing.assert_array_equal(one.predictions.value, folded.value)
        np.testing.assert_array_equal(one.predictions.outcome, folded.outcome)
        assert digest(service, name) == learner.digest()
    service.models.split(name)
    after = events("multiclass", 1000, keys=40, seed=1)
    for again in (False, True):
        (one,) = service.learn(name, [after], producer="q")
        assert (one.sequence, one.rows, one.next_sequence, one.duplicate) == (0, 1000, 1000, again)
        assert service.models.statistics(name).counts["events"] == 2000
    assert len(service.predict(name, np.zeros((1000, len(FEATURES))), key=[f"k{i}" for i in range(1000)])) == 1000
    service.models.delete(name)
    service.close()
    client.models.delete(name)


def test_probabilities_larger_than_a_reply_come_in_several(client, name, monkeypatch):
    monkeypatch.setattr(predict, "MAX_PROBABILITIES", 500)
    spec = spec_of(name, "multiclass")
    client.models.create(spec)
    list(client.learn(name, [events("multiclass", 300)]))
    got = client.predict(name, np.zeros((400, len(FEATURES))), probabilities=True)
    assert got.probabilities.shape == (400, len(got.labels))
    np.testing.assert_allclose(got.probabilities.sum(1), 1.0, atol=1e-5)
    client.models.delete(name)


def test_specs_that_a_list_has_no_room_for_are_left_out(client, name, monkeypatch):
    specs = [spec_of(f"{name}{i}") for i in range(4)]
    for spec in specs:
        client.models.create(spec)
    room = 2 * len(specs[0].to_json()) + 10
    monkeypatch.setattr(models, "LISTED_SPEC_BYTES", room)
    listed = client.models.list()
    assert {spec.name for spec in specs} <= {one.name for one in listed}
    held = [one for one in listed if one.spec_json]
    assert sum(len(one.spec_json) for one in held) <= room
    assert len(held) < len(listed)
    for spec in specs:
        assert json.loads(client.models.get(spec.name).spec_json)["name"] == spec.name
        client.models.delete(spec.name)


def test_large_letters_come_in_several_lists(client, shard, name):
    client.models.create(spec_of(name))
    store = shard.partition(name).store
    letters = [(number, "bad", bytes([number]) * (1 << 20), "{}") for number in range(20)]
    for letter in letters:
        store.keep("redis:s", 1000, [letter])
    found, after = [], ""
    while page := client.models.dead_letters(name, after, 1000).letters:
        assert sum(len(one.payload) for one in page) < 10 << 20
        found += page
        after = page[-1].id
    assert [(one.number, one.payload) for one in found] == [(number, payload) for number, _, payload, _ in letters]
    client.models.delete(name)
