"""The compiled fold against the PyTorch reference, event by event, and its guard against numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu import fold as cpu
from kernels.cpu.layout import ADAM, C_STEPS, LEARNED, NONFINITE, OBSERVED, SGD, UNKNOWN_ID
from kernels.reference import fold as reference

WEIGHTS = ("cell", "m_cell", "v_cell", "out", "m_out", "v_out", "skip", "m_skip", "v_skip")


@pytest.mark.parametrize("optimizer", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("task", [0, 1, 2], ids=["binary", "multiclass", "regression"])
@pytest.mark.parametrize("pending", [0, 3])
@pytest.mark.parametrize("ignore", [0, 1])
def test_compiled_fold_equals_reference(build, task, optimizer, pending, ignore) -> None:
    config = build.config(
        task,
        units=13,
        features=5,
        optimizer=optimizer,
        pending=pending,
        age_input=int(pending > 0),
        ignore_out_of_order=ignore,
        horizon=20.0 * ignore,
    )
    n = 250
    results = []
    for fold in (cpu, reference):
        rng = np.random.default_rng([task, optimizer, pending])
        model = build.model(config, rng, keys=3)
        events, out = build.events(config, rng, n, keys=3), build.out(n)
        extra = (model.scratch,) if fold is cpu else ()
        fold.fold(config, model.shared, model.rows, events, out, *extra)
        results.append((model, out, events))
    (ours, a, events), (theirs, b, _) = results
    np.testing.assert_array_equal(a.outcome, b.outcome)
    np.testing.assert_array_equal(a.code, b.code)
    np.testing.assert_allclose(a.value, b.value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.scored, b.scored, rtol=1e-9, atol=1e-12)
    for group, other in ((ours.shared, theirs.shared), (ours.rows, theirs.rows)):
        for name, x, y in zip(group._fields, group, other):
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_array_equal(ours.shared.scaler, theirs.shared.scaler)
    assert (a.outcome & LEARNED).any()
    assert (a.outcome & OBSERVED).any()
    assert bool((a.outcome & UNKNOWN_ID).any()) == (pending > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize(("where", "value"), [("cell", np.nan), ("out", np.nan), ("skip", np.nan), ("out", 1e30)])
def test_a_gradient_that_is_not_finite_or_too_large_changes_no_weight(build, dtype, task, where, value) -> None:
    rng = np.random.default_rng(3)
    config = build.config(task, units=4, features=2, window=1e6)
    model = build.model(config, rng, dtype=dtype)
    n = 30
    events = build.events(config, rng, n, labelled=1.0)
    cpu.fold(config, model.shared, model.rows, events, build.out(n), model.scratch)
    getattr(model.shared, where).reshape(-1)[0] = value
    skipped = 0
    for t in range(n):
        before = {name: getattr(model.shared, name).copy() for name in (*WEIGHTS, "decay")}
        steps = model.shared.counters[C_STEPS]
        out = build.out(1)
        cpu.fold(config, model.shared, model.rows, build.one(events, t), out, model.scratch)
        if out.outcome[0] & NONFINITE:
            skipped += 1
            assert not out.outcome[0] & LEARNED
            assert model.shared.counters[C_STEPS] == steps
            for name, array in before.items():
                np.testing.assert_array_equal(getattr(model.shared, name), array)
        else:
            assert model.shared.counters[C_STEPS] == steps + 1
            assert all(np.isfinite(getattr(model.shared, name)).all() for name in WEIGHTS)
    # Where the large weight saturates a probability to the label, the error is exactly zero and harms nothing.
    assert skipped == n if np.isnan(value) else skipped >= 5


def test_labels_without_effect_leave_no_class_behind(build) -> None:
    config = build.config(1, units=3, features=2, pending=2)
    rng = np.random.default_rng(0)
    model = build.model(config, rng)
    events = build.events(config, rng, 3, labelled=1.0)
    events.kind[:] = 2, 1, 1
    events.y[:] = 2.0, 0.0, 1.0
    out = build.out(3)
    cpu.fold(config, model.shared, model.rows, events, out, model.scratch)
    assert list(out.outcome) == [UNKNOWN_ID, OBSERVED | LEARNED, OBSERVED | LEARNED]
    assert list(events.classes[:3]) == [0, 1, -1]


def test_events_in_one_batch_or_one_by_one_give_the_same_bits(build) -> None:
    config = build.config(2, units=9, features=3, pending=2)
    finals = []
    for single in (False, True):
        rng = np.random.default_rng(1)
        model, events, out = build.model(config, rng, 2), build.events(config, rng, 100, 2), build.out(100)
        parts = range(100) if single else [slice(None)]
        for t in parts:
            part = build.one(events, t) if single else events
            answer = type(out)(*(column[t : t + 1] if single else column for column in out))
            cpu.fold(config, model.shared, model.rows, part, answer, model.scratch)
        finals.append(b"".join(array.tobytes() for array in (*model.shared, *model.rows, *out)))
    assert finals[0] == finals[1]
