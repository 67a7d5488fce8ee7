"""The unit of a file's clock, said and set on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from continual.commands.events import events

NOON = 1_714_564_800


@pytest.fixture
def folded(tmp_path: Path):
    (tmp_path / "m.yaml").write_text("name: m\nfeatures: [a]\ntarget: {kind: binary}\n")

    def fold(time: str, *more: str) -> Result:
        (tmp_path / "t.csv").write_text(f"a,label,time\n1,1.0,{time}\n2,,{time}\n")
        return CliRunner().invoke(events, ["fold", str(tmp_path / "t.csv"), str(tmp_path / "m.yaml"), "--json", *more])

    return fold


def test_a_finer_clock_is_refused_and_named(folded) -> None:
    result = folded(f"{NOON}000")
    assert result.exit_code == 1
    assert "this looks like ms: set time_unit: ms" in result.output


def test_a_coarser_clock_is_said_in_one_line(folded) -> None:
    result = folded(str(NOON), "--time-unit", "us")
    assert result.exit_code == 0, result.output
    said = [line for line in result.stderr.splitlines() if "ClockWarning" in line or line.startswith("warning: ")]
    assert len(said) == 1
    assert "they look like s: set time_unit: s" in said[0]


@pytest.mark.parametrize(
    ("time", "unit"), [(f"{NOON}000000000", "ns"), (f"{NOON}.5", "s"), ("2024-05-01t12:00:00z", "us")]
)
def test_every_unit_can_be_set(folded, time: str, unit: str) -> None:
    result = folded(time, "--time-unit", unit)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["events"] == 2
    assert "warning" not in result.stderr
