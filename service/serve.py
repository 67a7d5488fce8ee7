"""A running deployment: the embedded store, Ray, and one actor per shard, started and stopped together."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from learners.river import signing
from service.local_ray import SETTINGS, LocalRay
from service.shard.actor import NAMESPACE, ShardActor
from service.shard.config import DEPLOYMENT, ShardConfig
from service.store.catalog import Catalog
from service.store.connect import check_external, connect, until_served
from service.store.embedded import AppendFsync, EmbeddedRedis
from service.supervisor import Supervisor
from streams.reach import CLOSED, Reach
from streams.redis_client import refer_to_password, shown, split_password

log = logging.getLogger(__name__)

READY_SECONDS = 60.0
LOOK_SECONDS = 0.25
BEAT_SECONDS = 5.0
HEAD_SECONDS = 10.0  # the head of a cluster has to accept a connection within
CLUSTER_SECONDS = 30.0
LOG_LINES = 15
REDIS_PASSWORD = "CONTINUAL_REDIS_PASSWORD"
"""Environment variable that may hold the password of an external store."""
ANY = ("0.0.0.0", "::")
"""A shard that listens on every interface says where it answers by the address of its node."""

STATE_FILE = "serve.json"
LOGS = "logs"


class PortTaken(Exception):  # noqa: N818 (says what is the case)
    """The public port is in use."""


class NotServing(Exception):  # noqa: N818 (says what is the case)
    """A shard did not start, or Ray could not be started again; the message ends with what the shards logged last."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What `continual serve` can be told.

    Attributes:
        data: folder of the embedded store, and of `serve.json`.
        host: interface to listen on.
        port: the public port.
        shards: number of shards; 0: one per core but one.
        redis: URL of an external store; None: the embedded one.
        redis_password_file: file with the password of that store, on every node; None: the variable `REDIS_PASSWORD`
            of the environment, or the URL's own, which goes into that variable.
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
    redis_password_file: Path | None = None
    ray: str | None = None
    appendfsync: AppendFsync = "always"
    store_env: dict[str, str] | None = None
    signing_key: Path | None = None
    reach: Reach = CLOSED


