"""`continual bench SCENARIO`: what it leaves, what it refuses, that a kill changes no number, that a service agrees."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from continual.bench import bench
from continual.bench._served import deployed
from continual.scenarios import summary
from continual.scenarios.campaign import DiskFull, Done, Failed, Folder, Task, perform, perform_all
from continual.scenarios.catalog import Sizes, build
from continual.scenarios.plots import wrapped
from continual.scenarios.protocol import Protocol, Run

SMALL = ("--events", "60", "--tests", "20", "--every", "30")
TIMED = ("us_per_event",)


def call(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(bench, list(words), catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


def document(out: Path, name: str = "digits-class") -> dict[str, Any]:
    return json.loads((out / f"{name}.json").read_text())


def numbers(out: Path) -> dict[str, Any]:
    """Everything that a run decides, without what a clock says."""
    held = document(out)["details"]["methods"]
    return {
        name: {
            **{key: method[key] for key in ("spec", "seeds", "matrices", "predictions", "states")},
            "values": {key: value for key, value in method["values"].items() if key not in TIMED},
        }
        for name, method in held.items()
    }


def test_a_bench_leaves_table_json_pictures_and_a_page(tmp_path: Path) -> None:
    methods = "nearest-mean,lda,joint-lda,er+buffer.size=30"
    call("digits-class", *SMALL, "--methods", methods, "--seeds", "2", "--against", "lda", "--out", str(tmp_path))
    held = document(tmp_path)
    assert [row["method"] for row in held["rows"]] == methods.split(",")
    assert all(row["seeds"] == 2 for row in held["rows"])
    assert held["rows"][2]["forgetting"] == "-"  # there is no order in which to forget
    detail = held["details"]["methods"]["er+buffer.size=30"]
    assert detail["spec"]["learner"]["buffer"]["size"] == 30
    assert np.array(detail["matrices"]).shape == (2, 5, 5)
    accuracy = [np.mean(matrix[-1]) for matrix in detail["matrices"]]
    assert detail["values"]["average_accuracy"] == pytest.approx(accuracy, abs=1e-4)
    page = (tmp_path / "digits-class.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r'(?:src|href)=(?!"data:)|@import|url\(', page)  # it needs nothing beside it
    for name in ("digits-class-curves.png", "digits-class-matrices.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "less lda, seed by seed" in (tmp_path / "digits-class.md").read_text()


def test_a_repeated_bench_runs_nothing_again_and_more_seeds_add_to_it(tmp_path: Path) -> None:
    words = ("digits-class", *SMALL, "--methods", "nearest-mean", "--out", str(tmp_path))
    call(*words, "--seeds", "1")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    call(*words, "--seeds", "2")
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").iterdir()}
    assert len(before) == 1
    assert len(after) == 2
    assert before.items() <= after.items()


def test_a_bench_that_was_killed_ends_with_the_same_numbers(tmp_path: Path) -> None:
    words = ("digits-class", "--methods", "nearest-mean,er+buffer.size=50,lda", "--seeds", "3", *SMALL)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    call(*words, "--out", str(whole))
    command = [sys.executable, "-m", "continual.cli", "bench", *words, "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    try:
        while not list(killed.glob("runs/[a-z]*.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = {path: path.stat().st_mtime_ns for path in killed.glob("runs/[a-z]*.json")}
    # What a kill may leave besides: a run that was being written.
    next(iter(kept)).with_name(".left-over").write_text('{"run"')
    call(*words, "--out", str(killed))
    assert numbers(killed) == numbers(whole)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def test_seeds_may_be_read_at_different_points(tmp_path: Path) -> None:
    """Classes are of different sizes: with their order the ends of experiences move, and the number of evaluations."""
    asked = ("--every", "287", "--batch", "7", "--seeds", "2")
    call("digits-class", *asked, "--methods", "nearest-mean", "--out", str(tmp_path))
    runs = [json.loads(path.read_text()) for path in (tmp_path / "runs").iterdir()]
    assert len({len(one["run"]["points"]["events"]) for one in runs}) == 2
    assert (tmp_path / "digits-class-curves.png").stat().st_size > 0


def test_jobs_change_no_number(tmp_path: Path) -> None:
    words = ("digits-class", "--methods", "nearest-mean", "--seeds", "2", *SMALL)
    call(*words, "--out", str(tmp_path / "one"))
    call(*words, "--jobs", "2", "--out", str(tmp_path / "two"))
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")


def test_a_rate_is_picked_on_other_seeds_and_without_the_tests(tmp_path: Path) -> None:
    words = ("--methods", "er,nearest-mean", "--rates", "0.000001,0.1", "--seeds", "1", "--rate-seeds", "1")
    call("digits-class", *SMALL, "--events", "150", *words, "--out", str(tmp_path))
    held = document(tmp_path)
    pick = held["details"]["rates"]["er+rate=0.1"]
    assert pick["seeds"] == [1000]
    assert pick["scores"]["0.1"] > pick["scores"]["1e-06"]
    assert [row["method"] for row in held["rows"]] == ["er, rate 0.1", "nearest-mean"]
    note = next(note for note in held["notes"] if note.startswith("er: rate picked"))
    assert "on a fifth of the training events held out, seeds 1000 to 1000" in note
    assert note.endswith("the best at an end of those tried.")
    again = Task("digits-class", Sizes(events=150, tests=20), "er+rate=0.1", 1000, Protocol(every=30), tuning=True)
    assert perform(again, tmp_path).kept


def test_of_numbers_the_rate_of_the_least_error_is_picked_and_a_method_is_in_the_table_once(tmp_path: Path) -> None:
    path, x = tmp_path / "own.csv", np.random.default_rng(0).normal(size=(400, 2))
    path.write_text("\n".join(["a,b,y", *(f"{a:.4f},{b:.4f},{a - 2 * b:.4f}" for a, b in x)]) + "\n")
    words = ("--methods", "linear,linear+optimizer.rate=0.1", "--rates", "0.001,0.1,0.00001", "--rate-seeds", "1")
    call(str(path), *words, "--seeds", "2", "--out", str(tmp_path))
    held = document(tmp_path, "own.csv")
    (pick,) = held["details"]["rates"].values()
    assert pick["rate"] == min(pick["scores"], key=pick["scores"].get) == "0.1"
    assert [(row["method"], row["seeds"]) for row in held["rows"]] == [("linear, rate 0.1", 2)]
    note = next(note for note in held["notes"] if note.startswith("linear: rate picked in hindsight"))
    assert "the best at an end of those tried" in note


def test_a_stream_and_a_file_of_ones_own(tmp_path: Path) -> None:
    call("shuttle-stream", "--events", "600", "--methods", "linear", "--seeds", "1", "--out", str(tmp_path))
    row = document(tmp_path, "shuttle-stream")["rows"][0]
    assert float(row["prequential, %"]) > 80
    assert {"kappa-temporal", "log-loss", "near-future, %"} <= set(row)
    path = tmp_path / "own.csv"
    x = np.random.default_rng(0).normal(size=(300, 2))
    lines = [f"{a:.4f},{b:.4f},{'up' if a > b else 'down'}" for a, b in x]
    path.write_text("\n".join(["a,b,way", *lines]) + "\n")
    call(str(path), "--methods", "lda", "--seeds", "1", "--out", str(tmp_path))
    assert float(document(tmp_path, "own.csv")["rows"][0]["prequential, %"]) > 85


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "nothing"), "no method 'nothing'; known:"),
        (("--methods", "er+buffer.size=3"), "buffer.size 3"),
        (("--methods", "er+buffer.sise=30"), "sise"),
        (("--methods", "recurrent+cell.kind=none"), "unknown cell kind"),
        (("--methods", "river-regression"), "river-regression on digits-class"),
        (("--classes", "10"), "accepted: 1 to 9"),
        (("--rates", "0.1,x"), "numbers above 0"),
        (("--methods", "lda", "--against", "er"), "not among the methods"),
        (("--methods", "lda", "--real-time"), "--real-time takes"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_run(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = CliRunner().invoke(bench, ["digits-class", *SMALL, *words, "--out", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert said in done.output
    assert not (tmp_path / "out").exists()


def test_files_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(bench, ["mnist-class", "--data", str(tmp_path)])
    assert "continual data fetch mnist" in done.output
    (tmp_path / "mnist").mkdir()
    for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / "mnist" / f"{part}-ubyte.gz").write_bytes(b"no gzip")
    done = CliRunner().invoke(bench, ["mnist-class", "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "truncated or damaged" in done.output


@pytest.fixture(autouse=True)
def _data_folder_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--data` sets the environment for worker processes; no test leaves it changed."""
    monkeypatch.setenv("CONTINUAL_DATA", os.environ.get("CONTINUAL_DATA", ""))


