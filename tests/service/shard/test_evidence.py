"""What is evidence that an event's own fold fails."""

from __future__ import annotations

import signal

import pytest

from service.shard import trial
from service.shard.evidence import Evidence
from service.shard.failures import FoldFailed, Unrecoverable


def failed(first: int, count: int) -> FoldFailed:
    return FoldFailed(first, count, "raised")


def test_only_the_second_failure_alone_decides():
    held = Evidence()
    assert held.note(failed(100, 50)) is None
    assert held.apart == (100, 150)
    assert held.note(failed(120, 1)) is None
    assert held.apart == (120, 121)
    assert held.note(failed(120, 1)) == 120
    assert held.note(failed(130, 1)) is None
    assert held.note(failed(90, 20)) is None  # another place: what failed at 130 is forgotten
    assert held.note(failed(130, 1)) is None
    assert held.note(failed(130, 1)) == 130


def test_folds_that_fail_now_here_now_there_decide_nothing():
    held = Evidence()
    found = [held.note(failed(number, 1)) for number in range(1000)]  # it gets on
    with pytest.raises(Unrecoverable, match="none at the same twice"):
        found.extend(held.note(failed(number % 7, 1)) for number in range(1000))
    assert not any(found)
    assert held.set_aside == 0


def test_signals_from_outside_are_not_among_those_of_its_own():
    outside = {"SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGALRM", "SIGUSR1", "SIGXCPU"}
    assert not outside & {one.name for one in trial.OF_ITS_OWN}
    assert trial.named(-signal.SIGSEGV) == "SIGSEGV"
    assert trial.named(3) == "exit code 3"
