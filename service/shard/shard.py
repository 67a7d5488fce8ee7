"""The shard: the partitions that one process owns, and what it knows of the others.

A plain class on an asyncio loop; `service.shard.actor` puts it into a Ray actor. Who owns what stands in the partition
maps of the catalog. A new model belongs to shard h modulo the number of shards, h the 64-bit hash of its name; a
partition of a shard that is not there any more (the deployment was started with fewer) goes to shard h modulo their
number, h the hash of its model's name and its id.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from learners.river import signing
from learners.spec import ModelSpec
from service import channels, errors
from service.api import continual_v1_pb2 as pb
from service.shard import checker
from service.shard.aside import aside
from service.shard.config import DEPLOYMENT, ShardConfig
from service.shard.maps import Maps, home
from service.shard.partition import Partition
from service.shard.reshard import Resharding
from service.shard.revival import Revival
from service.shard.snapshots import Snapshotter
from service.shard.specs import check_reach, check_signing, compile_learner, is_stored
from service.store.catalog import Catalog
from service.store.connect import RANK, Link, connect, durability, until_served
from service.store.errors import MapConflict, ModelExists, StoreError, StoreUnavailable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store
from service.store.partition_map import ModelMap, Range

log = logging.getLogger(__name__)

HOP = ("continual-hop", "1")
"""Marks a call that a shard passed on, so that it goes no further."""

PULSE_SECONDS = 1.0

OPENING_SECONDS = 2.0
"""Requests wait for so long for a partition that is being opened."""

M = TypeVar("M", bound=Message)


class Shard:
    """See the module's docstring.

    Args:
        config: see `ShardConfig`.
        exit: called with a cause when the process must end (default: `os._exit(1)`, after logging it).

    Attributes:
        partitions: those that this shard serves, by (model, id).
        snapshots: what writes their snapshots.
        broken: why a partition of this shard could not be opened, by (model, id).
    """

    def __init__(self, config: ShardConfig, exit: Callable[[BaseException], None] | None = None) -> None:
        self.config = config
        self.address = ""
        self.client = connect(config.redis)
        self.catalog = Catalog(self.client, DEPLOYMENT)
        self.partitions: dict[tuple[str, str], Partition] = {}
        self.snapshots: dict[tuple[str, str], Snapshotter] = {}
        self.maps = Maps(self.catalog, config.name, config.shards, self._state)
        self.broken: dict[tuple[str, str], str] = {}
        self.resharding = Resharding(self)
        self.revival = Revival(self)
        self.on_health: Callable[[bool], None] = lambda serving: None
        self._exit = exit or _exit
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._tasks: set[asyncio.Task] = set()
        self.texts: dict[str, str] = {}  # specs as JSON, by model, of those that were made ready
        self._creating = asyncio.Lock()
        self._listed = False  # whether the catalog was read: before that no model is known to be missing
        self._started = False  # whether all that was there at the start is open, or waits
        self._opening: set[tuple[str, str]] = set()  # not yet in `partitions`
        self._dropped: dict[tuple[str, str], str] = {}  # deleted, with the birth of a model that may still name them
        self._stopping = False

    # Life

    async def start(self, address: str) -> None:
        """Opens every partition of this shard and publishes where it answers.

        Args:
            address: host:port of this shard's own server.
        """
        self.address = address
        if key := signing.find_key(self.config.signing_key):
            signing.set_key(key)
        self.maps.deployment = await asyncio.to_thread(until_served, self.catalog.deployment_id)
        await asyncio.to_thread(self.catalog.announce, self.config.name, address)
        await asyncio.to_thread(self._adopt)
        await self.maps.look()
        self.maps.on_news = self._open_what_is_mine
        self._open_what_is_mine()
        self._listed = True
        while self._opening:
            await asyncio.sleep(0.005)
        self._started = True
        self.on_health(True)
        self.spawn(self._look_for_ever())
        self.spawn(self._watch_store())

    def _adopt(self) -> None:
        """Gives every model of this shard's a map, and every partition of a shard that is gone a new owner."""
        live = self.maps.live()
        for model in self.catalog.list():
            held = self.catalog.map_of(model)
            try:
                if held is None and home(model, self.config.shards) == self.config.name:
                    self.catalog.set_map(model, None, ModelMap.whole(self.config.name))
                while held is not None and (part := next((p for p in held.partitions if p.shard not in live), None)):
                    heir = home(f"{model}/{part.id}", self.config.shards)
                    log.info("model %s: partition %s of %s goes to %s", model, part.id, part.shard, heir)
                    self.catalog.set_map(model, held, held.with_owner(part.id, heir))
                    held = self.catalog.map_of(model)
            except MapConflict:  # another shard starts too, and does the same
                continue

    async def stop(self) -> None:
        """Answers what was admitted, writes a last snapshot, gives ownership up."""
        self._stopping = True
        self.on_health(False)
        self.revival.stop()
        await self.resharding.end()
        for task in self._tasks:
            task.cancel()
        for place, partition in list(self.partitions.items()):
            serving = partition.state == "serving"
            await partition.stop()
            if serving:
                try:
                    await self.snapshots[place].take()
                    await asyncio.to_thread(partition.store.release, partition.token)
                except (StoreError, errors.Refused) as error:
                    log.warning("model %s: no last snapshot: %s", partition.name, error)
                except Exception:  # the other models have theirs all the same
                    log.exception("model %s: no last snapshot", partition.name)
            if serving:
                await partition.close()
            elif partition.state in ("rebuilding", "failed"):
                await partition.halt()
        for channel in self._channels.values():
            await channel.close()

    def record(self) -> OwnerRecord:
        """Under which this shard takes partitions."""
        return OwnerRecord.here(self.config.name, self.address)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Runs on its own until the shard stops."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a task of this shard failed: %s", error, exc_info=error)

    def fail(self, cause: BaseException) -> None:
        """This process cannot go on: it is unhealthy from now on, and ends."""
        self.on_health(False)
        self._exit(cause)

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                await self.maps.look()
            except StoreUnavailable:
                continue

    async def _watch_store(self) -> None:
        """Health says NOT_SERVING while the store takes no writes."""
        link, before = Link(self.config.redis), ""
        try:
            while True:
                trouble = ""
                try:
                    await self.catalog.pulse(link, self.config.name)
                except StoreUnavailable as error:
                    trouble = str(error)
                if bool(trouble) != bool(before) and not self._stopping:
                    log.warning("%s", trouble or "the store takes writes again")
                    self.on_health(not trouble)
                before = trouble
                await asyncio.sleep(PULSE_SECONDS)
        finally:
            await link.aclose()

    # Partitions

    def _open_what_is_mine(self) -> None:
        """Opens partitions that the maps say are this shard's and that it does not serve."""
        for model, part in self.maps.mine():
            place = model, part.id
            dropped = self._dropped.get(place) == self.maps.maps[model].birth
            known = place in self.partitions or place in self._opening or place in self.broken
            if not (dropped or self._stopping or known):
                self._opening.add(place)
                self.spawn(self._open(model, part))

    async def _open(self, model: str, part: Range) -> None:
        try:
            await self.revival.open(model, part)
        finally:
            self._opening.discard((model, part.id))

    async def make_ready(self, model: str) -> ModelSpec | None:
        """Loads what it takes to serve a model; returns its spec, None if there is no such model.

        Raises:
            service.errors.Refused: there is no key to sign its state with.
        """
        spec_json = await asyncio.to_thread(self.catalog.get, model)
        if spec_json is None:
            return None
        spec = await aside(ModelSpec.stored, spec_json)
        check_signing(spec)
        text = await aside(spec.to_json)
        if self.texts.get(model) != text:  # else this process has done it
            if self._started:  # others are served already
                await checker.of_process().compiled(spec_json)
            await aside(compile_learner, spec)
            self.texts[model] = text
        return spec

    def keep(self, partition: Partition) -> None:
        """Has a partition, whose calls come to it from now on."""
        place = partition.spec.name, partition.part.id
        self.partitions[place] = partition
        snapshotter = self.snapshots[place] = Snapshotter(partition)
        partition.on_progress = lambda: self._snapshot_if_due(partition, snapshotter)

    def forget(self, partition: Partition) -> None:
        """Has a partition no more."""
        place = partition.spec.name, partition.part.id
        if self.partitions.get(place) is partition:
            del self.partitions[place], self.snapshots[place]

    async def close(self, partition: Partition) -> None:
        """Serves a partition no more; its keys in the store are left as they are."""
        await partition.stop()
        self.forget(partition)
        await partition.close()

    def _snapshot_if_due(self, partition: Partition, snapshotter: Snapshotter) -> None:
        if snapshotter.due:
            self.spawn(self.snapshot(partition))

    async def snapshot(self, partition: Partition) -> None:
        """Writes a snapshot; where that cannot be done now, a later one will do."""
        try:
            await self.snapshots[partition.spec.name, partition.part.id].take()
        except (StoreUnavailable, errors.Refused) as error:
            log.warning("model %s: snapshot put off: %s", partition.name, error)
        except StoreError as error:
            if partition.state == "serving":  # a model that was deleted meanwhile refuses its last snapshot
                partition.failed(error)
        except Exception:
            log.exception("model %s: a snapshot could not be written; the log is kept", partition.name)

    def check_there(self, model: str, id: str) -> None:
        """Raises NOT_FOUND where there is no such model, UNAVAILABLE where it is not open yet."""
        if (model, id) not in self.broken:
            self.owned(model, id)

    def _state(self, model: str, id: str) -> str:
        if (model, id) in self.broken:
            return "failed"
        partition = self.partitions.get((model, id))
        return partition.state if partition else ""

    # Who answers

    def find(self, model: str, hash: int = 0, id: str = "") -> Range:
        """See `Maps.find`."""
        return self.maps.find(model, hash, id)

    def owned(self, model: str, id: str) -> Partition:
        """A partition that belongs to this shard.

        Raises:
            service.errors.Refused: there is no such model, or it is not open yet.
        """
        partition = self.partitions.get((model, id))
        if partition is not None:
            return partition
        if (model, id) in self.broken:
            raise errors.model_failed(model, self.broken[model, id])
        if not self._listed or (model, id) in self._opening or self.maps.of(model) is not None:
            raise errors.unavailable("PARTITION_STARTING", f"model {model!r} is being opened", 0.2)
        raise errors.model_not_found(model)

    async def serving(self, model: str, id: str) -> Partition:
        """The same; waits for one that is just being opened, as it was split or moved.

        Raises:
            service.errors.Refused: there is no such model, or opening it takes long.
        """
        deadline = time.monotonic() + OPENING_SECONDS
        while self._listed and self._is_opening(model, id) and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        return self.owned(model, id)

    def _is_opening(self, model: str, id: str) -> bool:
        held = self.maps.of(model)
        if held is None or not held.past:
            return False
        partition = self.partitions.get((model, id))
        return partition.state == "starting" if partition else (model, id) in self._opening

    def channel_to(self, shard: str) -> grpc.aio.Channel:
        """A channel to another shard.

        Raises:
            service.errors.Refused: that shard has not published its address yet.
        """
        address = self.maps.address(shard)
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, channels.FORWARDING)
        return self._channels[address]

    async def ask(self, shard: str, path: str, request: Message, reply: type[M], timeout: float = 60.0) -> M:
        """A call to another shard that it must answer itself.

        Raises:
            service.errors.Refused: by that shard, or it is not there.
        """
        call = self.channel_to(shard).unary_unary(path)
        try:
            return reply.FromString(await call(request.SerializeToString(), timeout=timeout, metadata=(HOP,)))
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc_error(error) from error

    # Models

    async def create(self, spec_json: str, exist_ok: bool) -> ModelSpec:
        """Creates a model and serves it.

        Raises:
            service.errors.Refused: the spec does not fit, the model exists, or the store promises too little.
        """
        spec = await aside(ModelSpec.stored, await checker.of_process().accept(spec_json))
        check_reach(spec, self.config.reach)
        check_signing(spec)
        async with self._creating:
            offered = await asyncio.to_thread(durability, self.client)
            if RANK[offered] < RANK[spec.deployment.durability]:
                raise errors.invalid(
                    "deployment.durability", spec.deployment.durability, f"at most {offered!r}, which the store offers"
                )
            await self._created(spec, exist_ok)
        return spec

    async def _created(self, spec: ModelSpec, exist_ok: bool) -> None:
        try:
            created = await aside(lambda: self.catalog.create(spec.name, spec.to_json()))
        except ModelExists as error:
            if not await asyncio.to_thread(is_stored, self.catalog, spec):
                raise errors.model_exists(spec.name) from error
            created = False
        if not created and not exist_ok:
            raise errors.model_exists(spec.name)
        await self.maps.look()  # a model of this name may just have been deleted by another shard
        if self.maps.of(spec.name) is None:
            with suppress(MapConflict):  # it exists, and has become more than one partition
                await asyncio.to_thread(self.catalog.set_map, spec.name, None, ModelMap.whole(self.config.name))
            await self.maps.look()
        while any(model == spec.name for model, _ in self._opening):
            await asyncio.sleep(0.002)

    async def drop(self, model: str, id: str) -> None:
        """Deletes a partition that this shard owns, with its log and state."""
        held = self.maps.of(model)
        birth = held.birth if held else ""
        if self._dropped.get((model, id)) == birth:
            return
        if (model, id) in self.broken:
            self._dropped[model, id] = birth
            await asyncio.to_thread(self._drop_retired, model, id)
            del self.broken[model, id]
            return
        partition = self.owned(model, id)
        if partition.state != "failed":
            partition.check_started()
        self._dropped[model, id] = birth
        await self.close(partition)
        await asyncio.to_thread(partition.store.delete, partition.token)

    async def delete(self, model: str) -> None:
        """Deletes a model with all logs and state; the owner of its first partition does it.

        Raises:
            service.errors.Refused: there is no such model, or a shard that has a part of it is not there.
        """
        async with self._creating:
            gone: set[str] = set()
            while (part := await self._deleted_here(model, gone)) is not None:
                request = pb.DeleteModelRequest(name=model, partition=part.id)  # that shard may be asking this one
                await self.ask(part.shard, "/continual.v1.Models/Delete", request, pb.DeleteModelReply)
                gone.add(part.id)

    async def _deleted_here(self, model: str, gone: set[str]) -> Range | None:
        """Deletes a model whose partitions elsewhere are `gone`; returns one that is not, and leaves all as it is."""
        async with self.resharding.lock:
            held = self.maps.of(model)
            if held is None:
                raise errors.model_not_found(model)
            for part in held.partitions:
                if not self.maps.is_mine(part) and part.id not in gone:
                    return part
            for part in held.partitions:
                if self.maps.is_mine(part):
                    await self.drop(model, part.id)
            for id in held.retired:
                await asyncio.to_thread(self._drop_retired, model, id)
            await asyncio.to_thread(self.catalog.delete, model)
            self.texts.pop(model, None)
            await self.maps.look()
            return None

    def _drop_retired(self, model: str, id: str) -> None:
        store = Store(self.client, DEPLOYMENT, model, id)
        store.delete(store.acquire(self.record()))


def _exit(cause: BaseException) -> None:
    log.critical("this shard stops: %s: %s", type(cause).__name__, cause, exc_info=cause)
    logging.shutdown()
    os._exit(1)
