"""One sink of one model: reads the log and what the fold said of it, and writes a record of each event, once.

It remembers nothing: the target knows what it holds, and a mark in the store says from where log and answers must be
kept. Whoever starts a sender, however often, goes on after the last record that is there.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

from learners.spec import ModelSpec
from service.sinks.records import Records
from service.store.connect import connect
from service.store.errors import LogMismatch, StoreUnavailable
from service.store.partition import Partition as Store
from streams.reach import CLOSED, Reach
from streams.sinks.target import Foreign, Target, open_target
from streams.sources.reader import Unavailable

log = logging.getLogger(__name__)

DEPLOYMENT = "continual"
IDLE_SECONDS = 0.05
SAY_SECONDS = 1.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0


class Lost(Exception):  # noqa: N818 (says what is the case)
    """What comes next cannot be had."""


class Sender:
    """Runs one sink until it is told to stop; used from one thread, but for `stop`.

    Args:
        spec: of the model.
        number: which of its sinks.
        store: URL of the deployment's Redis.
        reach: what it may open.
    """

    def __init__(self, spec: ModelSpec, number: int, store: str, reach: Reach = CLOSED) -> None:
        self.spec = spec
        self.sink = spec.deployment.sinks[number]
        self.said: dict[str, Any] = {"state": "starting", "detail": "", "lag": 0, "records": 0, "lost": 0}
        self._mark: dict[str, Any] | None = None
        self._url = store
        self._reach = reach
        self._store = Store(connect(store), DEPLOYMENT, spec.name)
        self._records = Records(spec, self._store)
        self._target: Target | None = None
        self._told = 0.0
        self._wait = FIRST_WAIT
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ends `run` once what was read is written."""
        self._stopping.set()

    def run(self) -> None:
        """Writes until `stop`, through every fault of the store and the target."""
        try:
            while not self._stopping.is_set():
                self._attempt()
        finally:
            if self._target is not None:
                self._target.close()
            self._say("stopped", "")

    def _attempt(self) -> None:
        """One stretch of writing, until it ends or something stands in the way."""
        try:
            self._take_up()
            while not self._stopping.is_set():
                self._step()
        except (Lost, Foreign) as lost:
            self._pause("lost", str(lost))
        except (Unavailable, StoreUnavailable) as error:
            self._pause("waiting", str(error))

    def _pause(self, state: str, detail: str) -> None:
        if (state, detail) != (self.said["state"], self.said["detail"]):
            log.warning("sink %s of model %s: %s: %s", self.sink.identity, self.spec.name, state, detail)
        self._say(state, detail)
        self._stopping.wait(self._wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def _take_up(self) -> None:
        """Finds the position to go on with.

        Raises:
            Lost: it is not retained and the spec says to stop, or the target is ahead of the model.
        """
        if self._target is None:
            self._target = open_target(self.sink, self.spec.name, self._url, self._reach)
        if self._mark is None or not self._mark.get("begun"):  # another sender of this sink may have begun meanwhile
            kept = self._store.marks().get(self.sink.identity, {})
            self._mark = {part: kept[part] for part in ("position", "begun", "partitions") if part in kept}
        position, beside = self._target.resume(self._mark if self._mark.get("begun") else None)
        first, end = self._store.first_answer(), self._store.answered()
        if position > end:
            raise Lost(f"the sink holds position {position - 1}, the model is at {end}: another model wrote it")
        if position < first:
            message = f"positions {position} to {first - 1} are not retained"
            if self.sink.lost == "error":
                raise Lost(f"{message}; `lost` says what to do then, `behind` how much is")
            log.warning("sink %s of model %s: %s; going on from %d", self.sink.identity, self.spec.name, message, first)
            self.said["lost"] += first - position
            position = first
        self._mark = {"position": position, "begun": True, **beside}
        self.said["state"], self.said["detail"] = "writing", ""
        self._leave()  # before the first record: a target that holds any has a mark

    def _step(self) -> None:
        """Writes some records, or waits for some."""
        assert self._target is not None
        assert self._mark is not None
        position = self._mark["position"]
        try:
            end, records = self._records.read(position)
        except LogMismatch as gone:
            if self._store.first_answer() <= position:
                raise  # not trimmed: the log is not what its owner wrote
            raise Unavailable(f"trimmed while it was read: {gone}") from gone
        if records:
            self._target.write(records)
            self._mark["position"] = end
            self.said["records"] += len(records)
            self._wait = FIRST_WAIT
        if time.monotonic() - self._told > SAY_SECONDS:
            self.said["lag"] = max(0, self._store.answered() - end)
            self._say("writing", "")
        if not records:
            self._stopping.wait(IDLE_SECONDS)

    def _say(self, state: str, detail: str) -> None:
        """Leaves mark and state in the store; where it cannot be reached, log and answers are only kept longer."""
        self.said["state"], self.said["detail"] = state, detail
        if self._mark is None:
            return  # what an earlier sender left is not known yet
        try:
            self._leave()
        except StoreUnavailable as error:
            log.warning("sink %s: its state was not left: %s", self.sink.identity, error)

    def _leave(self) -> None:
        assert self._mark is not None
        self._told = time.monotonic()
        self._store.mark(self.sink.identity, self.said | self._mark | {"time_us": time.time_ns() // 1000})
