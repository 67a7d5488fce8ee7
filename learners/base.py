"""What a learner is: a step over events, with its state as named arrays.

    state[t+1], prediction[t] = step(state[t], event[t])        predict first, then learn if a label is there

The service holds, persists, replays and serves any object with this interface; `learners.conformance` says what it
must satisfy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from streams.batch import Batch, Keys

SIGNALS = ("drift", "rate_raised", "forgotten", "challenger_started", "challenger_promoted", "challenger_dropped")
"""What `Folded.signals` number."""


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold says of a batch of n events. None of it influences a later step.

    Attributes:
        value: float64 [n]; regression: the predicted target; binary: probability of the positive label; multi-class:
            probability of the likeliest class; NaN for a label by id.
        code: int32 [n], the likeliest class (index in `classes()`), -1 where there is none.
        outcome: uint8 [n], sum of the outcome flags of `kernels.cpu.layout`.
        scored: float64 [n, 5]; for every label that met its prediction, as that was made: the predicted value
            (multi-class: the probability given to this label, NaN for a label by id), the predicted class, the key's
            label before (NaN: none), the label itself (multi-class: its index in `classes()`), and how sure the
            prediction was: the probability of the predicted class, or half the width of the central 90 % interval of a
            regression (NaN: not known). NaN rows elsewhere.
        expired: float64 [n, 5]; the same of the observation that left without a label at this event, with the default
            label that was learned in its place as the label, NaN where it was dropped; [0, 5] where none can wait.
        signals: int64 [m, 3]; what a learner noticed of the stream as a whole: the position after the event, what (see
            `SIGNALS`), and the number of the input that it is about, -1 for none.
    """

    value: np.ndarray
    code: np.ndarray
    outcome: np.ndarray
    scored: np.ndarray
    expired: np.ndarray = field(default_factory=lambda: np.empty((0, 5)))
    signals: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.int64))

    @classmethod
    def passed_over(cls, events: int, outcome: int) -> Folded:
        """What is said of events that had no part in the fold: their outcome, and nothing else."""
        nothing, code = np.full(events, np.nan), np.full(events, -1, np.int32)
        return cls(nothing, code, np.full(events, outcome, np.uint8), np.full((events, 5), np.nan))

    @classmethod
    def concat(cls, parts: Sequence[Folded]) -> Folded:
        """The answers of consecutive batches in one."""
        if len(parts) == 1:
            return parts[0]
        waited = max(len(part.expired) for part in parts)
        whole = [part if len(part.expired) or not waited else part._with_nothing_expired() for part in parts]
        return cls(*(np.concatenate(column) for column in zip(*map(cls._columns, whole))))

    def _columns(self) -> tuple[np.ndarray, ...]:
        return self.value, self.code, self.outcome, self.scored, self.expired, self.signals

    def _with_nothing_expired(self) -> Folded:
        return replace(self, expired=np.full_like(self.scored, np.nan))

    def take(self, rows: slice | np.ndarray) -> Folded:
        """What was said of some of the events, without the signals, which are about all."""
        return Folded(*(column[rows] if len(column) else column for column in self._columns()[:-1]))

    def met(self) -> np.ndarray:
        """float64 [n or 2 n, 5]: `scored` and `expired` in the order of the fold."""
        if not len(self.expired):
            return self.scored
        return np.stack([self.scored, self.expired], axis=1).reshape(-1, 5)


