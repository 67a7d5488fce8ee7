"""The exchange of what partitions have learned, against an oracle that knows of every event who knows it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.cpu.layout import EXCHANGED, POOLED_COLUMNS, S_COUNT, S_SPAN, S_VARIANCE, Shared
from learners.base import MemoryRows
from learners.exchange import ROUND, ClassesDiffer, Taken, combine
from learners.heads.base import HeadSpec
from learners.spec import ModelSpec
from streams.batch import Batch

FEATURES = 3
EVENTS = 600
WINDOW = 100_000


def make_spec(learner: dict[str, Any], target: Any = "binary", **deployment: Any) -> ModelSpec:
    target = target if isinstance(target, dict) else {"kind": target}
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": [f"f{i}" for i in range(FEATURES)],
            "target": target,
            "learner": learner,
            "deployment": {"exchange": {"every": 100}} | deployment,
        }
    )


def closed_form(kind: str, **learner: Any) -> ModelSpec:
    heads = {
        "ridge": {"kind": "ridge", "penalties": [0.5, 20.0], "alpha_rate": 0.0},
        "kalman": {"kind": "kalman", "gammas": [1.0], "samples": 0, "prior": 2.0, "noise": 0.25, "alpha_rate": 0.0},
    }
    plain = {"kind": "static", "dtype": "float64", "previous_label": False, "window": WINDOW, "head": heads[kind]}
    return make_spec(plain | learner)


class Partitions:
    """What the service does with the partitions of a model, without keys: whoever is told to folds an event."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.live: dict[str, Any] = {"0": spec.learner.build(spec)}
        self.retired: list[str] = []
        self.published: dict[str, dict[str, np.ndarray]] = {}
        self.next = 1

    def publish(self, id: str) -> None:
        self.published[id] = self.live[id].contribution()

    def take(self, id: str) -> dict[str, np.ndarray]:
        learner = self.live[id]
        kept = learner.exchange
        others = {other: self.published[other] for other in self.live if other != id and other in self.published}
        left = {other: self.published[other] for other in self.retired}
        given = combine(int(kept.counts[ROUND]) + 1, learner.classes(), kept.taken, others, left)
        learner.receive(given)
        return given

    def replace(self, parents: list[str], pieces: int) -> list[str]:
        for id in parents:
            self.publish(id)
        donor = max(parents, key=lambda id: self.live[id].position)
        arrays = copied(self.live[donor])
        new = [str(self.next + i) for i in range(pieces)]
        for id in new:
            self.live[id] = self.spec.learner.build(self.spec)
            self.live[id].load(arrays, MemoryRows())
            self.live[id].begin_apart(donor)
        for id in parents:
            del self.live[id]
        self.next += pieces
        self.retired += parents
        return new

    def everyone(self) -> None:
        """All publish, then all take."""
        for id in self.live:
            self.publish(id)
        for id in self.live:
            self.take(id)


@dataclass
class Known:
    """Numbers of the events that a partition knows: own, what others that live had published, and from before."""

    own: set[int] = field(default_factory=set)
    others: set[int] = field(default_factory=set)
    past: set[int] = field(default_factory=set)
    included: set[str] = field(default_factory=set)

    @property
    def all(self) -> set[int]:
        whole = self.own | self.others | self.past
        assert len(whole) == len(self.own) + len(self.others) + len(self.past)
        return whole


