"""Processes by fork from one that has imported everything: a shard starts in hundredths of a second.

Run as a module it is the process that is forked: `python -m continual.bench._faults_forks SOCKET`. Whoever connects to
the socket sends a line, `{"what": "shard" | "trial" | "kill trial", "order": ...}`, and gets what the new process says,
line by line, and `end CODE` at its end. A process whose client goes away ends.
"""

from __future__ import annotations

import gc
import json
import os
import random
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

SHARD, TRIAL, KILL = "shard", "trial", "kill trial"


class Forked:
    """A process that was forked for us (a `service.shard.trial.Process`)."""

    def __init__(self, address: str, what: str, order: dict[str, Any]) -> None:
        self._socket = connected(address, what, order)
        self._file = self._socket.makefile("r")
        self._code: int | None = None
        pid = int(self._file.readline().split()[1])
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:  # it has ended already
            self._handle = -1

    @property
    def said(self) -> Iterator[str]:
        """Its lines, until it ends."""
        while self._code is None and (line := self._file.readline()):
            if line.startswith("end "):
                self._code = int(line.split()[1])
                self._socket.close()
                self._file.close()
                if self._handle >= 0:
                    os.close(self._handle)
                return
            yield line

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        if self._code is None and self._handle >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def wait(self) -> int:
        """Waits for its end; returns the exit code, or the number of the signal that ended it, negative."""
        if self._code is None:
            deque(self.said, maxlen=0)
        assert self._code is not None
        return self._code

    def ended(self, seconds: float) -> bool:
        """Whether it ends or says something within so many seconds."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(seconds))


def connected(address: str, what: str, order: dict[str, Any]) -> socket.socket:
    """A connection to the server, with a request sent."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    connection.sendall(json.dumps({"what": what, "order": order}).encode() + b"\n")
    return connection


class ForkServer:
    """The process that is forked; a context manager.

    Args:
        folder: where its socket goes.
    """

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "forks")

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", __name__, self.address]
        env = os.environ | {"CONTINUAL_LEARNERS": "continual.bench._faults_learner"}
        self._process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the process to be forked ended with status {self._process.wait()}")
        return self

    def __exit__(self, *exception: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, what: str, order: dict[str, Any]) -> Forked:
        """A new process."""
        return Forked(self.address, what, order | {"address": self.address})

    def kill_trial(self) -> bool:
        """Kills a process that tries a fold, as if from outside; whether there is one."""
        with connected(self.address, KILL, {}) as connection:
            return connection.recv(1) == b"1"


# In the process that is forked


class Forks:
    """Forks for whoever asks, until standard input ends."""

    def __init__(self, listener: socket.socket) -> None:
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(0, selectors.EVENT_READ)
        self._listener = listener
        self._children: dict[int, tuple[int, str, socket.socket]] = {}  # by file descriptor: pid, what, client

    def run(self) -> None:
        """See the class."""
        while True:
            for key, _ in self._selector.select():
                if key.fd == 0:
                    for pid, _, _ in self._children.values():
                        os.kill(pid, signal.SIGKILL)
                    return
                if key.fd in self._children:
                    self._ended(key.fd)
                else:
                    self._asked(self._listener.accept()[0])

    def _ended(self, watched: int) -> None:
        pid, _, client = self._children.pop(watched)
        self._selector.unregister(watched)
        os.close(watched)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # who asked for it may have ended before it
            client.sendall(b"end %d\n" % code)
        client.close()

    def _asked(self, client: socket.socket) -> None:
        asked = b""
        while not asked.endswith(b"\n"):
            more = client.recv(1 << 16)
            if not more:  # who asked is gone
                client.close()
                return
            asked += more
        request = json.loads(asked)
        if request["what"] == KILL:
            trials = [pid for pid, what, _ in self._children.values() if what == TRIAL]
            if trials:
                os.kill(random.choice(trials), signal.SIGKILL)
            client.sendall(b"1" if trials else b"0")
            client.close()
            return
        pid = os.fork()
        if pid == 0:
            self._child(client, request)
        watched = os.pidfd_open(pid)
        self._children[watched] = pid, request["what"], client
        self._selector.register(watched, selectors.EVENT_READ)

    def _child(self, client: socket.socket, request: dict[str, Any]) -> None:
        code = 1
        try:
            self._selector.close()
            self._listener.close()
            for watched, (_, _, other) in self._children.items():
                os.close(watched)
                other.close()
            random.seed()
            out, source = client.makefile("w"), client.makefile("r")

            def say(line: str) -> None:
                with gone_without_a_word():
                    out.write(" ".join(line.split()) + "\n")
                    out.flush()

            def watch() -> None:
                with gone_without_a_word():
                    source.read()
                os._exit(0)

            say(f"pid {os.getpid()}")
            threading.Thread(target=watch, daemon=True).start()
            run(request["what"], request["order"], say)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)


@contextmanager
def gone_without_a_word() -> Iterator[None]:
    """Ends this process where nobody listens any more."""
    try:
        yield
    except OSError:
        os._exit(0)


def run(what: str, order: dict[str, Any], say: Any) -> None:
    """What a forked process does."""
    from continual.bench._faults_life import live
    from service.shard.trial import try_folds

    (try_folds if what == TRIAL else live)(order, say)


def warm() -> None:
    """Imports and compiles what the processes need."""
    from continual.bench import _faults_life
    from service.shard.specs import compile_learner

    for spec in _faults_life.specs("warm"):
        compile_learner(spec)


def main(address: str) -> None:
    """Serves until standard input ends."""
    logging_off()
    warm()
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("ready", flush=True)
        Forks(listener).run()


def logging_off() -> None:
    """Thousands of faults would say thousands of times what is asked for."""
    import logging

    logging.disable(logging.CRITICAL)


if __name__ == "__main__":
    main(sys.argv[1])
