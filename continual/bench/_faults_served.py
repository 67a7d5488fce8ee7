"""A deployment in a process of its own, so that parts of it, or all of it at once, can be killed.

Run as a module it is that process: it serves until its standard input ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import psutil

from service.client import Client
from service.ports import free_port
from service.shard.config import DEPLOYMENT
from service.store.connect import connect, until_served
from service.store.embedded import socket_path
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store
from streams.reach import Reach

SERVING = "serving"


class NotServing(RuntimeError):  # noqa: N818 (says what is the case)
    """The deployment did not come up, or a part that was to be killed is not there."""


class Served:
    """A `service.serve.Deployment` with an embedded store; a context manager.

    Args:
        folder: of the store; kept from one start to the next.
        appendfsync: of the store.
        env: variables added to the environment of the deployment.
        store_env: variables added to the environment of redis-server alone.
        shards: how many.
        folders: roots of folders that sources may read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        appendfsync: str = "always",
        env: Mapping[str, str] | None = None,
        store_env: Mapping[str, str] | None = None,
        shards: int = 1,
        folders: Sequence[Path] = (),
    ) -> None:
        self.folder = folder.resolve()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.redis_url = f"unix://{socket_path(self.folder)}"
        self._options = {
            "data": str(self.folder),
            "port": self.port,
            "shards": shards,
            "appendfsync": appendfsync,
            "store_env": dict(store_env or {}),
            "reach": {"folders": [str(folder) for folder in folders]},
        }
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[str] | None = None
        self._connection = connect(self.redis_url)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def client(self) -> Client:
        """A new client of the deployment."""
        return Client(self.address)

    def store(self, model: str) -> Store:
        """What the store holds of a model."""
        return Store(self._connection, DEPLOYMENT, model)

    def start(self) -> None:
        """Returns once every shard serves.

        Raises:
            NotServing: it ended before; with the end of what it wrote.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "deployment.log"
        with log.open("a") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, json.dumps(self._options)],
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == SERVING:
                return
        status = self._process.wait()
        self._process = None
        raise NotServing(f"the deployment ended with status {status}:\n{log.read_text()[-3000:]}")

    def stop(self) -> None:
        """Shards write last snapshots, the store is synced; may be repeated."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(120)
        self._process = None

    def owner(self, model: str) -> OwnerRecord:
        """Who serves a model, as the store knows it.

        Raises:
            NotServing: nobody does.
        """
        held = until_served(self.store(model).owner)
        if held is None:
            raise NotServing(f"model {model!r} has no owner")
        return held[1]

    def starts(self, model: str) -> int:
        """How often a process took ownership of a model."""
        held = until_served(self.store(model).owner)
        return 0 if held is None else int(held[0].partition("-")[0])

    def store_process(self) -> int:
        """Process id of redis-server; another one after each of its restarts."""
        return int((self.folder / "redis.pid").read_text())

    def kill(self, what: str, model: str) -> None:
        """Ends the shard of a model, the store, or both at once, with SIGKILL.

        Args:
            what: `shard`, `redis` or `both`.
            model: a model that the shard serves.
        """
        shard, store = self.owner(model).pid, self.store_process()
        for pid in {"shard": (shard,), "redis": (store,), "both": (store, shard)}[what]:
            os.kill(pid, signal.SIGKILL)

    def power_off(self) -> None:
        """Ends every process of the deployment with SIGKILL, the supervisor of the store first."""
        assert self._process is not None
        root = psutil.Process(self._process.pid)
        root.suspend()  # so that it starts nothing again while the others die
        processes = [*root.children(recursive=True), root]
        for process in processes:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()
        _, alive = psutil.wait_procs(processes, timeout=20)
        if alive:
            raise NotServing(f"processes {[process.pid for process in alive]} survived SIGKILL")
        self._process = None



def main(options: Mapping[str, Any]) -> None:
    """Serves until standard input ends."""
    from service.serve import Deployment, ServeOptions

    given = {**options, "data": Path(options["data"]), "reach": Reach.of(options["reach"])}
    with Deployment(ServeOptions(**given), lambda line: print(line, flush=True)):
        print(SERVING, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
