"""A running deployment: the embedded store, Ray, and one actor per shard, started and stopped together."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from learners.river import signing
from service.shard.actor import NAMESPACE, ShardActor
from service.shard.shard import DEPLOYMENT, ShardConfig
from service.store.catalog import Catalog
from service.store.connect import check_external, connect, until_served
from service.store.embedded import AppendFsync, EmbeddedRedis
from service.supervisor import Supervisor
from streams.reach import CLOSED, Reach

READY_SECONDS = 60.0
ANY = ("0.0.0.0", "::")
"""A shard that listens on every interface says where it answers by the address of its node."""

STATE_FILE = "serve.json"
LOGS = "logs"


class PortTaken(Exception):  # noqa: N818 (says what is the case)
    """The public port is in use."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `continual serve` can be told.

    Attributes:
        data: folder of the embedded store, and of `serve.json`.
        host: interface to listen on.
        port: the public port.
        shards: number of shards; 0: one per core but one.
        redis: URL of an external store; None: the embedded one.
        ray: address of a running Ray cluster; None: a local one.
        appendfsync: of the embedded store.
        store_env: environment of the embedded store's process (a test preloads a library).
        signing_key: file with the key for pickled state, on every node; None: the environment variable
            `learners.river.signing.VARIABLE`, or with the embedded store a file in `data`, made at the first start.
        reach: what the sources and sinks of a spec may name.
    """

    data: Path = Path("continual-data")
    host: str = "127.0.0.1"
    port: int = 50051
    shards: int = 0
    redis: str | None = None
    ray: str | None = None
    appendfsync: AppendFsync = "always"
    store_env: dict[str, str] | None = None
    signing_key: Path | None = None
    reach: Reach = CLOSED


class Deployment:
    """Starts everything in the calling process' name; use as a context manager.

    Args:
        options: see `ServeOptions`.
        say: told one line per step.
    """

    def __init__(self, options: ServeOptions, say: Callable[[str], None] = lambda line: None) -> None:
        self.options = options
        self.address = f"{options.host}:{options.port}"
        self.deployment = ""
        self.store: EmbeddedRedis | None = None
        self.redis_url = options.redis or ""
        self.actors: dict[str, Any] = {}
        self.supervisor: Supervisor | None = None
        self.logs = options.data.resolve() / LOGS
        self._say = say

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns once every shard serves.

        Raises:
            PortTaken: another process listens on the public port.
            service.store.errors.StoreError: the store could not be started, or is not fit.
            TimeoutError: a shard did not come to serve within a minute.
        """
        check_port(self.options.host, self.options.port)
        self._start_store()
        self._start_shards()
        self._start_supervisor()
        self.options.data.mkdir(parents=True, exist_ok=True)
        state = {
            "pid": os.getpid(),
            "address": self.address,
            "deployment": self.deployment,
            "redis": self.redis_url,
            "shards": list(self.actors),
            "logs": str(self.logs),
        }
        (self.options.data / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n")

    def _start_store(self) -> None:
        if self.options.redis is None:
            self.store = EmbeddedRedis(
                self.options.data, appendfsync=self.options.appendfsync, env=self.options.store_env
            )
            self.store.start()
            self.redis_url = self.store.url
            self._say(f"store: embedded Redis, process {self.store.pid}, data in {self.options.data.resolve()}")
        client = connect(self.redis_url)
        durability = until_served(lambda: check_external(client, "memory"))
        if self.store is None:
            self._say(f"store: {self.redis_url}, durability {durability}")
        self.deployment = Catalog(client, DEPLOYMENT).deployment_id()
        client.close()

    def _signing_key(self) -> str:
        """Path of the key's file, or "" where the environment may hold the key; the store must not.

        Raises:
            ValueError: the key is too short.
            OSError: the file cannot be read.
        """
        given = self.options.signing_key
        if given is None and self.options.redis is None and signing.find_key() is None:
            given = signing.make_key(self.options.data)
        path = str(given.resolve()) if given else ""
        signing.check_key(signing.find_key(path))
        return path

    def _start_shards(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would put every client before the shards
        # Ray prints what its daemons report ("A worker died ...") on the driver's output; its own logs have it too.
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
        import ray

        signing_key = self._signing_key()
        shards = self.options.shards or max(1, (os.cpu_count() or 2) - 1)
        if not ray.is_initialized():
            local: dict[str, Any] = {"num_cpus": shards, "object_store_memory": 80 << 20, "include_dashboard": False}
            ray.init(
                address=self.options.ray or "local",  # never a cluster that Ray finds running on this machine
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **(local if self.options.ray is None else {}),
            )
        remote = ray.remote(ShardActor)
        self.logs.mkdir(parents=True, exist_ok=True)
        for index in range(shards):
            config = ShardConfig(
                self.redis_url,
                index,
                shards,
                self.options.host,
                self.options.port,
                advertise="" if self.options.host in ANY else self.options.host,
                log=str(self.logs / f"shard-{index}.log") if self.options.ray is None else "",
                signing_key=signing_key,
                reach=self.options.reach,
            )
            name = f"{self.deployment}/{config.name}"
            self.actors[config.name] = remote.options(
                name=name,
                lifetime="detached",
                num_cpus=1,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
                get_if_exists=True,
                scheduling_strategy="SPREAD",
            ).remote(config)
        pids = ray.get([actor.ready.remote() for actor in self.actors.values()], timeout=READY_SECONDS)
        self._say(f"shards: {', '.join(f'{n} (process {p})' for n, p in zip(self.actors, pids))}")

    def _start_supervisor(self) -> None:
        """A client of its own follows the catalog: the actors of sources and sinks come and go with the models."""
        catalog = Catalog(connect(self.redis_url), DEPLOYMENT)
        logs = self.logs if self.options.ray is None else None
        given = (self.deployment, self.address, self.redis_url, logs, self._say, self.options.reach)
        self.supervisor = Supervisor(catalog, *given)
        self.supervisor.start()

    def stop(self) -> None:
        """Sources and sinks end, shards answer what was admitted and write last snapshots; then actors and store."""
        if self.supervisor is not None:
            self.supervisor.stop()
            self.supervisor = None
        if self.actors:
            import ray

            stopping = [actor.stop.remote() for actor in self.actors.values()]
            ray.wait(stopping, num_returns=len(stopping), timeout=40)
            for actor in self.actors.values():
                ray.kill(actor, no_restart=True)
            self.actors = {}
            if self.options.ray is None:
                ray.shutdown()
        if self.store is not None:
            self.store.stop()
            self.store = None


def check_port(host: str, port: int) -> None:
    """Binds the port alone for a moment: with SO_REUSEPORT two strangers could otherwise share it in silence.

    Raises:
        PortTaken: naming the port and what to do.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise PortTaken(f"port {port} on {host} is taken ({error.strerror}); choose another with --port") from error
