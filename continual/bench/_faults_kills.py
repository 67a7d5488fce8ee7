"""SIGKILL of the shard, of redis-server, or of both, at positions of a stream."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from continual.bench._faults_audit import Audit, audit
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import (
    GIVE_UP_SECONDS,
    IN_FLIGHT,
    Acknowledged,
    Ledger,
    Stream,
    Updates,
    file_events,
    spec_of,
)

KINDS = ("shard", "redis", "both")
FILE, MIXED = "file", "mixed"
"""The two models: one gets the file, the other a file of half its length and unary updates."""


@dataclass
class Kills:
    """Kills at random positions, one in each of equal spans of the stream, each after acknowledgements went on.

    Args:
        served: what is killed.
        kinds: what each kill ends.
        positions: events sent before each kill, rising.
    """

    served: Served
    kinds: list[str]
    positions: list[int]
    done: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _pending: tuple[float, str, int] | None = None

    def before(self, sent: int) -> None:
        """Kills, if a position is reached and the last kill is recovered from."""
        number = self.done.total()
        if number < len(self.positions) and sent >= self.positions[number] and self._pending is None:
            kind = self.kinds[number]
            self.served.kill(kind, FILE)
            self._pending = (time.monotonic(), kind, sent)
            self.done[kind] += 1

    def after(self, answer: Acknowledged) -> None:
        """Notes the first answer to what was sent after a kill."""
        if self._pending is not None and answer.sequence >= self._pending[2]:
            since, kind, _ = self._pending
            self.seconds.setdefault(kind, []).append(time.monotonic() - since)
            self._pending = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: the kills, the audit of each model, and how often a shard ended of itself."""

    kills: Kills
    audits: dict[str, Audit]
    unasked: int


def planned(kills: int, events: int, what: str, seed: int) -> tuple[list[str], list[int], int]:
    """What each kill ends, at how many sent events, and the events of a piece at most.

    Raises:
        ValueError: more kills than the stream has room for.
    """
    span = int(events * 0.99) // max(1, kills)
    if span < 2 * (IN_FLIGHT + 1):
        raise ValueError(f"kills: got {kills} in {events} events; accepted: at most one in {2 * IN_FLIGHT + 3} events")
    rng = np.random.default_rng(seed)
    kinds = [str(rng.choice(KINDS)) if what == "mixed" else what for _ in range(kills)]
    positions = [span * index + int(rng.integers(span)) for index in range(kills)]
    return kinds, positions, max(1, min(32, span // (2 * (IN_FLIGHT + 1))))


def run_kills(
    served: Served,
    *,
    kills: int,
    events: int,
    what: str = "mixed",
    seed: int = 0,
    progress: Callable[[int], None] = lambda acknowledged: None,
) -> Outcome:
    """Streams `events` events while killing, then audits both models.

    Args:
        served: a running deployment without the two models.
        kills: how many.
        events: of the file; the second model gets half as many, and an update for every tenth.
        what: one of `KINDS`, or `mixed`.
        seed: of events, sizes and kills.
        progress: called with the events of the file that are acknowledged.
    """
    kinds, positions, largest = planned(kills, events, what, seed)
    attack = Kills(served, kinds, positions)
    specs = {FILE: spec_of(FILE, snapshot_every=500), MIXED: spec_of(MIXED, snapshot_every=300)}
    ledgers = {name: Ledger() for name in specs}
    file, other = file_events(events, seed), file_events(events // 2, seed + 1)
    updates = file_events(max(1, events // 10), seed + 2)

    def after(answer: Acknowledged) -> None:
        attack.after(answer)
        progress(answer.sequence + answer.rows)

    with served.client() as client, served.client() as second:
        for spec in specs.values():
            client.models.create(spec, timeout=GIVE_UP_SECONDS)
        main = Stream(client, FILE, file, ledgers[FILE], largest=largest, seed=seed, before=attack.before, after=after)

        def share() -> float:
            return 1.0 if failed else main.sent / events

        def follow(sent: int) -> None:
            while share() < sent / len(other):
                time.sleep(0.002)

        failed: list[bool] = []
        beside = Stream(second, MIXED, other, ledgers[MIXED], largest=largest, seed=seed + 1, before=follow)
        unary = Updates(second, MIXED, updates, ledgers[MIXED], share)
        with ThreadPoolExecutor(1 + Updates.CALLERS) as pool:
            others = [pool.submit(beside.run), *(pool.submit(unary.run, caller) for caller in range(Updates.CALLERS))]
            try:
                main.run()
            except BaseException:
                failed.append(True)  # the others wait for nothing any more
                raise
            for future in others:
                future.result()
        audits = {}
        for name, spec in specs.items():
            statistics = client.models.statistics(name, digest=True)
            audits[name] = audit(served.store(name), spec, ledgers[name], statistics, file if name == FILE else None)
    asked = attack.done["shard"] + attack.done["both"]
    return Outcome(attack, audits, served.starts(FILE) - 1 - asked)
