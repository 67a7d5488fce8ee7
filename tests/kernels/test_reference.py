"""The compiled fold against the PyTorch reference, event by event, and its guard against numbers that are none."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu.layout import (
    ADAM,
    C_STEPS,
    LATE,
    LEARNED,
    NONFINITE,
    OBGD,
    OBSERVED,
    P_SURE,
    REGRESSION,
    RMSPROP,
    SGD,
    UNKNOWN_ID,
)
from kernels.reference.stack import places
from tests.kernels.both_folds import both_folds
from tests.kernels.cell_cases import CASES, IN_FLOAT32

WEIGHTS = ("cell", "m_cell", "v_cell", "out", "m_out", "v_out", "skip", "m_skip", "v_skip")
OPTIMIZERS = {"adam": ADAM, "sgd": SGD, "rmsprop": RMSPROP, "obgd": OBGD}
EVERY = [*((cell, np.float64) for cell in CASES), *((cell, np.float32) for cell in IN_FLOAT32)]


def assert_same_fold(build, config, cell, n=250, keys=3):
    """Folds the same events with both from the same weights; outcomes, predictions and all state are the same."""
    seed = [config.task, config.optimizer, config.pending]
    (ours, a), (theirs, b) = both_folds(build, config, cell, seed, n, keys)
    np.testing.assert_array_equal(a.outcome, b.outcome)
    np.testing.assert_array_equal(a.code, b.code)
    np.testing.assert_allclose(a.value, b.value, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.scored, b.scored, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(a.expired, b.expired, rtol=1e-9, atol=1e-12)
    for group, other in ((ours.shared, theirs.shared), (ours.rows, theirs.rows)):
        for name, x, y in zip(group._fields, group, other):
            np.testing.assert_allclose(x, y, rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_array_equal(ours.shared.scaler, theirs.shared.scaler)
    assert (a.outcome & LEARNED).any()
    assert (a.outcome & OBSERVED).any()
    assert bool((a.outcome & UNKNOWN_ID).any()) == (config.pending > 0)
    return a


@pytest.mark.parametrize("task", [0, 1, 2], ids=["binary", "multiclass", "regression"])
def test_compiled_fold_equals_reference_where_features_are_taken_as_they_come(build, task) -> None:
    """The clip cuts some of them."""
    assert_same_fold(build, build.config(task, "mingru", units=13, features=5, scaled=0, clip=1.5), "mingru")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("task", [0, 1, 2], ids=["binary", "multiclass", "regression"])
@pytest.mark.parametrize("pending", [0, 3])
@pytest.mark.parametrize("ignore", [0, 1])
def test_compiled_fold_equals_reference(build, task, optimizer, pending, ignore) -> None:
    config = build.config(
        task,
        "mingru",
        units=13,
        features=5,
        optimizer=OPTIMIZERS[optimizer],
        pending=pending,
        age_input=int(pending > 0),
        ignore_out_of_order=ignore,
        horizon=20.0 * ignore,
    )
    assert_same_fold(build, config, "mingru")


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("units", [64, 1100])
def test_many_units_equal_reference(build, units, optimizer) -> None:
    """Whole vectors of units, and rows so long that they are taken in parts."""
    config = build.config(0, "mingru", units=units, features=3, optimizer=OPTIMIZERS[optimizer])
    assert_same_fold(build, config, "mingru", n=60)


POLICIES = {
    "head": {"head_credit": 1},
    "head clipped": {"head_credit": 1, "clip_norm": 0.3, "layers": 2},
    "head obgd": {"head_credit": 1, "optimizer": OBGD, "rate": 1.0},
    "default": {"defaults": 1, "horizon": 5.0},
    "default of the head, by time": {"defaults": 1, "default_label": 1.0, "horizon_time": 6.0, "head_credit": 1},
    "dropped by time": {"horizon_time": 8.0},
}


@pytest.mark.parametrize("task", [0, 1, 2], ids=["binary", "multiclass", "regression"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_of_late_labels_equals_reference(build, task, policy) -> None:
    config = build.config(task, "mingru", units=6, features=4, pending=4, age_input=1, **POLICIES[policy])
    out = assert_same_fold(build, config, "mingru")
    left, learned = (~np.isnan(out.expired[:, column]) for column in (1, 3))
    assert left.any()
    assert learned.any() == ("default" in policy)
    assert (out.outcome == LATE).any() == ("horizon" in str(POLICIES[policy]))


@pytest.mark.parametrize("task", [0, 2], ids=["binary", "regression"])
def test_with_an_encoder_the_head_alone_can_be_taught(build, task) -> None:
    config = build.config(task, "mingru", units=6, features=5, encoded=4, head_credit=1, pending=3)
    assert_same_fold(build, config, "mingru")


@pytest.mark.parametrize("task", [0, 2], ids=["binary", "regression"])
@pytest.mark.parametrize("activation", [0, 1], ids=["linear", "tanh"])
@pytest.mark.parametrize("changes", [{}, {"pending": 3, "clip_norm": 0.5}, {"layers": 2, "optimizer": SGD}])
def test_encoder_and_categories_equal_reference(build, task, activation, changes) -> None:
    config = build.config(task, "mingru", units=6, features=5, encoded=4, encoder_tanh=activation, **changes)
    assert_same_fold(build, config, "mingru")


SETTINGS = {
    "adam": {"optimizer": ADAM, "decay": 0.3, "recurrent_rate": 0.5},
    "adam clipped": {"optimizer": ADAM, "clip_norm": 0.7, "layers": 2},
    "rmsprop": {"optimizer": RMSPROP, "beta1": 0.0, "beta2": 0.9, "layers": 2, "decay": 0.1},
    "obgd": {"optimizer": OBGD, "rate": 1.0, "layers": 2, "recurrent_rate": 0.3},
    "obgd clipped": {"optimizer": OBGD, "rate": 1.0, "clip_norm": 0.5},
    "sgd": {"optimizer": SGD, "layers": 3, "clip_norm": 2.0, "decay": 1.0, "recurrent_rate": 0.0},
}
COVERING = [
    (cell, name, (c + s) % 3, 2 * ((c + s // 2) % 2))
    for c, cell in enumerate(CASES)
    for s, name in enumerate(SETTINGS)
    if cell == "mingru" or (c + s) % 3 == 0
]
"""Every cell with two of the settings, minGRU with all; tasks and delayed labels in turn."""


@pytest.mark.parametrize(("cell", "name", "task", "pending"), COVERING, ids=str)
def test_every_cell_equals_its_reference(build, cell, name, task, pending) -> None:
    unit = CASES[cell].unit
    config = build.config(task, cell, units=6, features=3, pending=pending, gap_unit=unit, **SETTINGS[name])
    assert_same_fold(build, config, cell, n=120, keys=2)


def test_a_frozen_recurrence_stays_as_it_is_and_does_not_decay(build) -> None:
    rng = np.random.default_rng(0)
    config = build.config(0, "elstm", units=5, features=2, layers=2, recurrent_rate=0.0, decay=1.0)
    model = build.model(config, "elstm", rng)
    before = model.shared.cell.copy()
    build.fold(model, build.events(config, rng, 50), build.out(50))
    recurrence = np.zeros(len(before), bool)
    for place in places(model.cell, config):
        recurrence[place.recurrence] = True
    np.testing.assert_array_equal(model.shared.cell[recurrence], before[recurrence])
    assert (model.shared.cell[~recurrence] != before[~recurrence]).all()


@pytest.mark.parametrize("task", [0, 1, 2])
@pytest.mark.parametrize(("cell", "dtype"), EVERY, ids=lambda v: getattr(v, "__name__", v))
@pytest.mark.parametrize(("where", "value"), [("cell", np.nan), ("out", np.nan), ("skip", np.nan), ("out", 1e30)])
def test_a_gradient_that_is_not_finite_or_too_large_changes_no_weight(build, cell, dtype, task, where, value) -> None:
    rng = np.random.default_rng(3)
    config = build.config(task, cell, units=4, features=2, window=1e6)
    model = build.model(config, cell, rng, dtype=dtype)
    n = 30
    events = build.events(config, rng, n, labelled=1.0)
    build.fold(model, events, build.out(n))
    getattr(model.shared, where).reshape(-1)[0] = value
    skipped = 0
    for t in range(n):
        before = {name: getattr(model.shared, name).copy() for name in (*WEIGHTS, "decay")}
        steps = model.shared.counters[C_STEPS]
        out = build.out(1)
        build.fold(model, build.one(events, t), out)
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


TEN_YEARS = 315_576_000
"""Seconds."""

MAY_DIVERGE = {"s5-direct": "nothing guards the sign of its rate"}
"""Cells whose predictions may be no numbers after gaps as long as these, and so what waits with these for a label; the
state is finite all the same."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("cell", "dtype"), EVERY, ids=lambda v: getattr(v, "__name__", v))
def test_extreme_inputs_and_gaps_leave_everything_finite(build, cell, dtype, optimizer) -> None:
    """Inputs of 1e30, constant and missing features, gaps of zero and of ten years (in seconds, in nanoseconds)."""
    rng = np.random.default_rng(9)
    n = 400
    for per_second in (1, 10**9):
        config = build.config(
            REGRESSION,
            cell,
            units=6,
            features=3,
            layers=2,
            pending=2,
            gap_unit=1.0,
            optimizer=OPTIMIZERS[optimizer],
            rate=1.0 if optimizer == "obgd" else 1e-2,
        )
        model, events = build.model(config, cell, rng, 2, dtype), build.events(config, rng, n, 2)
        events.x[:, 0] = rng.choice([0.0, 1.0, 1e30, -1e30, np.nan], n)
        events.x[:, 1] = 4.0
        steps = rng.choice([0, 1, TEN_YEARS], n, p=[0.5, 0.48, 0.02])
        events.time[:] = np.cumsum(steps) * per_second + 1
        events.y[::7] *= 1e30
        out = build.out(n)
        build.fold(model, events, out)
        assert (out.outcome & LEARNED).any()
        arrays = {**model.shared._asdict(), "head": model.rows.head, "body": model.rows.body}
        if cell not in MAY_DIVERGE:
            arrays |= {**model.rows._asdict(), "predictions": out.value[events.kind != 2]}
            # A linear head knows no interval: what is held of that is NaN.
            arrays["pending_head"] = np.delete(model.rows.pending_head, P_SURE, -1)
        for name, array in arrays.items():
            assert np.isfinite(array).all(), (name, config)


