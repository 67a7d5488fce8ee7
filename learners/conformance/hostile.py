"""Streams that an admission check lets pass and that arithmetic does not like, and what a learner must make of them.

A stream is a way for features, labels, clocks, keys and kinds of events to be hostile, each by itself; `STREAMS` pairs
them so that every one of them is met, and other seeds pair them at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from kernels.cpu.layout import LEARNED
from learners.base import Folded, Learner
from learners.conformance.checks import _as_the_policy_says, _assert_same, _build, _check, _loaded, _snapshot, _with
from learners.conformance.logs import deliver, expected_outcomes
from learners.keyed import KeyedLearner
from learners.spec import BinaryTarget, ModelSpec, MulticlassTarget
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch
from streams.mapping import MAX_ABS_TARGET

Rng = np.random.Generator

EVENTS = 100
"""Of each stream."""

LARGEST, SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)


# Features [n, d]


def _plain(rng: Rng, n: int, d: int) -> np.ndarray:
    return rng.normal(size=(n, d))


def _times(size: float) -> Callable[[Rng, int, int], np.ndarray]:
    return lambda rng, n, d: np.clip(size * rng.normal(size=(n, d)), -LARGEST, LARGEST)


def _extremes(rng: Rng, n: int, d: int) -> np.ndarray:
    return rng.choice([LARGEST, -LARGEST], (n, d))


def _poisoned(rng: Rng, n: int, d: int) -> np.ndarray:
    """Now and then a value that is far off, or all but nothing."""
    values = [1e3, -9999.0, 1e6, 1e15, -1e30, LARGEST, -LARGEST, SMALLEST, -1e-38]
    return np.where(rng.random((n, d)) < 0.05, rng.choice(values, (n, d)), rng.normal(size=(n, d)))


def _one_poison(rng: Rng, n: int, d: int) -> np.ndarray:
    x = rng.normal(size=(n, d))
    x[n // 2, int(rng.integers(d))] = rng.choice([1e6, 1e30, -LARGEST])
    return x


def _jumps(rng: Rng, n: int, d: int) -> np.ndarray:
    """The scale changes by up to forty powers of ten, from one stretch to the next."""
    return np.repeat(10.0 ** rng.uniform(-40, 38, (n // 10 + 1, 1)), 10, axis=0)[:n] * rng.uniform(-1, 1, (n, d))


def _still(rng: Rng, n: int, d: int) -> np.ndarray:
    """No variance at all, then all there is."""
    return np.where(np.arange(n)[:, None] < n // 2, 3.0, 1e20 * rng.normal(size=(n, d)))


def _all(value: float) -> Callable[[Rng, int, int], np.ndarray]:
    return lambda rng, n, d: np.full((n, d), value)


def _repeated(rng: Rng, n: int, d: int) -> np.ndarray:
    """Columns that say the same."""
    return np.repeat(rng.normal(size=(n, 1)), d, axis=1)


FEATURES: dict[str, Callable[[Rng, int, int], np.ndarray]] = {
    "plain": _plain,
    "zero": _all(0.0),
    "constant": _all(7.0),
    "largest": _all(LARGEST),
    "repeated": _repeated,
    "pixels": lambda rng, n, d: rng.integers(0, 256, (n, d)).astype(float),
    "thousands": _times(1e3),
    "millions": _times(1e6),
    "huge": _times(1e30),
    "extremes": _extremes,
    "denormal": _times(1e-40),
    "tiny": _times(1e-20),
    "poisoned": _poisoned,
    "one poison": _one_poison,
    "jumps": _jumps,
    "still, then jumps": _still,
}


# Labels, as numbers: of a regression as they are, of a binary target by their sign, of classes by their rank


def _sign(rng: Rng, x: np.ndarray) -> np.ndarray:
    return np.where(x[:, 0] > np.median(x[:, 0]), 1.0, -1.0)


def _flips(rng: Rng, x: np.ndarray) -> np.ndarray:
    """The meaning turns round every twenty events."""
    return _sign(rng, x) * np.where(np.arange(len(x)) // 20 % 2, -1.0, 1.0)


def _far_off(rng: Rng, x: np.ndarray) -> np.ndarray:
    values = [1e3, 1e6, -1e30, 1e60, MAX_ABS_TARGET, -MAX_ABS_TARGET, 5e-324]
    return np.where(rng.random(len(x)) < 0.1, rng.choice(values, len(x)), 4.0 * rng.normal(size=len(x)))


LABELS: dict[str, Callable[[Rng, np.ndarray], np.ndarray]] = {
    "sign": _sign,
    "noise": lambda rng, x: rng.normal(size=len(x)),
    "one": lambda rng, x: np.full(len(x), 1.0),
    "none": lambda rng, x: np.zeros(len(x)),
    "flips": _flips,
    "far off": _far_off,
    "largest": lambda rng, x: rng.choice([MAX_ABS_TARGET, -MAX_ABS_TARGET], len(x)),
    "denormal": lambda rng, x: 5e-324 * rng.integers(-5, 6, len(x)),
    "growing": lambda rng, x: 10.0 ** (np.arange(len(x)) % 100),
    "sum": lambda rng, x: np.clip(np.nan_to_num(x, nan=0.0).sum(axis=1), -MAX_ABS_TARGET, MAX_ABS_TARGET),
}


# Clocks int64 [n], keys, kinds


CLOCKS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "none": lambda rng, n: np.zeros(n),
    "forward": lambda rng, n: 1.7e15 + np.cumsum(rng.integers(0, 10**6, n)),
    "equal": lambda rng, n: np.full(n, 1.7e15),
    "backward": lambda rng, n: 1.7e15 - np.cumsum(rng.integers(0, 10**6, n)),
    "any": lambda rng, n: rng.integers(0, 2**62, n),
    "one far ahead": lambda rng, n: np.where(np.arange(n) == n // 3, 2**62, 1.7e15 + np.arange(n)),
    "now and then none": lambda rng, n: (rng.random(n) < 0.5) * (1.7e15 + np.arange(n)),
}

KEYS: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "one": lambda rng, n: np.zeros(n),
    "few": lambda rng, n: rng.integers(0, 5, n),
    "each another": lambda rng, n: np.arange(n),
}


def _asked(rng: Rng, n: int, id: np.ndarray) -> np.ndarray:
    """Observations, whose labels come later, twice, or never, and labels for what was never seen."""
    kind = rng.choice([LABELLED, OBSERVATION, LABEL], n, p=[0.3, 0.4, 0.3])
    seen: list[int] = []
    for row in range(n):
        if kind[row] == OBSERVATION:
            seen.append(row)
        elif kind[row] == LABEL and seen and rng.random() < 0.8:
            id[row] = id[seen[int(rng.integers(len(seen)))]]
    return kind


KINDS: dict[str, Callable[[Rng, int, np.ndarray], np.ndarray]] = {
    "labelled": lambda rng, n, id: np.full(n, LABELLED),
    "labels apart": _asked,
    "never labelled": lambda rng, n, id: np.full(n, OBSERVATION),
}

GAPS = {"none": 0.0, "some": 0.2, "all": 1.0}
"""Share of the values that are missing, where the spec allows it."""

WAYS: tuple[dict[str, Any], ...] = (FEATURES, LABELS, CLOCKS, KEYS, KINDS, GAPS)

STREAMS: tuple[tuple[str, ...], ...] = (
    ("zero", "noise", "none", "few", "labelled", "none"),
    ("constant", "one", "equal", "one", "labelled", "none"),
    ("repeated", "sign", "forward", "few", "labelled", "none"),
    ("largest", "flips", "forward", "few", "labelled", "none"),
    ("pixels", "sign", "none", "one", "labelled", "none"),
    ("thousands", "flips", "forward", "one", "labelled", "some"),
    ("millions", "sum", "backward", "few", "labelled", "none"),
    ("huge", "sign", "forward", "few", "labelled", "none"),
    ("huge", "sum", "none", "one", "labelled", "some"),
    ("extremes", "sign", "equal", "few", "labelled", "none"),
    ("extremes", "noise", "any", "each another", "labels apart", "some"),
    ("denormal", "denormal", "forward", "few", "labelled", "none"),
    ("tiny", "sign", "backward", "one", "labels apart", "none"),
    ("poisoned", "far off", "any", "few", "labels apart", "some"),
    ("poisoned", "sign", "one far ahead", "one", "labelled", "none"),
    ("one poison", "sum", "now and then none", "few", "labelled", "none"),
    ("jumps", "sum", "forward", "few", "labelled", "some"),
    ("jumps", "largest", "any", "one", "labels apart", "none"),
    ("still, then jumps", "sign", "forward", "few", "labelled", "none"),
    ("plain", "far off", "one far ahead", "few", "labelled", "none"),
    ("plain", "growing", "forward", "one", "labelled", "none"),
    ("plain", "largest", "equal", "each another", "labelled", "some"),
    ("plain", "none", "now and then none", "few", "labelled", "all"),
    ("plain", "noise", "backward", "few", "never labelled", "all"),
)
"""Names of the features, labels, clocks, keys, kinds and gaps of each."""


def hostile_log(spec: ModelSpec, ways: tuple[str, ...], seed: int, events: int = EVENTS) -> Batch:
    """A log of admissible events.

    Args:
        spec: decides width, target, classes, and which values may be missing.
        ways: see `STREAMS`.
        seed: of the log.
        events: rows.
    """
    rng, d = np.random.default_rng([seed, 21]), len(spec.features)
    features, labels, clock, keys, kinds, gaps = (way[name] for way, name in zip(WAYS, ways))
    x = features(rng, events, d)
    for column, feature in enumerate(spec.features):
        if feature.categories:
            x[:, column] = np.mod(np.nan_to_num(np.rint(x[:, column])), feature.categories + 1)
    absent = (rng.random(x.shape) < gaps) & np.array([feature.missing == "mean" for feature in spec.features])
    given = labels(rng, x)
    x[absent] = np.nan
    id = rng.integers(1, 2**63, (events, 2), dtype=np.uint64)
    kind = kinds(rng, events, id).astype(np.uint8)
    key = [b"%d" % number for number in keys(rng, events).astype(int)]
    y, classes = _labelled(spec, rng, given)
    x[kind == LABEL] = 0.0
    y[kind == OBSERVATION] = np.nan
    return Batch.of(x, y, kind=kind, key=key, time=clock(rng, events).astype(np.int64), id=id, classes=classes)


def _labelled(spec: ModelSpec, rng: Rng, given: np.ndarray) -> tuple[np.ndarray, tuple[int | str, ...]]:
    if isinstance(spec.target, BinaryTarget):
        return (given > 0).astype(np.float64), ()
    if not isinstance(spec.target, MulticlassTarget):
        return given.astype(np.float64), ()
    _, rank = np.unique(given, return_inverse=True)
    if rank.max(initial=0) > 3 and rng.random() < 0.5:
        rank %= 4  # otherwise there is a class for each number, until there are as many as may be
    return rank.astype(np.float64), tuple(f"c{number}" for number in range(int(rank.max(initial=0)) + 1))


def random_ways(seed: int) -> tuple[str, ...]:
    """Ways paired at random; see `STREAMS`."""
    rng = np.random.default_rng([seed, 22])
    return tuple(str(rng.choice(list(way))) for way in WAYS)


# What a learner must make of it


@_check
def hostile_events_do_no_harm(spec: ModelSpec, seed: int) -> None:
    """No event raises, whatever it holds; state and predictions stay finite, and outcomes follow the policy."""
    for number, ways in enumerate(STREAMS):
        survives(spec, ways, 1000 * seed + number)


def survives(spec: ModelSpec, ways: tuple[str, ...], seed: int, events: int = EVENTS) -> None:
    """Folds one hostile log, whole and in pieces with a snapshot between, and looks at all that comes of it.

    Raises:
        AssertionError: naming the stream, and what is not as it must be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy says "overflow" where code may raise the next time
            _survives(_with(spec), hostile_log(spec, ways, seed, events), np.random.default_rng(seed))
    except Exception as error:
        raise AssertionError(f"{', '.join(ways)} (seed {seed}): {type(error).__name__}: {error}") from error


