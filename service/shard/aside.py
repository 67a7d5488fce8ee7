"""Work of the control plane in Python, on a thread beside the event loop that serves.

A thread that runs Python keeps the interpreter lock for the switch interval, 5 ms by default, each time that another
one wants it, and an answer takes the lock several times. While such work runs the interval is shorter.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeVar

SWITCH_SECONDS = 2e-4

T = TypeVar("T")


class _Yielding:
    """Shortens the switch interval while anything runs inside it; entered by any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = 0.0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(SWITCH_SECONDS, self._before))
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                sys.setswitchinterval(self._before)


YIELDING = _Yielding()
"""Of this process; see the module's docstring."""


async def aside(function: Callable[..., T], *args: Any) -> T:
    """What `function` returns; it runs on a thread, and whoever serves meanwhile waits for 0.2 ms at a time."""

    def run() -> T:
        with YIELDING:
            return function(*args)

    return await asyncio.to_thread(run)