@pytest.mark.parametrize("cell", IN_FLOAT32)
def test_a_million_equal_labels_leave_everything_finite(build, cell) -> None:
    rng = np.random.default_rng(10)
    n = 1_000_000
    config = build.config(0, cell, units=4, features=2, gap_unit=1.0, window=5000.0)
    model = build.model(config, cell, rng, dtype=np.float32)
    events = build.events(config, rng, 1, labelled=1.0)
    many = type(events)(
        rng.normal(size=(n, 2)).astype(np.float32),
        np.ones(n, np.uint8),
        np.ones(n),
        np.zeros(n, np.int64),
        np.arange(1, n + 1),
        np.zeros((n, 2), np.uint64),
        events.classes,
    )
    out = build.out(n)
    build.fold(model, many, out)
    assert (out.outcome == LEARNED | OBSERVED).all()
    assert (out.value[-1000:] > 0.999).all()
    for name, array in (*model.shared._asdict().items(), *model.rows._asdict().items()):
        assert np.isfinite(array).all(), name


def test_labels_without_effect_leave_no_class_behind(build) -> None:
    config = build.config(1, "mingru", units=3, features=2, pending=2)
    rng = np.random.default_rng(0)
    model = build.model(config, "mingru", rng)
    events = build.events(config, rng, 3, labelled=1.0)
    events.kind[:] = 2, 1, 1
    events.y[:] = 2.0, 0.0, 1.0
    out = build.out(3)
    build.fold(model, events, out)
    assert list(out.outcome) == [UNKNOWN_ID, OBSERVED | LEARNED, OBSERVED | LEARNED]
    assert list(events.classes[:3]) == [0, 1, -1]


def test_events_in_one_batch_or_one_by_one_give_the_same_bits(build) -> None:
    config = build.config(2, "mingru", units=9, features=3, pending=2)
    finals = []
    for single in (False, True):
        rng = np.random.default_rng(1)
        model, events, out = build.model(config, "mingru", rng, 2), build.events(config, rng, 100, 2), build.out(100)
        parts = range(100) if single else [slice(None)]
        for t in parts:
            part = build.one(events, t) if single else events
            answer = type(out)(*(column[t : t + 1] if single else column for column in out))
            build.fold(model, part, answer)
        finals.append(b"".join(array.tobytes() for array in (*model.shared, *model.rows, *out)))
    assert finals[0] == finals[1]
