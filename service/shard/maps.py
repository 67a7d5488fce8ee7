"""What a shard knows of the partition maps of all models and the addresses of all shards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service import errors
from service.api import continual_v1_pb2 as pb
from service.store.catalog import Catalog, Routing
from service.store.partition_map import ModelMap, Range
from service.wire import key_hash


def home(model: str, shards: int) -> str:
    """The shard that creates a model and gets its first partition."""
    return f"shard-{key_hash(model.encode()) % shards}"


class Maps:
    """The maps as of the last look. What is older than a caller's map is read anew before the caller is refused.

    Args:
        catalog: of the deployment.
        shard: name of this shard.
        shards: how many there are.
        state: of a partition by (model, id), as this shard serves it; "" if it does not.

    Attributes:
        deployment: its identity, once it is known.
        on_news: called after every look that found a change, on the event loop.
    """

    def __init__(self, catalog: Catalog, shard: str, shards: int, state: Callable[[str, str], str]) -> None:
        self.deployment = ""
        self.on_news: Callable[[], None] = lambda: None
        self._catalog = catalog
        self._shard = shard
        self._shards = shards
        self._state = state
        self._routing = Routing()

    async def look(self) -> None:
        """Reads what changed.

        Raises:
            service.store.errors.StoreUnavailable: the store cannot serve now.
        """
        found = await asyncio.to_thread(self._catalog.routing, self._routing.generation)
        if found is not None and found.generation > self._routing.generation:
            self._routing = found
            self.on_news()

    async def look_for(self, model: str, version: int) -> None:
        """Reads what changed unless the map of a model is known at this version."""
        held = self._routing.maps.get(model)
        if held is None or held.version != version:
            await self.look()

    def of(self, model: str) -> ModelMap | None:
        """The map of a model, None if it has none."""
        return self._routing.maps.get(model)

    def mine(self) -> list[tuple[str, Range]]:
        """The partitions of this shard, with their models."""
        return [(m, part) for m, held in self._routing.maps.items() for part in held.partitions if self.is_mine(part)]

    def is_mine(self, part: Range) -> bool:
        """Whether this shard owns a partition."""
        return part.shard == self._shard

    def still_mine(self, model: str, id: str) -> bool:
        """Whether this shard owns a partition by its id; one that is in no map is nobody's."""
        held = self._routing.maps.get(model)
        part = held.get(id) if held else None
        return part is not None and self.is_mine(part)

    def peers(self, model: str, id: str) -> tuple[list[str], list[str]]:
        """The ids of the other partitions of a model: those that live, and those that were split or merged."""
        held = self._routing.maps.get(model)
        return ([part.id for part in held.partitions if part.id != id], list(held.retired)) if held else ([], [])

    @property
    def generation(self) -> int:
        """Of the last look."""
        return self._routing.generation

    @property
    def maps(self) -> dict[str, ModelMap]:
        """Of every model."""
        return self._routing.maps

    def live(self) -> list[str]:
        """Names of the shards of this deployment."""
        return [f"shard-{index}" for index in range(self._shards)]

    def address(self, shard: str) -> str:
        """Where a shard answers.

        Raises:
            service.errors.Refused: it has not said so yet.
        """
        if shard not in self._routing.shards:
            raise errors.unavailable("SHARD_STARTING", f"{shard} is starting", 0.5)
        return self._routing.shards[shard]

    # Routes

    async def check(self, route: pb.Route, model: str) -> None:
        """Raises FAILED_PRECONDITION with the map for a caller with another deployment or map in mind."""
        if route.deployment and route.deployment != self.deployment:
            raise errors.wrong_map(self.message(), f"this is deployment {self.deployment}, not {route.deployment}")
        if model not in self._routing.maps:
            await self.look()
        if route.map_version:
            await self.look_for(model, route.map_version)
            held = self._routing.maps.get(model)
            if held is not None and held.version != route.map_version:
                raise self.refusal()

    def refusal(self, message: str = "the partition map has changed") -> errors.Refused:
        """FAILED_PRECONDITION with the current map."""
        return errors.wrong_map(self.message(), message)

    def find(self, model: str, hash: int = 0, id: str = "") -> Range:
        """The partition with an id or, without one, of a key hash. A model that has no map yet is whole at its home.

        Raises:
            service.errors.Refused: no partition of the model has this id.
        """
        held = self._routing.maps.get(model)
        if held is None:
            return Range("0", shard=home(model, self._shards))
        part = held.get(id) if id else held.at(hash)
        if part is None:
            ids = ", ".join(one.id for one in held.partitions)
            message = f"partition: got {errors.shorten(id)!r}; accepted: {errors.shorten(ids)} of model {model!r}"
            raise errors.failed_precondition("NO_PARTITION", model, message)
        return part

    def message(self) -> pb.PartitionMap:
        """All maps, as the API shows them."""
        whole = pb.PartitionMap(deployment=self.deployment, version=self._routing.generation)
        for model, held in self._routing.maps.items():
            whole.partitions.extend(self.described(model, held, part) for part in held.partitions)
        return whole

    def described(self, model: str, held: ModelMap, part: Range) -> pb.Partition:
        """A partition as the API shows it."""
        state = (self._state(model, part.id) or "starting") if self.is_mine(part) else "serving"
        return pb.Partition(
            model=model,
            first_hash=part.low,
            last_hash=part.high - 1,
            shard=part.shard,
            address=self._routing.shards.get(part.shard, ""),
            state=state,
            id=part.id,
            map_version=held.version,
            start=part.start,
        )
