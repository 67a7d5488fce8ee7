"""A service to measure: a deployment of one shard on this machine, raw calls to it, a bare server beside it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil

from continual.bench._helpers import logs_on_failure
from service.client import Client
from service.ports import free_port
from service.serve import Deployment, ServeOptions

DATA = "/continual.v1.OnlineLearning/"
Call = Callable[[bytes], bytes]


@contextmanager
def deployed() -> Iterator[Deployment]:
    """One shard and an embedded store that writes every append to the disk, in a fresh folder.

    When the block fails, the end of the shard's log goes to standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ServeOptions(data=Path(folder), port=free_port(), shards=1)
        with logs_on_failure(options.data), Deployment(options) as deployment:
            yield deployment


@contextmanager
def module(name: str, *args: str, **pipes: Any) -> Iterator[subprocess.Popen[str]]:
    """A module of this package as a process, ended with the block; `pipes` beside that of its output."""
    command = [sys.executable, "-m", f"continual.bench.{name}", *args]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **pipes)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


def line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints.

    Raises:
        RuntimeError: it ended without one.
    """
    assert process.stdout is not None
    said = process.stdout.readline()
    if not said:
        raise RuntimeError(f"{' '.join(map(str, process.args))} ended with status {process.wait()}")  # type: ignore[arg-type]
    return said.strip()


@contextmanager
def echo() -> Iterator[Callable[[int], Call]]:
    """A bare `grpc.aio` server in a process of its own; gives a call by the size of its reply."""
    with module("_echo") as process, grpc.insecure_channel(f"127.0.0.1:{line(process)}") as channel:
        yield lambda size: channel.unary_unary(f"/bench.Echo/{size}")


def owner(client: Client, model: str) -> str:
    """Address of the shard that owns a model."""
    return next(p.address for p in client.partition_map().partitions if p.model == model)


def processes(deployment: Deployment) -> dict[str, psutil.Process]:
    """The shard's process and the store's."""
    import ray  # not earlier: Ray reads its settings when it is imported

    assert deployment.store is not None
    actor: Any = next(iter(deployment.actors.values()))
    return {"shard": psutil.Process(ray.get(actor.ready.remote())), "store": psutil.Process(deployment.store.pid)}


def cpu_seconds(measured: dict[str, psutil.Process]) -> dict[str, float]:
    """User and system time of each process so far."""
    times = {name: process.cpu_times() for name, process in measured.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}


def interleave(calls: dict[str, Callable[[], Any]], times: int, warm: int = 100) -> dict[str, list[float]]:
    """Makes each call in turn, `times` times; returns the seconds of each, without the first `warm`."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(warm + times):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[warm:] for name, values in seconds.items()}
