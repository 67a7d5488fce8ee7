"""What stands between admission and fold: the queue, the appends to the log, the lease."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from service import errors
from service.shard.admission import Item, Producers, UpdateWindow, new_future
from service.shard.leases import leases_of
from service.shard.requests import EXCHANGED
from service.store.connect import Link
from service.store.errors import LogMismatch, StoreUnavailable
from service.store.log import body_hash
from service.store.ownership import LEASE_SECONDS
from service.store.partition import Partition as Store

GATHER_ROWS = 512
GATHER_MESSAGES = 512
GATHER_BYTES = 8 << 20
"""Bounds on what one log entry gathers. More rows are taken while they are less than half of those under way: if an
entry took all, nothing would be left to append while it is folded."""

WAITING_ROWS = 65_536
"""Events admitted and not yet logged, at most: streams are paused beyond it, unary calls refused."""

RETRY_SECONDS = 0.25
UNCONFIRMED = "LEASE_UNCONFIRMED"
"""Why a shard refuses that does not know for certain that it is the owner; it may know it again at any moment."""


class LogWriter:
    """Appends what is admitted, entry by entry, and says whether this process may still do so.

    Args:
        store: the partition in Redis.
        token: of the ownership.
        client: an asyncio client of its own.
        producers: their marks move when an entry is logged.
        window: forgets updates that were refused.
        logged: called with the position and the requests of every entry, in order.
    """

    def __init__(
        self,
        store: Store,
        token: str,
        client: Link,
        producers: Producers,
        window: UpdateWindow,
        logged: Callable[[int, list[Item]], Awaitable[None]],
    ) -> None:
        self.head = 0
        self._store = store
        self._token = token
        self._client = client
        self._producers = producers
        self._window = window
        self._logged = logged
        self._queue: deque[Item] = deque()
        self._queued_rows = 0
        self._under_way = 0  # rows admitted and not yet answered
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._confirmed = time.monotonic()
        self._available = True
        self._trouble = ""  # why the store took no writes when it was last asked; "" if it did

    def begin(self, head: int) -> None:
        """The log ends at `head`, and ownership was just taken or confirmed."""
        self.head = head
        self._confirmed = time.monotonic()

    def check(self, writing: bool = True) -> None:
        """Raises UNAVAILABLE unless this process certainly owns the partition and, to write, can write its log."""
        if writing and not self._available:
            raise _no_events(self._trouble)
        if time.monotonic() - self._confirmed > LEASE_SECONDS:
            why = f"ownership was not confirmed within {LEASE_SECONDS:g} s{self._trouble and ': '}{self._trouble}"
            raise errors.unavailable(UNCONFIRMED, why, RETRY_SECONDS)

    async def confirm_loop(self) -> None:
        """Has the lease renewed for ever; raises `Fenced` when another owner took over."""
        loop = asyncio.get_running_loop()
        lost: asyncio.Future[Exception] = loop.create_future()

        def give_up(why: Exception) -> None:
            loop.call_soon_threadsafe(lambda: None if lost.done() else lost.set_result(why))

        with leases_of(self._store.client).held(self._store, self._token, self._was_asked, give_up):
            raise await lost

    def _was_asked(self, sent: float, trouble: str) -> None:
        self._trouble = trouble
        if not trouble:
            self._confirmed = max(self._confirmed, sent)

    # The queue

    @property
    def busy(self) -> bool:
        """Whether admitted requests are not answered yet."""
        return self._under_way > 0

    @property
    def full(self) -> bool:
        """Whether no more should be admitted now."""
        return self._queued_rows >= WAITING_ROWS

    async def room(self) -> None:
        """Waits until something left the queue."""
        self._room.clear()
        await self._room.wait()

    def enqueue(self, item: Item) -> None:
        """Takes an admitted request."""
        self._queue.append(item)
        self._queued_rows += len(item.batch)
        self._under_way += len(item.batch)
        self._arrived.set()

    def close(self) -> None:
        """Whoever waits for room waits no more: nothing is taken any longer."""
        self._room.set()

    def answered(self, rows: int) -> None:
        """Notes that so many events are folded and answered."""
        self._under_way -= rows

    # The log

    async def append_loop(self) -> None:
        """Appends for ever.

        Raises:
            service.store.errors.StoreError: another owner took over, or the log is not what this process wrote.
        """
        while True:
            await self._arrived.wait()
            items = self._gather()
            if not items:
                self._arrived.clear()
                continue
            await self._append(items)

    def _gather(self) -> list[Item]:
        """The next entry: everything that waits, up to a bound; an exchange stands alone."""
        items: list[Item] = []
        rows = size = 0
        most = max(GATHER_ROWS, self._under_way // 2)
        while self._queue and len(items) < GATHER_MESSAGES:
            item = self._queue[0]
            rows, size = rows + len(item.batch), size + len(item.message)
            apart = EXCHANGED in (item.message[:1], items[0].message[:1] if items else b"")
            if items and (rows > most or size > GATHER_BYTES or apart):
                rows -= len(item.batch)
                break
            self._queue.popleft()
            items.append(item)
        self._queued_rows -= rows
        self._room.set()
        return items

    async def _append(self, items: list[Item]) -> None:
        position = self.head
        count = sum(len(item.batch) for item in items)
        messages = [item.message for item in items]
        sent = time.monotonic()
        try:
            await self._store.append_async(self._client, self._token, position, count, messages)
        except StoreUnavailable as error:
            self._available, self._trouble = False, str(error)
            self._refuse_all(items, error)
            logged = await self._was_logged(position, count, messages)
            if logged:
                self._await_fold(items)
            self._available = True
            if not logged:
                return
        self._confirmed = max(self._confirmed, sent)
        self.head = position + count
        for item in items:
            if item.producer:
                self._producers.note(item.producer, item.end)
        await self._logged(position, items)

    def _refuse_all(self, items: list[Item], error: Exception) -> None:
        """Answers everything that waits with UNAVAILABLE: callers repeat by id or sequence."""
        refusal = _no_events(str(error))
        refused = [*items, *self._queue]
        self._under_way -= sum(len(item.batch) for item in refused)
        for item in refused:
            item.refuse(refusal)
            self._window.waiting.pop(item.id, None)
        self._producers.roll_back(refused)
        self._queue.clear()
        self._queued_rows = 0
        self._room.set()

    def _await_fold(self, items: list[Item]) -> None:
        """Refused in doubt, but logged: a caller that repeats one meets the original."""
        self._under_way += sum(len(item.batch) for item in items)
        for item in items:
            item.done = new_future()
            if item.producer:
                self._producers.admit(item)
            elif item.id:
                self._window.waiting[item.id] = item

    async def _was_logged(self, position: int, count: int, messages: list[bytes]) -> bool:
        """Waits for the store to answer again and says whether an append in doubt took place.

        Raises:
            LogMismatch: the log ends elsewhere: the store lost its tail, or another wrote.
        """
        while True:
            try:
                await self._store.confirm_async(self._client, self._token)
                head = await asyncio.to_thread(self._store.head)
            except StoreUnavailable:
                await asyncio.sleep(0.05)
                continue
            if head.position == position + count and head.hash == body_hash(position, messages):
                return True
            if head.position == position:
                return False
            raise LogMismatch(position, head.position, f"the log {self._store.keys.log} after the store came back")


def _no_events(why: str) -> errors.Refused:
    return errors.unavailable("STORE_UNAVAILABLE", f"the store takes no events: {why}; nothing was lost", RETRY_SECONDS)
