"""`continual kernels bench` at its quick size, and what it refuses. No figure is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from continual.bench import kernels as bench
from continual.cli import main


def test_the_table_of_the_cpu(tmp_path: Path) -> None:
    command = ["kernels", "bench", "--quick", "--no-compile", "--rounds", "1", "--out", str(tmp_path)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "kernels_cpu.json").read_text())["rows"]
    assert all(row["us"] > 0 and row["GB/s"] > 0 and row["share"] > 0 for row in rows)
    assert rows[0]["bytes"] == 2 * 4 * (4 + 2 * 18 * 4 + 3 * (2 * 18 * 4 + 4 + 18))
    assert {row["met"] for row in rows} <= {"", "yes", "NO"}
    assert rows[-1]["target"].startswith("x one key")


def test_a_wrong_result_prints_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "TOLERANCE", -1.0)
    done = CliRunner().invoke(main, ["kernels", "bench", "--quick"])
    assert done.exit_code != 0
    assert "not compared, because the results are wrong" in done.output
    assert "x eager" not in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_there_are_no_rows_of_one() -> None:
    done = CliRunner().invoke(main, ["kernels", "bench", "--device", "cuda"])
    assert done.exit_code != 0
    assert "no CUDA device" in done.output
