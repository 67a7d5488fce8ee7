"""Cutting batches by key and putting answers together, without a server: what is sent where, in which order."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api import continual_v1_pb2 as pb
from service.client.core import Core
from service.client.lanes import Lanes
from service.client.routing import Routes, hashes_of, united
from service.client.session import LearnSession, Numbered
from service.errors import Refused
from service.shard.requests import hashes_of as compiled
from service.wire import (
    PredictionBatch,
    Schema,
    columns_from,
    decode_columns,
    key_hash,
    key_hashes,
    pack_keys,
    predictions_to_proto,
    take_columns,
)

SPEC = '{"name": "m", "features": [{"name": "a"}], "target": {"kind": "multiclass"}}'
SCHEMA = Schema.from_json(SPEC)
KEYS = st.lists(st.binary(max_size=100), min_size=1, max_size=30)


def map_of(*ids: str, version: int = 1) -> pb.PartitionMap:
    """Equal ranges with these ids."""
    cuts = [2**64 * i // len(ids) for i in range(len(ids) + 1)]
    parts = [
        pb.Partition(model="m", id=id, first_hash=low, last_hash=high - 1, map_version=version, address=f"at-{id}")
        for id, low, high in zip(ids, cuts, cuts[1:])
    ]
    return pb.PartitionMap(deployment="d", version=version, partitions=parts)


@settings(deadline=None)  # the first call compiles
@given(KEYS)
def test_a_column_hashes_as_every_key_does_compiled_or_not(keys: list[bytes]) -> None:
    known = [key_hash(key) for key in keys]
    column = pack_keys(keys)
    assert key_hashes(column).tolist() == known
    assert compiled(column).tolist() == known
    if len(keys) > 1:
        part = column.slice(1, len(keys))
        assert key_hashes(part).tolist() == known[1:]


def test_the_hash_is_xxh64_for_ever() -> None:
    """Known answers: what is in the store was put there by this very function."""
    known = {b"": 0xEF46DB3751D8E999, b"a": 0xD24EC4F1A98C6E5B}
    assert [key_hash(key) for key in known] == list(known.values())
    assert key_hashes(pack_keys(list(known))).tolist() == list(known.values())


@given(KEYS, st.data())
def test_rows_that_are_taken_are_those_rows(keys: list[bytes], data: st.DataObject) -> None:
    n = len(keys)
    x = np.arange(n, dtype=np.float32)[:, None]
    ids = [f"e{i}" * (i % 3) for i in range(n)]
    whole = columns_from(x, [i % 3 for i in range(n)], key=keys, time=np.arange(n), id=ids)
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n)), np.int64)
    batch, taken = decode_columns(whole, SCHEMA), decode_columns(take_columns(whole, rows), SCHEMA)
    for name in ("x", "kind", "y", "time", "id"):
        np.testing.assert_array_equal(getattr(taken, name), getattr(batch, name)[rows])
    assert [taken.key[i] for i in range(len(rows))] == [keys[row] for row in rows]


@given(KEYS, st.integers(1, 5))
def test_every_row_goes_to_the_partition_of_its_key(keys: list[bytes], many: int) -> None:
    current = map_of(*map(str, range(1, many + 1)))
    routes = Routes(current, "m")
    columns = columns_from(np.zeros((len(keys), 1)), key=keys)
    parts = routes.rows(hashes_of(columns))
    assert sorted(row for _, rows in parts for row in rows.tolist()) == list(range(len(keys)))
    for id, rows in parts:
        part = next(part for part in current.partitions if part.id == id)
        assert all(part.first_hash <= key_hash(keys[row]) <= part.last_hash for row in rows)


def test_predictions_of_parts_stand_in_the_order_of_the_rows() -> None:
    code = np.array([0, 1], np.int32)
    first = PredictionBatch(7, np.array([0.1, 0.2]), code, ("a", "b"), None, np.zeros(2, np.uint8))
    second = PredictionBatch(9, np.array([0.3]), np.array([0], np.int32), ("b",), None, np.zeros(1, np.uint8))
    whole = united([(np.array([0, 2]), first), (np.array([1]), second)], 4)
    np.testing.assert_array_equal(whole.value, [0.1, 0.3, 0.2, np.nan])
    assert whole.predicted() == ["a", "b", "b", None]
    assert whole.position == 7
    rows = (np.array([[0.9, 0.1]], np.float32), np.array([[1.0]], np.float32))
    first = PredictionBatch(0, np.array([0.9]), np.array([0], np.int32), ("a", "b"), rows[0], np.zeros(0, np.uint8))
    second = PredictionBatch(0, np.array([1.0]), np.array([0], np.int32), ("b",), rows[1], np.zeros(0, np.uint8))
    whole = united([(np.array([1]), first), (np.array([0]), second)], 2)
    np.testing.assert_array_equal(whole.probabilities, np.array([[0, 1], [0.9, 0.1]], np.float32))


class Fake:
    """Lanes over a map that can be changed, and logs that drop what they have, as partitions do."""

    def __init__(self, *ids: str) -> None:
        self.core = Core("target", "d")
        self.core.schemas["m"] = SCHEMA
        self.core.adopt(map_of(*ids))
        session = LearnSession(
            self.core, "m", producer="p", first_sequence=0, in_flight=8, on_refused="raise", timeout=5.0
        )
        self.lanes = Lanes(session)
        self.logs: dict[str, list[int]] = {id: [] for id in ids}
        self.marks: dict[str, int] = dict.fromkeys(ids, 0)

    def remap(self, version: int, *ids: str, **parents: list[str]) -> None:
        """A change of the partitions: children begin at the mark of their parents."""
        for id in ids:
            if id not in self.marks:
                self.logs[id] = []
                self.marks[id] = min(self.marks[parent] for parent in parents[f"p{id}"])
        self.core.adopt(map_of(*ids, version=version))

    def give(self, first: int, keys: list[str]) -> None:
        routes = self.lanes.routes()
        self.lanes.gone(routes)
        assert self.lanes.room(routes)
        columns = columns_from(np.zeros((len(keys), 1)), key=keys)
        self.lanes.give(self.lanes.whole(columns), routes)

    def answer(self, id: str, most: int = 99) -> None:
        """The partition takes what a lane has for it, and answers."""
        lane = self.lanes.lanes[id]
        for request in list(lane.session.unanswered)[:most]:
            numbers = np.frombuffer(request.number, "<u8").tolist()
            fresh = [n for n in numbers if n >= self.marks[id]]
            assert fresh in (numbers, []), "a batch that a partition has in part"
            self.logs[id] += fresh
            self.marks[id] = max(self.marks[id], request.next_sequence)
            accepted = predictions_to_proto(0, np.zeros(len(numbers)), np.zeros(len(numbers), np.int32))
            self.lanes.answer(id, pb.LearnReply(sequence=request.sequence, accepted=accepted, next_sequence=0))


def test_parts_wait_for_each_other_and_batches_for_those_before() -> None:
    fake = Fake("1", "2")
    keys = [f"k{i}" for i in range(20)]
    fake.give(0, keys)
    fake.give(20, keys)
    fake.answer("1")
    assert fake.lanes.ready() is None
    fake.answer("2", 1)
    done = fake.lanes.ready()
    assert done is not None
    assert (done.sequence, done.rows, done.next_sequence) == (0, 20, 20)
    assert fake.lanes.ready() is None
    fake.answer("2")
    done = fake.lanes.ready()
    assert done is not None
    assert done.sequence == 20
    assert sorted(fake.logs["1"] + fake.logs["2"]) == list(range(40))


@pytest.mark.parametrize("answered", [0, 1, 2, 3])
def test_what_a_split_partition_left_goes_to_its_pieces_in_order(answered: int) -> None:
    fake = Fake("1", "2")
    keys = [f"k{i}" for i in range(20)]
    for batch in range(3):
        fake.give(20 * batch, keys)
    fake.answer("2")
    fake.answer("1", answered)
    fake.remap(2, "3", "4", "2", p3=["1"], p4=["1"])
    # ranges of the fake map are equal: "1" was [0, 1/2), its pieces have the lower two thirds; take the true ones
    fake.core.map.partitions[0].last_hash = 2**62 - 1
    fake.core.map.partitions[1].first_hash, fake.core.map.partitions[1].last_hash = 2**62, 2**63 - 1
    fake.core.map.partitions[2].first_hash = 2**63
    fake.give(60, keys)
    for id in ("3", "4", "2"):
        fake.answer(id)
    for batch in range(4):
        done = fake.lanes.ready()
        assert done is not None
        assert done.sequence == 20 * batch
    logged = [number for log in fake.logs.values() for number in log]
    assert sorted(logged) == list(range(80))
    assert all(log == sorted(log) for log in fake.logs.values())


def test_a_map_that_another_call_drops_is_no_model_that_is_gone() -> None:
    fake = Fake("1", "2")
    fake.give(0, ["a", "b"])
    fake.core.map = None
    assert fake.lanes.routes().ids == ["1", "2"]
    assert fake.lanes.next_open(0.0) > 0
    fake.core.adopt(pb.PartitionMap(deployment="d", version=2))
    with pytest.raises(Refused, match="m"):
        fake.lanes.routes()


class Unreachable(grpc.RpcError):
    """Nobody answers."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "nobody answers"

    def trailing_metadata(self) -> tuple:
        return ()


