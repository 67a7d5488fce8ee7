"""`continual serve` loses processes of Ray and shards, and is told to end: nothing is lost, nobody stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from continual.bench._helpers import until
from learners.spec import ModelSpec
from service.client import Client
from service.ports import free_port
from service.wire import Schema, columns_from, decode_columns

ROOT = Path(__file__).resolve().parents[2]
ROWS, SIZE = 2400, 20
SPEC = {
    "features": ["a", "b", "c"],
    "target": {"kind": "binary", "labels": ["DOWN", "UP"]},
    "learner": {"kind": "recurrent", "cell": {"units": 4}},
    "deployment": {"slots": 5},
}


class Serving:
    """`continual serve` as a process, with one shard."""

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.address = f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "continual.cli", "serve", "--data", str(folder), "--shards", "1"]
        command += ["--port", self.address.rpartition(":")[2], *options]
        self.output = folder.parent / f"{folder.name}.out"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **(env or {})})
        self.watched = psutil.Process(self.process.pid)

    @property
    def said(self) -> str:
        """What it printed."""
        return self.output.read_text()

    def ready(self) -> Serving:
        """Waits until it serves."""
        until(lambda: "Serving on" in self.said or self.process.poll() is not None, 120, "serving")
        assert self.process.poll() is None, self.said
        return self

    def find(self, name: str) -> psutil.Process:
        """A process that it started, directly or not, by its name or its title."""
        found = []
        for child in self.watched.children(recursive=True):
            try:
                if name in (child.name(), *child.cmdline()[:1]):
                    found.append(child)
            except psutil.Error:
                continue
        (one,) = found
        return one

    def end(self) -> int:
        """Sends SIGTERM; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    one = Serving(tmp_path_factory.mktemp("serving") / "data").ready()
    yield one
    everyone = one.watched.children(recursive=True)
    assert one.end() == 0, one.said
    assert not psutil.wait_procs(everyone, timeout=10)[1]


def kill(*names: str) -> Callable[[Serving], None]:
    def work(serving: Serving) -> None:
        for process in [serving.find(name) for name in names]:
            process.kill()

    return work


def terminate(serving: Serving) -> None:
    serving.find("ray::ShardActor").terminate()


CASES = {
    "raylet": kill("raylet"),
    "gcs": kill("gcs_server"),
    "raylet-then-shard": kill("raylet", "ray::ShardActor"),
    "shard": kill("ray::ShardActor"),
    "shard-told-to-end": terminate,
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("case", CASES)
def test_a_stream_goes_on_when_processes_are_lost(serving: Serving, case: str) -> None:
    spec = ModelSpec.model_validate({"name": case, **SPEC})
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, 3)).astype(np.float32)
    key = [f"k{k}" for k in rng.integers(0, 30, ROWS)]
    whole = columns_from(x, np.where(x[:, 0] > 0, "UP", "DOWN"), key=key, target=spec.target)
    batch = decode_columns(whole, Schema.of(spec))
    learner = spec.learner.build(spec)
    learner.fold(batch)

    def batches() -> Iterator:
        for at in range(0, ROWS, SIZE):
            time.sleep(0.01)  # so that the stream is still going when the process dies
            yield batch.slice(at, at + SIZE)

    with Client(serving.address) as client:
        client.models.create(spec)
        before = serving.find("ray::ShardActor").pid
        rows = 0
        for number, result in enumerate(client.learn(case, batches(), in_flight=4, timeout=150)):
            rows += result.rows
            if number == 30:
                CASES[case](serving)
        assert rows == ROWS
        held = client.models.statistics(case, digest=True)
        assert (held.position, held.digest) == (ROWS, learner.digest())
        assert not any(child.status() == psutil.STATUS_ZOMBIE for child in serving.watched.children())
        assert serving.find("ray::ShardActor").pid != before
    log = (serving.folder / "logs" / "shard-0.log").read_text()
    if case == "shard-told-to-end":
        assert "told to end by SIGTERM" in log
        opened = [line for line in log.splitlines() if f"model {case}: serving at position" in line]
        assert len(opened) == 2
        assert " 0 events replayed" in opened[-1]  # it had written a last snapshot
    elif case in ("raylet", "gcs"):
        assert "the one that started it" in log  # the shard ended in order by itself
        assert "starting Ray and the shards again" in serving.said


