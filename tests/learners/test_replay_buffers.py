"""Which events a buffer holds, against the law of its kind, and that the log decides every draw."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest
from scipy.stats import chi2

from kernels.cpu.numerics import SHORT
from kernels.cpu.replay import places
from learners.replay.memory import Buffer, Memory
from learners.spec import ModelSpec
from streams.batch import Batch


@nb.njit(**{**SHORT, "cache": False})
def _one_reservoir(seed, events, counters, held):
    for event in range(events):
        place = places.reservoir(seed, counters, len(held))
        if place >= 0:
            held[place] = event


def reservoirs(runs: int, events: int, size: int) -> np.ndarray:
    """How often each event is held in the end, over runs with the seeds 0, 1, ..."""
    counts, held = np.zeros(events, np.int64), np.zeros(size, np.int64)
    for seed in range(runs):
        _one_reservoir(seed, events, np.zeros(2, np.int64), held)
        counts[held] += 1
    return counts


@nb.njit(**{**SHORT, "cache": False})
def _one_balanced(seed, y, counters, per_class, labels, held):
    for event in range(len(y)):
        place = places.balanced(seed, counters, per_class, y[event], labels, len(held))
        if place >= 0:
            held[place] = event


def balanced(runs: int, y: np.ndarray, classes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each event is held in the end, and the events of each class held in each run."""
    counts, of_class = np.zeros(len(y), np.int64), np.zeros((runs, classes), np.int64)
    for seed in range(runs):
        per_class, held = np.zeros((classes, 3), np.int64), np.zeros(size, np.int64)
        _one_balanced(seed, y, np.zeros(2, np.int64), per_class, np.zeros(size, np.int64), held)
        counts[held] += 1
        of_class[seed] = np.bincount(y[held], minlength=classes)
        assert (of_class[seed] == per_class[:, 0]).all()
    return counts, of_class


def p_value(counts: np.ndarray, runs: int, share: float) -> float:
    """Of counts of events that are held with the same probability in every run, a fixed number of them in each."""
    n = len(counts)
    statistic = ((counts - runs * share) ** 2).sum() / (runs * share * (1 - share)) * (n - 1) / n
    return float(chi2.sf(statistic, n - 1))


def test_every_event_is_as_likely_in_a_reservoir() -> None:
    """10^4 insertions, 2,000 seeds."""
    counts = reservoirs(2000, 10_000, 200)
    assert counts.sum() == 2000 * 200
    assert p_value(counts, 2000, 0.02) >= 1e-4
    early, late = counts[:5000].sum(), counts[5000:].sum()
    assert abs(early - late) < 4 * np.sqrt(2000 * 200), "no trend that a sum of squares would miss"


def test_a_law_that_is_broken_is_seen() -> None:
    counts = reservoirs(2000, 10_000, 200)
    assert p_value(counts + np.where(np.arange(10_000) < 5000, 3, -3), 2000, 0.02) < 1e-4


def test_classes_are_balanced_and_each_is_a_uniform_sample() -> None:
    """A frequent class first, then a rare one among it, then two that come in turn."""
    rng = np.random.default_rng(0)
    y = np.concatenate([np.zeros(300), rng.choice([0, 1], 300, p=[0.95, 0.05]), np.tile([2, 3], 150)]).astype(np.int64)
    counts, of_class = balanced(2000, y, 4, 40)
    offered = np.bincount(y)
    assert (of_class.sum(axis=1) == 40).all()
    assert (np.ptp(of_class, axis=1) <= 1).all(), f"{offered} events of each class, 10 of each can be held"
    for label in range(4):
        share = of_class[:, label].mean() / offered[label]
        assert p_value(counts[y == label], 2000, share) >= 1e-4, f"class {label}"


def test_a_rare_class_is_held_whole() -> None:
    y = np.zeros(500, np.int64)
    y[[100, 200, 450]] = 1
    counts, of_class = balanced(50, y, 2, 20)
    assert (counts[y == 1] == 50).all()
    assert (of_class == [17, 3]).all()


def memory(kind: str, size: int = 20, seed: int = 0) -> Memory:
    return Memory(Buffer(kind=kind, size=size), 1, seed, np.dtype(np.float64))


def test_first_in_first_out_holds_the_last_ones() -> None:
    some = memory("fifo")
    for event in range(47):
        some.insert(np.array([[float(event)]]), np.array([event % 3]))
        held = sorted(some.x[: len(some), 0].tolist())
        assert held == [float(e) for e in range(max(0, event - 19), event + 1)]
        assert (some.y[: len(some)] == some.x[: len(some), 0] % 3).all()


@pytest.mark.parametrize("kind", ["reservoir", "balanced", "fifo"])
def test_a_buffer_goes_on_from_its_state(kind) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 1)), rng.integers(0, 5, 200)
    whole, first = memory(kind), memory(kind)
    for some in (whole, first):
        some.reserve(5)
    whole.insert(x, y)
    first.insert(x[:90], y[:90])
    second = memory(kind)
    second.load({name: array.copy() for name, array in first.arrays(5).items()}, 5)
    second.insert(x[90:], y[90:])
    for name, array in whole.arrays(5).items():
        assert array.tobytes() == second.arrays(5)[name].tobytes(), name
    assert whole.draw(7, 1).tolist() == second.draw(7, 1).tolist()
    assert whole.draw(7, 1).tolist() != whole.draw(7, 2).tolist(), "another purpose, another draw"
    other = memory(kind, seed=1)
    other.reserve(5)
    other.insert(x, y)
    assert whole.draw(7, 1).tolist() != other.draw(7, 1).tolist(), "another seed, another draw"


def test_a_draw_is_of_what_is_held() -> None:
    some = memory("reservoir")
    assert some.draw(5, 1).tolist() == []
    some.insert(np.zeros((3, 1)), np.zeros(3, np.int64))
    assert sorted(some.draw(5, 1).tolist()) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["reservoir", "balanced", "fifo"])
def test_the_log_decides_every_draw(kind, monkeypatch) -> None:
    """Rows that are inserted and drawn are the same in a replay of the log, cut in other places."""
    drawn: list[list[int]] = []
    original = Memory.draw

    def spied(self: Memory, count: int, purpose: int) -> np.ndarray:
        chosen = original(self, count, purpose)
        drawn[-1] += chosen.tolist()
        return chosen

    monkeypatch.setattr(Memory, "draw", spied)
    learner = {"kind": "er", "buffer": {"kind": kind, "size": 25}, "network": {"hidden": [4]}}
    target = {"kind": "multiclass", "max_classes": 4}
    spec = ModelSpec.model_validate({"name": "m", "features": ["a", "b"], "target": target, "learner": learner})
    rng = np.random.default_rng(2)
    log = Batch.of(rng.normal(size=(300, 2)), rng.integers(0, 4, 300).astype(float), classes=("a", "b", "c", 4))
    states = []
    for cut in (300, 1, 17):
        drawn.append([])
        built = spec.learner.build(spec)
        for start in range(0, 300, cut):
            built.fold(log.slice(start, min(300, start + cut)))
        states.append({name: array.tobytes() for name, array in built.shared_arrays().items() if "buffer" in name})
    assert len(drawn[0]) == 290
    assert drawn[0] == drawn[1] == drawn[2]
    assert states[0] == states[1] == states[2]
