"""Writing a snapshot while the fold goes on.

At position P the shared arrays are copied; keyed rows follow in pieces between folds, each as it stood at P (a row
that a fold is about to change is copied first). One small write commits.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from learners.base import hash_shared
from learners.fingerprint import fingerprint
from service.shard.aside import YIELDING
from service.shard.partition import Partition

PIECE_BYTES = 1 << 17
"""Rows copied and written at a time."""

PAUSE_SECONDS = 1.0
PAUSE_SHARE = 3.0
"""From the end of a snapshot to the next that nobody asked for, at least: so many seconds, and so many times what it
took. At full rate, events alone would call for ten a second, or for one after the other: that costs more than the
replay which they save."""


@dataclass(frozen=True, slots=True)
class Written:
    """A committed snapshot: position, exchanges before it, keyed rows and bytes written, digest of the shared state."""

    position: int
    exchanges: int
    rows: int
    bytes: int
    digest: str


class Snapshotter:
    """Takes the snapshots of one partition, one at a time."""

    def __init__(self, partition: Partition) -> None:
        self._p = partition
        self._one = asyncio.Lock()
        self._last: Written | None = None
        self._pause_ends = 0.0  # of `time.monotonic`

    @property
    def due(self) -> bool:
        """Whether there have been events enough since the last one, and a pause."""
        p = self._p
        since = p.learner.position - max(0, p.snapshot_position)
        waits = self._one.locked() or time.monotonic() < self._pause_ends
        return since >= p.spec.deployment.snapshot_every and not waits

    async def take(self) -> Written:
        """Writes a snapshot at the current position; returns the last one if nothing was folded since.

        Raises:
            service.store.errors.StoreError: the store cannot serve, or another owner took over; the partition goes on
                from the snapshot before.
        """
        async with self._one:
            now = self._p.learner.position, self._p.exchanges
            if self._last is not None and (self._last.position, self._last.exchanges) == now:
                return self._last
            with YIELDING:
                self._last = await self._write()
            return self._last

    async def _write(self) -> Written:
        p = self._p
        began = time.monotonic()
        position, exchanges, arrays, manifest = await p.sequencer.between_entries(self._begin)
        manifest |= p.producers.to_dict()
        arrays |= await asyncio.to_thread(p.window.copy().arrays)
        committed = None
        try:
            written = await self._store(position, exchanges, arrays, manifest)
            committed = position
        finally:
            ended = time.monotonic()
            self._pause_ends = ended + max(PAUSE_SECONDS, PAUSE_SHARE * (ended - began))
            await p.sequencer.visit(self._end, committed)
        await asyncio.to_thread(self._trim)
        return written

    def _begin(self) -> tuple[int, int, dict[str, np.ndarray], dict[str, Any]]:
        """What a snapshot holds of the fold, taken in its thread.

        Marks and answers, which the loop adds, may be newer than the position: what they tell of is in the log, and a
        replay tells it again.
        """
        p = self._p
        arrays = p.learner.begin_capture(p.snapshot_position)
        manifest = {
            "spec_digest": p.spec_digest,
            "shared_digest": hash_shared(p.learner.shared_arrays()).hexdigest(),
            "statistics": p.statistics.to_dict(),
            "fingerprint": fingerprint(p.spec),
        }
        return p.learner.position, p.exchanges, arrays, manifest

    def _end(self, committed: int | None) -> None:
        p = self._p
        p.learner.end_capture(committed)
        if committed is not None:
            p.snapshot_position = committed
            p.cold.committed = committed

    async def _store(self, position: int, exchanges: int, arrays: dict, manifest: dict) -> Written:
        p = self._p
        writer = await asyncio.to_thread(p.store.begin_snapshot, p.token, position)
        await asyncio.to_thread(writer.write, arrays)
        rows = size = 0
        while True:
            piece = await p.sequencer.visit(p.learner.capture, PIECE_BYTES)
            if piece is None:
                break
            wrote = await asyncio.to_thread(p.store.put_rows, p.token, piece, p.snapshot_position)
            rows, size = rows + wrote[0], size + wrote[1]
        if p.outbox is not None:
            await p.outbox.reach(position)
        await asyncio.to_thread(writer.commit, manifest)
        return Written(position, exchanges, rows, size + writer.bytes, manifest["shared_digest"])

    def _trim(self) -> None:
        """Two snapshots back, the deduplication window, or the slowest sink, whichever reaches furthest."""
        p = self._p
        before = min(p.store.oldest_snapshot_position(), p.snapshot_position - p.spec.deployment.dedupe_window)
        if p.spec.deployment.sinks:
            marks = p.store.marks()
            taken = [
                max(marks.get(sink.identity, {}).get("position", 0), p.snapshot_position - sink.behind)
                for sink in p.spec.deployment.sinks
            ]
            p.store.trim_answers(p.token, min(taken))
            before = min(before, *taken, p.store.first_answer())  # no answer is kept without its event
        p.store.trim(p.token, before)


def write_here(partition: Partition) -> None:
    """Writes a snapshot of a partition that nobody else touches: of one that is being recovered, in its thread.

    Raises:
        service.store.errors.StoreError: the store cannot serve, or another owner took over.
    """
    p = partition
    snapshotter = Snapshotter(p)
    position, _, arrays, manifest = snapshotter._begin()
    writer = p.store.begin_snapshot(p.token, position)
    writer.write(arrays | p.window.arrays())
    while (piece := p.learner.capture(PIECE_BYTES)) is not None:
        p.store.put_rows(p.token, piece, p.snapshot_position)
    writer.commit(manifest | p.producers.to_dict())
    snapshotter._end(position)
    snapshotter._trim()
