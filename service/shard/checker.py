"""New specs are checked by a process beside the shard: whatever a spec asks for, those that serve go on.

The process validates a spec, tries and builds its learner, and folds a few events with it, so that what has to be
compiled is in the cache on the disk. It begins with the first spec, is kept for the next ones, and ends when none comes
for a while. One that takes too long, or too much memory, is ended, and its spec is refused.

    python -m service.shard.checker     lines of JSON on standard input and output
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import logging
import math
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

from google.rpc import status_pb2

from learners.spec import MAX_SPEC_BYTES, LearnerSpec
from service import errors
from service.process import answers_apart, child_command, limited

log = logging.getLogger(__name__)

CHECK_SECONDS = 120
"""Processor time that validating a spec and trying its learner may take: how busy the machine is hardly counts."""

COMPILE_SECONDS = 180
"""Processor time that building its learner and compiling what it runs may take after that."""

WAIT_SECONDS = 900.0
"""Each of the two may take as long by the clock: a learner may sleep, and on a busy machine others go first."""

MEMORY_BYTES = 8 << 30
"""Bound on the memory of the process."""

IDLE_SECONDS = 30.0
"""The process ends when no spec came for as long."""

WAITING = 16
"""Specs that wait for their turn, at most."""

NEVER = 1 << 31
"""Seconds: no process works for so long."""

PR_SET_PDEATHSIG = 1
KNOWN = 1024
"""Specs that are known to have been compiled."""


class Checker:
    """The process, started when it is needed. Its methods may be called from any event loop.

    Args:
        check_seconds: see `CHECK_SECONDS`.
        compile_seconds: see `COMPILE_SECONDS`.
        memory_bytes: see `MEMORY_BYTES`.
        wait_seconds: see `WAIT_SECONDS`.
    """

    def __init__(
        self,
        check_seconds: int = CHECK_SECONDS,
        compile_seconds: int = COMPILE_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._seconds = check_seconds, compile_seconds
        self._memory = memory_bytes
        self._wait = wait_seconds
        self._thread = ThreadPoolExecutor(1, "check-specs")  # whose thread starts with the first spec
        self._process: subprocess.Popen[bytes] | None = None
        self._compiled: OrderedDict[str, None] = OrderedDict()
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    async def accept(self, text: str) -> str:
        """Checks a spec and compiles what it runs; returns it as `ModelSpec.to_json` writes it.

        Raises:
            service.errors.Refused: it does not fit, takes too long or too much memory, or too many others wait.
        """
        size = len(text.encode())
        if size > MAX_SPEC_BYTES:
            accepted = f"at most {MAX_SPEC_BYTES} bytes of JSON"
            raise errors.invalid("spec", f"{size} bytes", accepted, "SPEC_TOO_LARGE")
        if text in self._compiled:
            return text
        if self._waiting >= WAITING:
            raise errors.exhausted("CHECKS_WAITING", f"{WAITING} specs wait to be checked", 1.0)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            accepted = await loop.run_in_executor(self._thread, self._accept, text)
        finally:
            self._waiting -= 1
            if self._idle is not None:
                self._idle.cancel()
            self._idle = loop.call_later(IDLE_SECONDS, self._thread.submit, self.close)
        self._compiled[accepted] = None
        if len(self._compiled) > KNOWN:
            self._compiled.popitem(last=False)
        return accepted

    async def compiled(self, text: str) -> None:
        """Has it compiled what the spec of a model runs; where that fails it will be compiled by whoever runs it."""
        try:
            await self.accept(text)
        except (errors.Refused, OSError) as error:
            log.warning("a spec that was accepted before: %s", error)

    def close(self) -> None:
        """Ends the process; the next spec starts another one."""
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.kill()  # it holds nothing, and may be busy
            self._process.wait()
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    # On the thread

    def _accept(self, text: str) -> str:
        started = self._started()
        said: dict[str, Any] = {}
        seconds, what, unread = 0, "", bytearray()
        try:
            _write(started, {"spec": text, "modules": _plugins(), "seconds": self._seconds})
            for seconds, what in zip(self._seconds, ("checking", "compiling")):  # noqa: B007 (said below)
                said = _read(started, unread, self._wait)
                if "status" in said:
                    raise errors.from_status(status_pb2.Status.FromString(base64.b64decode(said["status"])))
        except TimeoutError as error:
            self.close()
            raise _too_long(what, f"{self._wait:g} s") from error
        except OSError as error:
            status = started.wait()
            self.close()
            if status == -signal.SIGXCPU:
                raise _too_long(what, f"{seconds} s of processor time") from error
            raise _too_large(f"its check ended with status {status}", self._memory) from error
        return said["spec"]

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            command, environment = child_command("service.shard.checker", str(self._memory))
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
            self._process = subprocess.Popen(command, env=environment, **pipes)
        return self._process


@cache
def of_process() -> Checker:
    """The one that all shards of this process share."""
    return Checker()


def _plugins() -> list[str]:
    """Modules outside `learners` that this process knows learners of."""
    modules = {kind.__module__ for kind in LearnerSpec.known().values()}
    return sorted(module for module in modules if not module.startswith(("learners.", "__")))


def _write(process: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert process.stdin is not None
    left = memoryview(json.dumps(message).encode() + b"\n")
    while left:
        left = left[process.stdin.write(left) :]


def _read(process: subprocess.Popen[bytes], unread: bytearray, seconds: float) -> dict[str, Any]:
    """The next line that the process writes.

    Raises:
        TimeoutError: it takes longer.
        OSError: the process has ended.
    """
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    while (end := unread.find(b"\n")) < 0:
        if not select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(process.stdout.fileno(), 1 << 20)
        if not data:
            raise BrokenPipeError
        unread += data
    line = bytes(unread[:end])
    del unread[: end + 1]
    return json.loads(line)


def _too_long(what: str, most: str) -> errors.Refused:
    accepted = f"a model for which that takes at most {most}"
    return errors.invalid("spec", f"{what} it took longer", accepted, "CHECK_TOO_LONG")


def _too_large(what: str, memory: int) -> errors.Refused:
    accepted = f"a model that can be built within {memory >> 20} MiB of memory"
    return errors.invalid("spec", what, accepted, "CHECK_FAILED")


# The process


def main() -> None:
    """Reads specs and says of each, in a line, whether it fits, and in another one that it is compiled."""
    import ctypes

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it may be busy when its shard is killed
    memory = limited(resource.RLIMIT_DATA, int(sys.argv[1]))
    limited(resource.RLIMIT_CORE, 0)  # what SIGXCPU leaves behind would be as large as the process
    os.nice(10)  # those that serve go first
    answers = answers_apart()
    importlib.import_module("service.shard.specs")  # what that takes is no spec's doing
    try:
        for line in sys.stdin:
            request = json.loads(line)
            seconds = iter(request["seconds"])
            _allow(next(seconds))
            for answer in _answers(request, memory):
                answers.write(json.dumps(answer) + "\n")
                answers.flush()
                _allow(next(seconds, 0))
            _allow(0)
    except BrokenPipeError:  # the shard was killed, and nobody waits for the answer
        os._exit(0)


def _allow(seconds: int) -> None:
    """From now on this process is ended by SIGXCPU once it has used so many seconds of processor time; 0: it is not."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limited(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + seconds if seconds else NEVER)


def _answers(request: dict[str, Any], memory: int) -> Iterator[dict[str, str]]:
    from service.shard.specs import compile_learner, parse_spec

    try:
        for module in request["modules"]:
            importlib.import_module(module)
        spec = parse_spec(request["spec"])
        yield {}
        compile_learner(spec)
        yield {"spec": spec.to_json()}
    except errors.Refused as refused:
        yield _refused(refused)
    except MemoryError:
        yield _refused(_too_large("it takes more memory", memory))
    except Exception as error:  # of a learner: it belongs to whoever asked for it
        value = f"{type(error).__name__}: {error}"
        yield _refused(errors.invalid("spec.learner", value, "a learner that folds its first events", "CHECK_FAILED"))


def _refused(refused: errors.Refused) -> dict[str, str]:
    return {"status": base64.b64encode(refused.to_status().SerializeToString()).decode()}


if __name__ == "__main__":
    main()
