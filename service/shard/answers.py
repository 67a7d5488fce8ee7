"""What a fold says, on its way to the store for the sinks of a model: written behind the answers to callers.

A replay says the same again, bit for bit; so a snapshot waits until everything before it is written, and whatever a
crash cut off is written by the replay.
"""

from __future__ import annotations

import asyncio
from collections import deque

from learners.base import Folded
from service.api import continual_v1_pb2 as pb
from service.store.answers import Said
from service.store.connect import Link
from service.store.errors import StoreUnavailable
from service.store.partition import Partition as Store

WRITTEN_ROWS = 8192
"""Events in one entry, about; a single group may be larger."""

WAITING_ROWS = 131_072
"""Events that wait to be written: beyond it nothing more is folded."""

RETRY_SECONDS = 0.05


class Outbox:
    """Writes answers in order of the log, each once.

    Args:
        store: the partition in Redis.
        token: of the ownership.
        client: an asyncio client.
    """

    def __init__(self, store: Store, token: str, client: Link) -> None:
        self._store = store
        self._token = token
        self._client = client
        self._waiting: deque[Said] = deque()
        self._rows = 0
        self._end = -1
        self._classes: tuple[int | str, ...] = ()
        self._kept = 0  # classes that the store knows, as far as this process does
        self._changed = asyncio.Event()
        self._written = asyncio.Condition()
        self._stopped = False

    # While a partition recovers, from its thread

    def replayed(self, position: int, folded: Folded, classes: tuple[int | str, ...]) -> None:
        """Writes what is not written yet of the answers to replayed events.

        Raises:
            service.store.errors.StoreError: the store cannot serve, or another owner took over.
        """
        if self._end < 0:
            self._end = self._store.answered()
        said = self._unwritten(position, folded)
        if said is not None:
            self._end = self._store.append_answers(self._token, said, classes)
            self._kept = len(classes)

    def _unwritten(self, position: int, folded: Folded) -> Said | None:
        passed = self._end - position
        if passed >= len(folded.value):
            return None
        if passed <= 0:
            return Said(position, folded)
        return Said(self._end, folded.take(slice(passed, None)))

    # While it serves, on the event loop

    def add(self, position: int, folded: Folded, classes: tuple[int | str, ...]) -> None:
        """Takes what was said of the events from `position` on."""
        if not len(folded.value):
            return
        self._waiting.append(Said(position, folded))
        self._rows += len(folded.value)
        self._classes = classes
        self._changed.set()

    async def room(self) -> None:
        """Waits while too much is waiting."""
        if self._rows >= WAITING_ROWS:
            async with self._written:
                await self._written.wait_for(lambda: self._rows < WAITING_ROWS or self._stopped)

    async def reach(self, position: int) -> None:
        """Waits until everything before `position` is written.

        Raises:
            StoreUnavailable: writing was stopped before.
        """
        async with self._written:
            await self._written.wait_for(lambda: self._end >= position or self._stopped)
        if self._end < position:
            raise StoreUnavailable("TIMEOUT", f"the answers before position {position} are not written")

    def begin(self, position: int) -> None:
        """Everything before `position` is written."""
        self._end = position

    async def write_loop(self) -> None:
        """Writes for ever.

        Raises:
            service.store.errors.StoreError: another owner took over, or what is there is not what this process wrote.
        """
        while True:
            await self._changed.wait()
            if not self._waiting:
                self._changed.clear()
                continue
            said = self._gathered()
            classes = self._classes if len(self._classes) > self._kept else None
            await self._append(said, classes)
            async with self._written:
                self._rows -= len(said.folded.value)
                self._end = said.end
                self._kept = self._kept if classes is None else len(classes)
                self._written.notify_all()

    def _gathered(self) -> Said:
        first = self._waiting.popleft()
        parts, rows = [first.folded], len(first.folded.value)
        while self._waiting and rows + len(self._waiting[0].folded.value) <= WRITTEN_ROWS:
            parts.append(self._waiting.popleft().folded)
            rows += len(parts[-1].value)
        return Said(first.position, Folded.concat(parts))

    async def _append(self, said: Said, classes: tuple[int | str, ...] | None) -> None:
        while True:
            try:
                await self._store.append_answers_async(self._client, self._token, said, classes)
                return
            except StoreUnavailable:  # whether it was written or not, the same may be written again
                await asyncio.sleep(RETRY_SECONDS)

    async def stop(self) -> None:
        """Lets go of everyone who waits; nothing is written from now on."""
        async with self._written:
            self._stopped = True
            self._written.notify_all()


def sinks_of(store: Store) -> list[pb.SinkState]:
    """What the sinks of a model said of themselves, without what their marks hold for their targets."""
    known = pb.SinkState.DESCRIPTOR.fields_by_name
    return [
        pb.SinkState(name=name, **{part: value for part, value in mark.items() if part in known})
        for name, mark in store.marks().items()
    ]
