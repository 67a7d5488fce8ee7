"""Sending the events of a source to a service, resumable and without repetition."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from continual.commands._score import Score
from continual.commands._sources import Source
from streams.batch import Batch
from streams.mapping import BadRow

LISTED = 20
"""Bad rows that are named one by one."""


@dataclass
class Sending:
    """One source on its way to one model.

    Batches are numbered by (digest of the file, number of the event), so the service knows those that it has.

    Attributes:
        sent: events that were answered.
        new: of these, the ones that the service had not before.
        bad: rows that are no events; at most `LISTED` of them are in `listed`.
        stopped: why it ended before the end of the source.
    """

    client: Any
    model: str
    source: Source
    rows: int
    in_flight: int
    skip_bad: bool
    limit: int | None
    sent: int = 0
    new: int = 0
    bad: int = 0
    listed: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""
    seconds: float = 0.0
    read: int = 0

    def __post_init__(self) -> None:
        self._on_way: deque[tuple[int, Batch]] = deque()
        self.score = Score(json.loads(self.client.models.get(self.model).spec_json)["target"]["kind"])

    def run(self, on_progress: Callable[[], None]) -> None:
        """Sends until the source ends, a row is refused, or Ctrl-C; what was sent by then is answered first.

        Raises:
            service.errors.Refused: the service refused, with the row in the file.
        """
        from service.errors import Refused

        began = time.perf_counter()
        producer = self.source.identity()
        stream = self.client.learn(self.model, self._batches(), producer=producer, in_flight=self.in_flight)
        try:
            with stream:
                for result in stream:
                    self.read, batch = self._on_way.popleft()
                    self._take(result, batch)
                    self.seconds = time.perf_counter() - began
                    on_progress()
        except KeyboardInterrupt:
            self.stopped = "interrupted"
        except Refused as refused:
            if not self._on_way:
                raise
            end, batch = self._on_way.popleft()
            where = f"{self.source.name}, rows {end - len(batch)} to {end - 1}"
            self.stopped = f"{where}: {refused.message} ({refused.code.name} {refused.reason})"
        finally:
            self.seconds = time.perf_counter() - began

    def _take(self, result: Any, batch: Batch) -> None:
        self.sent += result.rows
        if result.duplicate:
            return
        answered = len(result.predictions)  # fewer than were sent where the service had the first of them
        self.new += answered
        self.score.of_answer(result.predictions, batch.slice(len(batch) - answered, len(batch)))

    def _batches(self) -> Iterator[Batch]:
        given = 0
        try:
            for end, batch in self.source.read(self.rows, self._on_bad if self.skip_bad else None):
                part = batch if self.limit is None else batch.slice(0, min(len(batch), self.limit - given))
                if not len(part):
                    return
                given += len(part)
                self._on_way.append((end - len(batch) + len(part), part))
                yield part
        except BadRow as bad:
            self._on_bad(bad)
            self.stopped = f"{bad}. The rows before it were sent; --skip-bad passes over such rows"

    def _on_bad(self, bad: BadRow) -> None:
        self.bad += 1
        if len(self.listed) < LISTED:
            value = "" if bad.value is None else str(bad.value)
            self.listed.append({"row": bad.row, "column": bad.column, "value": value, "accepted": bad.accepted})

    def summary(self) -> dict[str, Any]:
        """Counts, time and score as plain values."""
        return {
            "model": self.model,
            "source": self.source.name,
            "sent": self.sent,
            "new": self.new,
            "already_there": self.sent - self.new,
            "bad": self.bad,
            "bad_rows": self.listed,
            "seconds": round(self.seconds, 3),
            "events_per_second": round(self.sent / self.seconds) if self.seconds else None,
            "prequential": self.score.values(),
            "stopped": self.stopped,
        }
