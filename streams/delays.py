"""Labels that come late, simulated: a stream of labelled events as one log of observations and labels by id.

A delay is a number of events of the stream: the label of event i with delay d comes after event i + d has been
observed, and before event i + d + 1; with d = 0 right after its own. Labels that are due together come in the order of
their events. Everything is sorted at once, whatever the delays, and random ones are drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys


def fixed(events: int, delay: int) -> np.ndarray:
    """int64 [events]: the same delay for all.

    Raises:
        ValueError: it is negative.
    """
    return _checked(np.full(events, delay, np.int64))


def geometric(events: int, mean: float, seed: int = 0) -> np.ndarray:
    """int64 [events]: random delays from 0 with the given mean, geometrically distributed.

    Raises:
        ValueError: the mean is negative.
    """
    if not mean >= 0:
        raise ValueError(f"mean {mean}: accepted: numbers from 0")
    return np.random.default_rng(seed).geometric(1.0 / (1.0 + mean), events) - 1


def by_class(y: np.ndarray, delays: Mapping[float, int]) -> np.ndarray:
    """int64 [n]: the delay of each label's class, by its value in `Batch.y`.

    Raises:
        ValueError: a class has no delay, or a negative one.
    """
    known, place = np.unique(y, return_inverse=True)
    missing = [value for value in known.tolist() if value not in delays]
    if missing:
        raise ValueError(f"no delay for the classes {missing[:10]}: there are some for {list(delays)}")
    return _checked(np.array([delays[value] for value in known.tolist()], np.int64)[place])


def _checked(delays: np.ndarray) -> np.ndarray:
    if len(delays) and delays.min() < 0:
        raise ValueError(f"delay {delays.min()}: accepted: numbers of events from 0")
    return delays


def order(delays: np.ndarray, never: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The log that delays [n] make of a stream.

    Args:
        delays: int64 [n], in events.
        never: bool [n], labels that do not come at all.

    Returns:
        (event, kind): int64 and uint8 [m], the number of the event and whether it is its observation or its label.
        Labels due after the last event follow it.
    """
    events = np.arange(len(_checked(delays)))
    labelled = events if never is None else events[~never]
    event = np.concatenate([events, labelled])
    kind = np.repeat(np.array([OBSERVATION, LABEL], np.uint8), [len(events), len(labelled)])
    due = np.concatenate([events, labelled + delays[labelled]])
    place = np.lexsort((event, kind, due))  # an observation before the labels that are due after it
    return event[place], kind[place]


def late(batch: Batch, delays: np.ndarray, never: np.ndarray | None = None) -> Batch:
    """A stream of labelled events as observations, and labels by id that come so much later.

    A label bears the time of the event that was observed before it, the latest at the end.

    Args:
        batch: labelled events; their number from 1 becomes their id.
        delays: int64 [n], in events.
        never: bool [n], labels that do not come at all.

    Raises:
        ValueError: an event has no label, or a delay is negative.
    """
    if (batch.kind != LABELLED).any():
        raise ValueError(f"event {int(np.argmax(batch.kind != LABELLED))} is not labelled: only those can be delayed")
    event, kind = order(delays, never)
    label = kind == LABEL
    x, y = batch.x[event], batch.y[event].copy()
    x[label], y[~label] = 0.0, np.nan
    latest = np.maximum.accumulate(np.where(label, 0, event))
    id = np.column_stack([event + 1, np.zeros(len(event), np.int64)]).astype(np.uint64)
    names = _taken(batch.key, event)
    return Batch(x, kind, y, names, batch.time[latest], id, batch.classes)


def _taken(keys: Keys, rows: np.ndarray) -> Keys:
    """The keys of some rows, in their order."""
    lengths = np.diff(keys.offsets)[rows]
    offsets = np.append(0, np.cumsum(lengths))
    within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    return Keys(offsets, keys.data[np.repeat(keys.offsets[rows], lengths) + within])
