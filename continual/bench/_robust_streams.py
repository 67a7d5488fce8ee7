"""Streams with one thing wrong in them, each beside its clean twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from streams.batch import LABEL, OBSERVATION, Batch

Target = Literal["regression", "binary"]

AT = 3000
"""Number of the event that is disturbed, the first of a burst; where it is the first of the stream that is 0."""

PLACES = ((100, 400), (1000, 2000), (5000, 6000), (10_000, 11_000))
"""Events after the disturbance, from and to, over which an error is taken."""

BURST = 20
SENTINEL = -9999.0
SIZES = (1e3, 1e6, 1e30, SENTINEL)
SCALES = (1e2, 1e3, 1e6)
CAUSES = (10.0, 1e3)

EVENTS = AT + PLACES[-1][1]
SECOND = 1_000_000
START, WRONG_CLOCK = 1_700_000_000 * SECOND, 4_102_444_800 * SECOND
"""Event time of the first event, of late 2023, and of one whose clock says 2100; microseconds since 1970."""

TURN = AT + 500
"""Event at which the concept turns round, in streams with a wrong clock: what stopped learning or forgetting fails."""


@dataclass(frozen=True)
class Case:
    """A disturbance.

    Attributes:
        kind: what is wrong.
        value: how much, as it is shown.
        batch, clean: the events with it and without, row for row the same otherwise.
        counted: bool [n], the rows that an error may be taken over: those that were disturbed are not.
        truth: float64 [n], what should have been predicted.
        clean_truth: the same of the clean twin, where it differs.
        at: row of the disturbance.
        from_place: the first of `PLACES` at which the aim must be met.
        labels: the spec's part of that name.
    """

    kind: str
    value: str
    batch: Batch
    clean: Batch
    counted: np.ndarray
    truth: np.ndarray
    at: int = AT
    from_place: int = 1
    labels: dict[str, Any] = field(default_factory=dict)
    clean_truth: np.ndarray | None = None


KINDS: dict[Target, tuple[str, ...]] = {
    "regression": ("label", "burst of labels", "first label", "feature", "burst of features", "first feature", "clock",
                   "key scale", "rare cause", "beside a rare cause"),
    "binary": ("burst of labels", "feature", "burst of features", "first feature", "clock"),
}  # fmt: skip
"""What may be wrong, by target. One wrong class is no disturbance, twenty in a row are."""


class Made:
    """The events of a seed, and the disturbances of them."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target, self.seed = target, seed
        rng = np.random.default_rng(seed)
        self.x = rng.normal(size=(EVENTS, 2))
        self.noise = 0.1 * rng.normal(size=EVENTS)
        self.rare = (rng.random(EVENTS) < 0.02) & (np.arange(EVENTS) >= AT)
        self.big = rng.random(EVENTS) < 0.5
        self.y = self._labels(np.ones(EVENTS))

    def _labels(self, sign: np.ndarray) -> np.ndarray:
        """Of targets of size 4, or of two classes, by what the two features say."""
        if self.target == "binary":
            return (sign * (self.x[:, 0] + 0.5 * self.x[:, 1]) > 0).astype(float)
        return sign * (3.0 * self.x[:, 0] - 2.0 * self.x[:, 1]) + self.noise

    def cases(self, kind: str) -> Iterator[Case]:
        """The disturbances of a kind."""
        if kind == "clock":
            yield from (self._clock(how) for how in ("year 2100", "year 2100, ignore", "year 2100, horizon"))
        elif kind == "key scale":
            yield from map(self._key_scale, SCALES)
        elif kind.endswith("rare cause"):
            yield from (self._rare(kind, size) for size in CAUSES)
        elif self.target == "binary" and kind == "burst of labels":
            rows = np.arange(AT, AT + BURST)
            y = self.y.copy()
            y[rows] = 1 - y[rows]
            yield self._case(kind, "flipped", rows, y=y, from_place=2)
        else:
            first, burst = kind.startswith("first"), kind.startswith("burst")
            rows = np.arange(0 if first else AT, (0 if first else AT) + (BURST if burst else 1))
            for size in SIZES:
                x, y = self.x.copy(), self.y.copy()
                if "label" in kind:
                    y[rows] = size
                else:
                    x[rows, 0] = size
                yield self._case(kind, f"{size:g}", rows, x=x, y=y, from_place=2 if burst else 1)

    def _case(
        self,
        kind: str,
        value: str,
        rows: np.ndarray,
        x: np.ndarray | None = None,
        y: np.ndarray | None = None,
        from_place: int = 1,
    ) -> Case:
        clean = Batch.of(self.x, self.y)
        batch = Batch.of(self.x if x is None else x, self.y if y is None else y)
        counted = np.ones(EVENTS, bool)
        counted[rows] = False
        return Case(kind, value, batch, clean, counted, self.y, int(rows[0]), from_place)

    def _clock(self, how: str) -> Case:
        """One event says that it is of the year 2100; then the concept turns round."""
        y = self._labels(np.where(np.arange(EVENTS) < TURN, 1.0, -1.0))
        time = START + SECOND * np.arange(EVENTS)
        wrong = time.copy()
        wrong[AT] = WRONG_CLOCK
        key = [b"key"] * EVENTS
        if not how.endswith("horizon"):
            bad, clean = (Batch.of(self.x, y, key=key, time=of) for of in (wrong, time))
            labels: dict[str, Any] = {"out_of_order": "ignore"} if how.endswith("ignore") else {}
            counted = np.arange(EVENTS) != AT
            return Case("clock", how, bad, clean, counted, y, AT, 1, labels)
        # An observation, and its label half a second later.
        rows = np.repeat(np.arange(EVENTS), 2)
        label = np.arange(2 * EVENTS) % 2 == 1
        kind = np.where(label, LABEL, OBSERVATION).astype(np.uint8)
        number = np.stack([rows + 1, np.zeros_like(rows)], axis=1).astype(np.uint64)
        x = np.where(label[:, None], 0.0, self.x[rows])
        bad, clean = (
            Batch.of(x, np.where(label, y[rows], np.nan), kind=kind, key=[b"key"] * len(rows), id=number,
                     time=of[rows] + np.where(label, SECOND // 2, 0))
            for of in (wrong, time)
        )  # fmt: skip
        labels = {"pending": 4, "horizon_time": 60 * SECOND}
        return Case("clock", how, bad, clean, ~label & (rows != AT), y[rows], 2 * AT, 1, labels)

    def _key_scale(self, size: float) -> Case:
        """Two keys, one of which has targets `size` times as large from `AT` on; counted is the other."""
        key = [b"big" if big else b"small" for big in self.big]
        grown = np.where(self.big & (np.arange(EVENTS) >= AT), size, 1.0)
        bad, clean = (Batch.of(self.x, self.y * by, key=key) for by in (grown, 1.0))
        return Case("key scale", f"1 : {size:g}", bad, clean, ~self.big, self.y, AT, 2)

    def _rare(self, kind: str, size: float) -> Case:
        """A third feature is 1 on 2 % of events from `AT` on, and adds `size` to the target; without it 0."""
        flag = self.rare.astype(float)
        bad, clean = (Batch.of(np.column_stack([self.x, flag]), self.y + by * flag) for by in (size, 0.0))
        counted = self.rare if kind == "rare cause" else ~self.rare
        return Case(kind, f"+{size:g}", bad, clean, counted, self.y + size * flag, AT, 2, clean_truth=self.y)
