"""What a shard is told when it starts; imported by those that start one, so it needs nothing."""

from __future__ import annotations

from dataclasses import dataclass

from streams.reach import CLOSED, Reach

DEPLOYMENT = "continual"
"""Name under which the store keeps everything."""


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What a shard needs to know.

    Attributes:
        redis: URL of the store.
        index: number of this shard.
        shards: how many there are.
        host: interface that its ports are bound on.
        port: the node's public port, shared by its shards.
        advertise: host under which others reach this shard; "": under Ray the address of its node.
        log: file that its log goes to; "": standard error.
        signing_key: file with the key for pickled state; "": what `learners.river.signing.VARIABLE` holds, if anything.
        reach: what the sources and sinks of a spec may name.
    """

    redis: str
    index: int = 0
    shards: int = 1
    host: str = "127.0.0.1"
    port: int = 50051
    advertise: str = "127.0.0.1"
    log: str = ""
    signing_key: str = ""
    reach: Reach = CLOSED

    @property
    def name(self) -> str:
        """Name of the shard."""
        return f"shard-{self.index}"
