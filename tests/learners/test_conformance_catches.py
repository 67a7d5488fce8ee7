"""Each check of the conformance kit fails on a learner that breaks what it is for."""

from __future__ import annotations

import numba
import numpy as np
import pytest

from kernels.cpu import layout
from learners import conformance
from learners.base import MemoryRows
from learners.cells.base import Draws
from learners.compiled import CompiledLearner
from learners.conformance.crashes import TwoVersionRows
from learners.exchange import ROUND
from learners.keyed import KeyedRows
from learners.spec import ModelSpec
from streams.batch import OBSERVATION

SPEC = ModelSpec.model_validate(
    {
        "name": "m",
        "features": [{"name": "a", "missing": "mean"}, "b"],
        "target": {"kind": "multiclass", "max_classes": 8},
        "labels": {"arrive": "delayed", "pending": 3},
        "learner": {"kind": "recurrent", "cell": {"units": 5}},
    }
)
fold, predict, load = CompiledLearner.fold, CompiledLearner.predict, CompiledLearner.load
receive, contribution = CompiledLearner.receive, CompiledLearner.contribution
evict, put_rows = KeyedRows.evict, TwoVersionRows.put_rows


def forgets_moments(self, shared, cold):
    load(self, {**shared, "m_cell": np.zeros_like(shared["m_cell"])}, cold)


def sees_the_batch(self, batch):
    x = np.clip(batch.x, -len(batch), len(batch))
    return fold(self, type(batch)(x, batch.kind, batch.y, batch.key, batch.time, batch.id, batch.classes))


def learns_from_questions(self, batch, probabilities=False):
    answer = predict(self, batch, probabilities)
    fold(self, type(batch).of(batch.x, key=batch.key))
    return answer


def warms_rows(self, batch, probabilities=False):
    answer = predict(self, batch, probabilities)
    self.rows.admit(batch.key, self.position) if len(batch) == 1 else None
    return answer


def drops_hidden_state(self, slots):
    self.columns["body"][slots] *= 0.5
    evict(self, slots)


def evicts_during_a_snapshot(self, slots):
    active, self._capture_at = self._capture_at, -1
    try:
        evict(self, slots)
    finally:
        self._capture_at = active


def overwrites(self, rows):
    for key, position, content in rows:
        self._before_write()
        self._rows[key] = [(position, content)]


def mixes_keys(self, batch):
    answer = fold(self, batch)
    self._shared.scaler[0, 1] += self.rows.columns["head"][:, layout.H_SEEN].max()
    return answer


def ignores_the_seed(self, stream, *shape, low=0.0, high=1.0):
    return np.random.default_rng(stream).uniform(low, high, shape)


def registers_every_label(self, batch):
    for row in np.flatnonzero(batch.kind != OBSERVATION).tolist():
        self._classes.setdefault(batch.classes[int(batch.y[row])], len(self._classes))
    self._shared.counters[layout.C_CLASSES] = len(self._classes)
    self._reserve(len(self._classes))
    return fold(self, batch)


def learns_labels_twice(self, batch):
    answer = fold(self, batch)
    self._shared.cell[0] += np.float32(0.1 * (batch.kind == 2).any())
    return answer


def reports_all_learned(self, batch):
    answer = fold(self, batch)
    answer.outcome[answer.outcome == layout.UNKNOWN_ID] = layout.LEARNED
    return answer


def compiles_again(self, batch):
    compiled.append(numba.njit(lambda x: x + 1))
    compiled[-1](1.0)
    return fold(self, batch)


compiled: list = []


def halves_its_weights(self, received):
    receive(self, received)
    self._shared.cell[:] *= np.float32(0.5)


def gives_what_it_was_given(self):
    given = contribution(self)
    given["steps"] = given["steps"] + 10 * self.exchange.counts[ROUND]
    return given


def takes_an_entry_each_time(self, received):
    receive(self, received)
    self._shared.scaler[0, 1] += 1.0


def divides_by_a_square(self, batch):
    for value in np.square(batch.x[:, 1]).tolist():
        assert 1.0 / value >= 0.0
    return fold(self, batch)


def keeps_what_is_infinite(self, batch):
    with np.errstate(over="ignore"):
        if np.isinf(np.square(batch.x)).any():
            self._shared.scaler[0, 2] = np.inf
    return fold(self, batch)


BROKEN = [
    ("state_round_trips", CompiledLearner, "load", forgets_moments),
    ("a_snapshot_is_of_its_position", KeyedRows, "before_write", lambda self, slots: None),
    ("any_delivery_gives_the_same", CompiledLearner, "fold", sees_the_batch),
    ("any_slots_give_the_same", KeyedRows, "evict", drops_hidden_state),
    ("any_crash_gives_the_same", TwoVersionRows, "put_rows", overwrites),
    ("any_crash_gives_the_same", KeyedRows, "evict", evicts_during_a_snapshot),
    ("same_seed_same_bits", Draws, "uniform", ignores_the_seed),
    ("predict_is_what_the_fold_says", CompiledLearner, "predict", learns_from_questions),
    ("predict_is_what_the_fold_says", CompiledLearner, "predict", warms_rows),
    ("keys_do_not_leak", CompiledLearner, "fold", mixes_keys),
    ("outcomes_follow_the_policy", CompiledLearner, "fold", reports_all_learned),
    ("events_without_effect_have_none", CompiledLearner, "fold", registers_every_label),
    ("a_label_at_once_is_a_labelled_event", CompiledLearner, "fold", learns_labels_twice),
    ("second_call_compiles_nothing", CompiledLearner, "fold", compiles_again),
    ("hostile_events_do_no_harm", CompiledLearner, "fold", divides_by_a_square),
    ("hostile_events_do_no_harm", CompiledLearner, "fold", keeps_what_is_infinite),
    ("an_exchange_of_one_state_gives_it", CompiledLearner, "receive", halves_its_weights),
    ("an_exchange_counts_nothing_twice", CompiledLearner, "contribution", gives_what_it_was_given),
    ("a_log_with_exchanges_replays", CompiledLearner, "receive", takes_an_entry_each_time),
]


@pytest.mark.parametrize(("check", "where", "name", "broken"), BROKEN, ids=lambda v: getattr(v, "__name__", None))
def test_a_broken_learner_is_caught(check, where, name, broken, monkeypatch) -> None:
    conformance.check(check, SPEC)
    monkeypatch.setattr(where, name, broken)
    with pytest.raises(AssertionError):
        conformance.check(check, SPEC)


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, *_ in BROKEN} == set(conformance.CHECKS)


def test_two_versions() -> None:
    rows = TwoVersionRows()
    rows.put_rows([(b"a", 3, b"3"), (b"a", 5, b"5")])
    assert rows.get_rows([b"a", b"b"], 9) == [(5, b"5"), None]
    rows.commit(6)
    rows.put_rows([(b"a", 8, b"8"), (b"a", 9, b"9")])
    assert rows.get_rows([b"a"], 6) == [(5, b"5")]
    assert rows.get_rows([b"a"], 8) == [(5, b"5")]
    assert rows.get_rows([b"a"], 9) == [(9, b"9")]
    rows.put_rows([(b"a", 5, b"5")])
    with pytest.raises(AssertionError, match="recovery"):
        rows.put_rows([(b"a", 5, b"other")])
    assert list(rows.iter_keys()) == [b"a"]
    assert isinstance(MemoryRows().get_rows([b"a"], 0), list)
