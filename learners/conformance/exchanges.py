"""Checks of learners whose partitions exchange what they have learned; one that refuses to has nothing to hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from learners.base import Row
from learners.conformance.checks import MANY, _bits, _build, _check, _loaded, _snapshot, _with
from learners.conformance.logs import deliver, random_log
from learners.exchange import PREFIX, ROUND, Arrays, combine
from learners.spec import ExchangePolicy, ModelSpec
from streams.batch import Batch

PARTS = ("1", "2", "3")


def _exchanging(spec: ModelSpec) -> list[ModelSpec]:
    """The spec with an exchange of each kind; none where its learner refuses."""
    policies = (ExchangePolicy(every=1), ExchangePolicy(every=1, weights="sum"))
    updates = [{"deployment": spec.deployment.model_copy(update={"exchange": policy})} for policy in policies]
    specs = [_with(spec.model_copy(update=update)) for update in updates]
    try:
        for one in specs:
            one.learner.check_exchange(one)
    except ValueError:
        return []
    return specs


def _apart(spec: ModelSpec, log: Batch, slots: int = MANY) -> tuple[dict[str, Any], Arrays, list[Row]]:
    """A partition that folded a log, split: its pieces, all keys in each, what it leaves, and its rows."""
    whole: Any = _build(spec)
    whole.fold(log)
    shared, rows = _snapshot(whole)
    parts: dict[str, Any] = {id: _loaded(_with(spec, slots), shared, rows) for id in PARTS}
    for learner in parts.values():
        learner.begin_apart("0")
    return parts, whole.contribution(), rows


def _exchange(parts: dict[str, Any], left: Arrays) -> dict[str, Arrays]:
    """All publish, then all take; what each folded."""
    published = {id: learner.contribution() for id, learner in parts.items()}
    taken = {}
    for id, learner in parts.items():
        kept = learner.exchange
        others = {other: one for other, one in published.items() if other != id}
        taken[id] = combine(int(kept.counts[ROUND]) + 1, learner.classes(), kept.taken, others, {"0": left})
        learner.receive(taken[id])
    return taken


def _state(learner: Any) -> Arrays:
    """Shared arrays without what is kept for the exchange."""
    arrays = learner.shared_arrays()
    return {name: array.copy() for name, array in arrays.items() if not name.startswith(PREFIX)}


@_check
def an_exchange_of_one_state_gives_it(spec: ModelSpec, seed: int) -> None:
    """Partitions that learned nothing by themselves have nothing to give: no bit changes."""
    for exchanging in _exchanging(spec):
        _gives_it(exchanging, seed)


def _gives_it(exchanging: ModelSpec, seed: int) -> None:
    parts, left, _ = _apart(exchanging, random_log(exchanging, seed))
    before = _state(parts["1"])
    for _ in range(2):
        _exchange(parts, left)
        for id, learner in parts.items():
            changed = [name for name, array in _state(learner).items() if _bits(array) != _bits(before[name])]
            assert not changed, f"an exchange of copies changed {changed} of partition {id!r}"


@_check
def an_exchange_counts_nothing_twice(spec: ModelSpec, seed: int) -> None:
    """What others gave is not part of what a learner gives, and a second exchange without news changes little more."""
    for exchanging in _exchanging(spec):
        _counts_once(exchanging, seed)


def _counts_once(exchanging: ModelSpec, seed: int) -> None:
    log = random_log(exchanging, seed)
    parts, left, _ = _apart(exchanging, log)
    for number, learner in enumerate(parts.values()):
        learner.fold(log.slice(100 * number, 100 * number + 100))
    own = {id: learner.contribution() for id, learner in parts.items()}
    _exchange(parts, left)
    once = {id: _state(learner) for id, learner in parts.items()}
    for id, learner in parts.items():
        assert learner.exchange.counts[ROUND] == 1
        again = learner.contribution()
        for name in (name for name in again if name.startswith(("summed.", "steps"))):
            np.testing.assert_allclose(again[name], own[id][name], rtol=1e-6, atol=1e-6, err_msg=f"{id}: {name}")
    _exchange(parts, left)
    for id, learner in parts.items():
        for name, array in _state(learner).items():
            np.testing.assert_allclose(array, once[id][name], rtol=1e-5, atol=1e-7, err_msg=f"{id}: {name}")


@_check
def a_log_with_exchanges_replays(spec: ModelSpec, seed: int) -> None:
    """Any cuts, any slots, a snapshot on the way, an entry met twice: the same digest."""
    for exchanging in _exchanging(spec):
        _replays(exchanging, seed)


def _replays(exchanging: ModelSpec, seed: int) -> None:
    log, rng = random_log(exchanging, seed), np.random.default_rng(seed)
    parts, left, rows = _apart(exchanging, log)
    entries: list[Batch | Arrays] = []
    for turn in range(3):
        for number, learner in enumerate(parts.values()):
            at = 100 * number + 30 * turn
            piece = log.slice(at, at + 30)
            learner.fold(piece)
            if number == 0:
                entries.append(piece)
        entries.append(_exchange(parts, left)["1"])
    wanted = parts["1"].digest()
    for slots in (4, MANY):
        learner = _apart(exchanging, log, slots)[0]["1"]
        for entry in entries:
            for one in deliver(entry, rng.integers(0, len(entry), 3).tolist(), rng) if isinstance(entry, Batch) else []:
                learner.fold(one)
            if isinstance(entry, dict):
                learner.receive(entry)
                if slots == MANY:
                    shared, changed = _snapshot(learner)
                    rows += changed
                    learner = _loaded(exchanging, shared, rows)
                learner.receive(entry)
        assert learner.digest() == wanted, f"digest with {slots} slots"