TASK = Task("digits-class", Sizes(events=20, tests=5), "nearest-mean", 0, Protocol(beta=0))


def test_a_disk_that_fills_ends_the_bench_and_what_was_kept_is_whole(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    first = perform(TASK, tmp_path)
    second = Task(**{**vars(TASK), "seed": 1})
    key = second.key(*second.build())
    target = folder.file(second, key)
    target.with_name(f".{target.name}.{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(DiskFull, match="what was kept before is whole"):
        list(perform_all([TASK, second], tmp_path, 1))
    assert not target.exists()
    assert perform(TASK, tmp_path).kept
    assert perform(TASK, tmp_path).run == first.run


def test_a_run_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    first = perform(TASK, tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    path.write_text(path.read_text()[:100])
    again = perform(TASK, tmp_path)
    assert not again.kept
    assert again.run.matrix == first.run.matrix


def test_a_file_that_changed_is_another_run(tmp_path: Path) -> None:
    path, x = tmp_path / "own.csv", np.random.default_rng(0).normal(size=(40, 2))
    keys = set()
    for shift in (0.0, 0.5, 0.0):
        path.write_text("\n".join(["a,b,y", *(f"{a + shift:.4f},{b:.4f},{int(a > b)}" for a, b in x)]) + "\n")
        task = Task(str(path), Sizes(), "lda", 0, Protocol())
        keys.add(task.key(*task.build()))
    assert len(keys) == 2


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = Task("digits-class", Sizes(events=20, tests=5), "er+buffer.size=3", 0, Protocol())
    found = list(perform_all([bad, TASK], None, 1))
    assert isinstance(found[0], Failed)
    assert "er+buffer.size=3, seed 0" in str(found[0])
    assert isinstance(found[1], Done)


def results_of(runs: dict[str, tuple[tuple[int, float], ...]]) -> list[summary.Result]:
    """Results of methods that scored these accuracies with these seeds."""
    scenario = build("digits-class", 0, Sizes(events=20, tests=5))

    def done(method: str, seed: int, accuracy: float) -> Done:
        matrix = [[accuracy] * 5] * 5
        points = {"events": [1], "during": [0], "accuracy": [[accuracy] * 5]}
        run = Run(untrained=[0.0] * 5, matrix=matrix, points=points, cost={"learned": 1.0})
        return Done(Task("digits-class", Sizes(), method, seed, Protocol()), run, {}, {}, 0.0)

    return summary.gather([done(name, *one) for name, held in runs.items() for one in held], scenario, Protocol())


def test_pairs_are_of_the_same_seeds() -> None:
    results = results_of({"lda": ((0, 0.5), (1, 0.7)), "ridge": ((1, 0.8), (0, 0.65), (2, 0.1))})
    (row,) = summary.paired(results, "lda", summary.TESTED[0])
    # 0.15 and 0.10: mean 0.125, half width t(0.975; 1) = 12.7062 x 0.05 / 2.
    assert row["difference"] == "12.50"
    assert row["+-"] == f"{100 * 12.7062 * 0.025:.2f}"
    assert row["seeds"] == 2
    assert row["interval apart from 0"] == "no"


def test_long_names_of_methods_are_wrapped_between_their_changes() -> None:
    assert wrapped("er, rate 0.05") == "er, rate 0.05"
    long = "er+network.kind=resnet18+buffer.size=1000, rate 0.05"
    assert wrapped(long) == "er+network.kind=resnet18\n+buffer.size=1000,\nrate 0.05"
    assert wrapped(long, 200) == long
    assert wrapped("er+a-name-that-is-far-longer-than-a-line=1") == "er\n+a-name-that-is-far-longer-than-a-line=1"


def test_what_ends_below_the_floor_is_named() -> None:
    held = {"er": ((0, 0.2),), "lda-random": ((0, 0.25),), "uer": ((0, 0.4),), "ridge+features.units=9": ((0, 0.3),)}
    (said,) = summary.below_floor(results_of(held), summary.TESTED[0])
    assert said.endswith(": ridge+features.units=9, 30.00 %. Below it: er.")
    del held["er"]
    (said,) = summary.below_floor(results_of(held), summary.TESTED[0])
    assert said.endswith(": ridge+features.units=9, 30.00 %. Nothing but floors is below it.")
    del held["uer"]
    assert summary.below_floor(results_of(held), summary.TESTED[0]) == []  # nothing to hold against it


def test_what_is_served_scores_the_same(tmp_path: Path) -> None:
    with deployed() as deployment:
        words = ("--methods", "nearest-mean,er+buffer.size=30", "--seeds", "1", "--target", deployment.address)
        call("digits-class", *SMALL, *words, "--out", str(tmp_path))
    done = document(tmp_path)
    notes = " ".join(done["notes"])
    assert "final predictions, state and log-loss the same as in process in 2 of 2" in notes
    for method, held in done["details"]["methods"].items():
        loss = f"{held['values']['prequential_log_loss'][0]:.4f}"
        assert f"{method} {loss} ({loss})" in notes
