"""Random logs that fit a spec, the ways in which a log may be delivered, and what must become of each event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from kernels.cpu.layout import AWAY, CLASS_LIMIT, LATE, LEARNED, OBSERVED, OUT_OF_ORDER, TARGET, UNKNOWN_ID
from kernels.reference.clock import keep_time, time_of_key, told_time
from learners.spec import ModelSpec, MulticlassTarget
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys

DROPPED, DEFAULTED = 1, 2
"""What becomes of an observation that leaves without a label; see `expected_outcomes`."""

CLASS_POOL: tuple[int | str, ...] = (7, "seven", "7", -1, "", 0, "naïve", 2**62, "a b", "z")


def random_log(spec: ModelSpec, seed: int, events: int = 400, keys: int = 30, plain: bool = False) -> Batch:
    """A log with everything a partition may admit.

    Few keys have most of the events. Labels come with the event, by id, twice, late, for ids never seen; classes
    appear one after the other; values are missing where the spec allows it; times go back now and then.

    Args:
        spec: decides width, target and how many labels come by id.
        seed: of the log.
        events: rows.
        keys: distinct entities, one of them the empty key.
        plain: labelled events in order of time only.
    """
    rng = np.random.default_rng([seed, 20])
    d = len(spec.features)
    names = [b"", *(b"key-%d" % i * (1 + i % 3) for i in range(keys - 1))]
    which = np.minimum(rng.zipf(1.4, events) - 1, keys - 1)
    id = rng.integers(1, 2**63, (events, 2), dtype=np.uint64)
    by_id = 0.35 if spec.labels.pending else 0.05
    kind = rng.choice([LABELLED, OBSERVATION, LABEL], events, p=[0.7 - by_id, 0.3, by_id]).astype(np.uint8)
    observed: list[int] = []
    for i in range(events):
        if plain:
            kind[i] = LABELLED
        elif kind[i] == OBSERVATION:
            observed.append(i)
        elif kind[i] == LABEL and observed and rng.random() < 0.9:
            row = observed[int(rng.integers(max(0, len(observed) - 25), len(observed)))]
            which[i], id[i] = which[row], id[row]
    x = (rng.normal(0, 1, (events, d)) * 10.0 ** rng.integers(-3, 4, d)).astype(np.float32)
    gaps = (rng.random(x.shape) < 0.1) & np.array([feature.missing == "mean" for feature in spec.features])
    x[gaps] = np.nan
    x[kind == LABEL] = 0.0
    time = 1_700_000_000_000_000 + np.cumsum(rng.integers(0, 1000, events))
    if not plain:
        time -= 20_000 * (rng.random(events) < 0.1)
        time[rng.random(events) < 0.05] = 0
    y, classes = _labels(spec, rng, x)
    y[kind == OBSERVATION] = np.nan
    return Batch.of(x, y, kind=kind, key=[names[i] for i in which], time=time, id=id, classes=classes)


def _labels(spec: ModelSpec, rng: np.random.Generator, x: np.ndarray) -> tuple[np.ndarray, tuple[int | str, ...]]:
    events = len(x)
    signal = np.nan_to_num(x[:, 0]) / (np.nanstd(x[:, 0]) + 1e-9)
    if spec.target.kind == "binary":
        return (signal + rng.normal(0, 0.5, events) > 0).astype(np.float64), ()
    if isinstance(spec.target, MulticlassTarget):
        known = 1 + np.arange(events) * (len(CLASS_POOL) + 5) // events
        y = rng.integers(0, np.minimum(known, len(CLASS_POOL)))
        return y.astype(np.float64), CLASS_POOL
    return 100.0 + np.cumsum(rng.normal(0, 1, events)) + signal, ()


def deliver(log: Batch, cuts: list[int], rng: np.random.Generator) -> Iterator[Batch]:
    """The log in pieces, cut before the rows `cuts`, as they may come off a wire.

    Columns are read-only and some are misaligned; each piece has its own dictionary of classes.
    """
    edges = [0, *sorted(cuts), len(log)]
    for start, stop in pairwise(edges):
        if stop > start:
            yield _repacked(log.slice(start, stop), rng)


def _received(array: np.ndarray, shift: int) -> np.ndarray:
    return np.frombuffer(b"\0" * shift + array.tobytes(), array.dtype, offset=shift).reshape(array.shape)


def _repacked(piece: Batch, rng: np.random.Generator) -> Batch:
    y, classes = piece.y, piece.classes
    if classes:
        labelled = ~np.isnan(y)
        used = rng.permutation(np.unique(y[labelled]).astype(np.int64))
        code = np.full(len(classes), -1, np.int64)
        code[used] = np.arange(len(used))
        y = y.copy()
        y[labelled] = code[y[labelled].astype(np.int64)]
        classes = tuple(classes[i] for i in used)
    x, kind, y, time, id, offsets, data = (
        _received(array, int(rng.integers(0, 2)))
        for array in (piece.x, piece.kind, y, piece.time, piece.id, piece.key.offsets, piece.key.data)
    )
    return Batch(x, kind, y, Keys(offsets, data), time, id, classes)


@dataclass
class _Held:
    """An observation as the policy sees it: its row in the log, id and time, and whether it still waits."""

    row: int
    id: tuple[int, int]
    time: int
    waits: bool = True


def expected_outcomes(spec: ModelSpec, log: Batch) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of every event by the label policy of the spec, and the clock of the partition, alone.

    Returns:
        (outcomes, left): uint8 [n], the outcome flags, where learners may have NONFINITE or OUTLIER in the place of
        LEARNED; and uint8 [n], whether an observation left without a label at the event: DROPPED, or DEFAULTED.
    """
    policy = spec.labels
    places = policy.pending + (policy.default_label is not None)
    limit = spec.target.max_classes if isinstance(spec.target, MulticlassTarget) else None
    known: set[Any] = set()
    last: dict[bytes, float] = {}
    clock = np.zeros(TARGET)
    rings: dict[bytes, list[_Held]] = {}
    outcomes, left = np.zeros((2, len(log)), np.uint8)

    def learn(label: Any) -> int:
        if limit is None:
            return LEARNED
        if label not in known and len(known) >= limit:
            return CLASS_LIMIT
        known.add(label)
        return LEARNED

    def label_of(row: int) -> Any:
        return log.classes[int(log.y[row])] if limit is not None else log.y[row]

    def past(held: _Held, row: int, now: float) -> bool:
        by_log = policy.horizon > 0 and row - held.row > policy.horizon
        return by_log or (policy.horizon_time > 0 and held.time > 0 and now - held.time > policy.horizon_time)

    def expire(held: _Held, row: int) -> None:
        held.waits = False
        left[row] = DEFAULTED if learn(policy.default_label) == LEARNED else DROPPED

    for row in range(len(log)):
        key, given = log.key[row], int(log.time[row])
        time = told_time(clock, given)
        id = (int(log.id[row, 0]), int(log.id[row, 1]))
        ring = rings.setdefault(key, [])
        latest = last.get(key, 0)
        if log.kind[row] == LABEL:
            same = [held for held in ring if held.id == id]
            held = next((held for held in same if held.waits), same[-1] if same else None)
            if held is None:
                outcomes[row] = UNKNOWN_ID
            elif not held.waits or past(held, row, max(time, time_of_key(clock, latest))):
                outcomes[row] = LATE
                if held.waits and policy.default_label is not None:
                    expire(held, row)
            else:
                ring[ring.index(held)] = _Held(held.row, (-1, -1), 0, waits=False)  # labelled: no id finds it again
                outcomes[row] = learn(label_of(row))
            continue
        latest = time_of_key(clock, latest)
        late = 0 < time < latest
        outcomes[row] = OUT_OF_ORDER if late else 0
        if late and policy.out_of_order == "ignore":
            continue
        outcomes[row] |= OBSERVED if time == given else AWAY
        keep_time(clock, given)
        last[key] = now = max(time, latest)
        if log.kind[row] == LABELLED:
            outcomes[row] |= learn(label_of(row))
        elif places:
            ring.append(_Held(row, id, time))
            if len(ring) > places and ring.pop(0).waits:
                left[row] = DROPPED
        oldest = next((held for held in ring if held.waits), None)
        if policy.default_label is None or oldest is None:
            continue
        if (oldest is ring[0] and len(ring) == places) or past(oldest, row, now):
            expire(oldest, row)
    return outcomes, left
