"""The quality gate: every case within its bound, every public learner, head and cell in a case."""

from __future__ import annotations

import math

import pytest

from continual.scenarios import gate
from continual.scenarios.gate import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_case_is_within_its_bound(case: Case) -> None:
    value = case.measure()
    sign = ">=" if case.least else "<="
    assert case.holds(value), f"{case.id}: {case.figure} of {case.method} is {value:.4f}, accepted: {sign} {case.bound}"


def test_every_public_learner_head_and_cell_is_in_a_case() -> None:
    assert gate.uncovered() == []


def test_the_audit_finds_what_no_case_runs_and_takes_a_reason() -> None:
    some = [case for case in CASES if "uer" not in case.method and "lru" not in case.method]
    assert gate.uncovered(some) == ["cell lru", "learner uer"]
    assert gate.uncovered(some, {"cell lru": "a reason", "learner uer": ""}) == ["learner uer"]


def test_ids_are_permanent_names() -> None:
    ids = [case.id for case in CASES]
    assert len(set(ids)) == len(ids)
    assert all(one == one.lower() and " " not in one for one in ids)


def test_a_bound_has_a_direction_and_nan_never_holds() -> None:
    at_least, at_most = (next(case for case in CASES if case.least is least) for least in (True, False))
    assert at_least.holds(at_least.bound)
    assert not at_least.holds(at_least.bound - 1e-9)
    assert at_most.holds(at_most.bound)
    assert not at_most.holds(at_most.bound + 1e-9)
    assert not at_least.holds(math.nan)
    assert not at_most.holds(math.nan)
