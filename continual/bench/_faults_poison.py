"""Events that stop the fold, and events whose update is not finite."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from continual.bench._faults_audit import Audit, audit
from continual.bench._faults_learner import MARK, How
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import GIVE_UP_SECONDS, Acknowledged, Ledger, Stream, file_events, spec_of
from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.shard.requests import LEARN
from service.store.partition import Partition as Store
from streams.batch import Batch

PLUGIN = {"CONTINUAL_LEARNERS": "continual.bench._faults_learner"}
"""Environment of a deployment that knows the poisoned learner."""

HOWS: tuple[How, ...] = ("raise", "exit", "crash")
"""What the marked event does."""

RECURRENT: dict[str, Any] = {"kind": "recurrent", "cell": {"kind": "mingru", "units": 16}}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        audit: of the model, against a fold without the quarantined event.
        counts: of the fold, by outcome.
        starts: processes that took ownership.
        seconds: longest time without an answer; NaN where nothing stopped.
        quarantined: positions that are passed over.
        kept: whether the dead letter holds the event that was logged, byte for byte, and no other.
    """

    audit: Audit
    counts: dict[str, int]
    starts: int
    seconds: float
    quarantined: list[int]
    kept: bool


def run_poison(served: Served, *, how: How, events: int = 1000, seed: int = 0) -> Outcome:
    """Streams events of which the middle one stops the fold, until all are answered.

    Args:
        served: a running deployment with `PLUGIN` in its environment.
        how: one of `HOWS`.
        events: how many.
        seed: of the events.
    """
    healthy = spec_of(f"poison-{how}", snapshot_every=200)
    batch = file_events(events, seed)
    batch.x[events // 2, 0] = MARK
    spec = healthy.model_dump(mode="json") | {"learner": RECURRENT | {"kind": "poisoned", "how": how}}
    answered = [time.monotonic()]
    ledger = Ledger()

    def after(answer: Acknowledged) -> None:
        answered.append(time.monotonic())

    with served.client() as client:
        client.models.create(spec, timeout=GIVE_UP_SECONDS)
        Stream(client, healthy.name, batch, ledger, largest=16, seed=seed, after=after).run()
        statistics = client.models.statistics(healthy.name, digest=True)
    store = served.store(healthy.name)
    quarantined = sorted(store.quarantined())
    return Outcome(
        audit(store, healthy, ledger, statistics),
        dict(statistics.counts),
        served.starts(healthy.name),
        float(np.diff(answered).max()),
        quarantined,
        len(quarantined) == 1 and _kept(store, batch.x[events // 2]),
    )


def _kept(store: Store, features: np.ndarray) -> bool:
    """Whether the one dead letter is the marked event as it was logged, alone."""
    (letter,) = store.dead_letters()
    columns = pb.LearnRequest.FromString(letter.payload[1:]).columns
    return letter.payload[:1] == LEARN and columns.rows == 1 and columns.x == features.tobytes()


def run_overflow(served: Served, *, events: int = 1000, seed: int = 0) -> Outcome:
    """Streams a regression that diverges, in which every tenth event is as large as its type allows.

    The default learner bounds inputs and residuals and takes these events in its stride. Here the bounds on residuals
    and gradients are lifted and the step size is 10: the weights grow until an update would not be finite.
    """
    wild = {"optimizer": {"kind": "sgd", "rate": 10.0}, "residual_clip": 1e300, "gradient_clip": 0}
    spec = ModelSpec.model_validate(
        spec_of("overflow", snapshot_every=200).model_dump(mode="json")
        | {"target": {"kind": "regression"}, "learner": RECURRENT | wild}
    )
    batch = overflowing(events, seed)
    ledger = Ledger()
    answers: list[Acknowledged] = []
    with served.client() as client:
        client.models.create(spec, timeout=GIVE_UP_SECONDS)
        Stream(client, spec.name, batch, ledger, largest=16, seed=seed, after=answers.append).run()
        statistics = client.models.statistics(spec.name, digest=True)
    store = served.store(spec.name)
    checked = audit(store, spec, ledger, statistics, batch)
    finite = all(np.isfinite(answer.predictions.value).all() for answer in answers)
    checked = replace(checked, nonfinite=checked.nonfinite or not finite)
    return Outcome(checked, dict(statistics.counts), served.starts(spec.name), float("nan"), [], True)


def overflowing(events: int, seed: int) -> Batch:
    """Events of a regression; every tenth has features of 3e38 and a label of 1e90, of random sign."""
    rng = np.random.default_rng(seed)
    batch = file_events(events, seed)
    x, y = batch.x.copy(), rng.normal(size=events)
    huge = np.arange(events) % 10 == 9
    x[huge] = 3e38 * rng.choice([-1, 1], size=x[huge].shape)
    y[huge] = 1e90 * rng.choice([-1, 1], size=int(huge.sum()))
    return replace(batch, x=x, y=y)
