"""One source of one model: reads on from what the log holds, sends what it reads, and says how it is.

The log's mark of a source partition is the only memory: whoever starts a consumer, however often and even twice at
once, every message enters the log exactly once. A message that does not fit is a dead letter before the mark moves
over it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from learners.spec import ModelSpec, source_mapping
from service.client import AsyncClient, LearnResult, Numbered
from service.errors import Refused
from service.store.connect import connect
from service.store.errors import StoreUnavailable
from service.store.files import Files
from service.store.letters import Letters
from service.wire import Schema, encode_columns
from streams.reach import CLOSED, Reach
from streams.sources.messages import MessageParser, Messages
from streams.sources.reader import Lost, Reader, Rows, Unavailable, open_reader
from streams.sources.spec import Source

log = logging.getLogger(__name__)

DEPLOYMENT = "continual"
BATCH_BYTES = 4 << 20
"""Of the features of one request, about."""

LOOK_SECONDS = 10.0
"""Between two looks for new partitions, and for a source that is gone."""

SAY_SECONDS = 1.0
REPLY_SECONDS = 30.0
SILENT_SECONDS = 3.0
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0

T = TypeVar("T")


@dataclass
class State:
    """What a consumer says of itself; see `SourceState` of the API."""

    state: str = "starting"
    detail: str = ""
    lag: dict[str, int] = field(default_factory=dict)
    next: dict[str, int] = field(default_factory=dict)
    events: int = 0
    dead_letters: int = 0
    lost: int = 0


class Consumer:
    """Runs one source until it is told to stop.

    Args:
        spec: of the model.
        number: which of its sources.
        target: host:port of any shard.
        store: URL of the deployment's Redis.
        reach: what it may open.
    """

    def __init__(self, spec: ModelSpec, number: int, target: str, store: str, reach: Reach = CLOSED) -> None:
        self.spec = spec
        self.source: Source = spec.deployment.sources[number]
        self.state = State()
        self._target = target
        self._store = store
        self._reach = reach
        self._schema = Schema.of(spec)
        self._letters = Letters(connect(store), DEPLOYMENT, spec.name, "0")
        self._mapping = source_mapping(spec, self.source)
        self._rows = max(1, min(self.source.batch, BATCH_BYTES // (4 * len(spec.features) + 64)))
        self._parse = self._parser()
        self._reading = ThreadPoolExecutor(1, "read-source")  # the reader belongs to this one thread
        self._saying = ThreadPoolExecutor(1, "say-state")
        self._reader: Reader | None = None
        self._stamps: list[Numbered] = []
        self._stopping = asyncio.Event()
        self._answered = time.monotonic()
        self._wait = FIRST_WAIT
        self._unanswered = 0
        self._counted: dict[str, int] = {}  # up to where losses are counted, by partition
        self._loss = ""  # the last one
        self._tails: dict[str, list[int]] = {}  # see `Reader.tails`

    def _parser(self) -> Callable[[Messages], list[Rows]]:
        """What makes rows of the messages of a queue."""
        envelope = getattr(self.source, "envelope", "plain")
        if envelope == "arrow":
            from streams.sources.arrow import ArrowParser

            return ArrowParser(self._mapping, self._rows).parse
        parser = MessageParser(self._mapping, envelope, self.source.fields.label_as)
        return lambda messages: [Rows.of(messages, parser.parse(messages))]

    # Life

    async def run(self) -> None:
        """Reads until `stop`, through every fault of the source, the service and the store."""
        await self._recall()
        saying = asyncio.create_task(self._say_for_ever())
        try:
            async with AsyncClient(self._target) as client:
                while not self._stopping.is_set():
                    await self._attempt(client)
        finally:
            saying.cancel()
            if self._reader is not None:
                await self._in_thread(self._reader.close)
            self.state.state = "stopped"
            await asyncio.gather(saying, return_exceptions=True)
            self._say_now()
            self._reading.shutdown()
            self._saying.shutdown()

    def stop(self) -> None:
        """Ends `run` once what was sent is answered; from the loop's own thread."""
        self._stopping.set()

    async def _recall(self) -> None:
        """Takes up what an earlier run said it had lost; a store that cannot be reached is waited for."""
        while not self._stopping.is_set():
            try:
                said = await self._in_thread(self._letters.said)
                break
            except StoreUnavailable as error:
                await self._pause("waiting", str(error))
        else:
            return
        held = said.get(self.source.producer, {})
        self.state.lost, self._counted = held.get("lost", 0), dict(held.get("next", {}))
        self._tails = dict(held.get("tails", {}))
        if self.state.lost and held.get("state") in ("reading", "stopped"):
            self._loss = held.get("detail", "")

    async def _attempt(self, client: AsyncClient) -> None:
        """One stretch of reading, until it ends or something stands in the way."""
        try:
            await self._take_up(client)
            await self._learn(client)
            self._wait = FIRST_WAIT
        except Lost as lost:
            await self._pause("lost", str(lost))
        except (Unavailable, StoreUnavailable, Refused) as error:
            if isinstance(error, Refused) and error.code is grpc.StatusCode.FAILED_PRECONDITION:
                log.info("source %s: %s", self.source.producer, error)  # the log is elsewhere: take its mark up again
            await self._pause("waiting", str(error))

    async def _pause(self, state: str, detail: str) -> None:
        if (state, detail) != (self.state.state, self.state.detail):
            log.warning("source %s of model %s: %s: %s", self.source.producer, self.spec.name, state, detail)
        self.state.state, self.state.detail = state, detail
        try:
            await asyncio.wait_for(self._stopping.wait(), self._wait)
        except TimeoutError:
            self._wait = min(2 * self._wait, LONGEST_WAIT)

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._reading, function, *args)

    # Where to read

    async def _take_up(self, client: AsyncClient) -> None:
        """Sets the reader to what the log expects of every partition."""
        self._stamps.clear()
        self.state.next.clear()
        reader = self._reader
        if reader is None:
            group = f"continual-{self.spec.name}"
            files = Files(self._letters.client, DEPLOYMENT, self.spec.name, "0")
            opening = (open_reader, self.source, self._rows, group, self._store, self._mapping, files, self._reach)
            reader = await self._in_thread(*opening)
            assert reader is not None
            reader.recall(self._tails)
            self._reader = reader
        await self._seek(client, await self._in_thread(reader.producers))
        self.state.state, self.state.detail = "reading", self._loss

    async def _seek(self, client: AsyncClient, producers: list[str]) -> None:
        reader = self._reader
        assert reader is not None
        marks = {producer: await client.producer(self.spec.name, producer) for producer in producers}
        known = any(mark.known for mark in marks.values()) or bool(self.state.next)
        for producer, mark in marks.items():
            number = mark.next_sequence
            if not mark.known:
                # A partition that comes to a known source is new: it is read from its beginning.
                first = (lambda name: reader.bounds(name)[0]) if known else reader.begin
                number = await self._in_thread(first, producer)
            try:
                await self._in_thread(reader.seek, producer, number)
            except Lost as lost:
                number = await self._go_on(lost)
            if not mark.known or number != mark.next_sequence:
                # Logged at once, so that a start at the end, or at a time, is decided only once.
                self._stamps.append(Numbered(None, producer, mark.next_sequence, number))
            self.state.next[producer] = number

    async def _go_on(self, lost: Lost) -> int:
        """Where to read on after a loss, if the spec says so."""
        assert self._reader is not None
        if self.source.lost == "error" or lost.anew:
            raise lost
        number = lost.first if self.source.lost == "earliest" else lost.end
        log.warning("%s; going on from %d", lost, number)
        counted = self._counted.get(lost.producer, 0)  # before a restart, which came before the log was told
        if number > counted:
            missed = lost.missed if self.source.lost == "earliest" else number - lost.wanted
            share = (number - max(counted, lost.wanted)) / (number - lost.wanted)
            self.state.lost += missed if share == 1 else round(missed * share)
        self._counted[lost.producer] = self.state.next[lost.producer] = number
        said = str(lost).partition("; `lost`")[0]
        self._loss = said if self.source.lost == "earliest" else f"{said}; read on from {number}"
        self.state.detail = self._loss
        await asyncio.get_running_loop().run_in_executor(self._saying, self._say_now)
        try:
            await self._in_thread(self._reader.seek, lost.producer, number)
        except Lost as more:  # it goes on being trimmed
            return await self._go_on(more)
        return number

    # From source to log

    async def _learn(self, client: AsyncClient) -> None:
        """Sends what is read, as many batches ahead of their answers as the spec allows; then reading waits."""
        assert self._reader is not None
        options: dict[str, Any] = {"in_flight": self.source.in_flight, "timeout": REPLY_SECONDS}
        self._answered = time.monotonic()
        self._unanswered = 0
        async with client.learn(self.spec.name, self._batches(client), **options) as stream:
            async for result in stream:
                self._note(result)
                self._unanswered = stream.unanswered

    def _note(self, result: LearnResult) -> None:
        assert self._reader is not None
        self._answered = time.monotonic()
        self._wait = FIRST_WAIT
        self.state.next[result.producer] = max(result.next_sequence, self.state.next.get(result.producer, 0))
        if not result.duplicate:
            self.state.events += result.rows
        self._reader.acknowledged(result.producer, result.next_sequence)

    async def _batches(self, client: AsyncClient) -> AsyncIterator[Numbered]:
        """What goes into the stream."""
        assert self._reader is not None
        looked = time.monotonic()
        while not self._stopping.is_set():
            while self._stamps:
                yield self._stamps.pop(0)
            for numbered in await self._read_on():
                self._unanswered += 1
                yield numbered
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                await client.models.get(self.spec.name)  # nothing else would tell an idle source that it is gone
                there = await self._in_thread(self._reader.producers)
                await self._seek(client, [name for name in there if name not in self.state.next])

    async def _read_on(self) -> list[Numbered]:
        """What comes next; where that is not retained, and the spec says to go on, a stamp that passes over it."""
        try:
            return await self._in_thread(self._read)
        except Lost as lost:
            number = await self._go_on(lost)
            return [Numbered(None, lost.producer, lost.wanted, number)]

    def _read(self) -> list[Numbered]:
        """What comes next as requests; what does not fit is kept first. Runs in the reading thread."""
        assert self._reader is not None
        ready = []
        for held in self._reader.read():
            for rows in [held] if isinstance(held, Rows) else self._parse(held):
                ready.append(self._numbered(rows))
        self.state.lag = self._reader.lag()
        return ready

    def _numbered(self, rows: Rows) -> Numbered:
        if rows.bad:
            letters = [(number, str(bad), bad.original, beside) for number, bad, beside in rows.bad]
            self.state.dead_letters += self._letters.keep(rows.producer, self.source.dead_letters, letters)
        columns = None if rows.batch is None else encode_columns(rows.batch, self._schema.target, rows.ids)
        return Numbered(columns, rows.producer, rows.first, rows.end, rows.numbers)

    # What it says

    async def _say_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SAY_SECONDS)
            await asyncio.get_running_loop().run_in_executor(self._saying, self._say_now)

    def _say_now(self) -> None:
        """Leaves the state in the store; one that cannot be reached is told later."""
        tails = self._tails if self._reader is None else self._reader.tails()
        said = self.state.__dict__ | {"lag": dict(self.state.lag), "next": dict(self.state.next), "tails": tails}
        if self.state.state == "reading":
            trouble = self._reader.trouble() if self._reader else ""
            silent = time.monotonic() - self._answered
            if trouble:
                said |= {"state": "waiting", "detail": trouble}
            elif self._unanswered and silent > SILENT_SECONDS:
                said |= {"state": "waiting", "detail": f"the service has not answered for {silent:.0f} s"}
        try:
            self._letters.say(self.source.producer, said | {"time_us": time.time_ns() // 1000})
        except StoreUnavailable as error:
            log.warning("source %s: its state was not left: %s", self.source.producer, error)
