"""A shard as a process: an event loop on a thread, inside a Ray actor or by itself.

Those that start shards import this module too, so what a shard needs is imported where it runs.

Ray places, supervises and restarts the actor; it restores nothing. A starting shard takes ownership, loads its
snapshots and replays its logs while its server answers health NOT_SERVING.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from dataclasses import replace

from service.process import configure_logging, end_in_order
from service.shard.config import ShardConfig
from streams.reach import Reach

NAMESPACE = "continual"


class ShardProcess:
    """Runs one shard on a thread of the calling process until `stop`."""

    def __init__(self, config: ShardConfig) -> None:
        import uvloop

        self._config = config
        self._loop = uvloop.new_event_loop()
        self._stopping = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=config.name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException:
            logging.getLogger(__name__).exception("%s failed", self._config.name)
            logging.shutdown()
            os._exit(1)

    async def _serve(self) -> None:
        from service.shard.server import Server
        from service.shard.shard import Shard

        self.shard = Shard(self._config)
        server = Server(self.shard)
        address = await server.start()
        await self.shard.start(address)
        await server.open_public()
        self._ready.set()
        await self._stopping.wait()
        self.shard.on_health(False)
        await server.stop()
        await self.shard.stop()

    def wait_ready(self, timeout: float | None = None) -> bool:
        """Whether the shard serves, waiting up to `timeout` seconds for it."""
        return self._ready.wait(timeout)

    def stop(self) -> None:
        """Answers what was admitted, writes last snapshots, gives ownership up, and returns when all is done.

        A shard that does not serve yet has nothing to write: it may be killed at once.
        """
        if not self._ready.is_set():
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(30)


class ShardActor:
    """The Ray actor around a `ShardProcess`."""

    def __init__(self, config: ShardConfig) -> None:
        configure_logging(config.log)
        if not config.advertise:
            import ray

            config = replace(config, advertise=ray.util.get_node_ip_address())
        self._process = ShardProcess(config)
        end_in_order(self._process.stop)

    def ready(self) -> int:
        """Waits until the shard serves; returns its process id."""
        self._process.wait_ready()
        return os.getpid()

    def stop(self) -> None:
        """See `ShardProcess.stop`."""
        self._process.stop()


def main() -> None:
    """A shard without Ray: `python -m service.shard.actor '<config as JSON>'`."""
    import json
    import signal

    given = json.loads(sys.argv[1])
    config = ShardConfig(**given | {"reach": Reach.of(given.get("reach", {}))})
    configure_logging(config.log)
    process = ShardProcess(config)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    process.wait_ready()
    print("ready", flush=True)
    done.wait()
    process.stop()


if __name__ == "__main__":
    main()
