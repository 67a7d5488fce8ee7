"""`continual bench robust`: what is disturbed and what is not, figures by hand, every learner and head in the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from continual.bench import bench
from continual.bench import robust as table
from continual.bench._robust_streams import AT, EVENTS, KINDS, PLACES, Case, Made
from continual.peers import Peer, Result
from learners.heads.base import HeadSpec
from learners.spec import LearnerSpec
from streams.batch import Batch


def cases() -> list[tuple[str, str, Case]]:
    return [(target, kind, case) for target in KINDS for kind in KINDS[target] for case in Made(target, 3).cases(kind)]


def test_a_case_differs_from_its_twin_where_it_says_and_nowhere_else() -> None:
    for target, kind, case in cases():
        bad, clean = case.batch, case.clean
        differs = (bad.x != clean.x).any(axis=1) | (np.nan_to_num(bad.y) != np.nan_to_num(clean.y))
        differs |= bad.time != clean.time
        assert differs.any(), (target, kind)
        assert differs[: case.at].sum() == 0
        if kind != "rare cause":  # there what is counted is what is caused
            assert not (differs & case.counted).any(), (target, kind)
        assert case.counted.sum() > 100
        if kind.startswith("burst"):
            assert np.flatnonzero(differs).tolist() == list(range(AT, AT + 20))


class Fails(Peer):
    """Says 1 too much, and `worse` times that after a label above 100."""

    requires = install = "numpy"

    def __init__(self, worse: float, until: int) -> None:
        super().__init__("fails", "regression")
        self.worse, self.until = worse, until

    def _fold(self, batch: Batch) -> Result:
        off = np.ones(len(batch))
        if (bad := np.flatnonzero(batch.y > 100)).size:
            off[bad[0] + 1 : bad[0] + self.until] = self.worse
        return Result(self.name, batch.y + off, None, 0.0)


@pytest.mark.parametrize(("until", "met"), [(900, True), (1500, False), (20_000, False)])
def test_figures_by_hand(until, met) -> None:
    made = Made("regression", 0)
    arm = table.Arm("fails", lambda target: Fails(3.0, until), ("regression",))
    case = next(made.cases("label"))
    figure = table._figure(arm, "regression", case, {})
    assert figure.clean == pytest.approx([1.0] * len(PLACES))
    wanted = [1 + 2 * np.clip((until - start) / (stop - start), 0, 1) for start, stop in PLACES]
    assert figure.worse == pytest.approx(wanted, abs=0.01)
    assert figure.met == met


@pytest.mark.parametrize("kind", ["burst of labels", "burst of features"])
@pytest.mark.parametrize("name", ["recurrent", "static linear", "static ridge"])
def test_a_burst_of_bad_values_is_recovered_from(name, kind) -> None:
    """Within 5,000 events, to 1.1 times the error of the same events without it."""
    arm = next(arm for arm in table.ARMS if arm.name == name)
    for case in Made("regression", 1).cases(kind):
        figure = table._figure(arm, "regression", case, {})
        assert figure.met, (case.value, figure.worse)


def test_what_is_no_number_is_as_bad_as_can_be() -> None:
    assert table._error("regression", np.array([1.0, np.nan]), np.zeros(2)) == np.inf
    assert table._error("binary", np.array([1.0, -1.0]), np.ones(2)) == 0.5


def test_every_learner_and_head_is_in_the_table() -> None:
    found: set[str] = set()
    for arm in table.ARMS:
        learner: Any = arm.learner(arm.targets[0])
        if isinstance(learner, dict):
            found |= {f"learner {learner['kind']}", f"head {learner.get('head', {}).get('kind', 'linear')}"}
    for family, base in (("learner", LearnerSpec), ("head", HeadSpec)):
        public = {kind for kind, spec in base.known().items() if spec.__module__.startswith("learners.")}
        assert {f"{family} {kind}" for kind in public} <= found


def test_the_command_writes_the_table(tmp_path: Path) -> None:
    for kind, arm in (("burst of labels", "peer: no change"), ("clock", "static ridge")):  # the first stays
        chosen = ["--only", arm, "--kind", kind, "--out", str(tmp_path)]
        assert CliRunner().invoke(bench, ["robust", *chosen], catch_exceptions=False).exit_code == 0
    document = json.loads((tmp_path / "robust.json").read_text())
    rows = {(row["learner"], row["target"], row["disturbed"]): row for row in document["rows"]}
    assert rows["peer: no change", "regression", "burst of labels"]["aim"] == "met"
    assert {(learner, kind) for learner, _, kind in rows} == {
        ("peer: no change", "burst of labels"),
        ("static ridge", "clock"),
    }
    assert len(document["details"]["runs"]["static ridge, regression, clock"]["figures"]) == 3
    assert AT + PLACES[-1][1] == EVENTS
    assert CliRunner().invoke(bench, ["robust", "--only", "nobody"]).exit_code == 2
