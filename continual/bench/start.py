"""How long `continual serve` takes from the start of its process until it serves."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from continual.bench._helpers import (
    Stream,
    check,
    cuts,
    load,
    logs_on_failure,
    median,
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


@click.command()
@stream_options
@click.option("--rounds", default=3, show_default=True, help="Folders; each is started on twice.")
@out_option
def start(stream: str, events: int | None, rounds: int, out: Path | None, as_json: bool) -> None:
    """Start `continual serve` on an empty folder, then again on what is there; seconds to health SERVING."""
    chosen = load(stream, events)
    warm(spec(chosen), chosen.batch)
    pairs = [_twice(chosen) for _ in range(rounds)]
    first, second = (list(one) for one in zip(*pairs))
    publish(
        "start",
        "From the start of the process `continual serve` to health SERVING",
        [
            value_row("first start, empty folder, s", median(first), LIMIT),
            value_row(f"second start, a model with {len(chosen.batch):,} events, s", median(second), LIMIT),
            value_row("slowest of all, s", max(first + second), LIMIT),
        ],
        notes=[
            f"Medians of {rounds} rounds. The folds were compiled before (the cache is on disk); the store, Ray and "
            "the shards are started by the command. The second start serves the model with the digest of before."
        ],
        details={"first_s": first, "second_s": second},
        out=out,
        as_json=as_json,
    )


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
def _serve(folder: Path) -> Iterator[tuple[Client, float]]:
    """The command, serving: a client, and the seconds that it took."""
    port = free_port()
    command = [sys.executable, "-m", "continual.cli", "serve", "--data", str(folder), "--port", str(port)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        until(lambda: process.poll() is not None or _healthy(port), 60, "serving", every=0.02)
        seconds = time.perf_counter() - began
        check(process.poll() is None, f"`continual serve` runs, but it ended with status {process.returncode}")
        # It lists its models before it says so; one that is created meanwhile would confuse it.
        check(any(said.startswith("Serving on") for said in process.stdout), "`continual serve` says where it serves")
        with Client(f"127.0.0.1:{port}") as client:
            yield client, seconds
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _healthy(port: int) -> bool:
    with Client(f"127.0.0.1:{port}") as client:
        try:
            return client.health(timeout=0.3) == "SERVING"
        except Refused:
            return False
