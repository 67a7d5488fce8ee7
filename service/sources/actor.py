"""A source as a Ray actor: Ray places and restarts it, and it takes up what the log holds.

Those that start it import this module too, so what a source needs is imported where it runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.process import configure_logging, end_in_order
from streams.reach import CLOSED, Reach

if TYPE_CHECKING:
    from service.sources.consumer import Consumer


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """What the actor of a source needs to know.

    Attributes:
        spec: of the model, as JSON.
        number: which of its sources.
        target: host:port of the service.
        store: URL of the deployment's Redis.
        log: file that its log goes to; "": standard error.
        reach: what it may open.
    """

    spec: str
    number: int
    target: str
    store: str
    log: str = ""
    reach: Reach = CLOSED


class SourceProcess:
    """Runs one consumer on a thread of the calling process until `stop`; a fault of its own ends the process."""

    def __init__(self, config: SourceConfig) -> None:
        import uvloop

        self._config = config
        self._loop = uvloop.new_event_loop()
        self.consumer: Consumer | None = None
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._consume())
        except BaseException:
            logging.getLogger(__name__).exception("the source failed")
            logging.shutdown()
            os._exit(1)

    async def _consume(self) -> None:
        from learners.spec import ModelSpec
        from service.sources.consumer import Consumer

        config = self._config
        spec = ModelSpec.stored(config.spec)
        self.consumer = Consumer(spec, config.number, config.target, config.store, config.reach)
        await self.consumer.run()

    def stop(self) -> None:
        """Returns once what was sent is answered."""
        if self.consumer is not None:
            self._loop.call_soon_threadsafe(self.consumer.stop)
        self._thread.join(20)


class SourceActor:
    """The Ray actor around a `SourceProcess`."""

    def __init__(self, config: SourceConfig) -> None:
        configure_logging(config.log)
        self._process = SourceProcess(config)
        end_in_order(self._process.stop)

    def pid(self) -> int:
        """Its process id."""
        return os.getpid()

    def stop(self) -> None:
        """See `SourceProcess.stop`."""
        self._process.stop()


def main() -> None:
    """A source without Ray: `python -m service.sources.actor '<config as JSON>'`; ends on SIGTERM."""
    import json
    import signal

    given = json.loads(sys.argv[1])
    config = SourceConfig(**given | {"reach": Reach.of(given.get("reach", {}))})
    configure_logging(config.log)
    process = SourceProcess(config)
    done = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: done.set())
    print("ready", flush=True)
    done.wait()
    process.stop()


if __name__ == "__main__":
    main()
