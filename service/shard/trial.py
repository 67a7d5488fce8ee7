"""Trying a fold in a process of its own: what ends the process ends neither the shard nor other models.

Used for a partition whose replay was under way when a shard process died. The mark in the store says no more than
that; the shard may have been killed from outside, or by the fold of another model. So a process is started that loads
the snapshot, folds what the log holds after it, says on its standard output what it is about to fold, and writes a
snapshot at the end: what passes need not be folded again.

What its end says:

- It ended by itself in the midst of a fold, by an exit code or by a signal that a process gets for what it does
  (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGSYS, SIGTRAP): that fold failed, see `service.shard.evidence`.
- It was ended by any other signal. Those come from outside, SIGKILL also from the kernel when memory is short, which
  may be for the sake of others. Nobody can tell, so it is no evidence, however often it happens: the trial is
  repeated, after pauses that grow to half a minute. The model waits meanwhile, others serve, nothing is set aside.
- To bring a fold that wants more memory than there is to an end by itself, the process may not take more than what is
  available as it starts (RLIMIT_DATA): it meets a MemoryError, or aborts. Where less than half of the machine's memory
  is available there is no such limit, and a MemoryError is no evidence either: others may have the memory.
- It ended by itself outside of a fold: then it could not be tried. After some repetitions the model is failed.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any, Protocol

import psutil

from service.process import answers_apart, child_command, configure_logging, limited
from service.shard.failures import FoldFailed, Stopped, Unrecoverable, raised
from service.shard.partition import Partition
from service.shard.recovery import Recovery
from service.store.errors import Fenced, StoreUnavailable

log = logging.getLogger(__name__)

OF_ITS_OWN = {
    getattr(signal, name) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGSYS", "SIGTRAP")
}
"""Signals that a process gets for what it does itself."""

MOST_UNTRIED = 5
"""Processes that end by themselves outside of a fold, at most."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0

FOLDING, FAILED, DONE, SHORT = "folding", "failed", "done", "short"
UNAVAILABLE, FENCED, UNRECOVERABLE = "unavailable", "fenced", "unrecoverable"


class Process(Protocol):
    """A process that tries a fold."""

    @property
    def said(self) -> Iterable[str]:
        """Its lines."""

    def kill(self) -> None:
        """Ends it."""

    def wait(self) -> int:
        """Waits for its end; returns the exit code, or the number of the signal that ended it, negative."""


class Spawned:
    """A new interpreter.

    Args:
        order: see `main`.
    """

    def __init__(self, order: dict[str, Any]) -> None:
        command, env = child_command(__spec__.name)
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")  # secrets may be among it: not as an argument
        self._process.stdin.flush()
        self.said: Iterable[str] = self._process.stdout

    def kill(self) -> None:
        """See `Process`."""
        self._process.kill()

    def wait(self) -> int:
        """See `Process`."""
        code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        return code


