"""Confirming ownership: a thread for all partitions of a store, which neither a fold nor the event loop can hold up.

It has a connection of its own and sends all confirmations together, so that the store syncs them once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import redis

from service.store.errors import StoreUnavailable
from service.store.ownership import confirm_all
from service.store.partition import Partition as Store

log = logging.getLogger(__name__)

CONFIRM_SECONDS = 0.25
"""Between two confirmations; the lease is four times as long."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    store: Store
    token: str
    asked: Callable[[float, str], None]
    lost: Callable[[Exception], None]


class Leases:
    """See the module's docstring.

    Args:
        client: of the store; a connection is taken from its pool.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._held: list[_Held] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @contextmanager
    def held(
        self, store: Store, token: str, asked: Callable[[float, str], None], lost: Callable[[Exception], None]
    ) -> Iterator[None]:
        """Confirms that `token` owns a partition, again and again while in the block.

        Args:
            store: the partition.
            token: of the ownership.
            asked: called on the thread after each time with when that was, on the clock of `time.monotonic`, and why it
                was not confirmed; "": it was.
            lost: called on the thread, once, with why it cannot be confirmed any more.
        """
        one = _Held(store, token, asked, lost)
        with self._changed:
            self._held.append(one)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                if one in self._held:
                    self._held.remove(one)
                self._changed.notify()

    # On the thread

    def _run(self) -> None:
        while held := self._due():
            sent = time.monotonic()
            try:
                self._confirm(held, sent)
            except Exception:  # the leases of all run out if it lasts, and the next turn tries again
                log.exception("ownership could not be confirmed")
            with self._changed:
                self._changed.wait(max(0.0, sent + CONFIRM_SECONDS - time.monotonic()))

    def _confirm(self, held: list[_Held], sent: float) -> None:
        answers = confirm_all(self._client, [(one.store, one.token) for one in held])
        for one, answer in zip(held, answers):
            if answer is None or isinstance(answer, StoreUnavailable):  # there the lease runs out by itself
                one.asked(sent, str(answer or ""))
            else:
                self._give_up(one, answer)

    def _due(self) -> list[_Held]:
        with self._changed:
            if not self._held:
                self._thread = None
            return list(self._held)

    def _give_up(self, one: _Held, why: Exception) -> None:
        with self._changed:
            if one in self._held:
                self._held.remove(one)
        one.lost(why)


_OF_CLIENT: WeakKeyDictionary[redis.Redis, Leases] = WeakKeyDictionary()
_LOCK = threading.Lock()


def leases_of(client: redis.Redis) -> Leases:
    """The ones that are confirmed through a client."""
    with _LOCK:
        return _OF_CLIENT.setdefault(client, Leases(client))
