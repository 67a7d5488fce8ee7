"""What a partition has learned by itself, for the other partitions of its model to read."""

from __future__ import annotations

from service.store.scripting import FENCE, PartitionBase, Script

_PUBLISH = Script(FENCE + "redis.call('HSET', KEYS[2], 'steps', ARGV[2], 'body', ARGV[3]) return {1}")


class Contributions(PartitionBase):
    """Publishing what was learned, and reading what was published; the latest takes the place of the one before."""

    def publish(self, token: str, steps: int, body: bytes) -> None:
        """Publishes what was learned in so many updates. It outlives the partition, as long as its log does.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now; it may have been published.
        """
        self._fenced(_PUBLISH, (self.keys.exchange,), token, steps, body)

    def published_steps(self) -> int:
        """Returns in how many updates what is published was learned, -1 if nothing is."""
        steps = self._command("HGET", self.keys.exchange, "steps")
        return -1 if steps is None else int(steps)

    def published(self) -> bytes | None:
        """Returns what is published, None if nothing is."""
        return self._command("HGET", self.keys.exchange, "body")
