"""Processes killed, power lost, poisonous events, a store that is gone: bounded runs of `continual bench faults`."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner

from continual.bench._faults_audit import audit, read_log
from continual.bench._faults_campaign import run_campaign
from continual.bench._faults_kills import KINDS, planned, run_kills
from continual.bench._faults_learner import How
from continual.bench._faults_poison import run_overflow, run_poison
from continual.bench._faults_power import Cut, run_losses
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import Acknowledged, Ledger, file_events, spec_of
from continual.bench.faults import faults
from service.api import continual_v1_pb2 as pb
from service.client.core import DATA
from service.errors import from_rpc_error
from service.shard.requests import LEARN, UPDATE
from service.store.ownership import LEASE_SECONDS, OwnerRecord
from service.wire import PredictionBatch, Schema, columns_of, event_from, predictions_from_proto

pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="watching syncs needs a C compiler"
)


def test_nothing_acknowledged_is_lost_or_doubled_by_ten_kills(served: Served) -> None:
    outcome = run_kills(served, kills=10, events=2000, seed=5)
    assert outcome.kills.done.total() == 10
    assert set(outcome.kills.done) == set(KINDS)
    assert sum(map(len, outcome.kills.seconds.values())) == 10
    file, mixed = outcome.audits["file"], outcome.audits["mixed"]
    assert file.sound
    assert (file.logged, file.acknowledged, file.file) == (2000, 2000, True)
    assert mixed.sound
    assert mixed.logged == mixed.acknowledged == 1000 + 200
    assert outcome.unasked == 0


@pytest.mark.timeout(600)
def test_no_kill_of_a_forked_shard_loses_doubles_or_sets_aside_anything(tmp_path_factory) -> None:
    campaign = run_campaign(tmp_path_factory.mktemp("f"), kills=60, seed=3)
    assert campaign.sound, campaign
    assert campaign.total == 60
    assert campaign.acknowledged > 60
    assert campaign.stopping == campaign.set_aside > 0
    assert {"starting", "rebuilding", "trial"} <= set(campaign.kills)


@pytest.mark.long
@pytest.mark.timeout(6 * 3600)
def test_nor_do_ten_thousand(tmp_path_factory) -> None:
    campaign = run_campaign(tmp_path_factory.mktemp("f"), kills=10_000, seed=4)
    assert campaign.sound, campaign
    assert {"starting", "rebuilding", "trial", "snapshot", "split", "serving"} == set(campaign.kills)


@needs_compiler
def test_what_was_synced_survives_a_loss_of_power(folder: Path) -> None:
    outcome = run_losses(folder, appendfsync="always", losses=1, events=1000)
    assert (outcome.losses, outcome.told) == (1, 0)
    assert outcome.audit.sound
    assert outcome.audit.acknowledged == outcome.audit.logged == 1000


@needs_compiler
def test_a_loss_of_power_shows_that_nothing_was_synced(folder: Path) -> None:
    outcome = run_losses(folder, appendfsync="no", losses=1, events=1000)
    assert outcome.bytes > 0
    assert outcome.audit.lost > 0
    assert outcome.audit.lost == outcome.audit.acknowledged - outcome.audit.logged
    assert outcome.audit.consistent
    assert outcome.told == 1


def test_the_cut_drops_what_came_after_the_last_sync(tmp_path: Path) -> None:
    cut = Cut(tmp_path)
    cut.log.write_bytes(b"synced and not")
    assert cut.synced() == 0
    cut.record.write_bytes(np.array([cut.log.stat().st_ino, 6], "<u8").tobytes())
    assert cut.apply() == 8
    assert cut.log.read_bytes() == b"synced"
    assert cut.apply() == 0


@pytest.mark.parametrize(("how", "starts"), [("raise", 2), ("exit", 3)])
def test_an_event_that_stops_the_fold_is_set_aside_and_nothing_else_is_lost(
    served: Served, how: How, starts: int
) -> None:
    outcome = run_poison(served, how=how, events=600)
    assert outcome.starts == starts  # in one process and rebuilt; in three: it serves, it replays, it is tried apart
    assert outcome.quarantined == [300]
    assert outcome.kept
    assert outcome.counts["quarantined"] == 1
    assert outcome.audit.sound
    assert outcome.audit.logged == outcome.audit.acknowledged == 600


def test_updates_that_are_not_finite_are_skipped_and_counted(served: Served) -> None:
    outcome = run_overflow(served, events=600)
    assert outcome.counts["nonfinite_skipped"] > 0
    assert outcome.starts == 1
    assert outcome.audit.sound
    assert outcome.audit.logged == 600


@contextmanager
def gone(served: Served) -> Iterator[None]:
    """Redis does not answer; its supervisor sees nothing to restart."""
    store = served.store_process()
    os.kill(store, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(store, signal.SIGCONT)


def test_a_store_that_is_gone_is_refused_at_once_and_needs_no_restart(served: Served) -> None:
    spec = spec_of("gone")
    schema = Schema.of(spec)
    events = file_events(40, seed=3)
    names = [feature.name for feature in spec.features]
    update = pb.UpdateRequest(
        model="gone", event=event_from(dict(zip(names, [0.5] * 8)), 1, key="key-0", time=None, id="in-doubt")
    )
    batches = [
        pb.LearnRequest(model="gone", producer="p", sequence=at, columns=columns_of(events.slice(at, at + 10), schema))
        for at in range(0, 40, 10)
    ]
    ledger = Ledger(sent={"p": 40})
    patience = 4 * LEASE_SECONDS  # for one answer; far more means that a call hangs

    def keep(reply: pb.LearnReply) -> None:
        answer = predictions_from_proto(reply.accepted, reply.duplicate)
        ledger.batches.append(Acknowledged("p", reply.sequence, 10, answer))

    with served.client() as client, ThreadPoolExecutor(2) as pool:
        client.models.create(spec)
        owner = next(p.address for p in client.partition_map().partitions if p.model == "gone")
        stub = client.stub(owner, DATA)
        for reply in stub.Learn(iter(batches[:1])):
            keep(reply)
        before = served.owner("gone")
        with gone(served):
            updating = pool.submit(stub.Update, update, timeout=patience)
            learning = pool.submit(lambda: list(stub.Learn(iter(batches[1:]), timeout=patience)))
            for call in (updating, learning):
                assert_unavailable(call.exception())
            for key in ("key-0", "never-seen"):
                event = event_from(dict(zip(names, [0.5] * 8)), None, key=key, time=None)
                with pytest.raises(grpc.RpcError) as error:
                    stub.Predict(pb.PredictRequest(model="gone", event=event), timeout=patience)
                assert_unavailable(error.value)
        again = client.update("gone", dict(zip(names, [0.5] * 8)), 1, key="key-0", id="in-doubt")
        ledger.updates["in-doubt"] = [again]
        for reply in stub.Learn(iter(batches[1:])):
            keep(reply)
        statistics = client.models.statistics("gone", digest=True)
    result = audit(served.store("gone"), spec, ledger, statistics)
    assert result.sound
    assert result.logged == result.acknowledged == 41
    assert served.owner("gone") == before
    assert served.starts("gone") == 1


def assert_unavailable(error: BaseException | None) -> None:
    assert isinstance(error, grpc.RpcError)
    refused = from_rpc_error(error)
    assert refused.code is grpc.StatusCode.UNAVAILABLE, refused
    assert refused.retry_seconds is not None


# The means of proof can fail.


def logged_by_hand(served: Served, name: str, *messages: tuple[bytes, int]) -> None:
    """Writes a log as a shard would."""
    store = served.store(name)
    token = store.acquire(OwnerRecord.here("by-hand", ""))
    position = 0
    for message, count in messages:
        position = store.append(token, position, count, [message])


def test_the_audit_counts_what_is_lost_and_what_is_doubled(served: Served) -> None:
    spec = spec_of("audited")
    events = file_events(30, seed=4)

    def learn(at: int) -> tuple[bytes, int]:
        columns = columns_of(events.slice(at, at + 10), Schema.of(spec))
        return LEARN + pb.LearnRequest(producer="p", sequence=at, columns=columns).SerializeToString(), 10

    event = event_from({f"f{index}": 1.0 for index in range(8)}, 1, key="k", time=None, id="u")
    update = (UPDATE + pb.UpdateRequest(event=event).SerializeToString(), 1)
    logged_by_hand(served, "audited", learn(0), update, learn(0), update)
    ledger = Ledger(sent={"p": 30}, updates={"v": []})
    logged = read_log(served.store("audited"), spec, ledger)
    assert logged.events == 22
    assert logged.doubled == 11
    assert (logged.streams["p"][10:] < 0).all()

    def told(rows: int) -> PredictionBatch:
        return PredictionBatch(11, np.zeros(rows), np.zeros(rows, np.int32), (), None, np.zeros(rows, np.uint8))

    ledger.batches = [Acknowledged("p", at, 10, told(10)) for at in (0, 10)]
    ledger.updates["v"].append(told(1))
    with served.client() as client:
        client.models.create(spec_of("fingerprint"))
        statistics = client.models.statistics("fingerprint", digest=True)
    result = audit(served.store("audited"), spec, ledger, statistics)
    assert (result.acknowledged, result.lost, result.doubled) == (21, 11, 11)
    assert result.mispredicted == 10
    assert not result.digest
    assert not result.sound


def test_more_kills_than_the_stream_has_room_for_are_refused() -> None:
    with pytest.raises(ValueError, match="kills: got 50 in 100 events"):
        planned(50, 100, "mixed", 0)


def test_the_command_says_what_it_can_be_told() -> None:
    assert "--power-loss" in CliRunner().invoke(faults, ["--help"]).output


def test_a_snapshot_begins_between_requests(served: Served) -> None:
    rows = 3000
    spec = spec_of("between", snapshot_every=10_000_000)
    events = file_events(4 * rows, seed=5)
    positions: set[int] = set()
    with served.client() as client, served.client() as other, ThreadPoolExecutor(1) as pool:
        client.models.create(spec)
        batches = [events.slice(at, at + rows) for at in range(0, 4 * rows, rows)]
        learning = pool.submit(lambda: list(client.learn("between", batches)))
        while not learning.done():
            positions.add(other.models.snapshot("between").position)
        assert len(learning.result()) == 4
    assert positions <= set(range(0, 5 * rows, rows))
    assert len(positions) > 1
