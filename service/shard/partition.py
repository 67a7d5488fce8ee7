"""One partition served: admission, log, fold and answers, in one sequencer.

    request -> admit -> append to the log -> fold -> answer

While one entry is folded, the next one is being appended and requests for the one after it gather. A batch is folded
only after its own append is acknowledged, an answer follows both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from learners.base import Folded, Learner
from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.admission import Answer, Item, Producers, UpdateWindow, groups_of, new_future
from service.shard.answers import Outbox
from service.shard.exchange import Exchanger
from service.shard.failures import raised
from service.shard.intake import Intake
from service.shard.requests import EXCHANGED, NO_EVENTS, PREPARED
from service.shard.rows import StoreRows
from service.shard.sequencer import Sequencer
from service.shard.statistics import Statistics
from service.shard.writer import LogWriter
from service.store.connect import Link
from service.store.partition import Partition as Store
from service.store.partition_map import Range
from service.store.tensors import unpack
from service.wire import Schema
from streams.batch import Batch

log = logging.getLogger(__name__)

ENTRIES_AHEAD = 8
"""Logged entries that may wait for the fold thread, so that it never waits for the event loop."""


class Partition(Intake):
    """A partition that this process owns.

    Args:
        spec: of the model.
        store: its keys in Redis, through a client that fold and snapshot threads share.
        token: of the ownership.
        client: an asyncio client, for appends and confirmations.
        fail: called with the cause, once, when the partition serves no more: a fold failed, ownership is lost, or its
            state is in doubt.
        part: its range of the key hashes.
    """

    def __init__(
        self,
        spec: ModelSpec,
        store: Store,
        token: str,
        client: Link,
        fail: Callable[[BaseException], None],
        part: Range,
    ) -> None:
        self.spec = spec
        self.part = part
        self.spec_digest = spec.digest()
        self.schema = Schema.of(spec)
        self.store = store
        self.token = token
        self.client = client
        self.fail = fail
        self.duplicates = 0
        self.refused = 0
        self.exchanges = 0  # folded by this process
        self.state = "starting"
        self.reason = ""  # why it is rebuilding, or failed
        self.rebuilds = 0
        self.classes: tuple[int | str, ...] = ()
        self.on_progress: Callable[[], None] = lambda: None
        self.peers: Callable[[], tuple[list[str], list[str]]] = lambda: ([], [])
        self.exchanger = Exchanger(self, spec.deployment.exchange.every) if spec.deployment.exchange else None
        self.refuse: Callable[[str], errors.Refused] = lambda message: errors.wrong_map(pb.PartitionMap(), message)
        self._thawed = asyncio.Event()
        self._depth = asyncio.Semaphore(ENTRIES_AHEAD)
        self._tasks: list[asyncio.Task[None]] = []
        self.renew()

    # Life

    def renew(self) -> None:
        """Drops all that was folded: the learner is fresh, and a recovery may begin."""
        spec, store = self.spec, self.store
        self.learner: Learner = spec.learner.build(spec)
        self.cold = StoreRows(store, self.token, -1)
        self.statistics = Statistics(spec.target.kind)
        self.producers = Producers()
        self.window = UpdateWindow(spec.deployment.dedupe_window)
        self.snapshot_position = -1
        self.writer = LogWriter(store, self.token, self.client, self.producers, self.window, self._logged)
        self.outbox = Outbox(store, self.token, self.client) if spec.deployment.sinks else None
        self.sequencer = self._sequencer()
        self.fresh = True

    def _sequencer(self) -> Sequencer:
        return Sequencer(self.learner, self.statistics, self.cold, f"fold-{self.spec.name}")

    def start(self, head: int) -> None:
        """Begins to serve; the learner has folded the log up to `head`."""
        self.writer.begin(head)
        self.classes = self.learner.classes()
        self.sequencer = self._sequencer()
        loops = [self.writer.append_loop(), self.writer.confirm_loop()]
        if self.exchanger is not None:
            loops.append(self.exchanger.run())
        if self.outbox is not None:
            self.outbox.begin(head)
            loops.append(self.outbox.write_loop())
        self._tasks = [asyncio.create_task(self._guard(loop)) for loop in loops]
        self.state, self.reason = "serving", ""

    async def _guard(self, loop: Any) -> None:
        try:
            await loop
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed(error)

    def failed(self, cause: BaseException) -> None:
        """Serves no more from now on, because of `cause`."""
        if self.state in ("serving", "moving"):
            self.give_up("rebuilding", str(cause))
            self.fail(cause)
        else:  # it serves no more already
            log.info("model %s: it is %s, and something %s", self.name, self.state, raised(cause))

    def give_up(self, state: str, reason: str) -> None:
        """Refuses everything that waits and comes; nobody sees the learner any more.

        Args:
            state: `rebuilding`, or `failed` where that is for good.
            reason: in words.
        """
        self.state, self.reason = state, reason
        self.sequencer.abandon()
        self._thawed.set()
        self._refuse_unanswered(self._not_serving())

    def _refuse_unanswered(self, refusal: errors.Refused) -> None:
        for item in [*self.producers.unanswered(), *self.window.waiting.values()]:
            item.refuse(refusal)
        self.writer.close()

    def take_place_of(self, before: Partition) -> None:
        """This one is to serve again what another object of this process served; nobody holds that one any more."""
        self.state, self.reason, self.writer.head = "rebuilding", before.reason, before.head
        self.duplicates, self.refused, self.rebuilds = before.duplicates, before.refused, before.rebuilds + 1

    async def halt(self) -> None:
        """Ends loops, thread and connection of a partition that was given up."""
        for task in self._tasks:
            task.cancel()
        if self.outbox is not None:
            await self.outbox.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.sequencer.stop)
        await self.client.aclose()
        self.learner = self.spec.learner.build(self.spec)  # what it held makes room for its successor's
        self.sequencer = self._sequencer()
        self.sequencer.abandon()

    async def stop(self) -> None:
        """Serves what was admitted, then stops."""
        if self.state in ("serving", "moving"):
            self.state = "stopping"
        try:
            async with asyncio.timeout(5):
                while self.writer.busy and self.state == "stopping":
                    await asyncio.sleep(0.005)
                if self.outbox is not None and self.state == "stopping":
                    await self.outbox.reach(self.learner.position)
        except TimeoutError:
            self.cold.patient = False  # the log has it, or its callers were never answered
        if self.outbox is not None:
            await self.outbox.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        message = f"model {self.spec.name!r} stopped; repeat the request"
        self._refuse_unanswered(errors.unavailable("PARTITION_STOPPED", message, 0.2))

    async def freeze(self, note: bytes) -> int:
        """Takes no more events; returns where the log ends once all are folded and answered and the log says so.

        Args:
            note: what is about to happen, for the log.

        Raises:
            service.errors.Refused: the store does not answer; the partition takes events again.
        """
        self.check_serving()
        self._thawed.clear()
        self.state = "moving"
        while self.writer.busy:
            self._check_moving()
            await asyncio.sleep(0.001)
        self._check_moving()
        item = Item(NO_EVENTS, PREPARED + note, new_future())
        self.writer.enqueue(item)
        try:
            while not item.done.done():
                self._check_moving()  # who was given up answers nothing
                await asyncio.sleep(0.001)
            await item.done
        except BaseException:
            self.thaw()
            raise
        return self.head

    def _check_moving(self) -> None:
        if self.state != "moving":
            raise self._not_serving()

    def thaw(self) -> None:
        """Takes events again."""
        if self.state == "moving":
            self.state = "serving"
        self._thawed.set()

    def moved(self) -> None:
        """Others serve its keys: whoever waits, or comes, is told so."""
        self.state = "moved"
        self._thawed.set()

    async def close(self) -> None:
        """Ends the fold thread and the connection for appends: learner and log are not touched again."""
        self.sequencer.stop()
        await self.client.aclose()

    @property
    def head(self) -> int:
        """Events in the log."""
        return self.writer.head

    def check_started(self) -> None:
        """Raises where there is nothing to be seen of the partition: before it first served, or serves again."""
        if self.state in ("starting", "rebuilding", "failed"):
            raise self._not_serving()

    def check_serving(self, writing: bool = True) -> None:
        """Raises UNAVAILABLE unless this process certainly owns the partition and, to write, can write its log."""
        if self.state == "moved":
            raise self.refuse(f"model {self.name!r} has moved")
        if self.state not in ("serving", "moving"):
            raise self._not_serving()
        self.writer.check(writing)

    def _not_serving(self) -> errors.Refused:
        """What a call is refused with: UNAVAILABLE, or FAILED_PRECONDITION where waiting does not help."""
        if self.state == "failed":
            return errors.model_failed(self.name, self.reason)
        if self.state == "rebuilding":
            message = f"model {self.name!r} is rebuilt from its log: {self.reason}"
            return errors.unavailable("PARTITION_REBUILDING", message, 0.5)
        return errors.unavailable("PARTITION_STARTING", f"model {self.spec.name!r} is {self.state}", 0.2)

    # The log

    async def log_exchange(self, message: bytes) -> None:
        """Logs what others have learned, and waits until it is folded; nothing where no events are taken either.

        Raises:
            service.errors.Refused: the store does not answer; it may have been logged.
        """
        self.check_serving()
        if self.state == "serving":
            item = Item(NO_EVENTS, EXCHANGED + message, new_future())
            self.writer.enqueue(item)
            await item.done

    # The fold

    def fold_exchange(self, message: bytes) -> None:
        """Folds what others have learned, as it was logged."""
        exchanging: Any = self.learner
        exchanging.receive(unpack(message[1:]))
        self.exchanges += 1

    async def _logged(self, position: int, items: list[Item]) -> None:
        """Takes over a logged entry: folds it here if it is small, else hands it to the fold thread in groups."""
        if self.outbox is not None:
            await self.outbox.room()
        groups = groups_of(items)
        if not any(len(item.batch) for item in items):
            if items[0].message[:1] == EXCHANGED:
                await self.sequencer.fold_apart(self.fold_exchange, items[0].message)
                self.classes = self.learner.classes()
            self._answer(position, items, NOTHING, self.classes)
            return
        batches = [Batch.concat([item.batch for item in group if len(item.batch)]) for group in groups]
        if len(batches) == 1 and self.sequencer.small(batches[0]):
            folded = self.sequencer.fold_now(batches[0])
            self._answer(position, items, folded, self.learner.classes())
            self._progressed()
            return
        starts = [position]
        for batch in batches:
            starts.append(starts[-1] + len(batch))

        def done(number: int, folded: Folded, classes: tuple[int | str, ...]) -> None:
            self._answer(starts[number], groups[number], folded, classes)

        await self._depth.acquire()
        self.sequencer.fold(batches, done).add_done_callback(self._entry_folded)

    def _entry_folded(self, job: asyncio.Future[None]) -> None:
        self._depth.release()
        if job.cancelled() or job.exception() is None:
            self._progressed()
        else:
            self.failed(job.exception() or RuntimeError("the fold failed"))

    def _progressed(self) -> None:
        self.on_progress()
        if self.exchanger is not None:
            self.exchanger.progressed()

    def _answer(self, position: int, items: list[Item], folded: Folded, classes: tuple[int | str, ...]) -> None:
        """Answers the requests of a folded group that begins at `position`."""
        self.classes = classes
        if self.outbox is not None:
            self.outbox.add(position, folded, classes)
        at = 0
        for item in items:
            rows = slice(at, at + len(item.batch))
            answer = Answer(position + at, folded.value[rows], folded.code[rows], folded.outcome[rows], classes)
            at += len(item.batch)
            if item.producer:
                self.producers.answered(item, answer)
            elif item.id:
                self.window.waiting.pop(item.id, None)
                self.window.note(item.id, item.payload, answer)
            item.answer(answer)
        self.writer.answered(at)


NOTHING = Folded.passed_over(0, 0)
"""What is said of no events."""
