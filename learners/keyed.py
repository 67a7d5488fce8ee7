"""Keyed state: columns with a row per key, bounded in memory, cold rows elsewhere.

The first column is `head` (float64), whose columns 0 and 7 are the number of events folded into the row (0: the row
does not exist yet) and the position after the last of them. Slots, recency and residency carry no meaning: a fold
gives the same bits with 4 slots and with a million.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from typing import ClassVar

import numpy as np

from kernels.cpu import keys as table_ops
from kernels.cpu.bound import Binding
from kernels.cpu.layout import ADDED, H_POSITION, H_SEEN, HEAD, OLDER_HEADS, plain, zeros
from learners.base import CaptureActive, ColdRows, Folded, Row, hash_shared
from streams.batch import Batch, Keys

Columns = dict[str, np.ndarray]


class KeyedRows:
    """Rows of all keys: resident ones in `columns` [slots, ...], the others in `cold`.

    Args:
        shapes: for each column its row shape and dtype; `head` first.
        slots: bound on the resident rows.
        cold: where evicted rows go and missing ones come from.
    """

    _NOTHING_FOUND: ClassVar[tuple[Keys | None, np.ndarray, int]] = None, np.zeros(0, np.int64), 0

    def __init__(self, shapes: dict[str, tuple[tuple[int, ...], np.dtype]], slots: int, cold: ColdRows) -> None:
        self._shapes = shapes
        self._sizes = {n: int(np.prod(s, dtype=np.int64)) * np.dtype(t).itemsize for n, (s, t) in shapes.items()}
        self._row_bytes = sum(self._sizes.values())
        self._slots = slots
        self.cold = cold
        self.columns: Columns = {}
        self._bound_table = Binding(table_ops.Table)
        self._clear(min(slots, 64))

    def _clear(self, capacity: int) -> None:
        self.columns = {name: zeros((capacity, *shape), dtype) for name, (shape, dtype) in self._shapes.items()}
        self._used = np.zeros(capacity, bool)
        self._captured = np.zeros(capacity, bool)  # rows still to be copied for the running snapshot
        self._written = np.zeros(capacity, np.int64)  # position of the version that `cold` holds
        self._capture_at = -1
        self._copied: list[Row] = []
        self._free = list(range(capacity - 1, -1, -1))
        self._arena_end = 0
        self._arena_dead = 0
        self._table = self._new_table(capacity, np.zeros(64 * capacity, np.uint8))
        self._found = self._NOTHING_FOUND

    @staticmethod
    def _new_table(capacity: int, arena: np.ndarray, old: table_ops.Table | None = None) -> table_ops.Table:
        cells = np.zeros(1 << max(4, (2 * capacity - 1).bit_length()), np.int64)
        fields: list[np.ndarray] = [np.zeros(capacity, dtype) for dtype in (np.uint64, np.int64, np.int64)]
        if old is not None:
            for new, field in zip(fields, (old.hash, old.start, old.length)):
                new[: len(field)] = field
        return table_ops.Table._make([cells, *fields, arena])

    def __len__(self) -> int:
        return int(self._used.sum())

    @property
    def slots(self) -> int:
        """Bound on the resident rows."""
        return self._slots

    # Reading

    def lookup(self, keys: Keys) -> np.ndarray:
        """int64 [n]: the slot of each key, -1 where it is not resident. Changes nothing."""
        return self._find(keys)[0]

    def holds(self, keys: Keys) -> bool:
        """Whether all keys are resident."""
        return self._find(keys)[1] == 0

    def _find(self, keys: Keys) -> tuple[np.ndarray, int]:
        """See `lookup`; and how many are not resident. Who asks whether keys are here asks next where."""
        last, slots, absent = self._found
        if last is not keys:
            slots = np.empty(len(keys), np.int64)
            absent = table_ops.lookup(self._bound_table.of(self._table), plain(keys.offsets), plain(keys.data), slots)
            self._found = keys, slots, absent
        return slots, absent

    def key(self, slot: int) -> bytes:
        """The key of a used slot."""
        start = self._table.start[slot]
        return self._table.arena[start : start + self._table.length[slot]].tobytes()

    def _pack(self, slots: np.ndarray) -> list[Row]:
        """The rows of `slots` as bytes, columns one after the other."""
        parts = [
            np.ascontiguousarray(column[slots]).reshape(len(slots), -1).view(np.uint8)
            for column in self.columns.values()
            if column[0].size
        ]
        content = np.concatenate(parts, axis=1)
        positions = self.columns["head"][slots, H_POSITION]
        return [
            (self.key(slot), int(position), row.tobytes()) for slot, position, row in zip(slots, positions, content)
        ]

    def _whole(self, content: bytes) -> bytes:
        """A packed row with zeros where an earlier version had nothing: the last columns of `head`, `ADDED`."""
        if len(content) == self._row_bytes:
            return content
        # A row may hold those of several learners.
        parts = [(name.rpartition(".")[2], size) for name, size in self._sizes.items()]
        for columns, added in product((HEAD, *OLDER_HEADS), (0, 1)):
            head = 8 * columns
            held = [head if name == "head" else size * (added or name not in ADDED) for name, size in parts]
            if sum(held) == len(content):
                ends = np.cumsum([0, *held]).tolist()
                return b"".join(
                    content[end - size : end].ljust(room, b"\0")
                    for end, size, (_, room) in zip(ends[1:], held, parts, strict=True)
                )
        raise ValueError(f"a row of {len(content)} bytes; this version holds {self._row_bytes} bytes of a key")

    def unpack(self, contents: list[bytes], into: Columns, slots: np.ndarray) -> None:
        """Writes packed rows into the columns `into` at `slots`; zeros for what those of earlier versions lack."""
        block = np.frombuffer(b"".join(map(self._whole, contents)), np.uint8).reshape(len(contents), -1)
        at = 0
        for name, (shape, dtype) in self._shapes.items():
            size = self._sizes[name]
            if size:
                part = np.ascontiguousarray(block[:, at : at + size]).view(dtype)
                into[name][slots] = part.reshape(len(contents), *shape)
            at += size

    def peek(self, keys: list[bytes], at: int) -> Columns:
        """Columns [len(keys), ...] with the rows of keys that are not resident; zeros where a key has none."""
        columns = {name: np.zeros((len(keys), *shape), dtype) for name, (shape, dtype) in self._shapes.items()}
        found = [(i, row[1]) for i, row in enumerate(self.cold.get_rows(keys, at)) if row is not None]
        if found:
            self.unpack([content for _, content in found], columns, np.array([i for i, _ in found]))
        return columns

    def where(self, keys: Keys, at: int) -> list[tuple[Columns, np.ndarray, np.ndarray]]:
        """Where the rows of a batch are, in one or two parts: (columns, rows of the batch, their places in them)."""
        slots, missing = self._find(keys)
        if not missing:
            return [(self.columns, np.arange(len(keys)), slots)]
        absent, here = np.flatnonzero(slots < 0), np.flatnonzero(slots >= 0)
        cold = self.peek([keys[row] for row in absent.tolist()], at)
        parts = [(cold, absent, np.arange(len(absent)))]
        return [*parts, (self.columns, here, slots[here])] if len(here) else parts

    # Residency

    def admit(self, keys: Keys, at: int) -> tuple[np.ndarray, int]:
        """Makes as many leading keys resident as fit together.

        Args:
            keys: the keys of a batch, in log order.
            at: events folded so far; cold rows are read as of this position.

        Returns:
            (slots, rows): int64 [rows], the slots of the first `rows` >= 1 keys.

        Raises:
            CaptureActive: a victim changed since the running snapshot began; finish it and call again.
        """
        slots, absent = self._find(keys)
        if not absent:
            return slots, len(keys)
        missing = np.flatnonzero(slots < 0)
        first, group = self._distinct(keys, missing)
        rows = self._prefix(slots, missing, group)
        here = int(np.searchsorted(missing, rows))
        missing, group = missing[:here], group[:here]
        names = [keys[row] for row in first[: int(group.max(initial=-1)) + 1].tolist()]
        self._make_room(len(names), np.unique(slots[:rows][slots[:rows] >= 0]))
        places = np.array([self._take(name) for name in names], np.int64)
        found = [(place, row) for place, row in zip(places, self.cold.get_rows(names, at)) if row is not None]
        if found:
            where = np.array([place for place, _ in found])
            self.unpack([row[1] for _, row in found], self.columns, where)
            self._written[where] = [row[0] for _, row in found]
        slots[missing] = places[group]
        return slots[:rows], rows

    def _distinct(self, keys: Keys, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first row of every different key among `rows`, and the number of each row's key; see `table_ops`."""
        first, group = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        table = self._new_table(len(rows), plain(keys.data))
        count = table_ops.distinct(table, plain(keys.offsets), rows, first, group)
        return first[:count], group

    def _prefix(self, slots: np.ndarray, missing: np.ndarray, group: np.ndarray) -> int:
        """How many leading rows have at most `self.slots` different keys."""
        if len(slots) <= self._slots:
            return len(slots)
        entity = slots.copy()
        entity[missing] = len(self._used) + group
        firsts = np.sort(np.unique(entity, return_index=True)[1])
        return int(firsts[self._slots]) if len(firsts) > self._slots else len(slots)

    def _make_room(self, wanted: int, keep: np.ndarray) -> None:
        """Leaves at least `wanted` free slots: grows up to the bound, then evicts the coldest rows outside `keep`."""
        while len(self._free) < wanted and len(self._used) < self._slots:
            self._grow(min(self._slots, 2 * len(self._used)))
        short = wanted - len(self._free)
        if short <= 0:
            return
        candidates = self._used.copy()
        candidates[keep] = False
        victims = np.flatnonzero(candidates)
        age = self.columns["head"][victims, H_POSITION]
        many = min(len(victims), max(short, self._slots // 16))
        coldest = victims[np.argpartition(age, many - 1)[:many]] if many < len(victims) else victims
        if self._capture_at >= 0:  # take no more than may leave now, unless that is too few
            movable = coldest[self.columns["head"][coldest, H_POSITION] <= self._capture_at]
            coldest = movable if len(movable) >= short else coldest
        self.evict(coldest)

    def evict(self, slots: np.ndarray) -> None:
        """Writes changed rows of `slots` to `cold` and frees them.

        Raises:
            CaptureActive: see `admit`; nothing was evicted.
        """
        head = self.columns["head"]
        if self._capture_at >= 0 and (head[slots, H_POSITION] > self._capture_at).any():
            raise CaptureActive
        self.before_write(slots)
        changed = slots[(head[slots, H_SEEN] > 0) & (head[slots, H_POSITION] > self._written[slots])]
        if len(changed):
            self.cold.put_rows(self._pack(changed))
        self._found = self._NOTHING_FOUND
        for slot in slots:
            table_ops.remove(self._table, slot)
            self._arena_dead += int(self._table.length[slot])
        for column in self.columns.values():
            column[slots] = 0
        self._used[slots] = False
        self._written[slots] = 0
        self._free.extend(int(slot) for slot in slots)

    def _take(self, key: bytes) -> int:
        slot = self._free.pop()
        self._found = self._NOTHING_FOUND
        if self._arena_end + len(key) > len(self._table.arena):
            self._compact(len(key))
        data = np.frombuffer(key, np.uint8)
        self._table.arena[self._arena_end : self._arena_end + len(key)] = data
        table_ops.insert(self._table, slot, data, self._arena_end)
        self._arena_end += len(key)
        self._used[slot] = True
        return slot

    def _compact(self, extra: int) -> None:
        """Drops the bytes of evicted keys and leaves room for as much again."""
        live = self._arena_end - self._arena_dead
        arena = np.zeros(2 * (live + extra) + 4096, np.uint8)
        at = 0
        for slot in np.flatnonzero(self._used):
            length = int(self._table.length[slot])
            start = int(self._table.start[slot])
            arena[at : at + length] = self._table.arena[start : start + length]
            self._table.start[slot] = at
            at += length
        self._table = self._table._replace(arena=arena)
        self._arena_end, self._arena_dead = at, 0

    def _grow(self, capacity: int) -> None:
        before = len(self._used)
        extra = capacity - before
        for name, column in self.columns.items():
            grown = zeros((capacity, *column.shape[1:]), column.dtype)
            grown[:before] = column
            self.columns[name] = grown
        self._used = np.concatenate([self._used, np.zeros(extra, bool)])
        self._captured = np.concatenate([self._captured, np.zeros(extra, bool)])
        self._written = np.concatenate([self._written, np.zeros(extra, np.int64)])
        self._free = list(range(capacity - 1, before - 1, -1)) + self._free
        self._table = self._new_table(capacity, self._table.arena, self._table)
        table_ops.rebuild(self._table, self._used)

    # Snapshots

    def begin_capture(self, since: int, at: int) -> None:
        """Marks every resident row changed after position `since` for the snapshot at position `at`."""
        self._capture_at = at
        self._copied = []
        self._captured = self._used & (self.columns["head"][:, H_POSITION] > since)

    def before_write(self, slots: np.ndarray) -> None:
        """Copies rows that the running snapshot still needs, before a fold changes them."""
        if self._capture_at < 0:
            return
        needed = slots[self._captured[slots]]  # soon none: only then are they worth sorting
        if len(needed):
            needed = np.unique(needed)
            self._copied.extend(self._pack(needed))
            self._captured[needed] = False

    def capture(self, limit: int) -> list[Row] | None:
        """About `limit` bytes of captured rows; None when there are no more."""
        size = max(1, sum(column[0].nbytes for column in self.columns.values()))
        many = max(1, limit // size)
        if not self._copied:
            left = np.flatnonzero(self._captured)[:many]
            if not len(left):
                return None
            self._copied = self._pack(left)
            self._captured[left] = False
        out, self._copied = self._copied[:many], self._copied[many:]
        return out

    def end_capture(self, written: int | None = None) -> None:
        """Ends the capture; with `written`, rows at or below that position are known to be in `cold`."""
        if written is not None:
            positions = self.columns["head"][:, H_POSITION]
            clean = self._used & (positions <= written)
            self._written[clean] = positions[clean]
        self._capture_at = -1
        self._captured[:] = False
        self._copied = []

    # Whole

    def all_rows(self, at: int, chunk: int = 1024):
        """Yields every existing row by key, resident or cold, as (key, content)."""
        resident = {self.key(slot): slot for slot in np.flatnonzero(self._used).tolist()}
        keys = sorted(set(resident) | set(self.cold.iter_keys()))
        for start in range(0, len(keys), chunk):
            part = keys[start : start + chunk]
            cold = iter(self.cold.get_rows([key for key in part if key not in resident], at))
            for key in part:
                if key in resident:
                    slot = resident[key]
                    if self.columns["head"][slot, H_SEEN] > 0:
                        yield key, self._pack(np.array([slot]))[0][2]
                else:
                    row = next(cold)
                    if row is not None:
                        yield key, row[1]

    def reset(self, cold: ColdRows) -> None:
        """Forgets all resident rows and reads from `cold` from now on."""
        self.cold = cold
        self._clear(min(self._slots, 64))


class KeyedLearner:
    """What learners share whose keyed state is in `rows`; see `learners.base.Learner`."""

    rows: KeyedRows
    OUTSIDE_DIGEST: ClassVar[tuple[str, ...]] = ()
    """Shared arrays that are not logical content."""
    MISSING: ClassVar[tuple[str, ...]] = ("pending_head",)
    """Columns of `rows` in which NaN says that there is none: what was predicted from no label before, for one."""

    @property
    def position(self) -> int:
        """Events folded so far."""
        raise NotImplementedError

    def fold(self, batch: Batch) -> Folded:
        """See `learners.base.Learner`.

        Raises:
            CaptureActive: a running snapshot must finish first; the events before the one that raised are folded
                (`CaptureActive.folded`), the rest are not.
        """
        parts: list[Folded] = []
        start = 0
        while start < len(batch):
            rest = batch.slice(start, len(batch)) if start else batch
            try:
                slots, rows = self.rows.admit(rest.key, self.position)
            except CaptureActive as stopped:
                stopped.folded = Folded.concat(parts) if parts else None
                raise
            piece = rest.slice(0, rows) if rows < len(rest) else rest
            self.rows.before_write(slots)
            parts.append(self._fold_resident(piece, slots))
            start += rows
        return Folded.concat(parts or [self._fold_resident(batch, np.zeros(0, np.int64))])

    def _fold_resident(self, batch: Batch, slots: np.ndarray) -> Folded:
        """Folds events whose keys are in memory, in the slots int64 [n]."""
        raise NotImplementedError

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """See `learners.base.Learner`."""
        raise NotImplementedError

    def attach(self, cold: ColdRows) -> None:
        """Sends evictions to `cold` from now on (before the first event)."""
        self.rows.reset(cold)

    def digest(self) -> str:
        """See `learners.base.Learner`."""
        shared = self.shared_arrays()
        sha = hash_shared({name: array for name, array in shared.items() if name not in self.OUTSIDE_DIGEST})
        for key, content in self.rows.all_rows(self.position):
            sha.update(len(key).to_bytes(4, "little") + key + content)
        return sha.hexdigest()

    def begin_capture(self, since: int) -> dict[str, np.ndarray]:
        """See `learners.base.Learner`."""
        self.rows.begin_capture(since, self.position)
        return {name: np.array(array) for name, array in self.shared_arrays().items()}

    def capture(self, limit: int) -> list[Row] | None:
        """See `learners.base.Learner`."""
        return self.rows.capture(limit)

    def end_capture(self, written: int | None = None) -> None:
        """See `KeyedRows.end_capture`."""
        self.rows.end_capture(written)

    def resident_keys(self) -> int:
        """Keys in memory."""
        return len(self.rows)

    def fetch(self, keys: Keys) -> None:
        """See `learners.base.Learner`; a snapshot that holds rows in memory may leave no room."""
        with suppress(CaptureActive):  # the fold will meet it, and can wait
            self.rows.admit(keys, self.position)

    def resident(self, keys: Keys) -> bool:
        """See `learners.base.Learner`."""
        return self.rows.holds(keys)
