"""A sink as a Ray actor: Ray places and restarts it, and it goes on after the last record that is there.

Those that start it import this module too, so what a sink needs is imported where it runs.
"""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass

from service.process import configure_logging, end_in_order
from streams.reach import CLOSED, Reach


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """What the actor of a sink needs to know.

    Attributes:
        spec: of the model, as JSON.
        number: which of its sinks.
        store: URL of the deployment's Redis.
        log: file that its log goes to; "": standard error.
        reach: what it may open.
    """

    spec: str
    number: int
    store: str
    log: str = ""
    reach: Reach = CLOSED


class SinkActor:
    """The Ray actor around a `Sender`; a fault of its own ends the process."""

    def __init__(self, config: SinkConfig) -> None:
        from learners.spec import ModelSpec
        from service.sinks.sender import Sender

        configure_logging(config.log)
        self._sender = Sender(ModelSpec.stored(config.spec), config.number, config.store, config.reach)
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()
        end_in_order(self.stop)

    def _run(self) -> None:
        try:
            self._sender.run()
        except BaseException:
            logging.getLogger(__name__).exception("the sink failed")
            logging.shutdown()
            os._exit(1)

    def stop(self) -> None:
        """Returns once what was read is written."""
        self._sender.stop()
        self._thread.join(20)