def _survives(spec: ModelSpec, log: Batch, rng: Rng) -> None:
    learner = _build(spec)
    whole = learner.fold(log)
    _check_folded(spec, learner, log, whole)
    check_finite(learner)
    half = len(log) // 2
    other = _build(spec)
    first = other.fold(log.slice(0, half))
    other = _loaded(spec, *_snapshot(other))
    pieces = deliver(log.slice(half, len(log)), rng.integers(0, len(log) - half, 3).tolist(), rng)
    _assert_same(Folded.concat([first, *map(other.fold, pieces)]), whole, "in pieces")
    assert other.digest() == learner.digest(), "another delivery gives another digest"
    digest = learner.digest()
    asked = log.kind != LABEL
    for some in (log, _harmless(log, rng)):
        _check_predicted(learner, some, asked)
    assert learner.digest() == digest, "a prediction changed the state"


def _harmless(log: Batch, rng: Rng) -> Batch:
    """The same keys with plain features."""
    x = rng.normal(size=log.x.shape).astype(np.float32)
    return Batch(x, log.kind, log.y, log.key, log.time, log.id, log.classes)


def check_finite(learner: Learner) -> None:
    """No array of state holds what is not finite, but where `KeyedLearner.MISSING` says that NaN means "none".

    Raises:
        AssertionError: naming the arrays.
    """
    arrays = dict(learner.shared_arrays())
    if isinstance(learner, KeyedLearner):
        columns = learner.rows.columns.items()
        arrays |= {f"row {name}": held for name, held in columns if name.rpartition(".")[2] not in learner.MISSING}
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    assert not bad, f"state is not finite: {', '.join(sorted(bad))}"


