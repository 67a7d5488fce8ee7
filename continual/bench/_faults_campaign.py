"""Thousands of kills of a shard that is forked, not started: in replays, rebuilds, trials, snapshots and splits.

An epoch is a store with five models (see `_faults_life`) and some hundred lives of their shard. Each life ends by
SIGKILL at a random moment, or by an event that ends its process; now and then only the process of a trial is killed. In
its last life all is folded, and every acknowledged event is looked up in the log and every state held against the fold
of that log, without faults, that passes over what was set aside.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench._faults_audit import FOLD_ROWS, fold, read_log
from continual.bench._faults_forks import SHARD, Forked, ForkServer
from continual.bench._faults_learner import MARK
from continual.bench._faults_life import EVENTS, KINDS, PHASES, SEEN_BYTES, SPLITS, spec_of
from continual.bench._faults_traffic import Ledger
from learners.base import Learner, MemoryRows
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.shard import DEPLOYMENT
from service.store.catalog import Catalog
from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from service.store.partition import Partition as Store
from service.store.partition_map import Range
from service.wire import Schema, decode_event, key_hash
from streams.batch import Batch

LIVES = 250
"""Of an epoch, at most."""
START_SECONDS = 0.1
ANSWERS = 30
PHASE_SECONDS = 0.005
"""To a kill on average: from the beginning of a life; answers that it gives; from when a phase is seen."""
PATIENCE_SECONDS, PATIENCE_ANSWERS = 2.0, 200
"""A life in which the phase does not come is killed after so long, once it answered, or so many answers."""
MOST_SECONDS = 30.0
"""No life is longer: its events may be at an end."""
LAST_SECONDS = 300.0
"""A last life that takes longer hangs."""


@dataclass
class Campaign:
    """What came of it.

    Attributes:
        kills: of shards, by what they were in the midst of; one kill may be in the midst of several things.
        total: kills of shards.
        trials: kills of processes that tried a fold.
        ended: shards that an event ended.
        models: whose states were audited.
        logged: events in the logs.
        acknowledged: events that were answered.
        lost: of those, how many the log does not hold where the answer said.
        doubled: events that a log holds twice.
        mispredicted: answers that differ from those of the fold without faults.
        stopping: events that stop the fold, in the logs.
        set_aside: events that were set aside.
        unjust: of those, how many do not stop the fold.
        missed: events that stop the fold and were not set aside.
        differing: models whose state is not the fold of their log, or whose counts are not.
        told: what else went wrong.
    """

    kills: Counter[str] = field(default_factory=Counter)
    total: int = 0
    trials: int = 0
    ended: int = 0
    models: int = 0
    logged: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    mispredicted: int = 0
    stopping: int = 0
    set_aside: int = 0
    unjust: int = 0
    missed: int = 0
    differing: int = 0
    told: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, doubled, different, or set aside without failing by itself."""
        wrong = self.lost, self.doubled, self.mispredicted, self.unjust, self.missed, self.differing
        return not any(wrong) and not self.told


def run_campaign(
    folder: Path, *, kills: int, seed: int = 0, lives: int = LIVES, progress: Callable[[int], None] = lambda kills: None
) -> Campaign:
    """Kills shards until there were `kills`, and audits what each epoch has left.

    Args:
        folder: for stores and sockets; its path is short.
        kills: of shards, at least.
        seed: of events, sizes and moments.
        lives: of an epoch, at most.
        progress: called with the kills so far.
    """
    campaign = Campaign()
    rng = np.random.default_rng(seed)
    with ForkServer(folder) as forks:
        epoch = 0
        while campaign.total < kills:
            place = folder / f"e{epoch}"
            place.mkdir()
            with EmbeddedRedis(place / "store") as server:
                run = Epoch(campaign, forks, server.url, place, f"e{epoch}", seed * 100_000 + epoch, rng)
                run.run(min(lives, kills - campaign.total), progress)
            epoch += 1
    return campaign


