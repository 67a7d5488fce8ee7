"""How the partitions of a shard come to serve, begin again where a fold failed, or stay failed.

The process lives through all of it, and so do other partitions. It ends only where more than one partition is in doubt:
ownership was lost, or the store lost the end of a log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from service.shard.aside import aside
from service.shard.children import settle
from service.shard.evidence import Evidence, set_aside
from service.shard.failures import FoldFailed, Stopped, raised
from service.shard.partition import Partition
from service.shard.recovery import Recovery
from service.shard.trial import Process, Spawned, Trial
from service.store.connect import Link
from service.store.errors import Fenced, LogMismatch, OwnedElsewhere, StoreUnavailable
from service.store.partition import Partition as Store
from service.store.partition_map import Range

if TYPE_CHECKING:
    from service.shard.shard import Shard

log = logging.getLogger(__name__)

RETRY_SECONDS = 0.25

QUICK_SECONDS, LONGEST_PAUSE = 5.0, 30.0
"""A partition that failed again so soon after it began to serve, and no event was to blame, waits longer each time."""

DIED = "a process died while it replayed its log; which event that was, if any, is being tried"


class Revival:
    """See the module's docstring; one for a shard.

    Attributes:
        start_trial: starts a process that tries a fold.
    """

    def __init__(self, shard: Shard) -> None:
        self.start_trial: Callable[[dict[str, Any]], Process] = Spawned
        self._s = shard
        self._stopping = False
        self._trials: set[Trial] = set()
        self._turn = threading.Semaphore(os.cpu_count() or 2)
        self._served: dict[tuple[str, str], float] = {}
        self._pauses: dict[tuple[str, str], float] = {}

    @property
    def trying(self) -> int:
        """Trials under way."""
        return len(self._trials)

    def stop(self) -> None:
        """Ends what is under way."""
        self._stopping = True
        for trial in self._trials:
            trial.stop()

    # Opening

    async def open(self, model: str, part: Range, before: Partition | None = None) -> None:
        """Opens a partition, waiting for a store that does not answer; what fails stays failed, and others serve.

        Args:
            model: its name.
            part: its range.
            before: the same partition as this shard served it, halted.
        """
        place = model, part.id
        try:
            while not await self._opened(model, part, before):
                await asyncio.sleep(RETRY_SECONDS)
        except Fenced as cause:
            self._s.fail(cause)
        except Exception as cause:
            if (partition := self._s.partitions.get(place)) is not None:
                self._failed_for_good(partition, cause)
            else:
                log.exception("model %s: partition %s could not be opened", model, part.id)
                self._s.broken[place] = str(cause) or raised(cause)

    async def _opened(self, model: str, part: Range, before: Partition | None) -> bool:
        """Whether it is open, or another shard's; else the store does not answer."""
        try:
            partition = await self._taken(model, part, before)
            if partition is not None:
                await self._bring_up(partition)
            elif before is not None:
                self._s.forget(before)
        except StoreUnavailable as error:
            log.warning("model %s: partition %s waits to be opened: %s", model, part.id, error)
            return False
        return True

    async def _taken(self, model: str, part: Range, before: Partition | None) -> Partition | None:
        """Takes ownership; None where the maps say by then that the partition is not this shard's."""
        shard = self._s
        spec = await shard.make_ready(model)
        if spec is None:
            return None
        store = Store(shard.client, shard.catalog.name, model, part.id)
        record = shard.record()
        mine = before.token if before else ""
        while True:
            try:
                token = await asyncio.to_thread(store.acquire, record, mine=mine)
                break
            except OwnedElsewhere:
                await shard.maps.look()
                if not shard.maps.still_mine(model, part.id):
                    return None
        if not await asyncio.to_thread(settle, shard.catalog, model, part.id, shard.config.name, record):
            await asyncio.to_thread(store.release, token)
            return None

        def fail(cause: BaseException) -> None:
            self._failed(partition, cause)

        partition = await aside(Partition, spec, store, token, Link(shard.config.redis), fail, part)
        partition.refuse = shard.maps.refusal
        partition.peers = lambda: shard.maps.peers(model, part.id)
        if before is not None:
            partition.take_place_of(before)
        shard.keep(partition)
        return partition

    async def _bring_up(self, partition: Partition) -> None:
        """Recovers a partition, and it serves; where a process died over it, in its own time."""
        if await asyncio.to_thread(partition.store.suspect):
            partition.state, partition.reason = "rebuilding", partition.reason or DIED
            log.warning("model %s: %s", partition.name, DIED)
            self._s.spawn(self._serve(partition, self._trial()))
        else:
            await self._serve(partition, None)

    async def _serve(self, partition: Partition, trial: Trial | None) -> None:
        place = partition.spec.name, partition.part.id
        try:
            recovery, head, moved = await self._recovered(partition, trial)
            partition.start(head)
        except Stopped:
            return
        except Fenced as error:
            self._s.fail(error)
            return
        except Exception as error:
            self._failed_for_good(partition, error)
            return
        self._served[place] = time.monotonic()
        if moved:
            self._pauses.pop(place, None)
        log.info(
            "model %s: serving at position %d, %d events replayed in %.3f s, snapshot loaded in %.3f s",
            *(partition.name, head, recovery.replayed, recovery.replay_seconds, recovery.load_seconds),
        )
        if partition.snapshot_position < 0 or not recovery.same_numerics:
            await self._s.snapshot(partition)

    async def _recovered(self, partition: Partition, trial: Trial | None) -> tuple[Recovery, int, int]:
        """Attempts until the log is folded; returns the last one, where the log ends, and how many were set aside."""
        evidence = Evidence()
        evidence.failed = trial is not None
        guilty: tuple[int, str] | None = None
        while True:
            try:
                if guilty is not None:
                    await asyncio.to_thread(set_aside, partition, *guilty)
                    guilty = None
                if trial is not None:
                    await self._tried(trial, partition, evidence)
                    trial, evidence.apart = None, (0, 0)
                recovery = Recovery(partition, evidence.apart, dirty=evidence.failed, stopping=lambda: self._stopping)
                return recovery, await aside(recovery.run), evidence.set_aside
            except FoldFailed as failure:
                partition.reason = str(failure)
                log.error("model %s: %s", partition.name, failure, exc_info=failure.__cause__)
                if isinstance(failure.__cause__, MemoryError):
                    trial = self._trial()  # it may be others who have the memory
                elif (position := evidence.note(failure)) is not None:
                    guilty = position, failure.reason
            except StoreUnavailable as error:
                log.warning("model %s: recovery waits: %s", partition.name, error)
                await asyncio.sleep(RETRY_SECONDS)

    def _trial(self) -> Trial:
        config = self._s.config
        order = {"redis": config.redis, "signing_key": config.signing_key, "log": config.log}
        return Trial(order, lambda: self._stopping, self.start_trial, self._turn)

    async def _tried(self, trial: Trial, partition: Partition, evidence: Evidence) -> None:
        self._trials.add(trial)
        with ThreadPoolExecutor(1, "trial") as own:  # it may wait for long
            try:
                running = own.submit(trial.run, partition, evidence.apart, evidence.failed)
                await asyncio.wrap_future(running)
            finally:
                self._trials.discard(trial)

    # What fails

    def _failed(self, partition: Partition, cause: BaseException) -> None:
        """Begins again with a partition that serves no more; ends the process where others are in doubt with it."""
        if isinstance(cause, LogMismatch):
            self._s.fail(cause)
            return
        if isinstance(cause, Fenced):
            self._s.spawn(self._lost(partition, cause))
            return
        log.error("model %s: it stops, and is rebuilt: %s", partition.name, cause, exc_info=cause)
        self._s.spawn(self._again(partition))

    async def _lost(self, partition: Partition, cause: Fenced) -> None:
        """Leaves a partition that another owner took; ends the process where that one can only be a second of its name.

        Nothing of it is answered meanwhile, and the store refuses what it writes.
        """
        log.error("model %s: it stops: %s", partition.name, cause)
        await partition.halt()
        try:
            await self._s.maps.look()
        except StoreUnavailable as error:
            self._s.fail(error)
            return
        if self._s.maps.still_mine(partition.spec.name, partition.part.id):
            self._s.fail(cause)
        else:
            self._s.forget(partition)

    async def _again(self, partition: Partition) -> None:
        await partition.halt()
        place = partition.spec.name, partition.part.id
        if time.monotonic() - self._served.get(place, 0.0) < QUICK_SECONDS:
            self._pauses[place] = min(LONGEST_PAUSE, 2 * self._pauses.get(place, 0.05))
            await asyncio.sleep(self._pauses[place])
        else:
            self._pauses.pop(place, None)
        if self._s.partitions.get(place) is partition:
            await self.open(partition.spec.name, partition.part, partition)

    def _failed_for_good(self, partition: Partition, cause: BaseException) -> None:
        """Leaves a partition that cannot be brought to serve; it is told why, and the next start tries again."""
        log.error("model %s: it cannot be served: %s", partition.name, cause, exc_info=cause)
        what = str(cause) if isinstance(cause, Exception) and str(cause) else f"opening it {raised(cause)}"
        partition.give_up("failed", what)
        self._s.spawn(partition.halt())
