"""Sees to it that every source and every sink in the catalog has its actor, and none else."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.sinks.actor import SinkActor, SinkConfig
from service.sources.actor import SourceActor, SourceConfig
from service.store.catalog import Catalog
from service.store.errors import StoreUnavailable
from streams.reach import CLOSED, Reach

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


class Supervisor:
    """The actors of a deployment's sources and sinks; a thread that follows the catalog.

    Args:
        catalog: of the deployment.
        deployment: its identity.
        target: host:port of the service.
        store: URL of its Redis.
        logs: folder of their log files; None: standard error.
        say: told of those that start.
        reach: what they may open.
    """

    def __init__(
        self,
        catalog: Catalog,
        deployment: str,
        target: str,
        store: str,
        logs: Path | None,
        say: Callable[[str], None] = lambda line: None,
        reach: Reach = CLOSED,
    ) -> None:
        self.actors: dict[str, Any] = {}
        self._catalog = catalog
        self._deployment = deployment
        self._target = target
        self._store = store
        self._logs = logs
        self._say = say
        self._reach = reach
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begins to follow the catalog."""
        self._thread.start()

    def stop(self) -> None:
        """Ends every source once what it sent is answered, and every sink once what it reads is written."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(30)
        self._end(list(self.actors))

    def abandon(self) -> None:
        """Looks after nothing any more: Ray is gone, and its actors with it."""
        self._stopping.set()
        self.actors = {}

    def _follow(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            try:
                self.look()
            except StoreUnavailable:
                continue
            except Exception:
                log.exception("looking after sources and sinks failed; the next look is in %g s", LOOK_SECONDS)

    def look(self) -> None:
        """Starts what is in the catalog and does not run, ends what is no longer there."""
        wanted = self._wanted()
        self._end([name for name in self.actors if name not in wanted])
        for name, config in wanted.items():
            if name not in self.actors:
                self.actors[name] = self._begin(name, config)
                kind, _, which = name.partition("/")[2].partition("/")
                self._say(f"{kind}: {which}")

    def _wanted(self) -> dict[str, SourceConfig | SinkConfig]:
        """Config by name of the actor, which tells a spec from another one of the same model."""
        wanted: dict[str, SourceConfig | SinkConfig] = {}
        for model, text in self._catalog.list().items():
            if not any(f'"{part}":[{{' in text for part in ("sources", "sinks")):
                continue
            from learners.spec import ModelSpec  # here: a deployment without sources and sinks need not hold it

            version = hashlib.sha256(f"{text}{self._reach if self._reach != CLOSED else ''}".encode()).hexdigest()[:12]
            deployment = ModelSpec.stored(text).deployment
            for number, source in enumerate(deployment.sources):
                name = f"{self._deployment}/source/{model}/{source.producer}/{version}"
                log_file = self._log_file(f"source-{model}-{number}")
                wanted[name] = SourceConfig(text, number, self._target, self._store, log_file, self._reach)
            for number, sink in enumerate(deployment.sinks):
                name = f"{self._deployment}/sink/{model}/{sink.identity}/{version}"
                log_file = self._log_file(f"sink-{model}-{number}")
                wanted[name] = SinkConfig(text, number, self._store, log_file, self._reach)
        return wanted

    def _log_file(self, name: str) -> str:
        return "" if self._logs is None else str(self._logs / f"{name}.log")

    def _begin(self, name: str, config: SourceConfig | SinkConfig) -> Any:
        import ray

        actor = SinkActor if isinstance(config, SinkConfig) else SourceActor
        options = {"lifetime": "detached", "num_cpus": 0, "max_restarts": -1, "max_task_retries": 0}
        options |= {"name": name, "max_concurrency": 2, "get_if_exists": True}
        return ray.remote(actor).options(**options).remote(config)

    def _end(self, names: list[str]) -> None:
        import ray

        stopping = [self.actors[name].stop.remote() for name in names]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=30)
        for name in names:
            ray.kill(self.actors.pop(name), no_restart=True)
