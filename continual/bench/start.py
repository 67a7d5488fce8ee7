"""How long `continual serve` takes from the start of its process until it serves, and what it holds without models."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import psutil

from continual.bench._helpers import (
    Row,
    Stream,
    check,
    cuts,
    load,
    logs_on_failure,
    median,
    ratio_row,
    spec,
    stream_options,
    until,
    value_row,
    warm,
)
from continual.bench.report import out_option, publish
from service.client import Client, Refused
from service.ports import free_port

MODEL = "start"
LIMIT = 10.0
LIMIT_MB, LIMIT_SHARD_MB = 450.0, 150.0
SETTLED_SECONDS = 3.0  # after the first answer: by then Ray has ended what it needs only to start


@click.command()
@stream_options
@click.option("--rounds", default=3, show_default=True, help="Folders; each is started on twice.")
@click.option(
    "--before",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Source folder of another build; its empty service is measured in turn with this one.",
)
@out_option
def start(
    stream: str, events: int | None, rounds: int, before: Path | None, out: Path | None, as_json: bool
) -> None:
    """Start `continual serve` on an empty folder, then again on what is there; seconds to health SERVING.

    Then the memory of a service without models: of all its processes, each page that they share counted once.
    """
    chosen = load(stream, events)
    warm(spec(chosen), chosen.batch)
    pairs = [_twice(chosen) for _ in range(rounds)]
    first, second = (list(one) for one in zip(*pairs))
    held: list[dict[str, float]] = []
    held_before: list[dict[str, float]] = []
    for _ in range(rounds):
        held.append(_memory(None))
        if before is not None:
            held_before.append(_memory(before))
    publish(
        "start",
        "From the start of the process `continual serve` to health SERVING",
        [
            value_row("first start, empty folder, s", median(first), LIMIT),
            value_row(f"second start, a model with {len(chosen.batch):,} events, s", median(second), LIMIT),
            value_row("slowest of all, s", max(first + second), LIMIT),
            *_memory_rows(held, held_before),
        ],
        notes=[
            f"Medians of {rounds} rounds. The folds were compiled before (the cache is on disk); the store, Ray and "
            "the shards are started by the command. The second start serves the model with the digest of before.",
            "Memory is proportional set size (PSS): a page that several processes share counts in parts. What is "
            "shared with processes outside the service is counted in part only.",
        ],
        details={"first_s": first, "second_s": second, "held_mb": held, "held_before_mb": held_before},
        out=out,
        as_json=as_json,
    )


def _memory_rows(held: list[dict[str, float]], before: list[dict[str, float]]) -> list[Row]:
    def middle(many: list[dict[str, float]], what: str) -> float:
        return median([one[what] for one in many])

    names = {
        "all": "empty service, all processes, MB",
        "shard": "empty service, its shard, MB",
        "cpu": "empty service, CPU time of its start, s",
        "seconds": "empty service, from the start until it serves, s",
    }
    limits = {"all": LIMIT_MB, "shard": LIMIT_SHARD_MB}
    rows = [value_row(names[what], middle(held, what), limit) for what, limit in limits.items()]
    if before:
        theirs = "the build before"
        rows += [ratio_row(names[what], middle(held, what), theirs, middle(before, what), math.nan) for what in names]
    return rows


def _memory(source: Path | None) -> dict[str, float]:
    """A service without models and with one shard: PSS in MB of all its processes and of the shard, and its start.

    Args:
        source: folder of the build; None: this one.
    """
    began = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        logs_on_failure(Path(folder)),
        _serving(Path(folder), free_port(), source, "--shards", "1") as process,
    ):
        assert process.stdout is not None
        check(any(said.startswith("Serving on") for said in process.stdout), "`continual serve` serves")
        seconds = time.perf_counter() - began
        whole = psutil.Process(process.pid)
        cpu = sum(sum(one.cpu_times()[:4]) for one in [whole, *whole.children(recursive=True)])
        time.sleep(SETTLED_SECONDS)
        held = {one: one.memory_full_info().pss / 1e6 for one in [whole, *whole.children(recursive=True)]}
        (shard,) = [mb for one, mb in held.items() if one.cmdline()[:1] == ["ray::ShardActor"]]
        return {"all": sum(held.values()), "shard": shard, "cpu": cpu, "seconds": seconds}


def _twice(stream: Stream) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder, logs_on_failure(Path(folder)):
        with _serve(Path(folder)) as (client, first):
            client.models.create(spec(stream, name=MODEL))
            rows = sum(reply.rows for reply in client.learn(MODEL, cuts(stream.batch, 1024)))
            check(rows == len(stream.batch), f"{len(stream.batch)} events learned, got {rows}")
            before = client.models.statistics(MODEL, digest=True)
        with _serve(Path(folder)) as (client, second):
            after = client.models.statistics(MODEL, digest=True)
        check((after.position, after.digest) == (before.position, before.digest), "the model as it was before")
        return first, second


@contextmanager
def _serving(folder: Path, port: int, source: Path | None, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, ended by SIGTERM."""
    command = [sys.executable, "-m", "continual.cli", "serve", "--data", str(folder), "--port", str(port), *options]
    env = os.environ | ({"PYTHONPATH": str(source.resolve())} if source else {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=source)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@contextmanager
def _serve(folder: Path) -> Iterator[tuple[Client, float]]:
    """The command, serving: a client, and the seconds that it took."""
    port = free_port()
    began = time.perf_counter()
    with _serving(folder, port, None) as process:
        assert process.stdout is not None
        until(lambda: process.poll() is not None or _healthy(port), 60, "serving", every=0.02)
        seconds = time.perf_counter() - began
        check(process.poll() is None, f"`continual serve` runs, but it ended with status {process.returncode}")
        # It lists its models before it says so; one that is created meanwhile would confuse it.
        check(any(said.startswith("Serving on") for said in process.stdout), "`continual serve` says where it serves")
        with Client(f"127.0.0.1:{port}") as client:
            yield client, seconds


def _healthy(port: int) -> bool:
    with Client(f"127.0.0.1:{port}") as client:
        try:
            return client.health(timeout=0.3) == "SERVING"
        except Refused:
            return False
