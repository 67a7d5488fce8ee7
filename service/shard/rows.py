"""The store's keyed rows as a learner sees them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from learners.base import Row
from service.store.errors import StoreUnavailable
from service.store.partition import Partition as Store

RETRY_SECONDS = 0.05

T = TypeVar("T")


class StoreRows:
    """The store's keyed rows as the learner sees them (`learners.base.ColdRows`).

    Attributes:
        committed: position of the last snapshot.
        patient: whether to wait for a store that cannot serve, instead of raising `StoreUnavailable`. What is folded
            is in the log: giving a fold up in its midst would only mean to begin again from the snapshot.
    """

    def __init__(self, store: Store, token: str, committed: int) -> None:
        self._store = store
        self._token = token
        self.committed = committed
        self.patient = False

    def get_rows(self, keys: list[bytes], at: int) -> list[tuple[int, bytes] | None]:
        """See `ColdRows`."""
        return self._answered(lambda: self._store.get_rows(keys, at))

    def put_rows(self, rows: Iterable[Row]) -> None:
        """See `ColdRows`."""
        rows = list(rows)
        self._answered(lambda: self._store.put_rows(self._token, rows, self.committed))

    def iter_keys(self) -> Iterator[bytes]:
        """See `ColdRows`."""
        return self._store.iter_keys()

    def _answered(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except StoreUnavailable:
                if not self.patient:
                    raise
                time.sleep(RETRY_SECONDS)