@pytest.mark.parametrize("known", [None, "other"])
def test_where_a_producer_goes_on_is_asked_of_all_partitions(known: str | None) -> None:
    """Also where the map could not be had at first, or is older than the model: the first alone may be far ahead."""
    core, current = Core("target", "d"), map_of("1", "2", version=2)
    if known:
        core.adopt(map_of("0"))
        core.map.partitions[0].model = known
    asked = []

    def carried_out(plan):
        step = next(plan)
        if not known:
            step = plan.throw(Unreachable())
        while True:
            if step.method == "GetProducer":
                asked.append(step.request.partition)
            told = pb.Producer(known=True, next_sequence=100 - len(asked))
            step = plan.send(told if step.method == "GetProducer" else current)

    with pytest.raises(StopIteration) as done:
        carried_out(core.producer("m", "p", 5.0))
    assert asked == ["1", "2"]
    assert done.value.value == pb.Producer(known=True, next_sequence=98)


def test_a_producer_that_one_partition_does_not_know_goes_on_at_0() -> None:
    """That one may have missed events that the others have: they were on their way to it when the client ended."""
    core = Core("target", "d")
    core.adopt(map_of("1", "2"))
    plan = core.producer("m", "p", 5.0)
    assert next(plan).request.partition == "1"
    assert plan.send(pb.Producer(known=True, next_sequence=500)).request.partition == "2"
    with pytest.raises(StopIteration) as done:
        plan.send(pb.Producer())
    assert done.value.value == pb.Producer(known=False, next_sequence=0)


