"""The demonstration, whole, on fewer events."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from continual.demo import Check

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_kill_midway_loses_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "continual.cli", "demo", "--events", "8000", "--out", str(tmp_path), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["nothing_lost"]
    assert all(check["holds"] for check in result["checks"])
    assert result["kill"]["pid"] > 0
    assert 4000 <= result["kill"]["at_event"] < 8000
    assert 0 < result["kill"]["snapshot_at_event"] < 8000
    assert result["kill"]["outage_seconds"] > 0
    digest = next(check for check in result["checks"] if check["what"].startswith("SHA-256"))
    assert len(digest["found"]) == 64
    by_name = {score["learner"]: score for score in result["scores"]}
    assert {"continual", "majority", "no change", "River Hoeffding tree"} <= set(by_name)
    assert by_name["continual"]["accuracy"] > by_name["majority"]["accuracy"]

    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "Nothing was lost" in page
    assert "data:image/png;base64," in page
    assert json.loads((tmp_path / "report.json").read_text())["events"] == 8000
    assert not (tmp_path / "data").exists()
    assert "raylet" not in done.stderr


def test_a_check_that_fails_is_seen() -> None:
    assert Check("events in the log twice", 0, 0).holds
    assert not Check("events in the log twice", 1, 0).holds