class Trial:
    """Tries the folds of one partition until all of its log is folded.

    Args:
        order: what a process needs to know: `redis`, a URL, and `signing_key`, a path.
        stopping: asked when a process has ended.
        start: starts one.
        turn: held while one runs.
    """

    def __init__(
        self,
        order: dict[str, Any],
        stopping: Callable[[], bool],
        start: Callable[[dict[str, Any]], Process] = Spawned,
        turn: AbstractContextManager[Any] = nullcontext(),  # noqa: B008 - it has no state
    ) -> None:
        self._order = order
        self._stopping = stopping
        self._start = start
        self._turn = turn
        self._running: Process | None = None
        self._untried = 0
        self._pause = FIRST_PAUSE

    def stop(self) -> None:
        """Ends the process that runs, whose end says nothing then."""
        running = self._running  # which the thread of `run` may take away
        if running is not None:
            running.kill()

    def run(self, partition: Partition, apart: tuple[int, int], dirty: bool) -> None:
        """Folds in a process of its own; returns once a snapshot holds all that the log held.

        Raises:
            FoldFailed: the fold raised, or its process ended by itself.
            Unrecoverable: see `Recovery.run`; or no process came to fold anything.
            Stopped: the shard stops.
            service.store.errors.StoreError: the store cannot serve, or another owner took over.
        """
        p = partition
        order = self._order | {
            "deployment": p.store.deployment,
            "token": p.token,
            "spec": p.spec.text,
            "part": asdict(p.part),
            "apart": apart,
            "dirty": dirty,
        }
        while True:
            what, rest, code = self._tried(order)
            if what == DONE:
                return
            if what == FAILED:
                raise FoldFailed(int(rest[0]), int(rest[1]), " ".join(rest[2:]))
            if what == UNAVAILABLE:
                raise StoreUnavailable(rest[0], " ".join(rest[1:]))
            if what == FENCED:
                raise Fenced(p.token, " ".join(rest))
            if what == UNRECOVERABLE:
                raise Unrecoverable(" ".join(rest))
            first, count = (int(rest[0]), int(rest[1])) if what in (FOLDING, SHORT) else (0, 0)
            itself = what != SHORT and (code >= 0 or -code in OF_ITS_OWN)
            if count and itself:
                raise FoldFailed(first, count, f"ended its process by {named(code)}")
            self._untried += not count and itself
            if self._untried >= MOST_UNTRIED:
                raise Unrecoverable(f"each process that was to fold it ended before that, the last by {named(code)}")
            where = f"at position {first}" if count else "between two folds"
            how = "a lack of memory" if what == SHORT else named(code)
            log.warning("model %s: a trial was ended %s by %s; it is repeated", p.name, where, how)
            self._wait()

    def _tried(self, order: dict[str, Any]) -> tuple[str, list[str], int]:
        """The last thing that a process said before its end, and its exit code."""
        with self._turn:
            if self._stopping():
                raise Stopped
            try:
                self._running = process = self._start(order)
            except OSError as error:  # there is no memory for one now, or no number
                log.warning("a trial cannot begin: %s", error)
                return "", [], -signal.SIGKILL
            if self._stopping():  # `stop` may have come just before
                process.kill()
            what, *rest = self._last(process)
            code = process.wait()
            self._running = None
        if self._stopping():
            raise Stopped
        return what, rest, code

    @staticmethod
    def _last(process: Process) -> list[str]:
        """The last thing that a process said."""
        last = [""]
        for line in process.said:
            last = line.split() or [""]
        return last

    def _wait(self) -> None:
        end = time.monotonic() + self._pause
        self._pause = min(LONGEST_PAUSE, 2 * self._pause)
        while time.monotonic() < end and not self._stopping():
            time.sleep(0.05)


def named(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


# In the process


def try_folds(order: dict[str, Any], say: Callable[[str], None]) -> None:
    """Folds what the order names, and says before each fold what it folds."""
    from learners.river import signing
    from learners.spec import ModelSpec
    from service.shard.snapshots import write_here
    from service.shard.specs import compile_learner
    from service.store.connect import Link, connect
    from service.store.errors import StoreError
    from service.store.partition import Partition as Store
    from service.store.partition_map import Range

    def told(first: int, count: int) -> None:
        say(f"{FOLDING} {first} {count}")

    if key := signing.find_key(order["signing_key"]):
        signing.set_key(key)
    spec = ModelSpec.stored(order["spec"])
    part = Range(**order["part"])
    store = Store(connect(order["redis"]), order["deployment"], spec.name, part.id)
    partition = Partition(spec, store, order["token"], Link(order["redis"]), lambda cause: None, part)
    compile_learner(spec)  # what ends the process here is no event's doing
    has_limit = limit_memory()
    first, last = order["apart"]
    try:
        head = Recovery(partition, (first, last), dirty=order["dirty"], trial=told).run()
        if head > max(0, partition.snapshot_position):
            write_here(partition)
    except FoldFailed as failed:
        short = isinstance(failed.__cause__, MemoryError) and not has_limit
        say(f"{SHORT if short else FAILED} {failed.first} {failed.count} {failed.reason}")
    except StoreUnavailable as error:
        say(f"{UNAVAILABLE} {error.reason} {error}")
    except Fenced as error:
        say(f"{FENCED} {error.holder}")
    except Exception as error:  # of the store, or of the snapshot: no event's doing
        say(f"{UNRECOVERABLE} {raised(error) if not isinstance(error, StoreError | Unrecoverable) else error}")
    else:
        say(DONE)


def limit_memory() -> bool:
    """Leaves this process nine tenths of what memory is available, where that is half or more of all; else no limit.

    Returns:
        Whether there is a limit.
    """
    memory = psutil.virtual_memory()
    if 2 * memory.available < memory.total:
        return False
    most = psutil.Process().memory_info().rss + 9 * memory.available // 10
    return limited(resource.RLIMIT_DATA, most) == most


def main() -> None:
    """Takes an order, a line of JSON on standard input, and ends with the process that gave it."""
    order = json.loads(sys.stdin.readline())
    out = answers_apart()

    def say(line: str) -> None:
        try:
            print(" ".join(line.split()), file=out, flush=True)
        except BrokenPipeError:
            os._exit(0)  # the shard is gone

    def end() -> None:
        sys.stdin.read()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()
    configure_logging(order.get("log", ""))
    try_folds(order, say)
    out.flush()
    os._exit(0)  # threads of learners are not waited for


if __name__ == "__main__":
    main()
