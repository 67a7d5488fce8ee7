"""Duplicates stop here, before the log.

Streams and sources are identified by (producer, sequence): one high-water mark per producer. Unary updates carry an
event id: a table of the last W of them with their answers.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xxhash

from service.shard.requests import keys_inside
from streams.batch import LABEL, Batch, Keys

MAX_PRODUCERS = 100_000
"""High-water marks kept per partition; beyond it the one idle for longest is forgotten."""

SOURCES = ("kafka:", "redis:", "folder:")
"""Producers that are never forgotten: who takes up a source again knows nothing but its mark."""

RECENT_REPLIES = 256
"""Answers to stream batches that are kept to repeat them to a producer that lost one."""

ANSWER_ROWS = 2048
"""An entry is folded and answered in groups of requests of about this many events."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the fold said of one request: its first position and a row per event (see `learners.base.Folded`)."""

    position: int
    value: np.ndarray
    code: np.ndarray
    outcome: np.ndarray
    classes: tuple[int | str, ...]
    duplicate: bool = False

    def as_duplicate(self) -> Answer:
        """The same, said again."""
        return replace(self, duplicate=True)


FORGOTTEN = Answer(0, np.zeros(0), np.zeros(0, np.int32), np.zeros(0, np.uint8), ())
"""To a batch that was applied, but not as this batch, or too long ago to remember its predictions."""


@dataclass(slots=True)
class Item:
    """One admitted request on its way through the log and the fold."""

    batch: Batch
    message: bytes
    done: asyncio.Future[Answer]
    producer: str = ""
    sequence: int = 0
    end: int = 0  # the producer's number after the batch
    id: bytes = b""
    payload: int = 0
    _callers: list[asyncio.Future[Answer]] = field(default_factory=list)

    def joined(self) -> asyncio.Future[Answer]:
        """The answer for one more caller: who gives up leaves it to the others.

        It comes with that of `done`; through `asyncio.shield` it would come a turn of the loop later.
        """
        self._callers.append(new_future())
        return self._callers[-1]

    def answer(self, answer: Answer) -> None:
        """Answers everyone who waits."""
        for waiting in (self.done, *self._callers):
            if not waiting.done():
                waiting.set_result(answer)

    def refuse(self, refusal: Exception) -> None:
        """Refuses everyone who waits; a caller that went away leaves no warning."""
        for waiting in (self.done, *self._callers):
            if not waiting.done():
                waiting.set_exception(refusal)
                waiting.exception()


def new_future() -> asyncio.Future[Answer]:
    """An answer to come, on the running loop."""
    return asyncio.get_running_loop().create_future()


async def repeated(items: list[Item], sequence: int, rows: int) -> Answer:
    """The answer to events that are on their way in `items`; refused if one of them is."""
    answers = [await asyncio.shield(item.done) for item in items]
    same = items[0].sequence == sequence and len(items[0].batch) == rows
    return (answers[0] if same else FORGOTTEN).as_duplicate()


def seen(waiting: asyncio.Future[Answer]) -> None:
    """A caller that went away leaves no warning."""
    if not waiting.cancelled():
        waiting.exception()


def payload_hash(batch: Batch) -> int:
    """64-bit hash of what an event says (its id aside)."""
    y = batch.y.item()
    label = batch.classes[int(y)] if batch.classes and not math.isnan(y) else y
    columns = batch.x.tobytes(), batch.key.data.tobytes(), batch.time.tobytes(), batch.kind.tobytes()
    return xxhash.xxh3_64_intdigest(b"".join(columns) + repr(label).encode())


def update_id(batch: Batch) -> bytes:
    """The identity of a unary update, 17 bytes: its id, and whether it is a label for the observation of that id."""
    return batch.id.tobytes() + (b"\1" if batch.kind.item() == LABEL else b"\0")


