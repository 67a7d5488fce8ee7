"""All that the store holds of one partition."""

from __future__ import annotations

from service.store.answers import Answers
from service.store.exchange import Contributions
from service.store.letters import Letters
from service.store.log import Log
from service.store.ownership import Ownership
from service.store.poison import Poison
from service.store.rows import Rows
from service.store.scripting import FENCE, Script
from service.store.snapshot import Snapshots

_DELETE = Script(FENCE + "redis.call('UNLINK', unpack(KEYS)) return {1}")
_RETIRE = Script(
    FENCE
    + """
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('HDEL', KEYS[1], 'token', 'record', 'confirmed')
return {1}
"""
)


class Partition(Ownership, Log, Rows, Snapshots, Poison, Letters, Answers, Contributions):
    """Ownership, log, rows, snapshots, quarantine, dead letters, answers and what is exchanged of one partition.

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
        self._fenced(_DELETE, (*self.keys.all()[1:], *self._arrays()), token)

    def retire(self, token: str) -> None:
        """Gives the partition up for good: its state lives on in others.

        Its log, its dead letters and what it published are kept. No owner, no writes: they are read-only from now on.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        gone = (*self.keys.rows, self.keys.snapshots, self.keys.attempts, *self._arrays())
        self._fenced(_RETIRE, gone, token)

    def _arrays(self) -> list[str]:
        """Keys of the shared arrays of all snapshots."""
        return [key for key in self._fields("pending_key", "key", "previous_key") if key is not None]
