"""The store's keyed rows as a learner sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from learners.base import Row
from service.store.partition import Partition as Store


class StoreRows:
    """The store's keyed rows as the learner sees them (`learners.base.ColdRows`)."""

    def __init__(self, store: Store, token: str, committed: int) -> None:
        self._store = store
        self._token = token
        self.committed = committed

    def get_rows(self, keys: list[bytes], at: int) -> list[tuple[int, bytes] | None]:
        """See `ColdRows`."""
        return self._store.get_rows(keys, at)

    def put_rows(self, rows: Iterable[Row]) -> None:
        """See `ColdRows`."""
        self._store.put_rows(self._token, rows, self.committed)

    def iter_keys(self) -> Iterator[bytes]:
        """See `ColdRows`."""
        return self._store.iter_keys()
