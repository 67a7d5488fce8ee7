"""A fold that fails stops one partition, and an event is set aside only after it failed alone, twice."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from shard_harness import LocalShard, batch_of, columns, digest, events, fold, spec_of, until

from continual.bench._faults_learner import MARK
from learners.compiled import CompiledLearner
from learners.registry import PLUGINS
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.errors import Refused
from service.shard import trial
from service.shard.evidence import MOST_IN_A_ROW
from service.shard.trial import Spawned, Trial
from service.store.connect import connect
from service.store.errors import StoreUnavailable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store

QUARANTINED = pb.OUTCOME_QUARANTINED


@pytest.fixture(autouse=True)
def plugin(monkeypatch):
    """Shards and trials that are started know the learner with a fault."""
    monkeypatch.setenv(PLUGINS, "continual.bench._faults_learner")


def poisoned(name: str, how: str, pause: float = 0.0, **deployment) -> ModelSpec:
    spec = spec_of(name, **deployment).model_dump(mode="json")
    learner = spec["learner"] | {"kind": "poisoned", "how": how, "pause": pause}
    return ModelSpec.model_validate(spec | {"learner": learner})


def marked(rows: int, *at: int, seed: int = 0) -> dict:
    given = events("binary", rows, by_id=True, seed=seed)
    given["x"][list(at), 0] = MARK
    return given


def healthy(spec: ModelSpec) -> ModelSpec:
    given = spec.model_dump(mode="json")
    given["learner"] = {name: value for name, value in given["learner"].items() if name not in ("how", "pause")}
    return ModelSpec.model_validate(given | {"learner": given["learner"] | {"kind": "recurrent"}})


def without(spec: ModelSpec, given: dict, *at: int):
    """The fold of the events, those at some positions passed over."""
    whole = batch_of(healthy(spec), given)
    learner, _ = fold(healthy(spec), whole.slice(0, at[0]))
    for here, then in zip(at, [*at[1:], len(whole)]):
        learner.pass_over(1)
        if here + 1 < then:
            learner.fold(whole.slice(here + 1, then))
    return learner


def set_aside(url: str, model: str) -> dict[int, str]:
    return Store(connect(url), "continual", model).quarantined()


def fold_threads() -> int:
    return sum(thread.name.startswith("fold-") for thread in threading.enumerate())


# An exception


def test_an_event_whose_fold_raises_is_set_aside_and_its_neighbours_are_learned(local, own_server, name, caplog):
    spec = poisoned(name, "raise", slots=3)
    given = marked(400, 0, 137, 138, 399)
    with Client(local.target) as client:
        client.models.create(spec)
        before = fold_threads()
        answers = list(client.learn(name, [columns(spec, given)], producer="p"))
        (outcome,) = (answer.predictions.outcome for answer in answers)
        assert np.flatnonzero(outcome == QUARANTINED).tolist() == [0, 137, 138, 399]
        assert digest(client, name) == without(spec, given, 0, 137, 138, 399).digest()
        statistics = client.models.statistics(name)
        assert (statistics.counts["quarantined"], statistics.counts["rebuilds"]) == (4, 1)
        said = [record.message for record in caplog.records if "set aside" in record.message]
        assert len(said) == 4
        reason = "its fold raised RuntimeError: the marked event, twice, alone"
        assert said[1] == f"model {name}: the event at position 137 is set aside as a dead letter: {reason}"
        assert set_aside(own_server.url, name) == dict.fromkeys((0, 137, 138, 399), reason)
        letters = client.models.dead_letters(name).letters
        assert [letter.number for letter in letters] == [0, 137, 138, 399]
        list(client.learn(name, [columns(spec, events("binary", 300, seed=1))], producer="q"))
        assert fold_threads() <= before + 1  # a rebuild leaves no thread behind


def test_others_serve_while_a_model_whose_fold_raises_is_rebuilt(local, own_server, name, monkeypatch):
    spec, other = poisoned(name, "raise"), spec_of(f"{name}-other")
    given = events("binary", 3000, seed=3)
    held, fold_all = threading.Event(), CompiledLearner.fold
    reached = threading.Event()

    def slow(self, batch):
        if self.spec.name == name and threading.current_thread().name.startswith("asyncio"):  # it is replayed
            reached.set()
            held.wait(60)
        return fold_all(self, batch)

    with Client(local.target) as client, Client(local.target) as beside, ThreadPoolExecutor(1) as pool:
        client.models.create(spec)
        client.models.create(other)
        list(client.learn(name, [columns(spec, events("binary", 50))], producer="p"))
        monkeypatch.setattr(CompiledLearner, "fold", slow)
        sending = pool.submit(lambda: list(client.learn(name, [columns(spec, marked(9, 4))], producer="q")))
        try:
            assert reached.wait(30)
            with pytest.raises(Refused) as refused:
                beside.predict(name, event={"a": 1.0, "b": 0.5, "c": 0.0}, timeout=0.2)
            assert refused.value.code is grpc.StatusCode.UNAVAILABLE
            assert refused.value.retry_seconds
            assert "raised RuntimeError: the marked event" in refused.value.message
            shown = beside.models.get(name)
            assert (shown.state, shown.position) == ("rebuilding", 59)
            assert "the marked event" in shown.partitions[0].reason
            batches = [columns(other, events("binary", 3000, seed=3))]
            answers = list(beside.learn(other.name, batches, producer="r", timeout=20))
            assert digest(beside, other.name) == fold(other, batch_of(other, given))[0].digest()
            assert [answer.duplicate for answer in answers] == [False]
        finally:
            held.set()
        assert sending.result(60)[0].predictions.outcome[4] == QUARANTINED
        assert client.models.get(name).state == "serving"
        assert not client.models.get(name).partitions[0].reason


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), KeyboardInterrupt()], ids=repr)
def test_whatever_a_fold_raises_it_ends_neither_process_nor_loop(local, name, monkeypatch, error):
    spec = spec_of(name)
    fold_all = CompiledLearner.fold

    def raising(self, batch):
        if (batch.x[:, 0] == MARK).any():
            raise error
        return fold_all(self, batch)

    monkeypatch.setattr(CompiledLearner, "fold", raising)
    with Client(local.target) as client:
        client.models.create(spec)
        alone = client.update(name, {"a": MARK, "b": 0.5, "c": 1.0}, "UP", key="k")  # folded on the event loop
        assert alone.outcome.tolist() == [QUARANTINED]
        (answer,) = client.learn(name, [columns(spec, marked(3000, 2000))], producer="p")  # folded in the thread
        assert np.flatnonzero(answer.predictions.outcome == QUARANTINED).tolist() == [2000]


def test_a_fold_that_raises_only_in_company_loses_nothing(local, own_server, name, monkeypatch):
    """It raises on batches of three and more: no event is at fault, however often that happens."""
    spec = spec_of(name)
    given = events("binary", 200)
    fold_all = CompiledLearner.fold
    raises = [True]

    def moody(self, batch):
        if raises[0] and len(batch) > 2:
            raise RuntimeError("too many")
        return fold_all(self, batch)

    with Client(local.target) as client:
        client.models.create(spec)
        monkeypatch.setattr(CompiledLearner, "fold", moody)
        (answer,) = client.learn(name, [columns(spec, given)], producer="p")
        assert not (answer.predictions.outcome == QUARANTINED).any()
        assert set_aside(own_server.url, name) == {}
        raises[0] = False
        assert digest(client, name) == fold(spec, batch_of(spec, given))[0].digest()


def test_where_every_event_fails_the_model_is_failed_and_not_its_events(local, own_server, name, monkeypatch):
    spec, other = spec_of(name), spec_of(f"{name}-other")
    fold_all = CompiledLearner.fold

    def broken(self, batch):
        if self.spec.name == name and self.position + len(batch) > 10:
            raise RuntimeError("the state is broken")
        return fold_all(self, batch)

    with Client(local.target) as client:
        client.models.create(spec)
        client.models.create(other)
        monkeypatch.setattr(CompiledLearner, "fold", broken)
        with pytest.raises(Refused) as refused:
            list(client.learn(name, [columns(spec, events("binary", 100))], producer="p", timeout=60))
        assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_FAILED")
        assert "the state is broken" in refused.value.message
        shown = client.models.get(name)
        assert (shown.state, shown.position) == ("failed", 100)
        assert "the state or the learner is at fault" in shown.partitions[0].reason
        assert sorted(set_aside(own_server.url, name)) == list(range(10, 10 + MOST_IN_A_ROW))
        with pytest.raises(Refused, match="MODEL_FAILED"):
            client.models.statistics(name)
        list(client.learn(other.name, [columns(other, events("binary", 100))], producer="p"))
    monkeypatch.undo()
    local.stop()
    again = LocalShard(own_server.url)  # mended: what was not set aside is learned
    with Client(again.target) as client:
        counts = client.models.statistics(name).counts
        assert (counts["events"], counts["quarantined"]) == (100, MOST_IN_A_ROW)
    again.stop()
    assert not again.failures


# A process that dies


@pytest.mark.parametrize("how", ["exit", "crash"])
def test_an_event_whose_fold_ends_the_process_is_found_in_a_process_of_its_own(own_server, start_shard, name, how):
    """A slow model that replays whenever the shard dies loses nothing, and the shard dies twice, not more."""
    spec, slow = poisoned(name, how), poisoned(f"{name}-slow", "nothing", pause=0.001)
    given, others = marked(60, 21), events("binary", 800, seed=5)
    shard = start_shard()
    with Client(shard.target) as client:
        client.models.create(spec)
        client.models.create(slow)
        list(client.learn(slow.name, [columns(slow, others)], producer="p"))
        with pytest.raises(Refused):
            list(client.learn(name, [columns(spec, given)], producer="p", timeout=0.5))
    shard.process.wait(30)
    shard.start(wait=False)
    shard.process.wait(60)  # it replays, and dies of the same
    shard.start()
    with Client(shard.target) as client:
        (answer,) = client.learn(name, [columns(spec, given)], producer="p", timeout=60)
        assert answer.duplicate
        ended = {"exit": "exit code 3", "crash": "SIGSEGV"}[how]
        assert set_aside(own_server.url, name) == {21: f"its fold ended its process by {ended}, twice, alone"}
        assert digest(client, name) == without(spec, given, 21).digest()
        until(lambda: client.models.get(slow.name).state == "serving", 60)
        assert set_aside(own_server.url, slow.name) == {}
        assert digest(client, slow.name) == fold(healthy(slow), batch_of(healthy(slow), others))[0].digest()
    assert shard.process.poll() is None


def test_a_kill_from_outside_is_no_evidence_however_often_it_comes(own_server, name, monkeypatch):
    """The trial is killed at the same event each time: the event is not set aside, and others serve."""
    spec, other = poisoned(name, "kill"), spec_of(f"{name}-other")
    given = marked(30, 11)
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        client.models.create(poisoned(name, "nothing"))
        client.models.create(other)
        list(client.learn(name, [columns(spec, given)], producer="p"))
        position = client.models.snapshot(other.name).position
    shard.run(shard.shard.close(shard.partition(name)))
    leave_a_mark(own_server, spec)
    shard.stop()
    tried, pauses = [], []

    def start(order):
        tried.append(order["apart"])
        return Spawned(order)

    monkeypatch.setattr("service.shard.revival.Spawned", start)
    monkeypatch.setattr(trial.Trial, "_wait", lambda self: pauses.append(self._pause))
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        until(lambda: len(pauses) >= 4, 120)
        assert set(tried) == {(0, 0)}
        assert client.models.get(name).state == "rebuilding"
        assert client.models.get(other.name).state == "serving"
        assert client.models.statistics(other.name).position == position
        assert set_aside(own_server.url, name) == {}
    shard.stop()
    assert not shard.failures


def leave_a_mark(server, spec: ModelSpec) -> None:
    """As if a process had died while it replayed the whole log, by another build of the learner."""
    client = connect(server.url)
    store = Store(client, "continual", spec.name)
    token = store.acquire(OwnerRecord.here("by-hand", ""), lease=0.0)
    client.delete(*store.keys.rows, store.keys.snapshots)
    store.mark_replay(token)
    store.release(token)
    client.hset("continual:{continual}:models", spec.name, spec.to_json())


def test_what_a_trial_has_folded_need_not_be_folded_again(own_server, name):
    spec = poisoned(name, "nothing")
    given = events("binary", 300)
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        client.models.create(spec)
        list(client.learn(name, [columns(spec, given)], producer="p"))
    shard.stop()
    leave_a_mark(own_server, spec)
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        until(lambda: client.models.get(name).state == "serving", 60)
        assert client.models.get(name).snapshot_position == 300
        assert client.producer(name, "p").next_sequence == 300
        assert digest(client, name) == fold(healthy(spec), batch_of(healthy(spec), given))[0].digest()
    assert not Store(connect(own_server.url), "continual", name).suspect()
    shard.stop()
    assert not shard.failures


def test_the_process_of_a_trial_ends_with_the_shard_that_started_it(own_server, name):
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        client.models.create(poisoned(name, "nothing"))
    partition = shard.partition(name)
    order = {"redis": own_server.url, "signing_key": "", "deployment": "continual", "token": partition.token}
    order |= {"spec": partition.spec.to_json(), "part": {"id": "0"}, "apart": (0, 0), "dirty": False}
    process = Spawned(order)
    assert list(process.said)[-1] == "done\n"
    assert process.wait() == 0
    idle = subprocess.Popen([sys.executable, "-m", "service.shard.trial"], stdin=subprocess.PIPE)
    idle.kill()
    idle.wait()
    away = Trial({"redis": "unix:///nowhere.sock", "signing_key": ""}, lambda: False)
    with pytest.raises(StoreUnavailable, match="CONNECTION"):
        away.run(partition, (0, 0), dirty=False)
    shard.stop()


def test_a_trial_that_cannot_begin_is_repeated(own_server, name):
    """There may be no memory for a process now: that says nothing of the event."""
    shard = LocalShard(own_server.url)
    with Client(shard.target) as client:
        client.models.create(poisoned(name, "nothing"))
    begun = []

    def start(order):
        begun.append(order)
        if len(begun) < 3:
            raise BlockingIOError("no process now")
        return Spawned(order)

    Trial({"redis": own_server.url, "signing_key": ""}, lambda: False, start).run(shard.partition(name), (0, 0), False)
    assert len(begun) == 3
    shard.stop()


def test_a_lack_of_memory_is_tried_apart_and_is_no_evidence_here(local, own_server, name, monkeypatch):
    """A MemoryError in the shard may be the doing of others: a process of its own tries the fold."""
    spec = poisoned(name, "nothing")
    fold_all = CompiledLearner.fold

    def short(self, batch):
        if (batch.x[:, 0] == MARK).any():
            raise MemoryError
        return fold_all(self, batch)

    with Client(local.target) as client:
        client.models.create(spec)
        monkeypatch.setattr(CompiledLearner, "fold", short)
        list(client.learn(name, [columns(spec, marked(60, 33))], producer="p"))
        assert set_aside(own_server.url, name) == {}
        assert client.models.get(name).snapshot_position == 60
        assert client.models.statistics(name).counts["quarantined"] == 0
