"""A model is split, moved and merged while events come; every log, and every fold of it, is as it should be."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from reshard_harness import Folds, X, all_ids, batches, map_of
from shard_harness import LocalShard, one_loop, refused_by, spec_of, until

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client import Client
from service.errors import Refused
from service.shard.partition import Partition as Opening
from service.shard.recovery import Recovery
from service.store.connect import Link, connect
from service.store.partition import Partition as Store
from service.store.partition_map import Range
from service.wire import columns_from, key_hash, take_columns


@pytest.fixture
def client(two):
    with Client(two[0].shard.address) as client:
        yield client


def digests(client, model):
    """By id of the partition."""
    found = client.models.statistics(model, digest=True)
    return {one.partition: one.digest for one in (found.partitions or [found])}


def test_a_split_model_learns_on_in_every_piece(client, two, own_server, name):
    spec = spec_of(name, slots=7)
    client.models.create(spec)
    results = list(client.learn(name, batches(600, 50)))
    client.models.split(name, into=3)
    results += client.learn(name, batches(600, 50, seed=1))
    assert sum(one.rows for one in results) == 1200
    assert all(len(one.predictions) == one.rows and np.isfinite(one.predictions.value).all() for one in results)
    held = map_of(own_server.url, name)
    assert [part.id for part in held.partitions] == ["1", "2", "3"]
    assert {part.shard for part in held.partitions} == {"shard-0", "shard-1"}
    folds = Folds(own_server.url, spec)
    folds.fold(Range("0"))
    expected = {part.id: folds.fold(part, ["0"]).digest() for part in held.partitions}
    assert digests(client, name) == expected
    found = client.models.statistics(name)
    assert (found.position, found.counts["events"], found.counts["learned"]) == (1200, 1200, 1200)
    assert client.models.get(name).position == 1200


def test_a_piece_that_is_being_opened_can_be_asked_for(client, two, own_server, name):
    """Its log has not been looked at yet, and the events before it are those of the model it was cut from."""
    spec = spec_of(name)
    client.models.create(spec)
    list(client.learn(name, batches(100, 50)))
    client.models.split(name)
    (part,) = [part for part in map_of(own_server.url, name).partitions if part.shard == "shard-0"]
    assert part.start == 100
    opened = Opening(spec, Store(connect(own_server.url), "continual", name, part.id), "", Link(own_server.url),
                     lambda cause: None, part)  # fmt: skip
    served = two[0].shard.partitions[name, part.id]
    two[0].shard.partitions[name, part.id] = opened
    try:
        found = client.models.get(name)
    finally:
        two[0].shard.partitions[name, part.id] = served
    assert (found.position, found.snapshot_position) == (100, 100)


def learn_while(client, model, given, changes, in_flight=4):
    """Learns batches; after every so many answers the next change is made. Returns the answers."""
    results, waiting = [], list(changes)
    every = max(1, len(given) // (len(waiting) + 1))
    with client.learn(model, iter(given), in_flight=in_flight, timeout=30) as stream:
        for result in stream:
            results.append(result)
            if waiting and len(results) % every == 0:
                waiting.pop(0)()
    assert not waiting
    return results


def check_logs(url, spec, given):
    """Every event stands in one log, once, and rows of a key in the order in which they were sent."""
    sent = [id for batch in given for id in batch["id"]]
    logged = all_ids(url, spec)
    assert sorted(logged) == sorted(sent)


def check_folds(client, url, spec, history):
    """Every partition is the fold of its log from what its parents were; `history`: (id, parents), oldest first."""
    held = map_of(url, spec.name)
    folds = Folds(url, spec)
    for part, parents in history:
        folds.fold(part, parents)
    expected = {part.id: folds.done[part.id][0].digest() for part in held.partitions}
    assert digests(client, spec.name) == expected


@pytest.mark.parametrize("slots", [5, 4096])
def test_split_move_and_merge_under_one_stream(client, two, own_server, name, slots):
    spec = spec_of(name, slots=slots)
    client.models.create(spec)
    parts = {}

    def note():
        parts.update({part.id: part for part in map_of(own_server.url, name).partitions})

    note()
    changes = [
        lambda: (client.models.split(name), note()),
        lambda: client.models.move(name, "1", "shard-1"),
        lambda: client.models.merge(name, "2", "1"),
        lambda: (note(), client.models.split(name, "3", into=2, shards=["shard-0", "shard-1"]), note()),
        lambda: client.models.merge(name, "4", "5"),
    ]
    given = batches(3000, 40, keys=60)
    results = learn_while(client, name, given, changes)
    note()
    assert [one.rows for one in results] == [40] * 75
    assert [one.sequence for one in results] == [40 * i for i in range(75)]
    check_logs(own_server.url, spec, given)
    history = [(parts["0"], None), (parts["1"], ["0"]), (parts["2"], ["0"]), (parts["3"], ["1", "2"])]
    history += [(parts["4"], ["3"]), (parts["5"], ["3"]), (parts["6"], ["4", "5"])]
    check_folds(client, own_server.url, spec, history)
    assert client.models.statistics(name).counts["events"] == 3000
    assert client.models.get(name).position == 3000
    again = [*client.learn(name, given, producer="another"), *client.learn(name, given, producer="another")]
    assert [one.duplicate for one in again] == [False] * 75 + [True] * 75
    assert client.models.statistics(name).counts["events"] == 6000


def test_what_was_sent_before_is_left_out_wherever_it_is(client, two, own_server, name):
    """A producer sends all again, cut otherwise, after splits and merges: nothing is lost or doubled."""
    spec = spec_of(name)
    client.models.create(spec)
    given = batches(900, 30)
    list(client.learn(name, given[:10], producer="p"))
    client.models.split(name, into=2, shards=["shard-0", "shard-1"])
    list(client.learn(name, given[:20], producer="p"))
    keys = [key for batch in given[20:25] for key in batch["key"]]
    low = next(p for p in map_of(own_server.url, name).partitions if p.low == 0)
    ahead = [i for i, key in enumerate(keys) if key_hash(key.encode()) < low.high]
    assert 0 < len(ahead) < len(keys)
    ahead_of_the_other(client, spec, given, low, ahead)
    client.models.merge(name, "1", "2")
    expected = two[map_of(own_server.url, name).partitions[0].shard == "shard-1"]
    producers = expected.partition(name, "3").producers
    assert (producers.logged["p"], producers.ahead["p"]) == (600, [(0, low.high, 750)])
    whole = {column: [v for batch in given for v in batch[column]] for column in given[0]}
    other = [{c: v[at : at + 77] for c, v in whole.items()} for at in range(0, 900, 77)]
    list(client.learn(name, other, producer="p"))
    check_logs(own_server.url, spec, given)
    assert not producers.ahead


def ahead_of_the_other(client, spec, given, low, ahead):
    """Only the lower partition gets its rows of the batches 20 to 25."""
    whole = {column: [v for batch in given[20:25] for v in batch[column]] for column in given[0]}
    columns = take_columns(columns_from(**whole, target=spec.target), np.array(ahead))
    request = pb.LearnRequest(model=spec.name, producer="p", sequence=600, next_sequence=750, columns=columns)
    request.partition, request.number = low.id, (np.array(ahead, np.uint64) + 600).tobytes()
    address = client.core.owner(spec.name, b"", low.id)
    with grpc.insecure_channel(address) as channel:
        (reply,) = api.OnlineLearningStub(channel).Learn(iter([request]))
    assert reply.accepted.rows == len(ahead)


def test_unary_calls_find_their_partition_from_any_shard(client, two, own_server, name):
    client.models.create(spec_of(name))
    client.models.split(name, into=4, shards=["shard-0", "shard-1"])
    for shard in two:
        with Client(shard.shard.address) as other:
            for i in range(12):
                key = f"k{i}"
                first = other.update(name, X, "UP", key=key, id=f"{shard.config.name}-{i}")
                assert other.update(name, X, "UP", key=key, id=f"{shard.config.name}-{i}").position == first.position
                held = map_of(own_server.url, name).at(key_hash(key.encode()))
                assert other.predict(name, event=X, key=key).position == first.position + 1
                owner = two[int(held.shard[-1])].partition(name, held.id)
                assert owner.head == first.position + 1
    x = np.array([list(X.values())] * 30, np.float32)
    keys = [f"k{i}" for i in range(30)]
    together = client.predict(name, x=x, key=keys, probabilities=True)
    one_by_one = [client.predict(name, event=X, key=key, probabilities=True) for key in keys]
    np.testing.assert_array_equal(together.value, [one.value[0] for one in one_by_one])
    np.testing.assert_array_equal(together.probabilities, [one.probabilities[0] for one in one_by_one])


def test_an_update_sent_again_after_a_split_is_a_duplicate(client, two, name):
    client.models.create(spec_of(name))
    before = [client.update(name, X, "UP", key=f"k{i}", id=f"e{i}") for i in range(20)]
    client.models.split(name, shards=["shard-0", "shard-1"])
    for i, first in enumerate(before):
        again = client.update(name, X, "UP", key=f"k{i}", id=f"e{i}")
        assert again.duplicate
        assert (again.position, again.value[0]) == (first.position, first.value[0])
    client.models.merge(name, "1", "2")
    assert all(client.update(name, X, "UP", key=f"k{i}", id=f"e{i}").duplicate for i in range(20))
    assert client.models.get(name).position == 20


def test_labels_find_observations_made_before_a_split(client, two, name):
    client.models.create(spec_of(name, labels={"arrive": "delayed", "pending": 4}))
    for i in range(20):
        client.update(name, X, key=f"k{i}", id=f"o{i}")
    client.models.split(name, into=3, shards=["shard-0", "shard-1"])
    client.models.merge(name, "1", "2")
    for i in range(20):
        assert client.label(name, f"o{i}", f"k{i}", "UP").outcome[0] & 1


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_targets_split_and_merge(client, two, own_server, name, kind):
    spec = spec_of(name, kind)
    client.models.create(spec)
    given = batches(1200, 60, kind)
    list(client.learn(name, given[:15]))
    client.models.split(name)
    results = list(client.learn(name, given[15:]))
    assert sum(one.rows for one in results) == 300
    predicted = results[-1].predictions.predicted()
    assert len(predicted) == 60
    parts = {part.id: part for part in map_of(own_server.url, name).partitions}
    client.models.merge(name, *parts)
    parts |= {part.id: part for part in map_of(own_server.url, name).partitions}
    history = [(Range("0"), None), (parts["1"], ["0"]), (parts["2"], ["0"]), (parts["3"], ["1", "2"])]
    check_folds(client, own_server.url, spec, history)


def test_classes_in_another_order_are_not_merged(client, two, name):
    client.models.create(spec_of(name, "multiclass"))
    client.update(name, X, "old", key="a")
    client.models.split(name)
    hashes = {key: key_hash(key.encode()) for key in map(str, range(50))}
    low, high = min(hashes, key=hashes.__getitem__), max(hashes, key=hashes.__getitem__)
    for key, labels in ((low, ("red", "blue")), (high, ("blue", "red"))):
        for label in labels:
            client.update(name, X, label, key=key)
    with pytest.raises(Refused) as refused:
        client.models.merge(name, "1", "2")
    assert refused.value.reason == "CLASSES_DIFFER"
    assert client.update(name, X, "red", key=low).position == 3
    assert client.models.get(name).state == "serving"


def test_a_client_that_has_not_heard_of_a_split_predicts_and_asks_all_the_same(client, two, name):
    spec = spec_of(name)
    with Client(two[1].shard.address) as other:
        other.partition_map()  # older than the model
        client.models.create(spec)
        given = batches(200, 50)
        list(client.learn(name, given, producer="p"))
        client.models.split(name, shards=["shard-0", "shard-1"])
        rows = {part: given[0][part] for part in ("x", "key")}
        assert np.isfinite(other.predict(name, **rows).value).all()
        assert other.producer(name, "p") == pb.Producer(known=True, next_sequence=200)
        client.models.split(name, shards=["shard-0", "shard-1"])  # and then older than that
        assert np.isfinite(other.predict(name, **rows).value).all()
        assert other.producer(name, "p") == pb.Producer(known=True, next_sequence=200)


def test_a_closed_stream_to_several_partitions_gives_nothing_more(client, two, name):
    client.models.create(spec_of(name))
    client.models.split(name)
    stream = client.learn(name, batches(400, 50), in_flight=1)
    assert next(stream).rows == 50
    stream.close()
    assert list(stream) == []
    assert client.models.get(name).position == 50


def test_rows_for_another_partition_are_refused_with_the_map(client, two, own_server, name):
    spec = spec_of(name)
    client.models.create(spec)
    client.models.split(name, shards=["shard-0"])
    columns = columns_from(**batches(40, 40)[0], target=spec.target)
    with grpc.insecure_channel(client.core.owner(name, b"") if client.core.map else two[0].target) as channel:
        stub = api.OnlineLearningStub(channel)
        for partition in ("", "1", "2"):
            request = pb.LearnRequest(model=name, producer="p", columns=columns, partition=partition)
            refused = refused_by(lambda: list(stub.Learn(iter([request]))))  # noqa: B023
            assert refused.reason == "WRONG_MAP"
            assert [p.id for p in refused.detail(pb.PartitionMap).partitions] == ["1", "2"]
        request = pb.PredictRequest(model=name, columns=columns)
        assert refused_by(lambda: stub.Predict(request)).reason == "WRONG_MAP"
        gone = pb.GetProducerRequest(model=name, producer="p", partition="0")
        assert refused_by(lambda: stub.GetProducer(gone)).reason == "NO_PARTITION"
        stale = pb.Route(map_version=1)
        request = pb.PredictRequest(model=name, route=stale, event=pb.Event(features=X))
        assert refused_by(lambda: stub.Predict(request)).reason == "WRONG_MAP"
    assert all_ids(own_server.url, spec) == []


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda models, name: models.split(name, into=1), "into"),
        (lambda models, name: models.split(name, shards=["shard-7"]), "shard"),
        (lambda models, name: models.move(name, "0", "nowhere"), "shard"),
        (lambda models, name: models.merge(name, "0", "0"), "partitions"),
    ],
)
def test_impossible_changes_are_refused_by_name(client, two, name, change, field):
    client.models.create(spec_of(name))
    with pytest.raises(Refused) as refused:
        change(client.models, name)
    assert refused.value.violations[0].field == field
    assert client.update(name, X, "UP").position == 0


def test_rebalance_deals_partitions_out(client, two, own_server, name):
    client.models.create(spec_of(name))
    client.models.split(name, into=4, shards=["shard-0"])
    moved = client.models.rebalance(name)
    assert len(moved.partitions) == 2
    owners = [part.shard for part in map_of(own_server.url, name).partitions]
    assert sorted(owners) == ["shard-0", "shard-0", "shard-1", "shard-1"]
    assert len(client.models.rebalance().partitions) == 0
    assert client.update(name, X, "UP", key="k").position == 0


def test_a_split_model_is_deleted_whole(client, two, own_server, name):
    client.models.create(spec_of(name))
    list(client.learn(name, batches(200, 50)))
    client.models.split(name, into=3, shards=["shard-0", "shard-1"])
    client.models.merge(name, "1", "2")
    client.models.delete(name)
    assert connect(own_server.url).execute_command("KEYS", f"*{name}*") == []
    client.models.create(spec_of(name))
    assert client.models.get(name).position == 0
    assert client.update(name, X, "UP").position == 0


def test_models_that_two_shards_share_are_deleted_at_once(client, two, own_server, name):
    """Each shard has the first partition of one, and asks the other for its part."""
    names = [f"{name}-{number}" for number in range(8)]
    for number, one in enumerate(names):
        client.models.create(spec_of(one))
        client.models.split(one, shards=[f"shard-{(number + part) % 2}" for part in (0, 1)])
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(client.models.delete, names))
    assert connect(own_server.url).execute_command("KEYS", f"*{name}*") == []


def test_a_partition_that_is_being_opened_is_deleted_once_it_serves(client, two, own_server, name, monkeypatch):
    client.models.create(spec_of(name))
    home = client.models.get(name).partitions[0].shard
    there = two[home == "shard-0"]
    go, recover = threading.Event(), Recovery.run
    monkeypatch.setattr(Recovery, "run", lambda self: go.wait(60) and recover(self))
    with ThreadPoolExecutor(1) as pool:
        moving = pool.submit(client.models.move, name, "0", there.shard.config.name)
        until(lambda: (name, "0") in there.shard.partitions)
        with pytest.raises(Refused) as refused:
            client.models.delete(name)
        assert refused.value.reason == "PARTITION_STARTING"
        go.set()
        moving.result(60)
    client.models.delete(name)
    assert connect(own_server.url).execute_command("KEYS", f"*{name}*") == []


def test_a_fold_that_fails_while_its_partition_moves_ends_the_move_and_nothing_else(local, name, monkeypatch):
    with Client(local.target) as client:
        client.models.create(spec_of(name))
        partition = local.partition(name)
        reached, go = threading.Event(), threading.Event()

        def fold(batch):
            reached.set()
            go.wait(60)
            raise RuntimeError("no")

        monkeypatch.setattr(partition.learner, "fold", fold)
        monkeypatch.setattr(partition.sequencer, "small", lambda batch: False)
        asking = ThreadPoolExecutor(1).submit(client.update, name, X, "UP", timeout=30)
        assert reached.wait(30)
        freezing = asyncio.run_coroutine_threadsafe(partition.freeze(b""), one_loop())
        until(lambda: partition.state == "moving")
        go.set()
        refused = freezing.exception(30)
        assert isinstance(refused, Refused)
        assert refused.reason == "PARTITION_REBUILDING"
        assert asking.result(30).position == 0  # it was in the log, and the learner that took its place can fold it
        assert local.partition(name) is not partition
        assert client.models.statistics(name).counts["rebuilds"] == 1


def test_partitions_of_a_shard_that_is_gone_are_adopted(own_server, name):
    spec = spec_of(name)
    shards = [LocalShard(own_server.url, index=i, shards=3) for i in range(3)]
    with Client(shards[0].shard.address) as client:
        client.models.create(spec)
        list(client.learn(name, batches(300, 50)))
        client.models.split(name, into=3, shards=["shard-0", "shard-1", "shard-2"])
        list(client.learn(name, batches(300, 50, seed=1)))
        before = digests(client, name)
    for shard in shards:
        shard.stop()
    shards = [LocalShard(own_server.url)]
    with Client(shards[0].target) as client:
        assert digests(client, name) == before
        assert {part.shard for part in map_of(own_server.url, name).partitions} == {"shard-0"}
        assert client.models.get(name).position == 600
    shards[0].stop()
    shards = [LocalShard(own_server.url, index=i, shards=2) for i in range(2)]
    with Client(shards[0].shard.address) as client:
        until(lambda: client.models.get(name).state == "serving")
        client.models.rebalance()
        assert digests(client, name) == before
        assert {part.shard for part in map_of(own_server.url, name).partitions} == {"shard-0", "shard-1"}
    for shard in shards:
        shard.stop()