def test_batches_that_leave_numbers_out_need_the_number_of_every_row() -> None:
    fake = Fake("1", "2")
    columns = columns_from(np.zeros((2, 1)), key=["a", "b"])
    with pytest.raises(ValueError, match="numbers"):
        fake.lanes.whole(Numbered(columns, "kafka:t/0", 5, 9))
    whole = fake.lanes.whole(Numbered(columns, "kafka:t/0", 5, 9, np.array([6, 8])))
    sent = fake.lanes.give(whole, fake.lanes.routes())
    assert sorted(n for _, r in sent for n in np.frombuffer(r.number, "<u8").tolist()) == [6, 8]
    assert {r.next_sequence for _, r in sent} == {9}


def test_a_stamp_goes_everywhere_before_anything_after_it() -> None:
    fake = Fake("1", "2", "3")
    sent = fake.lanes.give(fake.lanes.whole(Numbered(None, "kafka:t/0", 0, 100)), fake.lanes.routes())
    assert [(id, request.next_sequence) for id, request in sent] == [("1", 100), ("2", 100), ("3", 100)]
    assert not fake.lanes.room(fake.lanes.routes())
    for id in ("1", "2", "3"):
        fake.answer(id)
    assert fake.lanes.ready() is not None
    assert fake.lanes.room(fake.lanes.routes())