@pytest.mark.timeout(180)
def test_a_serve_whose_parent_has_ended_starts_ray_again(tmp_path: Path) -> None:
    """As under systemd, or after `nohup continual serve &` and a logout: its parent is process 1."""
    said = tmp_path / "out"
    serve = f"{sys.executable} -m continual.cli serve --data {tmp_path / 'data'} --shards 1 --port {free_port()}"
    shell = subprocess.run(f"{serve} > {said} 2>&1 & echo $!", shell=True, check=True, capture_output=True, text=True)
    served = psutil.Process(int(shell.stdout))
    everyone = [served]
    try:
        until(lambda: "Serving on" in said.read_text() or not served.is_running(), 120, "serving")
        everyone += served.children(recursive=True)
        next(child for child in served.children() if child.name() == "raylet").kill()
        until(lambda: "serving again" in said.read_text() or not served.is_running(), 120, "Ray again")
        assert served.is_running(), said.read_text()
        everyone += served.children(recursive=True)
    finally:
        if served.is_running():
            served.terminate()
        left = psutil.wait_procs(everyone, timeout=60)[1]
        for process in left:
            process.kill()
    assert not left


def test_the_liveness_probe_tells_a_service_that_lives_from_one_that_hangs(serving: Serving) -> None:
    documents = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    (pod,) = [one["spec"]["template"]["spec"] for one in documents if one["kind"] == "StatefulSet"]
    probe = pod["containers"][0]["livenessProbe"]["exec"]["command"]
    command = [part.replace("/data/", f"{serving.folder}/") for part in probe]
    state = serving.folder / "serve.json"
    assert state.stat().st_mode & 0o777 == 0o600
    assert subprocess.run(command, check=False).returncode == 0
    serving.process.send_signal(signal.SIGSTOP)
    try:
        os.utime(state, (time.time() - 200,) * 2)
        assert subprocess.run(command, check=False).returncode != 0
    finally:
        serving.process.send_signal(signal.SIGCONT)
    until(lambda: subprocess.run(command, check=False).returncode == 0, 30, "a sign of life")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_leaves_nobody_behind(tmp_path: Path, number: signal.Signals) -> None:
    serving = Serving(tmp_path / "data")
    until(lambda: any(child.name() == "raylet" for child in serving.watched.children()), 60, "a raylet")
    everyone = serving.watched.children(recursive=True)
    serving.process.send_signal(number)
    assert serving.process.wait(60) != 0
    assert not psutil.wait_procs(everyone, timeout=15)[1]


@pytest.mark.timeout(120)
def test_a_killed_serve_leaves_shards_that_end_in_order(tmp_path: Path) -> None:
    serving = Serving(tmp_path / "data").ready()
    everyone = [serving.find(name) for name in ("gcs_server", "raylet", "ray::ShardActor")]
    serving.process.kill()
    serving.process.wait()
    assert not psutil.wait_procs(everyone, timeout=30)[1]
    assert "the one that started it" in (tmp_path / "data" / "logs" / "shard-0.log").read_text()
    again = Serving(tmp_path / "data").ready()  # adopts the store, and ends it
    assert again.end() == 0


@pytest.mark.timeout(120)
def test_why_a_shard_did_not_start_reaches_the_terminal(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("k" * 40)
    serving = Serving(tmp_path / "data", "--signing-key", str(key))
    until((tmp_path / "data" / "logs").exists, 60, "shards about to start")
    key.unlink()
    assert serving.process.wait(60) == 1
    assert "shard-0 ended while it started" in serving.said
    assert f"No such file or directory: '{key}'" in serving.said
