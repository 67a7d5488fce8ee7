"""The checks; see the package."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core.dispatcher import Dispatcher

from kernels.cpu.layout import LEARNED, NONFINITE, OBSERVED, OUT_OF_ORDER, OUTLIER, UNKNOWN_ID
from learners.base import Folded, Learner, MemoryRows, Row
from learners.conformance.crashes import fold_with_crashes
from learners.conformance.logs import DEFAULTED, deliver, expected_outcomes, random_log
from learners.spec import BinaryTarget, ModelSpec
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys

MANY = 1000
"""Slots enough for every key of a random log."""

EVERYTHING = slice(None)
"""`Folded.take` of it leaves the signals out."""

_checks: dict[str, Callable[[ModelSpec, int], None]] = {}


def known() -> tuple[str, ...]:
    """Names of all checks, in the order of their definition."""
    return tuple(_checks)


def _check(function: Callable[[ModelSpec, int], None]) -> Callable[[ModelSpec, int], None]:
    _checks[function.__name__] = function
    return function


def check(name: str, spec: ModelSpec, seed: int = 0) -> None:
    """Runs one check of `learners.conformance.CHECKS`.

    Raises:
        AssertionError: the learner breaks the contract; the message says where.
        KeyError: there is no such check.
    """
    _checks[name](spec, seed)


def check_learner(spec: ModelSpec, seed: int = 0) -> None:
    """Runs every check; see `check`."""
    for name in _checks:
        check(name, spec, seed)


# Tools


def _with(spec: ModelSpec, slots: int = MANY, **labels) -> ModelSpec:
    deployment = spec.deployment.model_copy(update={"slots": slots})
    return spec.model_copy(update={"deployment": deployment, "labels": spec.labels.model_copy(update=labels)})


def _build(spec: ModelSpec) -> Learner:
    return spec.learner.build(spec)


def _bits(array: np.ndarray) -> bytes:
    """Bytes of an array; every NaN counts as the same."""
    return (np.where(np.isnan(array), np.nan, array) if array.dtype.kind == "f" else array).tobytes()


def _assert_same(a: Folded, b: Folded, what: str) -> None:
    for name in Folded.__slots__:
        x, y = getattr(a, name), getattr(b, name)
        if _bits(x) != _bits(y):
            np.testing.assert_array_equal(x, y, err_msg=f"{what}: {name}")
            raise AssertionError(f"{what}: {name} differs in the sign of a zero or in dtype")


def _fold_all(learner: Learner, log: Batch, pieces: int, rng: np.random.Generator) -> Folded:
    cuts = rng.integers(0, len(log), pieces - 1).tolist()
    return Folded.concat([learner.fold(piece) for piece in deliver(log, cuts, rng)])


def _snapshot(learner: Learner, limit: int = 1 << 20) -> tuple[dict[str, np.ndarray], list[Row]]:
    shared = learner.begin_capture(0)
    rows: list[Row] = []
    while (chunk := learner.capture(limit)) is not None:
        rows.extend(chunk)
    learner.end_capture()
    return shared, rows


def _loaded(spec: ModelSpec, shared: dict[str, np.ndarray], rows: list[Row]) -> Learner:
    cold = MemoryRows()
    cold.put_rows(rows)
    learner = _build(spec)
    learner.load({name: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for name, a in shared.items()}, cold)
    return learner


# State


@_check
def state_round_trips(spec: ModelSpec, seed: int) -> None:
    """A snapshot loaded into a fresh learner gives the digest, and the same bits from there on."""
    spec, log, rng = _with(spec), random_log(spec, seed), np.random.default_rng(seed)
    half = len(log) // 2
    learner = _build(spec)
    _fold_all(learner, log.slice(0, half), 5, rng)
    digest = learner.digest()
    shared, rows = _snapshot(learner)
    assert sorted(rows) == sorted(_snapshot(learner, limit=1)[1]), "rows depend on the size of the chunks"
    assert learner.digest() == digest, "a snapshot changed the state"
    other = _loaded(spec, shared, rows)
    assert other.digest() == digest, "the digest changed on the way through a snapshot"
    assert (other.position, other.classes()) == (learner.position, learner.classes())
    rest = log.slice(half, len(log))
    _assert_same(learner.fold(rest), _fold_all(other, rest, 3, rng), "after a snapshot")
    assert other.digest() == learner.digest()


@_check
def a_snapshot_is_of_its_position(spec: ModelSpec, seed: int) -> None:
    """Events folded while a snapshot is taken are not in it."""
    spec, log = _with(spec), random_log(spec, seed)
    half = len(log) // 2
    learner = _build(spec)
    learner.fold(log.slice(0, half))
    digest = learner.digest()
    shared, rows = learner.begin_capture(0), []
    for start in range(half, len(log), 7):
        rows += learner.capture(200) or []
        learner.fold(log.slice(start, min(len(log), start + 7)))
    while (chunk := learner.capture(1000)) is not None:
        rows += chunk
    learner.end_capture(half)
    assert _loaded(spec, shared, rows).digest() == digest


@_check
def any_delivery_gives_the_same(spec: ModelSpec, seed: int) -> None:
    """One batch, random cuts, one event at a time: the same digest, predictions and outcomes."""
    spec, log, rng = _with(spec), random_log(spec, seed), np.random.default_rng(seed)
    whole = _build(spec)
    wanted = whole.fold(log)
    assert whole.position == len(log), "positions are dense: every event counts one"
    cuts: list[list[int]] = [list(range(len(log)))]
    cuts += [rng.integers(0, len(log), int(rng.integers(1, 60))).tolist() for _ in range(3)]
    for some in cuts:
        learner = _build(spec)
        parts = []
        for piece in deliver(log, some, rng):
            before = learner.position
            parts.append(learner.fold(piece))
            assert learner.position == before + len(piece), "positions are dense: every event counts one"
        _assert_same(Folded.concat(parts), wanted, f"{len(some)} cuts")
        assert learner.digest() == whole.digest(), f"digest after {len(some)} cuts"
        assert learner.classes() == whole.classes()
    digest = whole.digest()
    assert len(whole.fold(log.slice(0, 0)).value) == 0
    assert whole.digest() == digest, "an empty batch changed the state"


@_check
def any_slots_give_the_same(spec: ModelSpec, seed: int) -> None:
    """Rows that leave memory and come back change nothing, and memory stays within its bound."""
    log, rng = random_log(spec, seed), np.random.default_rng(seed)
    large = _build(_with(spec))
    wanted = large.fold(log)
    for slots in (1, 4, 17):
        learner = _build(_with(spec, slots))
        parts = []
        for piece in deliver(log, rng.integers(0, len(log), 12).tolist(), rng):
            parts.append(learner.fold(piece))
            assert learner.resident_keys() <= slots, f"{learner.resident_keys()} rows in {slots} slots"
        _assert_same(Folded.concat(parts), wanted, f"{slots} slots")
        assert learner.digest() == large.digest(), f"digest with {slots} slots"


@_check
def any_crash_gives_the_same(spec: ModelSpec, seed: int) -> None:
    """Crashes at random points of folding, eviction and snapshot: load and replay give the same bits."""
    log = random_log(spec, seed, events=300)
    whole = _build(_with(spec))
    wanted = whole.fold(log)
    crashes = snapshots = 0
    for run in range(6):
        done = fold_with_crashes(_with(spec, (4, 9, MANY)[run % 3]), log, 100 * seed + run)
        _assert_same(done.folded, wanted.take(EVERYTHING), f"run {run} with {done.crashes} crashes")
        assert done.learner.digest() == whole.digest(), f"digest after {done.crashes} crashes (run {run})"
        crashes, snapshots = crashes + done.crashes, snapshots + done.snapshots
    assert crashes > 0 < snapshots, "the runs met no crash or no snapshot: take a longer log"


@_check
def same_seed_same_bits(spec: ModelSpec, seed: int) -> None:
    """The seed of the spec decides all randomness."""
    log = random_log(spec, seed)
    digests = []
    for other in (spec.learner.seed, spec.learner.seed, spec.learner.seed + 1):
        learner = _build(_with(spec).model_copy(update={"learner": spec.learner.model_copy(update={"seed": other})}))
        learner.fold(log)
        digests.append(learner.digest())
    assert digests[0] == digests[1], "the same seed gave other bits"
    if spec.learner.uses_seed():
        assert digests[0] != digests[2], "another seed gave the same bits"
    else:
        assert digests[0] == digests[2], "another seed gave other bits; `uses_seed` says nothing is random"


# Predictions


class _Spy(MemoryRows):
    def __init__(self) -> None:
        super().__init__()
        self.written: list[Row] = []

    def put_rows(self, rows) -> None:
        rows = list(rows)
        self.written += rows
        super().put_rows(rows)


@_check
def predict_is_what_the_fold_says(spec: ModelSpec, seed: int) -> None:
    """Predict gives the bits of the fold, and leaves state, residency and recency as they were."""
    spec, log = _with(spec, slots=4), random_log(spec, seed, events=160)
    spies = _Spy(), _Spy()
    asked, silent = _build(spec), _build(spec)
    for learner, spy in zip((asked, silent), spies):
        learner.load(dict(learner.shared_arrays()), spy)
    for row in range(len(log)):
        event = log.slice(row, row + 1)
        near = log.slice(max(0, row - 10), min(len(log), row + 10))
        strangers = [b"never seen %d" % i if i % 3 == 0 else near.key[i] for i in range(len(near))]
        questions = Batch.of(near.x, key=strangers)
        before = asked.digest(), asked.resident_keys(), len(spies[0].written)
        together = asked.predict(questions, probabilities=True)
        alone = asked.predict(event)
        assert (asked.digest(), asked.resident_keys(), len(spies[0].written)) == before, "a prediction changed state"
        one = asked.predict(questions.slice(3, 4), probabilities=True)
        assert _bits(one.value) == _bits(together.value[3:4]), "a prediction depends on its neighbours"
        _check_probabilities(asked, together)
        folded = asked.fold(event)
        silent.fold(event)
        if event.kind[0] != LABEL:
            assert _bits(folded.value) == _bits(alone.value), f"event {row}: folded {folded.value}, got {alone.value}"
            assert folded.code[0] == alone.code[0]
    assert spies[0].written == spies[1].written, "predictions changed which rows leave memory"


def _check_probabilities(learner: Learner, predicted) -> None:
    assert np.isfinite(predicted.value).all(), "a prediction is not finite"
    classes, table = learner.classes(), predicted.probabilities
    if not classes:
        assert (predicted.code == -1).all()
        return
    assert table.shape == (len(predicted.value), len(classes)), f"probabilities {table.shape}, {len(classes)} classes"
    np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-5)
    rows = np.arange(len(table))
    assert (table[rows, predicted.code] >= table.max(axis=1) - 1e-6).all(), "the class is not the likeliest"


# Keys


@_check
def keys_do_not_leak(spec: ModelSpec, seed: int) -> None:
    """An event's step depends on the shared state and its own key's row, on no other row."""
    spec, log = _with(spec), random_log(spec, seed)
    learner = _build(spec)
    learner.fold(log)
    shared, rows = _snapshot(learner)
    follow = random_log(spec, seed + 1, events=40)
    for name in sorted({row[0] for row in rows})[::5]:
        events = Batch(
            follow.x, follow.kind, follow.y, Keys.pack([name] * len(follow)), follow.time, follow.id, follow.classes
        )
        everyone = _build(spec)
        everyone.fold(log)
        alone = _loaded(spec, shared, [row for row in rows if row[0] == name])
        _assert_same(everyone.fold(events), alone.fold(events), f"key {name!r}")
        (a, a_rows), (b, b_rows) = _snapshot(everyone), _snapshot(alone)
        assert all(_bits(a[array]) == _bits(b[array]) for array in a), f"key {name!r}: shared arrays"
        own = [[row for row in some if row[0] == name] for some in (a_rows, b_rows)]
        assert own[0] == own[1], f"key {name!r}: its row"


# Labels


@_check
def outcomes_follow_the_policy(spec: ModelSpec, seed: int) -> None:
    """Late, repeated, unknown and unordered labels and events, under every policy, are answered as the spec says."""
    policies: list[dict[str, Any]] = [{"horizon": 0}]
    if spec.labels.pending:
        policies += [{"horizon": 15}, {"horizon": 0, "horizon_time": 8000}]
    if spec.labels.pending and spec.learner.default_labels:
        label = spec.target.labels[0] if isinstance(spec.target, BinaryTarget) else 7
        policies += [{"horizon": 25, "default_label": label}]
        policies += [{"horizon": 0, "horizon_time": 12_000, "default_label": label, "pending": 1}]
    for order in ("learn", "ignore"):
        for policy in policies:
            _check_outcomes(_with(spec, out_of_order=order, **policy), seed, f"{order}, {policy}")


def _as_the_policy_says(folded: Folded) -> np.ndarray:
    """Outcomes with LEARNED in the place of NONFINITE and OUTLIER, of which the policy knows nothing."""
    got = folded.outcome.astype(int)
    refused = NONFINITE | OUTLIER
    return np.where(got & refused, (got & ~refused) | LEARNED, got)


def _check_outcomes(spec: ModelSpec, seed: int, what: str) -> None:
    log = random_log(spec, seed)
    folded = _build(spec).fold(log)
    wanted, left = expected_outcomes(spec, log)
    np.testing.assert_array_equal(_as_the_policy_says(folded), wanted, err_msg=what)
    by_id = log.kind == LABEL
    assert np.isnan(folded.value[by_id]).all()
    assert np.isfinite(folded.value[~by_id]).all(), "a prediction is not finite"
    met = (wanted & LEARNED) > 0
    np.testing.assert_array_equal(~np.isnan(folded.scored[:, 3]), met, err_msg=f"labels that met a prediction, {what}")
    if not log.classes:
        np.testing.assert_array_equal(folded.scored[met, 3], log.y[met])
    if not spec.labels.pending:
        assert not len(folded.expired)
        return
    np.testing.assert_array_equal(~np.isnan(folded.expired[:, 1]), left > 0, err_msg=f"what left unlabelled, {what}")
    np.testing.assert_array_equal(~np.isnan(folded.expired[:, 3]), left == DEFAULTED, err_msg=f"default labels, {what}")


@_check
def events_without_effect_have_none(spec: ModelSpec, seed: int) -> None:
    """Unknown labels and ignored events can be left out of the log: nothing else is answered differently."""
    spec = _with(spec, out_of_order="ignore", horizon=0, horizon_time=0, default_label=None)
    log = random_log(spec, seed)
    learner, other = _build(spec), _build(spec)
    folded = learner.fold(log)
    unordered = (folded.outcome & (OUT_OF_ORDER | OBSERVED)) == OUT_OF_ORDER
    kept = np.flatnonzero(~unordered & ((folded.outcome & (UNKNOWN_ID | OBSERVED)) != UNKNOWN_ID))
    assert len(kept) < len(log)
    fewer = Batch(
        log.x[kept],
        log.kind[kept],
        log.y[kept],
        Keys.pack([log.key[row] for row in kept.tolist()]),
        log.time[kept],
        log.id[kept],
        log.classes,
    )
    _assert_same(other.fold(fewer).take(EVERYTHING), folded.take(kept), "without the events")  # positions differ
    assert other.classes() == learner.classes()


@_check
def a_label_at_once_is_a_labelled_event(spec: ModelSpec, seed: int) -> None:
    """With exact credit: an observation whose label follows at once teaches, bit for bit, what the two in one teach."""
    forever: dict[str, Any] = {"horizon": 0, "horizon_time": 0, "default_label": None}
    spec = _with(spec, pending=max(1, spec.labels.pending), credit="exact", **forever)
    log = random_log(spec, seed, plain=True)
    n = len(log)
    both = np.repeat(np.arange(n), 2)
    kind = np.tile(np.array([OBSERVATION, LABEL], np.uint8), n)
    x, y = log.x[both].copy(), log.y[both].copy()
    x[kind == LABEL] = 0.0
    y[kind == OBSERVATION] = np.nan
    keys = Keys.pack([log.key[row] for row in both.tolist()])
    pairs = Batch(x, kind, y, keys, log.time[both], log.id[both], log.classes)
    assert (log.kind == LABELLED).all()
    learner, other = _build(spec), _build(spec)
    whole, split = learner.fold(log), other.fold(pairs)
    assert _bits(whole.value) == _bits(split.value[::2]), "predictions"
    assert _bits(whole.code) == _bits(split.code[::2]), "predicted classes"
    first = 1 if log.classes else 0  # a label by id does not know the probability it was given
    assert _bits(whole.scored[:, first:]) == _bits(split.scored[1::2, first:]), "labels that met their predictions"
    questions = random_log(spec, seed + 1)
    a, b = (some.predict(Batch.of(questions.x, key=questions.key)) for some in (learner, other))
    assert _bits(a.value) == _bits(b.value), "what was learned"


# Speed


def _compiled() -> int:
    return sum(len(found.overloads) for found in gc.get_objects() if issubclass(type(found), Dispatcher))


@_check
def second_call_compiles_nothing(spec: ModelSpec, seed: int) -> None:
    """After the first batch no size, key, class, alignment or eviction makes the compiler run."""
    log, rng = random_log(spec, seed), np.random.default_rng(seed)
    small = _with(spec, slots=4)
    first = _build(small)
    first.fold(log.slice(0, 40))
    first.predict(log.slice(0, 40), probabilities=True)
    _loaded(small, *_snapshot(first)).digest()
    before = _compiled()
    for slots in (4, MANY):
        learner = _build(_with(spec, slots))
        for piece in deliver(log, rng.integers(0, len(log), 20).tolist(), rng):
            learner.predict(piece, probabilities=True)
            learner.fold(piece)
        learner.fold(Batch(log.x, log.kind, log.y, Keys.empty(len(log)), log.time, log.id, log.classes))
        learner = _loaded(_with(spec, slots), *_snapshot(learner))
        learner.predict(log)
        learner.digest()
    assert _compiled() == before, "something was compiled after the first batch"
