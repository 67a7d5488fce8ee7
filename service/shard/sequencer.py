"""The one place where a learner is touched while it serves: a thread that folds entries in the order of the log.

Whoever else needs the learner (a prediction, a piece of a snapshot, statistics) is let in between two pieces of a fold,
about every 2 ms. Answers are handed to the event loop as they come, while the thread goes on with the next piece: were
it to wait for the loop after each, it would stand still half of the time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import redis

from learners.base import CaptureActive, Folded, Learner
from service import errors
from service.shard.failures import FoldFailed, raised
from service.shard.rows import StoreRows
from service.shard.statistics import Statistics
from service.store.errors import StoreError
from streams.batch import Batch

PIECE_SECONDS = 2e-3
"""A fold is cut so that a visitor waits about this long at most."""

FETCHED_ROWS = 512
"""Rows of cold keys come from the store so many at a time: after a round trip for each piece the thread would wait for
the interpreter lock as well."""

INLINE_SECONDS = 1e-4
"""Shorter folds and predictions of resident keys run on the event loop: a thread would take longer to wake."""

Done = Callable[[int, Folded, tuple[int | str, ...]], None]

Group = tuple[Batch, int, Done]
Said = tuple[list[Group], Folded, tuple[int | str, ...]]

T = TypeVar("T")


class Sequencer:
    """See the module's docstring. Its methods belong to the event loop; the learner belongs to it.

    Args:
        learner: of the partition.
        statistics: sums over what it folds.
        cold: its keyed rows in the store; folds wait for a store that is gone.
        name: of the thread.
    """

    def __init__(self, learner: Learner, statistics: Statistics, cold: StoreRows, name: str) -> None:
        self._learner = learner
        self._statistics = statistics
        self._cold = cold
        self._pool = ThreadPoolExecutor(1, name)
        self._outstanding = 0  # jobs of the thread that the loop has not seen the end of
        self._groups: deque[Group] = deque()
        self._visitors: deque[Callable[[], None]] = deque()
        self._arrived = threading.Condition()
        self._row_seconds = 2e-6
        self._stopped = False
        self._broken = False  # a fold failed in its midst, or everything is given up: nobody may see this learner

    def small(self, batch: Batch) -> bool:
        """Whether these events may be folded or predicted here and now, on the event loop."""
        quick = len(batch) * self._row_seconds < INLINE_SECONDS
        return quick and self._outstanding == 0 and self._learner.resident(batch.key)

    def fold_now(self, batch: Batch) -> Folded:
        """Folds events that are `small`.

        Raises:
            FoldFailed: the fold raised; the learner is good for nothing any more.
        """
        self._check_running()
        folded = self._whole(self._learner.fold, batch)
        self._statistics.update(folded)
        return folded

    def fold(self, batches: list[Batch], done: Done) -> asyncio.Future[None]:
        """Folds consecutive batches after everything folded before.

        Args:
            batches: of logged events.
            done: called on the event loop, in order, with the number of a batch, what was folded and the classes then.

        Returns:
            What ends with the last of them; it raises `FoldFailed` if a fold did.
        """
        self._check_running()
        self._groups.extend((batch, number, done) for number, batch in enumerate(batches))
        loop = asyncio.get_running_loop()
        folded: asyncio.Future[None] = loop.create_future()
        self._outstanding += 1
        folded.add_done_callback(self._ended)
        self._pool.submit(self._fold_groups, loop, folded)
        return folded

    async def visit(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function` with the learner to itself, between two pieces of a fold.

        Raises:
            service.errors.Refused: the partition stopped.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def enter() -> None:
            try:
                self._check_whole()
                result = function(*args)
            except BaseException as error:  # it belongs to the visitor
                loop.call_soon_threadsafe(_settle, answer, None, harmless(error))
            else:
                loop.call_soon_threadsafe(_settle, answer, result, None)

        with self._arrived:
            self._visitors.append(enter)
            self._arrived.notify()
        self._submit(self._let_in)
        return await answer

    async def between_entries(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function` with the learner to itself, between two entries of the log."""
        return await self._submit(function, *args)

    async def fold_apart(self, function: Callable[..., T], *args: Any) -> T:
        """The same for what changes the learner.

        Raises:
            FoldFailed: it raised; the learner is good for nothing any more.
        """
        return await self._submit(self._whole, function, *args)

    def abandon(self) -> None:
        """Nothing more is folded or let in; what runs ends after its piece. Then `stop` does not wait for long."""
        self._broken = True

    def stop(self) -> None:
        """Ends the thread after what it has to do; whoever comes later is refused."""
        self._stopped = True
        self._pool.shutdown()

    def _check_running(self) -> None:
        self._check_whole()
        if self._stopped:
            raise errors.unavailable("PARTITION_STOPPED", "the partition stopped; repeat the request", 0.2)

    def _check_whole(self) -> None:
        if self._broken:
            raise errors.unavailable("PARTITION_STOPPED", "the partition starts again; repeat the request", 0.2)

    def _submit(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        self._check_running()
        self._outstanding += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, self._work, function, *args)
        job.add_done_callback(self._ended)
        return job

    def _whole(self, function: Callable[..., T], *args: Any) -> T:
        """What changes the learner happens wholly, or nobody sees the learner again."""
        position = self._learner.position
        try:
            return function(*args)
        except (CaptureActive, StoreError, redis.RedisError) as error:
            self._broken |= not isinstance(error, CaptureActive)
            raise
        except BaseException as error:
            self._broken = True
            count = len(args[0]) if args and isinstance(args[0], Batch) else 0
            raise FoldFailed.raised(position, count, error) from error

    def _ended(self, job: asyncio.Future[Any]) -> None:
        self._outstanding -= 1

    # In the thread

    def _work(self, function: Callable[..., T], *args: Any) -> T:
        self._check_whole()
        try:
            return function(*args)
        except BaseException as error:
            if (safe := harmless(error)) is not error:
                raise safe from error
            raise

    def _let_in(self) -> None:
        while self._visitors:
            self._visitors.popleft()()

    def _fold_groups(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        """Folds what waits. The last answers and the end of the job are one message: the loop is woken once."""
        said: Said | None = None
        error: BaseException | None = None
        try:
            while self._groups:
                said = self._fold_some()
                if self._groups:
                    loop.call_soon_threadsafe(_post, *said)
                    said = None
        except BaseException as caught:  # it belongs to who waits for the job
            self._broken = True
            self._groups.clear()
            error = caught
        loop.call_soon_threadsafe(_finish, said, done, error)

    def _fold_some(self) -> Said:
        """Folds the next batch, small ones together: after every piece the interpreter lock has to be waited for."""
        taken = [self._groups.popleft()]
        rows = len(taken[0][0])
        while self._groups and rows + len(self._groups[0][0]) <= PIECE_SECONDS / self._row_seconds:
            taken.append(self._groups.popleft())
            rows += len(taken[-1][0])
        folded = self._fold_in_pieces(Batch.concat([batch for batch, _, _ in taken]))
        return taken, folded, self._learner.classes()

    def _fold_in_pieces(self, batch: Batch) -> Folded:
        parts: list[Folded] = []
        start = fetched = 0
        while start < len(batch):
            self._let_in()
            self._check_whole()
            most = max(64, int(PIECE_SECONDS / self._row_seconds))
            stop = start + most if len(batch) - start > 1.25 * most else len(batch)  # no crumbs
            if fetched < stop < len(batch):
                fetched = min(len(batch), max(stop, start + FETCHED_ROWS))
                self._fetch(batch.slice(start, fetched))
            part = self._fold_piece(batch.slice(start, stop) if stop - start < len(batch) else batch)
            if part is None:
                with self._arrived:
                    self._arrived.wait_for(lambda: bool(self._visitors), timeout=0.05)
                continue
            parts.append(part)
            start += len(part.value)
        return Folded.concat(parts)

    def _fetch(self, ahead: Batch) -> None:
        self._cold.patient = True
        try:
            self._learner.fetch(ahead.key)
        finally:
            self._cold.patient = False

    def _fold_piece(self, piece: Batch) -> Folded | None:
        """Folds a piece, or as much of it as a running snapshot allows (None: nothing, until it ends)."""
        self._cold.patient = True
        began = time.thread_time()  # waiting for the interpreter lock would make pieces shorter, and the waits more
        try:
            folded = self._whole(self._learner.fold, piece)
        except CaptureActive as stopped:
            if stopped.folded is None:
                return None
            folded = stopped.folded
        finally:
            self._cold.patient = False
        if len(piece) >= 64:
            seconds = (time.thread_time() - began) / len(piece)
            self._row_seconds += 0.2 * (seconds - self._row_seconds)
        self._statistics.update(folded)
        return folded


def harmless(error: BaseException) -> BaseException:
    """The exception, or one in its place where it would end the event loop or cannot be handed to it."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"something {raised(error)}")


def _post(taken: list[Group], folded: Folded, classes: tuple[int | str, ...]) -> None:
    """Hands out the answers of batches that were folded together."""
    at = 0
    for batch, number, done in taken:
        rows = slice(at, at + len(batch))
        done(number, folded.take(rows), classes)
        at += len(batch)


def _finish(said: Said | None, job: asyncio.Future[None], error: BaseException | None) -> None:
    """Hands out the last answers of a job that has ended."""
    try:
        if said is not None:
            _post(*said)
    except BaseException as caught:
        error = caught
    _settle(job, None, error)


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Answers a visitor who may have gone."""
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
