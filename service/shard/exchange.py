"""The exchange of what the partitions of a model have learned.

Every so many events a partition publishes what it has learned by itself, and once all the others have published
something new it takes that on: as an entry of its own log, which holds what it took. Nobody waits for anybody: who has
nothing new when this partition is to publish again is left out until it has, and a partition that is dead for long is
in the next exchange after its return. What is published counts from the beginning of a log, so that nothing is missed
or taken twice whichever publications are read.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from learners.base import MemoryRows
from learners.exchange import REFUSED, ROUND, Arrays, ClassesDiffer, Exchange, combine
from service import errors
from service.store.errors import StoreUnavailable
from service.store.partition import Partition as Store
from service.store.tensors import pack, unpack

if TYPE_CHECKING:
    from service.shard.partition import Partition

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at what others have published."""


class Exchanger:
    """The exchanges of one partition, whose learner offers what `learners.exchange.Exchanging` says.

    Args:
        partition: that this process owns; its `peers` are who it exchanges with.
        every: events between two exchanges.

    Attributes:
        skipped: exchanges that were left out because classes differed.
    """

    def __init__(self, partition: Partition, every: int) -> None:
        self.skipped = 0
        self._p = partition
        self._every = every
        self._published_at = -1
        self._open = False  # published, and nothing taken on since
        self._due = asyncio.Event()
        self._publishing = asyncio.Lock()

    async def run(self) -> None:
        """Exchanges for ever.

        Raises:
            service.store.errors.StoreError: another owner took over.
        """
        self._published_at = self._p.learner.position
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), LOOK_SECONDS)
            self._due.clear()
            try:
                if self._p.state == "serving":
                    await self._turn()
            except (StoreUnavailable, errors.Refused) as error:
                log.warning("model %s: an exchange is put off: %s", self._p.name, error)
            except ClassesDiffer as error:
                self._open = False
                self.skipped += 1
                log.warning("model %s: an exchange is left out: %s", self._p.name, error)

    def progressed(self) -> None:
        """More events are folded."""
        if self._is_due():
            self._due.set()

    def _is_due(self) -> bool:
        return self._p.learner.position - self._published_at >= self._every

    async def _turn(self) -> None:
        live, retired = self._p.peers()
        if not live and not retired:
            self._published_at = self._p.learner.position
            return
        due = self._is_due()
        if not due and not self._open:
            return
        if due:
            if self._open:
                await self._take_news(live, retired, least=0)  # who has nothing new by now is not waited for
            await self.publish()
        await self._take_news(live, retired, least=len(live))

    async def _take_news(self, live: list[str], retired: list[str], least: int) -> None:
        """Takes on what others have learned if there is anything new, and of at least so many that live."""
        fresh, left = await asyncio.to_thread(self._news, live, retired)
        if (fresh or left) and len(fresh) >= least:
            await self._take(live, left)

    def _news(self, live: list[str], retired: list[str]) -> tuple[list[str], list[str]]:
        """Who has published something new, and who has left something that was not taken yet."""
        taken = self._kept.taken
        fresh = [id for id in live if self._store(id).published_steps() > taken.live.get(id, 0)]
        return fresh, [id for id in retired if id not in taken.retired and self._store(id).published_steps() >= 0]

    @property
    def _kept(self) -> Exchange:
        """What the learner keeps for it; only `_take` changes that."""
        learner: Any = self._p.learner
        return learner.exchange

    def _store(self, id: str) -> Store:
        return Store(self._p.store.client, self._p.store.deployment, self._p.spec.name, id)

    def counts(self) -> dict[str, int]:
        """Exchanges folded, those that the learner could not take on, and those left out for their classes."""
        folded, refused = self._kept.counts[[ROUND, REFUSED]].tolist()
        return {"exchanges": folded, "exchanges_refused": refused, "exchanges_skipped": self.skipped}

    # Giving

    async def publish(self) -> None:
        """Publishes what this partition has learned by itself.

        Raises:
            service.store.errors.StoreError: the store cannot serve, or another owner took over.
            service.errors.Refused: the partition stopped.
        """
        async with self._publishing:  # what is older must not come last
            position, arrays = await self._p.sequencer.visit(self._copied)
            found = await asyncio.to_thread(self._contribution, arrays)
            if all(np.isfinite(array).all() for array in found.values()):
                steps = int(found["steps"][0])
                await asyncio.to_thread(self._p.store.publish, self._p.token, steps, pack(found))
            self._published_at, self._open = position, True

    def _copied(self) -> tuple[int, Arrays]:
        learner = self._p.learner
        return learner.position, {name: np.array(array) for name, array in learner.shared_arrays().items()}

    def _contribution(self, arrays: Arrays) -> Arrays:
        """Worked out beside the learner, which goes on."""
        return self._beside(arrays).contribution()

    def _beside(self, arrays: Arrays) -> Any:
        beside = self._p.spec.learner.build(self._p.spec)
        beside.load(arrays, MemoryRows())
        return beside

    def apart(self, arrays: Arrays) -> Arrays:
        """What a partition begins with that takes this one's place, from the shared arrays of a snapshot."""
        beside = self._beside(arrays)
        beside.begin_apart(self._p.part.id)
        return beside.shared_arrays()

    # Taking

    async def _take(self, live: list[str], left: list[str]) -> None:
        message = await asyncio.to_thread(self._combined, live, left)
        await self._p.log_exchange(message)
        self._open = False

    def _combined(self, live: list[str], left: list[str]) -> bytes:
        published = {id: body for id in (*live, *left) if (body := self._store(id).published()) is not None}
        found = {id: unpack(body) for id, body in published.items()}
        parts = ({id: found[id] for id in some if id in found} for some in (live, left))
        round = int(self._kept.counts[ROUND]) + 1
        return pack(combine(round, self._p.learner.classes(), self._kept.taken, *parts))