class CaptureActive(RuntimeError):  # noqa: N818 - it says when, not what went wrong
    """A row changed after the running snapshot began would have to leave memory: the snapshot must finish first.

    Attributes:
        folded: what the interrupted fold said of the events before the one that needs the room; None if there are
            none. Fold the rest once the snapshot is committed.
    """

    folded: Folded | None = None


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of n events, each as if it were the next one; see `Folded` for value and code.

    The last three are None where the learner cannot tell, and NaN in a row of which it cannot.

    Attributes:
        probabilities: float32 [n, K], or None when not asked for.
        variance: float64 [n], the variance of what is predicted: regression: of the target; classes: p (1 - p), with p
            the probability of the likeliest class.
        epistemic: float64 [n], the part that more data would remove: regression: of `variance`; classes: the variance
            of a logit.
        interval: float64 [n], half the width of the central 90 % interval around the value of a regression.
    """

    value: np.ndarray
    code: np.ndarray
    probabilities: np.ndarray | None = None
    variance: np.ndarray | None = None
    epistemic: np.ndarray | None = None
    interval: np.ndarray | None = None


Row = tuple[bytes, int, bytes]
"""A keyed row outside memory: key, position after the last event folded into it, content."""


class ColdRows(Protocol):
    """Where keyed rows live that are not in memory."""

    def get_rows(self, keys: list[bytes], at: int) -> list[tuple[int, bytes] | None]:
        """For each key the newest version with position <= `at`, or None."""

    def put_rows(self, rows: Iterable[Row]) -> None:
        """Keeps rows, never overwriting the version that a recovery would read."""

    def iter_keys(self) -> Iterator[bytes]:
        """Every key with a row, in any order."""


class Learner(Protocol):
    """A learner of one partition."""

    position: int
    """Events folded so far."""

    def fold(self, batch: Batch) -> Folded:
        """Folds events in order. Cutting the same events into other batches gives the same state and answers."""

    def predict(self, batch: Batch, probabilities: bool = False) -> Predicted:
        """Predicts each event (features and key) as the next one; changes neither state nor residency."""

    def classes(self) -> tuple[int | str, ...]:
        """The labels known, in order of appearance; empty for a regression."""

    def shared_arrays(self) -> dict[str, np.ndarray]:
        """State that all keys share, by name (copies, or views that the caller must not keep across a fold)."""

    def load(self, shared: dict[str, np.ndarray], cold: ColdRows) -> None:
        """Takes on a snapshot: shared arrays, and keyed rows read from `cold` as they are met."""

    def attach(self, cold: ColdRows) -> None:
        """A fresh learner keeps its cold rows there (before the first event)."""

    def pass_over(self, events: int) -> None:
        """Moves the position over quarantined events; nothing else changes."""

    def digest(self) -> str:
        """SHA-256 (hex) over shared arrays by name, then keyed rows by key, wherever they reside."""

    def begin_capture(self, since: int) -> dict[str, np.ndarray]:
        """Starts a snapshot at the current position: shared arrays (copies); rows changed after `since` follow."""

    def capture(self, limit: int) -> list[Row] | None:
        """About `limit` bytes of captured rows as they stood when the capture began; None when all are out."""

    def end_capture(self, written: int | None = None) -> None:
        """The snapshot is committed at position `written` (or given up: None): evictions are free again."""

    def resident_keys(self) -> int:
        """Keys in memory."""

    def fetch(self, keys: Keys) -> None:
        """Brings rows of the leading keys into memory, as many as fit, in one round trip; changes nothing else."""

    def resident(self, keys: Keys) -> bool:
        """Whether all these keys are in memory: then folding or predicting them does not touch the store."""


def hash_shared(arrays: dict[str, np.ndarray]) -> hashlib._Hash:
    """SHA-256 over shared arrays by name: the beginning of every digest."""
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha


class MemoryRows:
    """`ColdRows` in a dictionary: for folds without a store. Keeps one version per key, unbounded."""

    def __init__(self) -> None:
        self._rows: dict[bytes, tuple[int, bytes]] = {}

    def get_rows(self, keys: list[bytes], at: int) -> list[tuple[int, bytes] | None]:
        """See `ColdRows`."""
        return [self._rows.get(key) for key in keys]

    def put_rows(self, rows: Iterable[Row]) -> None:
        """See `ColdRows`."""
        for key, position, content in rows:
            self._rows[key] = (position, content)

    def iter_keys(self) -> Iterator[bytes]:
        """See `ColdRows`."""
        return iter(list(self._rows))