@dataclass(slots=True)
class Producers:
    """High-water marks: the sequence that each producer sends next.

    Attributes:
        logged: the mark of each producer: of every key, the log holds all events before it.
        ahead: what a merge of partitions has left of the higher one of two marks: the key hashes [low, high) of which
            the log holds more, up to a mark of their own.
    """

    logged: OrderedDict[str, int] = field(default_factory=OrderedDict)
    ahead: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    _admitted: dict[str, int] = field(default_factory=dict)
    _waiting: dict[tuple[str, int], Item] = field(default_factory=dict)
    _answers: OrderedDict[tuple[str, int, int], Answer] = field(default_factory=OrderedDict)

    def next_sequence(self, producer: str) -> int:
        """What comes next from `producer`, admitted batches counted."""
        return max(self.logged.get(producer, 0), self._admitted.get(producer, 0))

    def known(self, producer: str) -> bool:
        """Whether anything of `producer` is logged or on its way."""
        return producer in self.logged or producer in self._admitted

    def apart(self, producer: str) -> bool:
        """Whether the log holds more of some keys than of others."""
        return producer in self.ahead

    def not_logged(self, producer: str, numbers: np.ndarray, keys: Keys) -> np.ndarray:
        """Which rows (bool [n]) are neither in the log nor on their way, by number (int64 [n]) and key."""
        left = numbers >= self.next_sequence(producer)
        if left.any() and self.apart(producer):
            for low, high, mark in self.ahead[producer]:
                left &= ~(keys_inside(keys, low, high) & (numbers < mark))
        return left

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest of a snapshot."""
        return {"producers": list(self.logged.items()), "ahead": self.ahead}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `to_dict`; snapshots of older versions have no `ahead`."""
        self.logged.update((name, int(mark)) for name, mark in state["producers"])
        self.ahead = {name: [tuple(one) for one in held] for name, held in state.get("ahead", {}).items()}

    def admit(self, item: Item) -> None:
        """Notes a batch that is on its way to the log."""
        self._admitted[item.producer] = item.end
        self._waiting[item.producer, item.sequence] = item

    def note(self, producer: str, end: int) -> None:
        """Moves a mark: the log holds everything of `producer` before `end`."""
        self.logged[producer] = max(end, self.logged.get(producer, 0))
        self.logged.move_to_end(producer)
        if producer in self.ahead:
            self.ahead[producer] = [one for one in self.ahead[producer] if one[2] > self.logged[producer]]
            if not self.ahead[producer]:
                del self.ahead[producer]
        if len(self.logged) > MAX_PRODUCERS:
            idle = next((name for name in self.logged if not name.startswith(SOURCES)), "")
            self.logged.pop(idle, None)
            self.ahead.pop(idle, None)

    def answered(self, item: Item, answer: Answer) -> None:
        """Keeps the answer for a producer that asks again."""
        self._waiting.pop((item.producer, item.sequence), None)
        self._keep(item.producer, item.sequence, item.end, answer)

    def _keep(self, producer: str, sequence: int, end: int, answer: Answer) -> None:
        self._answers[producer, sequence, end] = answer
        if len(self._answers) > RECENT_REPLIES:
            self._answers.popitem(last=False)

    def replayed(self, producer: str, sequence: int, end: int, answer: Answer) -> None:
        """Notes a batch met while replaying the log."""
        self.note(producer, end)
        self._keep(producer, sequence, end, answer)

    def answer_to(self, producer: str, sequence: int, end: int, rows: int) -> Answer | None:
        """The answer that a batch got, if it was sent as this very batch and its answer is still kept."""
        answer = self._answers.get((producer, sequence, end))
        return answer if answer is not None and len(answer.value) == rows else None

    def unanswered(self) -> list[Item]:
        """Every admitted batch that was not answered yet."""
        return list(self._waiting.values())

    def on_their_way(self, producer: str, sequence: int, end: int) -> list[Item]:
        """The admitted and unanswered batches of `producer` that hold events in [sequence, end), in order."""
        items = [item for (name, _), item in self._waiting.items() if name == producer]
        return [item for item in items if item.sequence < end and item.end > sequence]

    async def settled(self, producer: str) -> tuple[bool, int]:
        """Whether `producer` is known and what the log expects of it, once everything admitted so far is answered."""
        items = [item for (name, _), item in self._waiting.items() if name == producer]
        if items:
            await asyncio.wait([item.done for item in items])
        return producer in self.logged, self.logged.get(producer, 0)

    def roll_back(self, items: Iterable[Item]) -> None:
        """What was admitted and may not have reached the log never was; everything else admitted is in it."""
        self._admitted.clear()
        for item in items:
            self._waiting.pop((item.producer, item.sequence), None)