class Deployment:
    """Starts everything in the calling process' name; use as a context manager.

    A local Ray that lost a process is started again, and the shards with it. Nothing is lost: they end in order where
    they can, and what they acknowledged is in the log.

    Args:
        options: see `ServeOptions`.
        say: told one line per step.
        on_failure: called, on another thread, once the deployment cannot serve any more; `failure` says why.

    Attributes:
        redis_url: of the store, without a password: it says where that is.
        failure: what ended the deployment; None while it serves.
    """

    def __init__(
        self,
        options: ServeOptions,
        say: Callable[[str], None] = lambda line: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.options = options
        self.address = f"{options.host}:{options.port}"
        self.deployment = ""
        self.store: EmbeddedRedis | None = None
        self.redis_url = ""
        self.ray: LocalRay | None = None
        self.actors: dict[str, Any] = {}
        self.supervisor: Supervisor | None = None
        self.logs = options.data.resolve() / LOGS
        self.failure: Exception | None = None
        self._say = say
        self._on_failure = on_failure
        self._state = options.data / STATE_FILE
        self._stopping, self._idle, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._watcher: threading.Thread | None = None

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
            NotServing: a shard ended while it started, or did not come to serve within a minute.
        """
        check_port(self.options.host, self.options.port)
        self._start_store()
        self._state.unlink(missing_ok=True)
        self._start_ray()
        self._start_shards()
        self._start_supervisor()
        self._write_state()
        self._watcher = threading.Thread(target=self._watch, name="ray-watcher", daemon=True)
        self._watcher.start()

    def _write_state(self) -> None:
        """For those who look from outside; nobody else may read it, and its time of change says that this one lives."""
        state = {
            "pid": os.getpid(),
            "address": self.address,
            "deployment": self.deployment,
            "redis": shown(self.redis_url),
            "shards": list(self.actors),
            "logs": str(self.logs),
        }
        self.options.data.mkdir(parents=True, exist_ok=True)
        made = self._state.with_suffix(f".{os.getpid()}")
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(state, indent=2) + "\n")
        made.replace(self._state)

    def _start_store(self) -> None:
        if self.options.redis is None:
            self.store = EmbeddedRedis(
                self.options.data, appendfsync=self.options.appendfsync, env=self.options.store_env
            )
            self.store.start()
            self.redis_url = self.store.url
            self._say(f"store: embedded Redis, process {self.store.pid}, data in {self.options.data.resolve()}")
        else:
            self.redis_url = store_url(self.options)
        client = connect(self.redis_url)
        durability = until_served(lambda: check_external(client, "memory"))
        if self.store is None:
            self._say(f"store: {shown(self.redis_url)}, durability {durability}")
        self.deployment = Catalog(client, DEPLOYMENT).deployment_id()
        client.close()

    def _signing_key(self) -> str:
        """Path of the key's file, or "" where the environment may hold the key; the store must not.

        Raises:
            ValueError: the key is too short, or a path.
            OSError: the file cannot be read.
        """
        given = self.options.signing_key
        if given is None and self.options.redis is None and signing.find_key() is None:
            given = signing.make_key(self.options.data)
        path = str(given.resolve()) if given else ""
        signing.check_key(signing.find_key(path))
        return path

    def _count(self) -> int:
        return self.options.shards or max(1, (os.cpu_count() or 2) - 1)

    def _start_ray(self) -> None:
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        # Once its raylet is dead, a driver whose parent is process 1 is ended by Ray without a word. It is not where
        # this names a process that lives; those that the raylet starts are given the raylet's number.
        os.environ["RAY_RAYLET_PID"] = str(os.getpid())
        import ray

        if ray.is_initialized():  # by whoever holds this deployment, and theirs to end
            return
        if self.options.ray is None:
            self.ray = LocalRay()
            self.ray.start(NAMESPACE, self._count())
        else:
            _check_head(self.options.ray)
            ray.init(address=self.options.ray, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)

    def _start_shards(self) -> None:
        import ray

        signing_key = self._signing_key()
        remote = ray.remote(ShardActor)
        self.logs.mkdir(parents=True, exist_ok=True)
        shards = self._count()
        ready: dict[str, tuple[Any, str]] = {}
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
            actor: Any = remote.options(
                name=f"{self.deployment}/{config.name}",
                lifetime="detached",
                num_cpus=1,
                max_restarts=-1,
                max_task_retries=0,
                max_concurrency=4,
                get_if_exists=True,
                scheduling_strategy="SPREAD",
            ).remote(config)
            self.actors[config.name] = actor
            ready[config.name] = actor.ready.remote(), config.log
        pids = {name: self._await_ready(name, *one) for name, one in ready.items()}
        self._say(f"shards: {', '.join(f'{name} (process {pid})' for name, pid in pids.items())}")

    def _await_ready(self, name: str, ready: Any, log_file: str) -> int:
        import ray

        try:
            return ray.get(ready, timeout=READY_SECONDS)
        except ray.exceptions.GetTimeoutError as error:
            what = f"does not serve after {READY_SECONDS:g} s"
            raise NotServing(f"{name} {what}{last_words(log_file)}") from error
        except ray.exceptions.RayError as error:
            said = last_words(log_file) or f": {error}"
            raise NotServing(f"{name} ended while it started{said}") from error

    def _start_supervisor(self) -> None:
        """A client of its own follows the catalog: the actors of sources and sinks come and go with the models."""
        catalog = Catalog(connect(self.redis_url), DEPLOYMENT)
        logs = self.logs if self.options.ray is None else None
        given = (self.deployment, self.address, self.redis_url, logs, self._say, self.options.reach)
        self.supervisor = Supervisor(catalog, *given)
        self.supervisor.start()

    def holds_models(self) -> bool:
        """Whether there are models in the store."""
        client = connect(self.redis_url)
        try:
            return bool(Catalog(client, DEPLOYMENT).list())
        finally:
            client.close()

    # While it serves

    def _watch(self) -> None:
        beat = 0.0
        cluster = None if self.ray else Cluster()
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                if time.monotonic() - beat > BEAT_SECONDS:
                    beat = time.monotonic()
                    self._beat()
                if self.ray and (lost := self.ray.broken()):
                    self._start_again(lost)
                elif cluster and (lost := cluster.lost()):
                    raise NotServing(lost)
            except Exception as error:
                log.exception("the deployment cannot serve any more")
                self.failure = error
                self._on_failure()
                break
        self._idle.set()
        self._stopped.wait()  # the kernel ends Ray's processes with the thread that started them

    def _beat(self) -> None:
        """Shows by the file's time that this serves; one that was removed is written again."""
        try:
            os.utime(self._state)
        except FileNotFoundError:
            self._write_state()
        except OSError as error:
            log.warning("%s cannot be touched: %s", self._state, error)

    def _start_again(self, lost: str) -> None:
        """Ray cannot be mended piece by piece: what is left of it ends, and it starts again with all actors."""
        assert self.ray is not None
        began = time.monotonic()
        log.error("%s: starting Ray and the shards again", lost)
        if self.supervisor is not None:
            self.supervisor.abandon()
        self.actors = {}
        self.ray.stop()
        self.ray.start(NAMESPACE, self._count())
        self._start_shards()
        self._start_supervisor()
        log.warning("serving again after %.1f s", time.monotonic() - began)

    def stop(self) -> None:
        """Sources and sinks end, shards answer what was admitted and write last snapshots; then actors and store."""
        self._stopping.set()
        if self._watcher is not None:
            self._idle.wait(2 * READY_SECONDS)  # it may just be starting Ray again
        whole = self.failure is None and not (self.ray and self.ray.broken())
        if self.supervisor is not None:
            if whole:
                self.supervisor.stop()
            else:
                self.supervisor.abandon()
            self.supervisor = None
        if self.actors and whole:
            import ray

            stopping = [actor.stop.remote() for actor in self.actors.values()]
            ray.wait(stopping, num_returns=len(stopping), timeout=40)
            for actor in self.actors.values():
                ray.kill(actor, no_restart=True)
        self.actors = {}
        if self.ray is not None:
            self.ray.stop()
            self.ray = None
        self._stopped.set()
        if self.store is not None:
            self.store.stop()
            self.store = None


def _check_head(address: str) -> None:
    """Says at once that nobody answers there: Ray itself tries for minutes.

    Raises:
        NotServing: `address` is HOST:PORT, and nobody listens there.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return  # `auto`, or another form that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=HEAD_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise NotServing(
            f"no Ray cluster answers at {address} ({error}): start one with `ray start --head`, or give its address"
        ) from error


class Cluster:
    """A Ray cluster that others run: whether it is there."""

    def __init__(self) -> None:
        import ray

        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._address = host.strip("[]"), int(port)
        self._looked = self._answered = time.monotonic()

    def lost(self) -> str:
        """Says so once it has not answered for `CLUSTER_SECONDS`; "" before. Looks every few seconds."""
        if time.monotonic() - self._looked < BEAT_SECONDS:
            return ""
        try:
            socket.create_connection(self._address, timeout=1.0).close()
            self._answered = time.monotonic()
        except OSError:
            pass  # it is given time: a cluster that keeps its state may be starting its head again
        self._looked = time.monotonic()
        if self._looked - self._answered < CLUSTER_SECONDS:
            return ""
        return f"the Ray cluster's head at {self._address[0]}:{self._address[1]} does not answer"


def store_url(options: ServeOptions) -> str:
    """The URL of an external store, without a password: where there is one, the URL says where.

    A password in the given URL goes into the environment, which the processes of a local Ray inherit; through a cluster
    it would have to be sent and kept.

    Raises:
        ValueError: the password would have to travel through a Ray cluster, or is one for a key of TLS.
    """
    assert options.redis is not None
    bare, password = split_password(options.redis)
    if "ssl_password=" in bare:
        raise ValueError("redis: ssl_password does not belong in a URL; give a key file that is not encrypted")
    if options.redis_password_file is not None:
        return refer_to_password(bare, file=str(options.redis_password_file.resolve()))
    if password is None:
        return refer_to_password(bare, env=REDIS_PASSWORD) if os.environ.get(REDIS_PASSWORD) else bare
    if options.ray is not None and os.environ.get(REDIS_PASSWORD) != password:
        raise ValueError(
            f"redis: the URL holds a password, which is not sent through a Ray cluster; set {REDIS_PASSWORD} on every "
            "node, or give --redis-password-file with a path that every node has"
        )
    if any(options.redis in word for word in sys.argv):
        log.warning("the list of processes shows the password of --redis; give it by %s or a file", REDIS_PASSWORD)
    os.environ[REDIS_PASSWORD] = password
    return refer_to_password(bare, env=REDIS_PASSWORD)


def last_words(log_file: str) -> str:
    """The last lines of a log, to be put behind a sentence; "" if there is none."""
    if not log_file or not Path(log_file).exists():
        return ""
    lines = Path(log_file).read_text(errors="replace").splitlines()[-LOG_LINES:]
    return f"; the last lines of {log_file}:\n" + "\n".join(f"  {line}" for line in lines)


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
