"""All that the store holds of one partition."""

from __future__ import annotations

from service.store.answers import Answers
from service.store.letters import Letters
from service.store.log import Log
from service.store.ownership import Ownership
from service.store.poison import Poison
from service.store.rows import Rows
from service.store.scripting import FENCE, Script
from service.store.snapshot import Snapshots

_DELETE = Script(FENCE + "redis.call('UNLINK', unpack(KEYS)) return {1}")


class Partition(Ownership, Log, Rows, Snapshots, Poison, Letters, Answers):
    """Ownership, log, rows, snapshots, quarantine, dead letters and answers of one partition.

    Every write but those of `Letters` and the marks of sinks carries the owner's token and is refused, whole, once
    another token is there. Methods are synchronous; `append_async`, `append_answers_async` and `confirm_async` take an
    asyncio client. An instance holds no state but its client and key names, and may be used by several threads.
    """

    def delete(self, token: str) -> None:
        """Removes everything of the partition, the ownership included.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        arrays = [key for key in self._fields("pending_key", "key", "previous_key") if key is not None]
        self._fenced(_DELETE, (*self.keys.all()[1:], *arrays), token)
