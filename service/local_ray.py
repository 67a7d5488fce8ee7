"""A Ray of this process alone: the two processes that place, supervise and restart actors, and no others.

Ray's dashboard, autoscaler and log monitor (some 170 MB together) are left out: nothing here asks them anything. The
two agents beside the raylet stay, as the raylet refuses to run without them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

import psutil

log = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 80 << 20  # nothing is put there; Ray accepts no less
ENDING_SECONDS = 5.0
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 would put every client before the shards
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints what its daemons report on the driver's output; its logs have it too
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
}
"""Read by Ray when it is imported, and by the processes that it starts."""

NEEDED = ("gcs_server", "raylet")


class LocalRay:
    """Starts Ray, says whether it is whole, and ends it, whatever is left of it.

    Start and stop must be called on threads that outlive it: the kernel ends Ray's processes with the thread that
    started them.
    """

    def __init__(self) -> None:
        self._needed: dict[str, psutil.Process] = {}
        self._workers: set[psutil.Process] = set()

    def start(self, namespace: str, cpus: int) -> None:
        """Starts Ray and connects this process to it."""
        import ray
        from ray._private.node import Node

        with _without(Node, "start_monitor", "start_log_monitor", "start_api_server"):
            ray.init(
                address="local",  # never a cluster that Ray finds running on this machine
                namespace=namespace,
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        self._needed = {child.name(): child for child in psutil.Process().children() if child.name() in NEEDED}

    def broken(self) -> str:
        """Which of its processes is gone, as a sentence without an end; "" while it is whole."""
        self._note_workers()
        for name, process in self._needed.items():
            if not alive(process):
                return f"Ray's {name} (process {process.pid}) died"
        return ""

    def _note_workers(self) -> None:
        """Whom the raylet started: once it is dead nobody can tell."""
        self._workers = {worker for worker in self._workers if alive(worker)}
        for process in self._needed.values():
            with contextlib.suppress(psutil.Error):
                self._workers.update(process.children())

    def stop(self) -> None:
        """Ends every process of Ray, and this process' connection.

        What the raylet started ends in order by itself once it is gone (`service.process.end_in_order`).
        """
        import ray

        if self.broken():
            for process in self._needed.values():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            _end(self._workers)
        ray.shutdown()
        for process in self._needed.values():
            _reap(process)
        self._needed, self._workers = {}, set()


def alive(process: psutil.Process) -> bool:
    """Whether a process runs: one that ended and was not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(processes: Iterable[psutil.Process]) -> None:
    """Waits for processes that end by themselves; after `ENDING_SECONDS` they are killed."""
    deadline = time.monotonic() + ENDING_SECONDS
    while any(alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _reap(process: psutil.Process) -> None:
    """Collects a child, so that no zombie is left; Ray collects those that it ended itself."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process.pid, 0)


@contextlib.contextmanager
def _without(kind: type, *methods: str) -> Iterator[None]:
    """Methods that do nothing for a while; one that this version of Ray does not have is passed over."""
    held: dict[str, Any] = {name: getattr(kind, name) for name in methods if hasattr(kind, name)}

    def nothing(*args: object, **options: object) -> None:
        return None

    for name in held:
        setattr(kind, name, nothing)
    try:
        yield
    finally:
        for name, method in held.items():
            setattr(kind, name, method)