class Oracle:
    """The same with sets of events; solves for them jointly, in the inputs as they were when each was folded."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x.astype(np.float64), y
        self.z = np.zeros((len(x), FEATURES + 1))
        self.live = {"0": Known()}
        self.published: dict[str, set[int]] = {}
        self.retired: list[str] = []

    def fold(self, id: str, event: int) -> None:
        known = self.live[id]
        known.own.add(event)
        seen = self.x[sorted(known.all)]
        deviation = seen.std(axis=0)
        z = np.divide(self.x[event] - seen.mean(axis=0), deviation, out=np.zeros(FEATURES), where=deviation > 1e-12)
        self.z[event] = [*np.clip(z, -5.0, 5.0), 1.0]

    def publish(self, id: str) -> None:
        self.published[id] = set(self.live[id].own)

    def take(self, id: str) -> None:
        known = self.live[id]
        for other in self.retired:
            if other not in known.included:
                known.past |= self.published[other]
                known.included.add(other)
        others = [self.published[other] for other in self.live if other != id and other in self.published]
        known.others = set().union(*others)

    def replace(self, parents: list[str], new: list[str], donor: str) -> None:
        for id in parents:
            self.publish(id)
        gave = self.live[donor]
        for id in new:
            self.live[id] = Known(set(), set(gave.others), gave.own | gave.past, gave.included | {donor})
        for id in parents:
            del self.live[id]
        self.retired += parents

    def solution(self, id: str, penalty: float) -> np.ndarray:
        """Weights [2, m] of ridge regression on one-hot targets of every event that a partition knows."""
        rows = sorted(self.live[id].all)
        z, t = self.z[rows], np.eye(2)[self.y[rows].astype(int)]
        return np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ t).T


def penalties_of(spec: ModelSpec) -> list[float]:
    head: Any = spec.learner
    head = head.head
    return list(head.penalties) if head.kind == "ridge" else [head.noise / (head.prior / (FEATURES + 1))]


def check(partitions: Partitions, oracle: Oracle) -> None:
    for id, learner in partitions.live.items():
        arrays, rows = learner.shared_arrays(), oracle.x[sorted(oracle.live[id].all)]
        if not len(rows):
            continue
        np.testing.assert_allclose(arrays["scaler"][:, 0], len(rows), rtol=1e-12)
        np.testing.assert_allclose(arrays["scaler"][:, 1], rows.mean(axis=0), rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(arrays["scaler"][:, 2], rows.var(axis=0), rtol=1e-9, atol=1e-12)
        for member, penalty in enumerate(penalties_of(partitions.spec)):
            wanted = oracle.solution(id, penalty)
            got = arrays["head.mean"][member, :, : FEATURES + 1]
            assert np.linalg.norm(got - wanted) <= 1e-9 * np.linalg.norm(wanted), f"partition {id}, penalty {penalty}"


KINDS = ["fold"] * 4 + ["publish", "take"] * 2 + ["split", "merge"]
STEPS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99)))


@pytest.mark.parametrize("kind", ["ridge", "kalman"])
@settings(max_examples=25, deadline=None)
@given(steps=STEPS, seed=st.integers(0, 2**16))
def test_whatever_was_exchanged_is_the_joint_solution(kind, steps, seed) -> None:
    """Publications that are late, missed or met twice, splits and merges at any time: no event is missed or doubled."""
    spec, rng = closed_form(kind), np.random.default_rng(seed)
    z = rng.normal(size=(EVENTS, FEATURES))
    z[:3] = [[-1.0], [1.0], [0.0]]  # the scale is known from the first on, so that no value is far out
    x = (z * [1.0, 10.0, 0.1] + [100.0, 0.0, -3.0]).astype(np.float32)
    y = (x[:, 0] - 100.0 + rng.normal(size=EVENTS) > 0).astype(float)
    partitions, oracle = Partitions(spec), Oracle(x, y)
    at = 0
    for what, number in [("fold", 40), ("split", 0), ("fold", 30), ("fold", 31), *steps]:
        ids = list(partitions.live)
        id = ids[number % len(ids)]
        if what == "fold":
            stop = min(EVENTS, at + 1 + number % 30)
            partitions.live[id].fold(Batch.of(x[at:stop], y[at:stop]))
            for event in range(at, stop):
                oracle.fold(id, event)
            at = stop
        elif what in ("publish", "take"):
            getattr(partitions, what)(id)
            getattr(oracle, what)(id)
        elif (what == "split" and len(ids) < 5) or (what == "merge" and len(ids) > 1):
            parents = [id] if what == "split" else [id, ids[(number + 1) % len(ids)]]
            donor = max(parents, key=lambda one: partitions.live[one].position)
            oracle.replace(parents, partitions.replace(parents, 2 if what == "split" else 1), donor)
        check(partitions, oracle)
    partitions.everyone()
    for one in (oracle.publish, oracle.take):
        for id in list(oracle.live):
            one(id)
    assert all(known.all == set(range(at)) for known in oracle.live.values())
    check(partitions, oracle)


def copied(learner: Any) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in learner.shared_arrays().items()}


def of_weights(**learner: Any) -> ModelSpec:
    return make_spec({"kind": "recurrent", "cell": {"units": 4}, **learner})


def folded(spec: ModelSpec, seed: int = 0, events: int = 50) -> Batch:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(events, FEATURES)).astype(np.float32)
    return Batch.of(x, (x[:, 0] > 0).astype(float))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_and_moments_become_the_mean_by_updates(optimizer, dtype) -> None:
    spec = of_weights(optimizer={"kind": optimizer}, dtype=dtype)
    partitions = Partitions(spec)
    partitions.live["0"].fold(folded(spec, 0))
    a, b, c = partitions.replace(["0"], 3)
    counts = {a: 30, b: 10, c: 20}
    for number, (id, events) in enumerate(counts.items()):
        partitions.live[id].fold(folded(spec, 1 + number, events))
    for id in (b, c):
        partitions.publish(id)
    before = {id: copied(learner) for id, learner in partitions.live.items()}
    partitions.take(a)
    after = partitions.live[a].shared_arrays()
    for name in (name for name, law in EXCHANGED.items() if law == "averaged"):
        wanted = sum(counts[id] * before[id][name].astype(np.float64) for id in counts) / 60
        close = 4 * np.finfo(dtype).eps * max(np.abs(before[id][name]).max(initial=0.0) for id in counts)
        np.testing.assert_allclose(after[name], wanted, rtol=0, atol=close, err_msg=name)
    np.testing.assert_array_equal(after["counters"], before[a]["counters"])
    np.testing.assert_array_equal(after["decay"], before[a]["decay"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_changes_of_the_weights_add_up(dtype) -> None:
    """By spec: each takes on what every other has changed since it was last taken, late or early."""
    spec = make_spec(
        {"kind": "recurrent", "cell": {"units": 4}, "dtype": dtype}, exchange={"every": 9, "weights": "sum"}
    )
    partitions = Partitions(spec)
    partitions.live["0"].fold(folded(spec, 0))
    a, b, c = partitions.replace(["0"], 3)
    start = copied(partitions.live[a])
    for seed in range(1, 5):
        partitions.live[b].fold(folded(spec, seed))
        partitions.publish(b)
        if seed % 2:
            partitions.take(a)
    partitions.live[c].fold(folded(spec, 5))
    partitions.publish(c)
    partitions.live[a].fold(folded(spec, 6))
    before = {id: copied(learner) for id, learner in partitions.live.items()}
    known = partitions.live[a].exchange.others
    partitions.take(a)
    after = copied(partitions.live[a])
    for name in ("cell", "out", "skip"):
        changes = [before[id][name].astype(np.float64) - start[name] for id in (b, c)]
        wanted = before[a][name] + changes[0] + changes[1] - known[name].reshape(start[name].shape)
        np.testing.assert_allclose(after[name], wanted, rtol=0, atol=32 * np.finfo(dtype).eps, err_msg=name)


def test_a_partition_that_learned_nothing_new_does_not_count() -> None:
    spec = of_weights()
    partitions = Partitions(spec)
    a, b = partitions.replace(["0"], 2)
    partitions.live[a].fold(folded(spec, 1))
    partitions.live[b].fold(folded(spec, 2))
    partitions.publish(b)
    partitions.take(a)
    partitions.live[a].fold(folded(spec, 3))
    before = partitions.live[a].shared_arrays()["cell"].copy()
    partitions.take(a)
    np.testing.assert_array_equal(partitions.live[a].shared_arrays()["cell"], before)


def test_over_a_window_all_partitions_together_forget_as_one() -> None:
    """After a change of level the pooled mean is that of the last events, whoever saw them; the past fades."""
    spec = make_spec({"kind": "static", "window": 100})
    partitions = Partitions(spec)
    rng = np.random.default_rng(0)
    past = rng.normal(5.0, 1.0, (500, FEATURES)).astype(np.float32)
    partitions.live["0"].fold(Batch.of(past, np.zeros(500)))
    a, b = partitions.replace(["0"], 2)
    one = spec.learner.build(spec)
    one.fold(Batch.of(past, np.zeros(500)))
    for _ in range(10):
        now = rng.normal(2.0, 1.0, (20, FEATURES)).astype(np.float32)  # near enough to be no run of far values
        for id, part in ((a, now[:10]), (b, now[10:])):
            partitions.live[id].fold(Batch.of(part, np.zeros(10)))
        one.fold(Batch.of(now, np.zeros(20)))
        partitions.everyone()
        mean = {id: learner.shared_arrays()["scaler"][0, 1] for id, learner in partitions.live.items()}
        assert mean[a] == pytest.approx(mean[b], rel=1e-9)
        assert mean[a] == pytest.approx(one.shared_arrays()["scaler"][0, 1], rel=0.1, abs=0.02)


@pytest.mark.parametrize("learner", [{"kind": "recurrent"}, {"kind": "static", "head": {"kind": "ridge"}}], ids=str)
def test_a_class_that_is_new_to_others_comes_with_what_is_known_of_it(learner) -> None:
    spec = make_spec(learner, "multiclass")
    partitions = Partitions(spec)
    partitions.live["0"].fold(batch_of(["red", "blue"] * 20))
    a, b = partitions.replace(["0"], 2)
    partitions.live[a].fold(batch_of(["red", "green", 7, "blue"] * 5))
    partitions.everyone()
    assert partitions.live[b].classes() == ("red", "blue", "green", 7)
    question = Batch.of(np.ones((1, FEATURES), np.float32), key=[b"another"])
    given, taken = (partitions.live[id].predict(question, probabilities=True).probabilities for id in (a, b))
    assert given.shape == (1, 4)
    np.testing.assert_allclose(taken, given, rtol=1e-5)
    partitions.live[b].fold(batch_of([7, "green", "black"]))
    assert partitions.live[b].classes()[-1] == "black"


def test_classes_in_another_order_are_not_exchanged() -> None:
    spec = make_spec({"kind": "recurrent"}, "multiclass")
    partitions = Partitions(spec)
    a, b = partitions.replace(["0"], 2)
    partitions.live[a].fold(batch_of(["red", "blue"]))
    partitions.live[b].fold(batch_of(["blue", "red"]))
    partitions.publish(b)
    digest = partitions.live[a].digest()
    with pytest.raises(ClassesDiffer, match=f"partition '{b}'"):
        partitions.take(a)
    assert partitions.live[a].digest() == digest


def batch_of(labels: list[int | str]) -> Batch:
    classes = tuple(dict.fromkeys(labels))
    x = np.random.default_rng(len(labels)).normal(size=(len(labels), FEATURES)).astype(np.float32)
    return Batch.of(x, np.array([classes.index(label) for label in labels], float), classes=classes)


def test_what_is_no_posterior_changes_nothing_and_is_counted() -> None:
    spec = closed_form("ridge")
    learner = spec.learner.build(spec)
    learner.fold(folded(spec))
    given = combine(1, learner.classes(), Taken(), {"1": learner.contribution()}, {})
    given["summed.head.cov"] = given["summed.head.cov"] - 1e6
    before = {name: array.copy() for name, array in learner.shared_arrays().items() if name != "exchange.counts"}
    learner.receive(given)
    after = learner.shared_arrays()
    assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []
    assert after["exchange.counts"].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    ("learner", "said"),
    [
        ({"kind": "river", "estimator": {"path": "river.linear_model.PAClassifier"}}, "learner 'river' does not say"),
        ({"kind": "drift"}, "learner 'drift' does not say"),
        ({"kind": "er"}, "learner 'er' does not say"),
        ({"kind": "recurrent", "optimizer": {"kind": "ekf"}}, "optimizer 'ekf'"),
        ({"kind": "static", "head": {"kind": "lofi"}}, "head 'lofi' does not say"),
        ({"kind": "recurrent", "cell": {"units": 2000}, "head": {"kind": "ridge"}}, "at most 4194304"),
    ],
    ids=str,
)
def test_who_cannot_exchange_is_refused_with_the_reason(learner, said) -> None:
    with pytest.raises(ValueError, match=f"deployment.exchange: .*{said}"):
        make_spec(learner)


def test_a_model_with_sinks_has_no_one_to_exchange_with() -> None:
    with pytest.raises(ValueError, match="a model with sinks stays one"):
        make_spec({"kind": "recurrent"}, sinks=[{"kind": "redis_stream", "stream": "s"}])


def test_every_array_says_what_becomes_of_it() -> None:
    assert set(EXCHANGED) == set(Shared._fields)
    told = []
    for kind in HeadSpec.known():
        learner: dict[str, Any] = {"kind": "static", "head": {"kind": kind}}
        spec = ModelSpec.model_validate(
            {"name": "m", "features": ["a"], "target": {"kind": "binary"}, "learner": learner}
        )
        compiled = spec.learner.build(spec)._head
        if hasattr(compiled, "EXCHANGED"):
            told.append(kind)
            assert set(compiled.EXCHANGED) == set(compiled.state._fields if hasattr(compiled, "state") else ())
    assert {"linear", "kalman", "ridge"} <= set(told)


def test_a_level_that_outgrew_the_window_keeps_its_scale_through_an_exchange() -> None:
    """Of more events than the window no more count, in the age of the level as in its mean."""
    spec = make_spec({"kind": "static", "window": 100})
    partitions, rng = Partitions(spec), np.random.default_rng(0)
    partitions.live["0"].fold(Batch.of(rng.normal(5.0, 1.0, (1000, FEATURES)).astype(np.float32), np.zeros(1000)))
    a, b = partitions.replace(["0"], 2)
    for id in (a, b):
        partitions.live[id].fold(Batch.of(rng.normal(5.0, 1.0, (20, FEATURES)).astype(np.float32), np.zeros(20)))
    partitions.everyone()
    for id in (a, b):
        scaler = partitions.live[id].shared_arrays()["scaler"]
        assert (scaler[:, S_SPAN] >= 100).all()
        assert (scaler[:, S_SPAN] <= scaler[:, S_COUNT]).all()
        partitions.live[id].fold(Batch.of(np.full((1, FEATURES), 5.5, np.float32), np.zeros(1)))
        assert (np.abs(partitions.live[id].shared_arrays()["scaler"][:, S_VARIANCE] - 1.0) < 0.5).all()


def test_states_and_contributions_of_fewer_columns_are_taken() -> None:
    """Version 0.1 kept one column of a regression's target, where there are three now."""
    spec = make_spec({"kind": "static"}, "regression")
    partitions, rng = Partitions(spec), np.random.default_rng(0)
    a, b = partitions.replace(["0"], 2)
    for id in (a, b):
        partitions.live[id].fold(Batch.of(rng.normal(size=(50, FEATURES)).astype(np.float32), rng.normal(size=50)))
    partitions.everyone()
    older = dict(partitions.live[a].shared_arrays())
    for name in older:
        if name == "scaler" or name.endswith(".scaler"):
            older[name] = older[name][: FEATURES + 1]
    older["scaler"] = older["scaler"][:, :POOLED_COLUMNS]
    loaded = spec.learner.build(spec)
    loaded.load(older, MemoryRows())
    partitions.live[a] = loaded
    partitions.published[b] = {
        name: array[: FEATURES + 1] if name == "pooled.scaler" else array
        for name, array in partitions.live[b].contribution().items()
    }
    partitions.live[a].fold(Batch.of(rng.normal(size=(9, FEATURES)).astype(np.float32), rng.normal(size=9)))
    partitions.publish(a)
    for id in (a, b):
        partitions.take(id)
        assert np.isfinite(partitions.live[id].shared_arrays()["scaler"]).all()