def _check_folded(spec: ModelSpec, learner: Learner, log: Batch, folded: Folded) -> None:
    asked = log.kind != LABEL
    assert np.isfinite(folded.value[asked]).all(), "a prediction of the fold is not finite"
    wanted, _ = expected_outcomes(spec, log)
    np.testing.assert_array_equal(_as_the_policy_says(folded), wanted, err_msg="outcomes")
    learned = (wanted & LEARNED) > 0
    assert np.isfinite(folded.scored[learned, 3]).all(), "a learned label is not told"
    _check_codes(learner, folded.code[asked])


def _check_codes(learner: Learner, code: np.ndarray) -> None:
    known = max(1, len(learner.classes()))
    assert ((code >= -1) & (code < known)).all(), f"classes {code.min()} to {code.max()}"


def _check_predicted(learner: Learner, log: Batch, asked: np.ndarray) -> None:
    said = learner.predict(log, probabilities=True)
    assert np.isfinite(said.value[asked]).all(), "a prediction is not finite"
    _check_codes(learner, said.code[asked])
    if said.probabilities is not None:
        table = said.probabilities[asked]
        assert ((table >= 0) & (table <= 1)).all(), "probabilities lie outside 0 to 1"
        np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5, err_msg="probabilities do not sum to 1")
    for name in ("variance", "epistemic", "interval"):
        column = getattr(said, name)
        if column is not None:
            rest = column[asked & ~np.isnan(column)]
            assert ((rest >= 0) & np.isfinite(rest)).all(), f"{name} is negative or infinite"
