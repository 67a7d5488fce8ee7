"""A fold that is cut short anywhere, over a store that keeps what it acknowledged: recovery must be exact.

The driver does what a shard does (fold in pieces, evict, snapshot while folding, load and replay), in one thread and
with a crash possible before every write.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from learners.base import CaptureActive, Folded, Learner, Row
from learners.spec import ModelSpec
from streams.batch import Batch

Version = tuple[int, bytes]


class TwoVersionRows:
    """`ColdRows` with at most two versions of a row: the newest at or below the committed snapshot, and one newer.

    Attributes:
        committed: position of the last committed snapshot.
        puts: rows written.
    """

    def __init__(self, before_write: Callable[[], None] = lambda: None) -> None:
        self.committed = 0
        self.puts = 0
        self._rows: dict[bytes, list[Version]] = {}
        self._before_write = before_write

    def get_rows(self, keys: list[bytes], at: int) -> list[Version | None]:
        """See `learners.base.ColdRows`."""
        return [self._newest(key, at) for key in keys]

    def _newest(self, key: bytes, at: int) -> Version | None:
        return max((version for version in self._rows.get(key, []) if version[0] <= at), default=None)

    def put_rows(self, rows: Iterable[Row]) -> None:
        """See `learners.base.ColdRows`.

        Raises:
            AssertionError: a row at or below the committed position that is not the one that is there.
        """
        for key, position, content in rows:
            self._before_write()
            kept = self._newest(key, self.committed)
            if position <= self.committed:
                assert kept == (position, content), f"key {key!r}: the version that recovery reads was rewritten"
                continue
            self._rows[key] = [*([kept] if kept else []), (position, content)]
            self.puts += 1

    def iter_keys(self) -> Iterator[bytes]:
        """See `learners.base.ColdRows`."""
        return iter(list(self._rows))

    def commit(self, position: int) -> None:
        """The snapshot at `position` is the one that recovery reads from now on."""
        self.committed = position


class _Crash(Exception):  # noqa: N818 - never seen outside
    """The process died here."""


@dataclass(frozen=True)
class CrashRun:
    """What came of a fold with crashes.

    Attributes:
        learner: as it stood at the end of the log.
        folded: the answers for the whole log; every replay gave the same.
        crashes: how often the process died.
        snapshots: how many were committed.
        puts: rows written to the store.
    """

    learner: Learner
    folded: Folded
    crashes: int
    snapshots: int
    puts: int


class _Driver:
    def __init__(self, spec: ModelSpec, log: Batch, seed: int, crash: float) -> None:
        self.spec, self.log, self.rng, self.crash = spec, log, np.random.default_rng([seed, 21]), crash
        self.store = TwoVersionRows(self.perhaps_die)
        self.manifest: dict[str, np.ndarray] | None = None
        self.answers: list[tuple[bytes, ...] | None] = [None] * len(log)
        self.parts: dict[int, Folded] = {}
        self.crashes = self.snapshots = 0
        self.capturing: tuple[int, dict[str, np.ndarray]] | None = None

    def perhaps_die(self) -> None:
        if self.rng.random() < self.crash:
            raise _Crash

    def run(self) -> Learner:
        while True:
            learner = self.spec.learner.build(self.spec)
            shared = {name: array.copy() for name, array in learner.shared_arrays().items()}
            learner.load(shared if self.manifest is None else self.manifest, self.store)
            assert learner.position == self.store.committed, "a learner's position is part of its shared arrays"
            self.capturing = None
            try:
                while learner.position < len(self.log):
                    self.one_turn(learner)
                return learner
            except _Crash:
                self.crashes += 1

    def one_turn(self, learner: Learner) -> None:
        self.perhaps_die()
        if self.capturing is not None:
            if self.rng.random() < 0.03:
                learner.end_capture()  # the snapshot is given up
                self.capturing = None
            elif self.rng.random() < 0.6:
                self.snapshot_some(learner)
        elif self.rng.random() < 0.15:
            self.capturing = learner.position, learner.begin_capture(self.store.committed)
        start = learner.position
        stop = min(len(self.log), start + int(self.rng.integers(1, 40)))
        try:
            self.note(start, learner.fold(self.log.slice(start, stop)))
        except CaptureActive as stopped:
            if stopped.folded is not None:
                self.note(start, stopped.folded)
            while self.capturing is not None:
                self.snapshot_some(learner)

    def snapshot_some(self, learner: Learner) -> None:
        assert self.capturing is not None
        position, shared = self.capturing
        rows = learner.capture(int(self.rng.integers(1, 20_000)))
        if rows is not None:
            assert all(at <= position for _, at, _ in rows), "a captured row is newer than its snapshot"
            self.store.put_rows(rows)
            return
        self.perhaps_die()
        self.manifest = {
            name: np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape) for name, array in shared.items()
        }
        self.store.commit(position)
        self.snapshots += 1
        self.perhaps_die()
        learner.end_capture(position)
        self.capturing = None

    def note(self, start: int, folded: Folded) -> None:
        for i in range(len(folded.value)):
            one = folded.take(slice(i, i + 1))
            answer = tuple(getattr(one, name).tobytes() for name in Folded.__slots__)
            before = self.answers[start + i]
            assert before is None or before == answer, f"the replay of event {start + i} gave another answer"
            self.answers[start + i] = answer
            self.parts[start + i] = one


def fold_with_crashes(spec: ModelSpec, log: Batch, seed: int, crash: float = 0.02) -> CrashRun:
    """Folds a log to its end through random crashes, with `spec.deployment.slots` rows in memory.

    Args:
        spec: of the learner.
        log: what to fold.
        seed: of cuts, snapshots and crashes.
        crash: probability of dying at each step and before each row that is written.

    Raises:
        AssertionError: a replay answered differently, or the row that recovery reads was overwritten.
    """
    driver = _Driver(spec, log, seed, crash)
    learner = driver.run()
    folded = Folded.concat([driver.parts[i] for i in range(len(log))])
    return CrashRun(learner, folded, driver.crashes, driver.snapshots, driver.store.puts)
