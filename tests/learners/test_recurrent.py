"""The recurrent learner where the conformance kit does not look: its spec, its hash, its interrupted fold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kernels.cpu import keys as table
from kernels.reference import cells as reference
from learners import conformance, recurrence
from learners.cells.base import CellSpec, Draws
from learners.fingerprint import _compiled, fingerprint
from learners.keyed import CaptureActive
from learners.spec import ModelSpec
from streams.batch import Batch


def make_spec(target="binary", slots=65_536, **learner) -> ModelSpec:
    return ModelSpec.model_validate(
        {
            "name": "m",
            "features": ["a", "b"],
            "target": {"kind": target},
            "learner": {"kind": "recurrent", "cell": {"units": 6}, **learner},
            "deployment": {"slots": slots},
        }
    )


@given(st.binary(max_size=1100), st.integers(0, 7))
@settings(max_examples=400, deadline=None)
def test_the_hash_is_xxh64(data, before) -> None:
    column = np.frombuffer(b"x" * before + data + b"y", np.uint8).copy()
    assert int(table.xxh64(column, before, before + len(data))) == xxhash.xxh64_intdigest(data)


def test_the_hash_at_every_length() -> None:
    data = np.random.default_rng(0).integers(0, 256, 1100, dtype=np.uint8)
    for length in range(len(data) + 1):
        assert int(table.xxh64(data, 0, length)) == xxhash.xxh64_intdigest(data[:length].tobytes())


@pytest.mark.parametrize(
    "learner",
    [
        {"optimizer": {"kind": "adam", "betas": [1.0, 0.999]}},
        {"optimizer": {"kind": "adam", "betas": [0.9, 1.0]}},
        {"optimizer": {"kind": "adam", "epsilon": 1e-60}},
        {"clip": 1e5},
        {"optimizer": {"kind": "sgd", "rate": float("nan")}},
    ],
    ids=str,
)
def test_settings_that_the_divergence_guard_does_not_cover_are_refused(learner) -> None:
    with pytest.raises(ValidationError):
        make_spec(**learner)


@pytest.mark.parametrize(
    ("learner", "says"),
    [
        ({"cell": {"units": 0}}, "units"),
        ({"cell": {"kind": "gru"}}, "known: elstm"),
        ({"cell": {"kind": "lru", "radius": [0.5, 1.0]}}, "radius"),
        ({"cell": {"kind": "hgrn", "bound": 1.0}}, "bound"),
        ({"cell": {"kind": "s5"}, "least_gap": 0.0}, "least_gap"),
        ({"gap_unit": 1.0}, "knows no time"),
        ({"cell": {"kind": "lru", "units": 2048}, "layers": 2}, "bytes per key"),
        ({"cell": {"units": 65_536}, "layers": 16}, "bytes of weights"),
    ],
    ids=str,
)
def test_recurrences_that_cannot_work_are_refused(learner, says) -> None:
    with pytest.raises(ValidationError, match=says):
        make_spec(**learner)


@pytest.mark.parametrize("kind", CellSpec.known())
def test_a_cell_is_what_its_reference_says(kind) -> None:
    """Weights, features and files of the same names and sizes."""
    spec = CellSpec.known()[kind](units=6)
    cell, width = spec.compiled(), 4
    flat = torch.tensor(spec.initial(Draws(0, 0), width))
    assert len(flat) == sum(math.prod(shape) for shape in reference.shapes(cell, width))
    w, x = reference.split(cell, flat, width), torch.ones(width).double()
    h = torch.ones(cell.ORDER, cell.units).double()
    assert reference.forward(cell, w, x, h, 1.0).shape == h.shape
    assert reference.features(cell, w, x, h).shape == (spec.hidden,)
    assert type(cell).__module__.endswith("." + kind)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rmsprop", "obgd"])
@pytest.mark.parametrize("target", ["binary", "multiclass", "regression"])
def test_the_largest_admissible_values_leave_everything_finite(target, optimizer) -> None:
    spec = make_spec(target, clip=1e3, optimizer={"kind": optimizer, "rate": 10.0})
    learner = spec.learner.build(spec)
    rng = np.random.default_rng(0)
    n = 300
    top = np.finfo(np.float32).max
    x = rng.choice([0.0, 1.0, top, -top, 1e-45], (n, 2))
    y = rng.choice([1e100, -1e100, 0.0, 1e-300], n) if target == "regression" else rng.integers(0, 2, n)
    folded = learner.fold(Batch.of(x, y, classes=(0, 1) if target == "multiclass" else ()))
    assert np.isfinite(folded.value).all()
    assert all(np.isfinite(array).all() for array in learner.shared_arrays().values())
    assert np.isfinite(learner.rows.columns["body"]).all()


def test_an_interrupted_fold_returns_what_it_did() -> None:
    spec = make_spec(slots=2)
    rng = np.random.default_rng(0)
    log = Batch.of(rng.normal(size=(6, 2)), rng.integers(0, 2, 6), key=[b"a", b"b", b"a", b"b", b"c", b"d"])
    wanted = spec.learner.build(spec).fold(log)
    learner = spec.learner.build(spec)
    learner.fold(log.slice(0, 2))
    learner.begin_capture(0)
    with pytest.raises(CaptureActive) as stopped:
        learner.fold(log.slice(2, 6))
    assert learner.position == 4
    np.testing.assert_array_equal(stopped.value.folded.value, wanted.value[2:4])
    with pytest.raises(CaptureActive) as stopped:
        learner.fold(log.slice(4, 6))
    assert stopped.value.folded is None
    learner.end_capture()
    np.testing.assert_array_equal(learner.fold(log.slice(4, 6)).value, wanted.value[4:])


def test_a_snapshot_holds_up_only_an_eviction_that_needs_it() -> None:
    """Rows leave a few at a time, so as not to look for room at every key; a snapshot may allow only some of them."""
    spec = make_spec(slots=32)
    learner = spec.learner.build(spec)
    rng = np.random.default_rng(0)
    names = [b"%d" % i for i in range(34)]
    log = Batch.of(rng.normal(size=(34, 2)), rng.integers(0, 2, 34), key=names)
    learner.fold(log.slice(0, 32))
    learner.begin_capture(0)
    learner.fold(log.slice(1, 32))
    learner.fold(log.slice(32, 33))
    assert learner.resident(log.slice(1, 33).key)
    with pytest.raises(CaptureActive):
        learner.fold(log.slice(33, 34))


def test_rows_that_are_fetched_are_in_memory_and_nothing_else_changes() -> None:
    spec = make_spec(slots=8)
    learner, other = spec.learner.build(spec), spec.learner.build(spec)
    rng = np.random.default_rng(1)
    keys = [b"%d" % key for key in rng.integers(0, 30, 120)]
    log = Batch.of(rng.normal(size=(120, 2)), rng.integers(0, 2, 120), key=keys)
    for start in range(0, 120, 20):
        piece = log.slice(start, start + 20)
        before = learner.digest()
        learner.fetch(piece.key)
        assert learner.resident(piece.slice(0, 5).key)
        assert learner.digest() == before
        np.testing.assert_array_equal(learner.fold(piece).value, other.fold(piece).value)
    assert learner.digest() == other.digest()
    learner.begin_capture(learner.position - 20)
    learner.fold(log.slice(0, 8))
    learner.fetch(log.key)  # there is no room: a snapshot holds every row
    learner.end_capture()


def test_a_class_listed_twice_is_one_class() -> None:
    spec = make_spec("multiclass")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2))
    twice, once = spec.learner.build(spec), spec.learner.build(spec)
    y = np.arange(20) % 3
    a = twice.fold(Batch.of(x, y, classes=("a", "b", "a")))
    b = once.fold(Batch.of(x, y % 2, classes=("a", "b")))
    np.testing.assert_array_equal(a.value, b.value)
    assert twice.classes() == once.classes() == ("a", "b")
    assert twice.digest() == once.digest()


@pytest.mark.parametrize("target", ["binary", "multiclass", "regression"])
@given(seed=st.integers(0, 2**31), slots=st.integers(1, 12), pending=st.integers(1, 4))
@settings(max_examples=8, deadline=None)
def test_recovery_is_exact(target, seed, slots, pending) -> None:
    base = make_spec(target, slots)
    spec = base.model_copy(update={"labels": base.labels.model_copy(update={"arrive": "delayed", "pending": pending})})
    log = conformance.random_log(spec, seed, events=250)
    whole = spec.learner.build(spec)
    wanted = whole.fold(log)
    run = conformance.fold_with_crashes(spec, log, seed, crash=0.03)
    assert run.learner.digest() == whole.digest()
    assert run.folded.value.tobytes() == wanted.value.tobytes()


def test_the_fingerprint_is_small_and_repeatable() -> None:
    first = fingerprint()
    _compiled.cache_clear()
    assert fingerprint() == first
    assert set(first) == {"backend", "device", "kernels", "fold"}
    assert all(isinstance(value, str) and 0 < len(value) < 100 for value in first.values())


def test_the_fingerprint_covers_every_target(monkeypatch) -> None:
    def parts() -> list[str]:
        _compiled.cache_clear()
        whole = fingerprint()["fold"]
        return [whole[start : start + 16] for start in range(0, len(whole), 16)]

    before = parts()
    monkeypatch.setattr(recurrence, "CLASS_SLOTS", 3)
    changed = [a != b for a, b in zip(before, parts())]
    monkeypatch.undo()
    assert changed == [False, True, False]
    assert parts() == before


@pytest.mark.parametrize("optimizer", [{"kind": "adam", "betas": [0.5, 0.5]}, {"kind": "rmsprop", "beta": 0.5}])
def test_no_moment_and_no_trace_becomes_a_denormal_number(optimizer) -> None:
    """Where an input stays away its traces and gradients fade; arithmetic on denormal numbers is many times slower."""
    spec = make_spec(optimizer=optimizer)
    learner = spec.learner.build(spec)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(600, 2)).astype(np.float32), rng.integers(0, 2, 600).astype(float)
    x[100:] = np.nan  # missing: an input of exactly 0, so a gradient of exactly 0
    for at in range(0, 600, 10):
        learner.fold(Batch.of(x[at : at + 10], y[at : at + 10]))
        arrays = {n: array for n, array in learner.shared_arrays().items() if n.startswith(("m_", "v_"))}
        for name, array in (arrays | {"body": learner.rows.columns["body"]}).items():
            assert array.dtype == np.float32
            assert not ((array != 0) & (abs(array) < np.finfo(np.float32).tiny)).any(), name
