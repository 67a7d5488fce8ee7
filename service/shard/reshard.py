"""Splitting, merging and moving partitions while they serve.

Three steps. (1) The log records "prepared" at its position p, and the partition takes no events. (2) What replaces it
is written at p: shared arrays, keyed rows by hash, producer marks, the table of updates. (3) One compare-and-set of the
model's map. Before it nobody reads what was written, and the partition goes on; after it nobody writes to the old log.
Whoever opens a partition gives up a change that its map still has as prepared, so of a coordinator that came to its
end and one that is only slow exactly one side holds (`settle`).

Most of step 2 is done while the partition still serves: a snapshot is taken and its rows are copied; what changed since
is copied once more while it stands still.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.children import Child, copy_rows, donor_of, replace_map, sweep, write_children
from service.shard.partition import Partition
from service.store.errors import Fenced, StoreError, StoreUnavailable
from service.store.partition import Partition as Store
from service.store.partition_map import ModelMap, Prepared, Range

if TYPE_CHECKING:
    from service.shard.shard import Shard

log = logging.getLogger(__name__)

OPEN_SECONDS = 30.0
END_SECONDS = 20.0
READY_SECONDS = 120.0
MAP_PATH = "/continual.v1.OnlineLearning/GetPartitionMap"


class Resharding:
    """Changes of the partitions of one shard, one at a time."""

    def __init__(self, shard: Shard) -> None:
        self._s = shard
        self.lock = asyncio.Lock()
        self.doing = ""
        self._running: set[asyncio.Task[float]] = set()

    async def step(self, name: str) -> None:
        """Called between two writes."""
        log.info("%s: %s", self.doing, name)

    async def _whole(self, change: Coroutine[Any, Any, float]) -> float:
        """Makes a change to its end, whatever becomes of who asked for it: cut short, it might be committed or not."""
        task = asyncio.get_running_loop().create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def end(self) -> None:
        """Waits for a change that is being made."""
        if self._running:
            await asyncio.wait(self._running, timeout=END_SECONDS)

    # What can be asked for

    async def split(self, model: str, id: str, into: int, shards: Sequence[str]) -> float:
        """Cuts a partition of this shard in `into`; the pieces go to `shards` in turn. Returns the seconds it stood.

        Raises:
            service.errors.Refused: it cannot be cut so, there is no such shard, or the store does not answer.
        """
        await self._make_ready(model, shards)
        return await self._whole(self._split(model, id, into, shards))

    async def _split(self, model: str, id: str, into: int, shards: Sequence[str]) -> float:
        async with self.lock:
            self.doing = f"split {model}/{id}"
            partition = self._mine(model, id)
            try:
                cuts = partition.part.pieces(into)
            except ValueError as error:
                raise errors.invalid("into", into, str(error).partition("accepted: ")[2]) from error
            owners = [shards[i % len(shards)] for i in range(into)]

            def parts(ids: Sequence[str], heads: list[int]) -> list[Range]:
                counted = partition.part.events(heads[0])
                return [
                    Range(ids[i], low, high, owners[i], heads[0], counted if i == 0 else 0)
                    for i, (low, high) in enumerate(cuts)
                ]

            return await self._replace([partition], into, parts)

    async def merge(self, model: str, ids: Sequence[str]) -> float:
        """Makes one of two neighbours that this shard owns both. Returns the seconds that they stood.

        Raises:
            service.errors.Refused: they are no neighbours, their classes contradict each other, or the store does not
                answer.
        """
        return await self._whole(self._merge(model, ids))

    async def _merge(self, model: str, ids: Sequence[str]) -> float:
        async with self.lock:
            self.doing = f"merge {model}/{'+'.join(ids)}"
            first, second = sorted((self._mine(model, id) for id in ids), key=lambda one: one.part.low)
            if first.part.high != second.part.low:
                raise errors.invalid("partitions", ", ".join(ids), "two neighbours")

            def parts(new: Sequence[str], heads: list[int]) -> list[Range]:
                a, b = first.part, second.part
                counted = a.events(heads[0]) + b.events(heads[1])
                return [Range(new[0], a.low, b.high, a.shard, max(heads), counted)]

            return await self._replace([first, second], 1, parts)

    async def move(self, model: str, id: str, shard: str) -> float:
        """Gives a partition of this shard to another one. Returns the seconds it stood.

        Raises:
            service.errors.Refused: there is no such shard, or the store does not answer.
        """
        await self._make_ready(model, [shard])
        return await self._whole(self._move(model, id, shard))

    async def _move(self, model: str, id: str, shard: str) -> float:
        async with self.lock:
            self.doing = f"move {model}/{id}"
            partition = self._mine(model, id)
            if partition.part.shard == shard:
                return 0.0
            self._s.maps.address(shard)
            change = await self._prepare(model, [id], 0)
            try:
                began = await self._hand_over(partition, change, shard)
            except BaseException:
                await self._give_up(model, change)
                raise
            await self.step("committed")
            await self._leave([partition], retire=False)
            await self._wait_open(model, [replace(partition.part, shard=shard)])
            return time.perf_counter() - began

    async def _hand_over(self, partition: Partition, change: Prepared, shard: str) -> float:
        """From a snapshot while the partition serves to the commit of its move; returns when it began to stand."""
        model, id = partition.spec.name, partition.part.id
        await self._s.snapshots[model, id].take()
        await self.step("written ahead")
        began = time.perf_counter()
        await partition.freeze(json.dumps({"move": shard}).encode())
        with self._thawed([partition]):
            await self.step("prepared in the log")
            await self._s.snapshots[model, id].take()
            await self.step("written")

            def done(held: ModelMap) -> bool:
                part = held.get(id)
                return part is not None and part.shard == shard

            await self._commit(
                model, lambda held: held.hand_over(change, shard), done, lambda held: change in held.prepared
            )
        return began

    def _mine(self, model: str, id: str) -> Partition:
        partition = self._s.owned(model, id)
        partition.check_serving()
        return partition

    async def _make_ready(self, model: str, shards: Sequence[str]) -> None:
        """Has the new owners load what the model needs (compiled folds, most of all) while the old one still serves.

        Raises:
            service.errors.Refused: there is no such shard, it does not answer, or cannot serve this model.
        """
        live = self._s.maps.live()
        request = pb.GetPartitionMapRequest(model=model, make_ready=True)
        for name in dict.fromkeys(shards):
            if name not in live:
                raise errors.invalid("shard", name, ", ".join(live))
            if name != self._s.config.name:
                await self._s.ask(name, MAP_PATH, request, pb.PartitionMap, timeout=READY_SECONDS)

    # Parents make room for children

    async def _replace(
        self, parents: list[Partition], many: int, parts: Callable[[Sequence[str], list[int]], list[Range]]
    ) -> float:
        model = parents[0].spec.name
        if parents[0].outbox is not None:
            message = f"model {model!r} has deployment.sinks, whose records follow one log: it stays one partition"
            raise errors.failed_precondition("HAS_SINKS", model, message)
        change = await self._prepare(model, [parent.part.id for parent in parents], many)
        children: list[Child] = []
        try:
            await self.step("prepared in the map")
            for part in parts(change.children, [parent.head for parent in parents]):
                self._s.maps.address(part.shard)
                children.append(await asyncio.to_thread(self._child, model, part))
            since = [await self._copy_ahead(parent, children) for parent in parents]
            await self.step("rows copied ahead")
            began = time.perf_counter()
            with self._thawed(parents):
                await self._stand_still(parents, change, children, since, parts)
        except BaseException:
            await self._give_up(model, change)
            raise
        await self.step("committed")
        await self._leave(parents, retire=True)
        await self._wait_open(model, [child.part for child in children])
        return time.perf_counter() - began

    async def _prepare(self, model: str, parents: list[str], children: int) -> Prepared:
        while True:
            held = await asyncio.to_thread(self._s.catalog.map_of, model)
            if held is None:
                raise errors.model_not_found(model)
            after, change = held.prepare(parents, children)
            if await asyncio.to_thread(replace_map, self._s.catalog, model, held, after):
                await self._s.maps.look()
                return change

    def _child(self, model: str, part: Range) -> Child:
        catalog = self._s.catalog
        store = Store(catalog.client, catalog.name, model, part.id)
        return Child(part, store, store.acquire(self._s.record()))

    async def _copy_ahead(self, parent: Partition, children: list[Child]) -> int:
        """Copies the rows of a fresh snapshot while the parent serves; returns its position."""
        written = await self._s.snapshots[parent.spec.name, parent.part.id].take()
        await asyncio.to_thread(copy_rows, parent.store, -1, written.position, children)
        return written.position

    async def _stand_still(
        self,
        parents: list[Partition],
        change: Prepared,
        children: list[Child],
        since: list[int],
        parts: Callable[[Sequence[str], list[int]], list[Range]],
    ) -> None:
        """From the last event of the parents to the commit."""
        model = parents[0].spec.name
        note = json.dumps({"parents": change.parents, "children": change.children}).encode()
        heads = [await parent.freeze(note) for parent in parents]
        donor = donor_of(parents, heads)
        await self.step("prepared in the log")
        for parent in parents:
            if parent.exchanger is not None:
                await parent.exchanger.publish()
                await self.step("exchange published")
        for parent, head, copied in zip(parents, heads, since):
            await self._s.snapshots[model, parent.part.id].take()
            await asyncio.to_thread(copy_rows, parent.store, copied, head, children)
        await self.step("rows copied")
        for child, part in zip(children, parts(change.children, heads)):
            child.part = part
        await asyncio.to_thread(write_children, donor, parents, children)
        await self.step("children written")
        await self._commit(
            model,
            lambda held: held.commit(change, [child.part for child in children]),
            lambda held: children[0].part in held.partitions,
            lambda held: change in held.prepared,
        )

    async def _commit(
        self,
        model: str,
        change: Callable[[ModelMap], ModelMap],
        done: Callable[[ModelMap], bool],
        possible: Callable[[ModelMap], bool],
    ) -> None:
        """Puts the changed map in place, through lost replies and the changes of others.

        Raises:
            service.errors.Refused: it is no longer possible: another owner has given the change up.
        """
        while True:
            try:
                held = await asyncio.to_thread(self._s.catalog.map_of, model)
                if held is None or not (done(held) or possible(held)):
                    raise errors.unavailable("CHANGE_GIVEN_UP", f"model {model!r}: another owner gave this change up")
                if done(held) or await asyncio.to_thread(replace_map, self._s.catalog, model, held, change(held)):
                    await self._s.maps.look()
                    return
            except StoreUnavailable:
                await asyncio.sleep(0.05)

    async def _give_up(self, model: str, change: Prepared) -> None:
        """Takes a prepared change out of the map and what it wrote out of the store; a later start may have to."""
        try:
            while (held := await asyncio.to_thread(self._s.catalog.map_of, model)) and change in held.prepared:
                if await asyncio.to_thread(replace_map, self._s.catalog, model, held, held.give_up(change)):
                    await asyncio.to_thread(sweep, self._s.catalog, model, change.children, self._s.record())
            await self._s.maps.look()
        except StoreError as error:
            log.warning("model %s: a change that failed is left to the next start: %s", model, error)

    @contextmanager
    def _thawed(self, parents: list[Partition]) -> Iterator[None]:
        """Partitions that were frozen take events again where what follows fails."""
        try:
            yield
        except BaseException:
            for parent in parents:
                parent.thaw()
            raise
        for parent in parents:
            parent.moved()

    async def _leave(self, parents: list[Partition], retire: bool) -> None:
        """This shard serves the parents no more."""
        for parent in parents:
            await self._s.close(parent)
            try:
                await asyncio.to_thread(parent.store.retire if retire else parent.store.release, parent.token)
            except (Fenced, StoreUnavailable) as error:
                log.warning("model %s: the partition was left, its owner's mark was not: %s", parent.name, error)

    async def _wait_open(self, model: str, parts: Sequence[Range]) -> None:
        """Waits until the new owners serve; what takes long is left to them."""
        held = self._s.maps.of(model)
        request = pb.GetPartitionMapRequest(model=model, version=held.version if held else 0)
        deadline = time.monotonic() + OPEN_SECONDS
        for part in parts:
            while time.monotonic() < deadline:
                if part.shard == self._s.config.name:
                    partition = self._s.partitions.get((model, part.id))
                    state = partition.state if partition else ""
                else:
                    state = await self._state_there(model, part, request)
                if state == "serving":
                    break
                await asyncio.sleep(0.005)

    async def _state_there(self, model: str, part: Range, request: pb.GetPartitionMapRequest) -> str:
        try:
            found = await self._s.ask(part.shard, MAP_PATH, request, pb.PartitionMap, timeout=5.0)
        except errors.Refused:
            return ""
        return next((one.state for one in found.partitions if (one.model, one.id) == (model, part.id)), "")