class Epoch:
    """One store and the lives of its shard."""

    def __init__(
        self,
        campaign: Campaign,
        forks: ForkServer,
        url: str,
        folder: Path,
        name: str,
        seed: int,
        rng: np.random.Generator,
    ) -> None:
        self._campaign = campaign
        self._forks = forks
        self._folder = folder
        self._seed = seed
        self._rng = rng
        self._order = {"redis": url, "epoch": name, "seed": seed, "folder": str(folder), "last": False}
        self._phases = folder / "phases"
        self._client = connect(url)
        self._name = name

    def run(self, kills: int, progress: Callable[[int], None]) -> None:
        """So many kills, and the audit."""
        goal = self._campaign.total + kills
        split_after = self._campaign.total + int(self._rng.integers(kills // 4, max(1, kills // 2) + 1))
        life = 0
        while self._campaign.total < goal:
            self._live(life, self._campaign.total >= split_after)
            life += 1
            progress(self._campaign.total)
        self._audit(self._last(life))

    def _start(self, life: int, **more: Any) -> Forked:
        self._phases.write_bytes(bytes(SEEN_BYTES))
        return self._forks.start(SHARD, self._order | {"life": life, "split": False} | more)

    def _live(self, life: int, split: bool) -> None:
        process = self._start(life, split=split)
        due = self._moment(split)
        spares = self._rng.random() < 0.2
        while not due(self._seen()):
            if process.ended(0.002):
                self._ended(process)
                return
            if spares and self._forks.kill_trial():
                self._campaign.trials += 1
                spares = False
        phases, _ = self._seen()
        process.kill()
        if self._ended(process):
            self._campaign.total += 1
            self._campaign.kills.update(phases - {"serving"} or phases or {"starting"})

    def _seen(self) -> tuple[set[str], int]:
        """The phases that the shard is in, and how many answers it gave."""
        seen = self._phases.read_bytes()
        return {PHASES[at] for at in range(len(PHASES)) if seen[at]}, int.from_bytes(seen[len(PHASES) :], "little")

    def _moment(self, split: bool) -> Callable[[tuple[set[str], int]], bool]:
        """Says of what is seen whether it is time to kill."""
        drawn, began = float(self._rng.random()), time.monotonic()
        answers = int(self._rng.exponential(ANSWERS))
        if drawn < 0.25:
            end = began + float(self._rng.exponential(START_SECONDS))
            return lambda seen: time.monotonic() >= end
        if drawn < 0.5:
            return lambda seen: seen[1] > answers or time.monotonic() - began > MOST_SECONDS
        phase = str(self._rng.choice(["split", "snapshot"] if split else ["rebuilding", "trial", "snapshot"]))
        delay, since = float(self._rng.exponential(PHASE_SECONDS)), [0.0]

        def due(seen: tuple[set[str], int]) -> bool:
            now = time.monotonic()
            if phase in seen[0] and not since[0]:
                since[0] = now
            came = since[0] > 0 and now - since[0] >= delay
            waited = now - began > (PATIENCE_SECONDS if seen[1] else MOST_SECONDS)
            return came or waited or seen[1] > PATIENCE_ANSWERS

        return due

    def _ended(self, process: Forked) -> bool:
        """Notes the end of a shard; whether it was killed."""
        said = list(process.said)
        code = process.wait()
        self._campaign.told += [f"epoch {self._name}: a shard gave up: {line.strip()}" for line in said]
        self._campaign.ended += code == 3
        if code not in (-9, 3):
            self._campaign.told.append(f"epoch {self._name}: a shard ended by {code}")
        return code == -9

    def _last(self, life: int) -> dict[str, Any]:
        """What the shard says once all is folded; an event may end some of its lives before."""
        deadline = time.monotonic() + LAST_SECONDS
        while time.monotonic() < deadline:
            life += 1
            process = self._start(life, last=True)
            if process.ended(deadline - time.monotonic()):
                said = list(process.said)
                code = process.wait()
                if code == 0 and said:
                    return json.loads(said[-1])
                self._campaign.ended += code == 3
                if code != 3:
                    self._campaign.told.append(f"epoch {self._name}: a shard ended by {code}: {said}")
                    return {}
            else:
                process.kill()
                process.wait()
        self._campaign.told.append(f"epoch {self._name}: not all was folded within {LAST_SECONDS:g} s")
        return {}

    # The audit

    def _audit(self, said: dict[str, Any]) -> None:
        for kind in KINDS if said else ():
            (self._audit_updates if kind == SPLITS else self._audit_stream)(kind, said[kind])

    def _lines(self, kind: str) -> list[Any]:
        place = self._folder / kind
        return [json.loads(line) for line in place.read_bytes().splitlines()] if place.exists() else []

    def _store(self, spec: ModelSpec, id: str) -> Store:
        return Store(self._client, DEPLOYMENT, spec.name, id)

    def _judge(self, kind: str, id: str, said: dict[str, Any], digest: str, head: int, aside: int) -> None:
        self._campaign.models += 1
        if "failed" in said:
            self._campaign.told.append(f"epoch {self._name}: model {kind} is failed: {said['failed']}")
        elif (said["digest"], said["position"], said["counts"]["quarantined"]) != (digest, head, aside):
            self._campaign.differing += 1
            self._campaign.told.append(f"epoch {self._name}: model {kind}/{id} differs: {said}, {head}, {aside}")

    def _audit_stream(self, kind: str, said: list[dict[str, Any]]) -> None:
        campaign, spec = self._campaign, spec_of(kind, self._name)
        logged = read_log(self._store(spec, "0"), spec, Ledger(sent={"p": EVENTS}))
        learner, folded, _ = fold(faultless(spec), logged.batches, logged.quarantined)
        marked = {int(at) for at in np.flatnonzero(Batch.concat(logged.batches).x[:, 0] == MARK)}
        place, values = logged.streams["p"], folded.value.view(np.int64)
        campaign.logged += logged.events
        campaign.doubled += logged.doubled
        campaign.stopping += len(marked)
        campaign.set_aside += len(logged.quarantined)
        campaign.unjust += len(set(logged.quarantined) - marked)
        campaign.missed += len(marked - set(logged.quarantined))
        for number, position, told, _ in self._lines(kind):
            rows = np.arange(len(told))
            campaign.acknowledged += len(told)
            there = place[number + rows] == position + rows
            campaign.lost += int((~there).sum())
            campaign.mispredicted += int((np.array(told)[there] != values[position + rows[there]]).sum())
        self._judge(kind, "0", said[0], learner.digest(), logged.events, len(logged.quarantined))

    def _audit_updates(self, kind: str, said: list[dict[str, Any]]) -> None:
        campaign, spec = self._campaign, spec_of(kind, self._name)
        held = Catalog(self._client, DEPLOYMENT).map_of(spec.name)
        assert held is not None
        family = Family(faultless(spec), lambda id: self._store(spec, id))
        if held.retired:
            family.fold(Range("0"), None)
        for part in held.partitions:
            family.fold(part, "0" if held.retired else None)
        campaign.logged += len(family.values)
        campaign.doubled += family.doubled
        campaign.set_aside += family.set_aside
        campaign.unjust += family.set_aside
        for number, _, told, _ in self._lines(kind):
            campaign.acknowledged += 1
            campaign.lost += str(number) not in family.values
            campaign.mispredicted += family.values.get(str(number), told[0]) != told[0]
        for one in said:
            digest, head = family.states[one["id"]]
            self._judge(kind, one["id"], one, digest, head, 0)


def faultless(spec: ModelSpec) -> ModelSpec:
    """The same learner, which nothing stops."""
    given = spec.model_dump(mode="json")
    given["learner"] |= {"how": "nothing", "pause": 0.0}
    return ModelSpec.model_validate(given)


class Family:
    """The logs of a model of single updates, folded as its partitions should have: children from their parent's state.

    Attributes:
        values: by event id the prediction, as the bits of a float64.
        states: by partition digest and position.
        doubled: events that are there more than once.
        set_aside: events that the service passes over.
    """

    def __init__(self, spec: ModelSpec, store: Callable[[str], Store]) -> None:
        roomy = spec.deployment.model_copy(update={"slots": 1_000_000})
        self._spec = spec.model_copy(update={"deployment": roomy})
        self._store = store
        self._folded: dict[str, tuple[Learner, dict[bytes, tuple[int, bytes]]]] = {}
        self.values: dict[str, int] = {}
        self.states: dict[str, tuple[str, int]] = {}
        self.doubled = 0
        self.set_aside = 0

    def fold(self, part: Range, parent: str | None) -> None:
        """Folds the log of a partition whose parent was folded before."""
        learner, rows = self._spec.learner.build(self._spec), MemoryRows()
        if parent is None:
            learner.attach(rows)
        else:
            donor, held = self._folded[parent]
            rows.put_rows((key, *row) for key, row in held.items() if part.low <= key_hash(key) < part.high)
            learner.load(donor.shared_arrays(), rows)
        store, schema = self._store(part.id), Schema.of(self._spec)
        self.set_aside += len(store.quarantined())
        updates = [
            pb.UpdateRequest.FromString(message[1:])
            for entry in store.read(part.start)
            for message in entry.messages
            if entry.count
        ]
        for at in range(0, len(updates), FOLD_ROWS):
            some = updates[at : at + FOLD_ROWS]
            folded = learner.fold(Batch.concat([decode_event(update.event, schema) for update in some]))
            self.doubled += sum(update.event.id in self.values for update in some)
            self.values |= zip((update.event.id for update in some), folded.value.view(np.int64).tolist())
        self.states[part.id] = learner.digest(), learner.position
        kept = {key: row for key in rows.iter_keys() if (row := rows.get_rows([key], 0)[0]) is not None}
        learner.begin_capture(-1)
        while (piece := learner.capture(1 << 20)) is not None:
            kept |= {key: (position, content) for key, position, content in piece}
        learner.end_capture()
        self._folded[part.id] = learner, kept