class UpdateWindow:
    """The last W unary updates by id: payload hash and answer."""

    PREFIX = "window."
    """Of its arrays in a snapshot; those of a learner have another."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._answers: OrderedDict[bytes, tuple[int, int, float, int, int]] = OrderedDict()
        self.waiting: dict[bytes, Item] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, id: bytes, classes: tuple[int | str, ...]) -> tuple[int, Answer] | None:
        """Payload hash and answer of an id, or None."""
        found = self._answers.get(id)
        if found is None:
            return None
        payload, position, value, code, outcome = found
        answer = Answer(
            position,
            np.array([value]),
            np.array([code], np.int32),
            np.array([outcome], np.uint8),
            classes,
            duplicate=True,
        )
        return payload, answer

    def note(self, id: bytes, payload: int, answer: Answer) -> None:
        """Remembers an answer, and forgets the oldest beyond the window."""
        self._answers[id] = (
            payload,
            answer.position,
            float(answer.value[0]),
            int(answer.code[0]),
            int(answer.outcome[0]),
        )
        for _ in range(min(2, len(self._answers) - self._window)):  # two: see `united`
            self._answers.popitem(last=False)

    @classmethod
    def united(cls, first: UpdateWindow, second: UpdateWindow) -> UpdateWindow:
        """The tables of two partitions in one.

        Their last ones stand in turn at its end, and one from each goes with every update, so that whatever the order
        they came in, the last W updates are always there.
        """
        whole = cls(first._window)
        parts = [list(one._answers.items()) for one in (first, second)]
        most = max(map(len, parts))
        for turn in zip(*([None] * (most - len(part)) + part for part in parts)):
            whole._answers.update(one for one in turn if one is not None)
        return whole

    def copy(self) -> UpdateWindow:
        """The table as it is now, for another thread."""
        one = UpdateWindow(self._window)
        one._answers = OrderedDict(self._answers)
        return one

    def arrays(self) -> dict[str, np.ndarray]:
        """The table as arrays, for the snapshot (it is not state of the fold and not in its digest)."""
        rows = list(self._answers.values())
        return {
            f"{self.PREFIX}id": np.frombuffer(b"".join(self._answers), np.uint8).reshape(-1, 17),
            f"{self.PREFIX}payload": np.array([row[0] for row in rows], np.uint64),
            f"{self.PREFIX}position": np.array([row[1] for row in rows], np.int64),
            f"{self.PREFIX}value": np.array([row[2] for row in rows], np.float64),
            f"{self.PREFIX}code": np.array([row[3] for row in rows], np.int32),
            f"{self.PREFIX}outcome": np.array([row[4] for row in rows], np.uint8),
        }

    def load(self, arrays: dict[str, np.ndarray]) -> None:
        """Takes on a table from a snapshot."""
        names = ("payload", "position", "value", "code", "outcome")
        rows = zip(*(arrays[self.PREFIX + name].tolist() for name in names))
        self._answers = OrderedDict(zip((bytes(id) for id in arrays[self.PREFIX + "id"]), rows))


def groups_of(items: list[Item]) -> list[list[Item]]:
    """The requests of an entry, cut into groups of about `ANSWER_ROWS` events."""
    groups: list[list[Item]] = [[]]
    rows = 0
    for item in items:
        if rows >= ANSWER_ROWS and len(item.batch):
            groups.append([])
            rows = 0
        groups[-1].append(item)
        rows += len(item.batch)
    return groups
