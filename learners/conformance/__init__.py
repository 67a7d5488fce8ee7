"""What every learner must satisfy, as checks that its author runs.

    import pytest
    from learners import conformance

    @pytest.mark.parametrize("name", conformance.CHECKS)
    def test_my_learner(name):
        conformance.check(name, my_spec)

Each check builds learners from the spec (`ModelSpec.learner.build`), folds random logs that fit it, and raises
AssertionError where the learner breaks the contract of `learners.base.Learner`. Run them for each kind of target and
of label policy that the learner supports.
"""

from __future__ import annotations

from learners.conformance import exchanges, hostile  # noqa: F401 - their checks join the others
from learners.conformance.checks import check, check_learner, known
from learners.conformance.crashes import CrashRun, TwoVersionRows, fold_with_crashes
from learners.conformance.logs import deliver, expected_outcomes, random_log

CHECKS: tuple[str, ...] = known()
"""Names of all checks."""

__all__ = [
    "CHECKS",
    "CrashRun",
    "TwoVersionRows",
    "check",
    "check_learner",
    "deliver",
    "expected_outcomes",
    "fold_with_crashes",
    "random_log",
]
