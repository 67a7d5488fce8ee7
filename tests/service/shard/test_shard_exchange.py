"""Partitions exchange what they have learned, through their logs: every log folds to what is served."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from reshard_harness import Folds, all_ids, batches, logged, map_of
from shard_harness import LocalShard, spec_of, until

from learners.spec import ModelSpec
from service.client import Client
from service.store.partition_map import Range
from service.wire import key_hash
from streams.batch import Batch

LEARNERS = {
    "recurrent": {"kind": "recurrent", "cell": {"units": 4}},
    "ridge": {"kind": "static", "head": {"kind": "ridge"}},
}


@pytest.fixture
def client(two):
    with Client(two[0].shard.address) as client:
        yield client


def exchanging(name: str, learner: str = "recurrent", every: int = 100, **deployment) -> ModelSpec:
    plain = spec_of(name, exchange={"every": every}, **deployment)
    return ModelSpec.model_validate(plain.model_dump(mode="json") | {"learner": LEARNERS[learner]})


def parts_of(client, model):
    found = client.models.statistics(model, digest=True)
    return {one.partition: one for one in (found.partitions or [found])}


def settled(two, client, url, model):
    """Statistics by partition once none of them has anything to give or to take."""

    def has_nothing_to_do(shard, partition):
        exchanger = partition.exchanger
        live, retired = partition.peers()
        fresh, left = exchanger._news(live, retired)
        waits = not (fresh or left) or len(fresh) < len(live) or not exchanger._open
        return waits and not exchanger._is_due() and partition.state == "serving"

    def quiet():
        held = map_of(url, model)
        mine = [(shard, one) for shard in two for (name, _), one in shard.shard.partitions.items() if name == model]
        known = all(shard.shard.maps.of(model) == held for shard in two) and len(mine) == len(held.partitions)
        return known and all(has_nothing_to_do(*one) for one in mine)

    until(quiet, 60)
    return parts_of(client, model)


@pytest.mark.parametrize("learner", LEARNERS)
def test_partitions_on_two_shards_exchange(client, two, own_server, name, learner):
    spec = exchanging(name, learner)
    client.models.create(spec)
    given = batches(4000, 40, keys=60)
    list(client.learn(name, given[:20]))
    client.models.split(name, into=3, shards=["shard-0", "shard-1"])
    list(client.learn(name, given[20:]))
    found = settled(two, client, own_server.url, name)
    folds = Folds(own_server.url, spec)
    folds.fold(Range("0"))
    held = map_of(own_server.url, name)
    assert {id: one.digest for id, one in found.items()} == {
        part.id: folds.fold(part, ["0"]).digest() for part in held.partitions
    }
    assert sorted(all_ids(own_server.url, spec)) == sorted(id for batch in given for id in batch["id"])
    for part in held.partitions:
        entries = logged(own_server.url, spec, part.id)
        assert sum(not isinstance(one, Batch) for _, one in entries) == found[part.id].counts["exchanges"]
    total = client.models.statistics(name).counts
    assert total["exchanges"] == sum(one.counts["exchanges"] for one in found.values())
    assert (total["exchanges_refused"], total["exchanges_skipped"]) == (0, 0)


def check_folds(client, url, spec, history):
    """Every partition is the fold of its log, from what its parents were; `history`: (range, parents), oldest first."""
    folds = Folds(url, spec)
    for part, parents in history:
        folds.fold(part, parents)
    held = map_of(url, spec.name)
    served = {id: one.digest for id, one in parts_of(client, spec.name).items()}
    assert served == {part.id: folds.done[part.id][0].digest() for part in held.partitions}


@pytest.mark.parametrize("learner", LEARNERS)
def test_changes_of_the_partitions_between_exchanges(client, two, own_server, name, learner):
    """Split, move, merge, a restart: what the log says is what is served, and nothing that was learned is given up."""
    spec = exchanging(name, learner, every=1, snapshot_every=100)
    client.models.create(spec)
    parts = {}

    def note():
        parts.update({part.id: part for part in map_of(own_server.url, name).partitions})

    given = iter(batches(4000, 40, keys=60))

    def learn(count):
        list(client.learn(name, [next(given) for _ in range(count)]))

    note()
    learn(10)
    client.models.split(name, shards=["shard-0", "shard-1"])
    note()
    learn(20)
    settled(two, client, own_server.url, name)
    client.models.snapshot(name)  # at the position of the last exchange
    client.models.split(name, "1", shards=["shard-1", "shard-0"])
    note()
    client.models.move(name, "2", "shard-0")
    learn(20)
    settled(two, client, own_server.url, name)
    client.models.merge(name, "4", "2")
    note()
    learn(20)
    found = settled(two, client, own_server.url, name)
    two[1].stop()
    two[1] = LocalShard(own_server.url, index=1, shards=2, port=two[0].config.port)
    again = until(lambda: client.models.get(name).state == "serving" and parts_of(client, name))
    assert {id: one.digest for id, one in again.items()} == {id: one.digest for id, one in found.items()}
    ids = [(shard, id) for shard in two for model, id in shard.shard.partitions if model == name]
    learners = {id: shard.partition(name, id).learner for shard, id in ids}
    assert [set(one.exchange.taken.retired) for one in learners.values()] == [{"0", "1", "2", "4"}] * 2
    own = {id: int(one.contribution()["steps"][0]) for id, one in learners.items()}
    for id, one in learners.items():  # they know of every event, but for the other's last ones, which are still to come
        to_come = sum(steps - one.exchange.taken.live[other] for other, steps in own.items() if other != id)
        np.testing.assert_allclose(one.shared_arrays()["scaler"][0, 0] + to_come, 70 * 40, rtol=1e-9)
    history = [("0", None), ("1", ["0"]), ("2", ["0"]), ("3", ["1"]), ("4", ["1"]), ("5", ["4", "2"])]
    check_folds(client, own_server.url, spec, [(parts[id], parents) for id, parents in history])


def is_trimmed(store):
    return store.first_position() > 0


def test_a_trimmed_log_is_recovered_with_its_exchanges(own_server, name):
    """Entries go with the log before the older snapshot; those at the position of a snapshot are met again."""
    shard = LocalShard(own_server.url)
    spec = exchanging(name, every=1, dedupe_window=1)
    with Client(shard.target) as client:
        client.models.create(spec)
        client.models.split(name, shards=["shard-0"])
        given = batches(2000, 20)
        for begin in range(0, len(given), 25):
            list(client.learn(name, given[begin : begin + 25]))
            client.models.snapshot(name)
        found = settled([shard], client, own_server.url, name)
        for id in found:
            until(partial(is_trimmed, shard.partition(name, id).store))
            assert sum(len(ids) == 0 for ids, _ in logged(own_server.url, spec, id)) < found[id].counts["exchanges"]
        client.models.snapshot(name)
    shard.stop()
    shard = LocalShard(own_server.url, port=shard.config.port)
    with Client(shard.target) as client:
        again = settled([shard], client, own_server.url, name)
    assert {id: one.digest for id, one in again.items()} == {id: one.digest for id, one in found.items()}
    shard.stop()
    assert not shard.failures


def test_classes_in_another_order_are_counted(client, two, own_server, name):
    plain = spec_of(name, "multiclass", exchange={"every": 10})
    client.models.create(plain)
    client.models.split(name, shards=["shard-0", "shard-1"])
    border = map_of(own_server.url, name).partitions[0].high
    keys = [f"k{number}" for number in range(40)]
    low, high = ([key for key in keys if (key_hash(key.encode()) < border) == side] for side in (True, False))
    x = np.zeros((40, 3), np.float32)
    for some, labels in ((low, ["red", "blue"]), (high, ["blue", "red"])):
        list(client.learn(name, [{"x": x, "y": labels * 20, "key": (some * 40)[:40]}], producer=labels[0]))
    until(lambda: client.models.statistics(name).counts["exchanges_skipped"] > 0, 60)
    assert client.models.get(name).state == "serving"
