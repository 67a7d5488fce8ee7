"""A Ray of this process alone: the two processes that place, supervise and restart actors, and no others.

Ray's dashboard, autoscaler and log monitor (some 170 MB together) are left out: nothing here asks them anything. The
two agents beside the raylet stay, as the raylet refuses to run without them.
"""

from __future__ import annotations

import contextlib
import ctypes
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
NOTE_SECONDS = 2.0
SIGACTION_BYTES = 256  # more than a `struct sigaction` has anywhere
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # Ray's 15 would put every client before the shards
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # Ray prints what its daemons report on the driver's output; its logs have it too
    "RAY_enable_metrics_collection": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_prestart_worker_first_driver": "0",
    "RAY_task_events_report_interval_ms": "0",  # no record of calls: nothing here would look at it
    "RAY_task_events_shutdown_flush_timeout_ms": "100",  # else 5 s where there is nobody left to tell
}
"""Read by Ray when it is imported, and by the processes that it starts."""

AGENTS = (["ray::DashboardAgent"], ["ray::RuntimeEnvAgent"])
NEEDED = ("gcs_server", "raylet")


class LocalRay:
    """Starts Ray, says whether it is whole, and ends it, whatever is left of it.

    Start and stop must be called on threads that outlive it: the kernel ends Ray's processes with the thread that
    started them.
    """

    def __init__(self) -> None:
        self._needed: dict[str, psutil.Process] = {}
        self._workers: set[psutil.Process] = set()
        self._noted = 0.0

    def start(self, namespace: str, cpus: int) -> None:
        """Starts Ray and connects this process to it."""
        import ray
        from ray._private.node import Node

        with _handlers_kept(), _without(Node, "start_monitor", "start_log_monitor", "start_api_server"):
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
        """Whom the raylet started: once it is dead nobody can tell. It takes a look at every process of the machine."""
        if time.monotonic() - self._noted < NOTE_SECONDS:
            return
        self._noted = time.monotonic()
        self._workers = {worker for worker in self._workers if alive(worker)}
        for process in self._needed.values():
            with contextlib.suppress(psutil.Error):
                self._workers.update(process.children())

    def stop(self) -> None:
        """Ends every process of Ray, and this process' connection.

        What the raylet started ends in order by itself once it is gone (`service.process.end_in_order`).
        """
        import ray

        everyone = self._everyone()
        if self.broken():
            with contextlib.suppress(psutil.NoSuchProcess):
                self._needed["raylet"].kill()  # the sign for what it started
            _end(everyone - set(self._needed.values()))
        with _handlers_kept():
            ray.shutdown()
        for process in everyone:  # a start that was broken off, and agents, which wait for an answer of the dead
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._needed.values():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, 0)  # so that no zombie is left; Ray collects only those that it ended itself
        self._needed, self._workers = {}, set()

    def _everyone(self) -> set[psutil.Process]:
        """Ray's processes, as far as they can be found."""
        found = {child for child in psutil.Process().children() if child.name() in NEEDED} | self._workers
        for process in list(found):
            with contextlib.suppress(psutil.Error):
                found.update(process.children(recursive=True))
        return found


def alive(process: psutil.Process) -> bool:
    """Whether a process runs: one that ended and was not collected yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end(processes: Iterable[psutil.Process]) -> None:
    """Waits for actors, which end by themselves; after `ENDING_SECONDS` they are killed, and the agents at once."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] in AGENTS:
                process.kill()
    deadline = time.monotonic() + ENDING_SECONDS
    while any(alive(process) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.02)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Keeps what this process does on SIGTERM and SIGINT.

    Ray's compiled code puts its own in the place of Python's, which Python itself can put back on the main thread only.
    """
    libc = ctypes.CDLL(None)
    held = {number: ctypes.create_string_buffer(SIGACTION_BYTES) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, action in held.items():
        libc.sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in held.items():
            libc.sigaction(number, action, None)


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
