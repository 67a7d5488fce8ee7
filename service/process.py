"""A process of the service: where its log goes, and how it ends in order."""

from __future__ import annotations

import logging
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from streams.printable import LineFormatter

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2


def configure_logging(path: str = "") -> None:
    """One line per record, in a file that is appended to or on standard error."""
    handler = logging.FileHandler(path) if path else logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=os.environ.get("CONTINUAL_LOG", "INFO"), force=True)
    logging.captureWarnings(True)


def child_command(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """What runs a module in a new interpreter that imports what this one does: command and environment."""
    path = os.pathsep.join(filter(None, sys.path))  # Ray's workers add to theirs
    return [sys.executable, "-m", module, *arguments], os.environ | {"PYTHONPATH": path}


def answers_apart() -> TextIO:
    """Standard output for what this process has to say; whatever else is printed goes to standard error from now on."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def limited(what: int, most: int) -> int:
    """Sets a soft limit of this process (`resource.RLIMIT_...`), or the hard one where that is lower; returns it."""
    _, hard = resource.getrlimit(what)
    limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (limit, hard))
    return limit


def end_in_order(stop: Callable[[], None]) -> None:
    """From now on this process calls `stop` and exits when it gets SIGTERM, or when the one that started it is gone.

    For the process of a Ray actor, whose parent is the raylet. Ray itself would let a call that runs go on after
    SIGTERM, and an actor whose raylet was killed can be asked for nothing any more, while nobody would start it again.

    Args:
        stop: called on a thread that is there for nothing else, so that nothing can hold it up.
    """
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    if threading.current_thread() is threading.main_thread():
        # The number of a signal comes through the pipe even while Ray's compiled code holds the main thread.
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(target=_end, args=(stop, os.getppid(), told), name="end", daemon=True).start()


def _end(stop: Callable[[], None], parent: int, told: int) -> None:
    while True:
        ready, _, _ = select.select([told], [], [], LOOK_SECONDS)
        if ready and signal.SIGTERM in os.read(told, 64):
            log.info("this process was told to end by SIGTERM")
            break
        if os.getppid() != parent:
            log.warning("this process ends: the one that started it (%d) is gone", parent)
            break
    try:
        stop()
    except Exception:
        log.exception("the process did not end in order")
    logging.shutdown()
    os._exit(0)
