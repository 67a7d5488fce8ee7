"""Prequential metrics: every event is predicted before it is learned; these are over those predictions.

All are folds of columns. How the events were cut into batches changes no bit of a result: what can be counted
is counted in integers, and sums of floats are taken in the order of events (`np.add.accumulate`, seeded with
the sum so far).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from streams.batch import Keys

CLIP = 1e-6
"""Probabilities are taken as at least this in the log-loss."""
BINS = 15
"""Of equal width over the confidences in the calibration error."""
CELLS = 1 << 20


class KeyCodes:
    """Small numbers for keys, from 0 in order of first appearance; memory grows with the number of keys."""

    def __init__(self) -> None:
        self._codes: dict[bytes, int] = {}

    def __call__(self, keys: Keys) -> np.ndarray:
        """The numbers of a column of keys: int64 [n]."""
        if not len(keys.data):
            return np.full(len(keys), self._codes.setdefault(b"", len(self._codes)), np.int64)
        buffers = [None, pa.py_buffer(np.ascontiguousarray(keys.offsets)), pa.py_buffer(keys.data)]
        encoded = pa.Array.from_buffers(pa.large_binary(), len(keys), buffers).dictionary_encode()
        distinct = [self._codes.setdefault(key, len(self._codes)) for key in encoded.dictionary.to_pylist()]
        return np.array(distinct, np.int64)[encoded.indices.to_numpy()]


@dataclass
class Classification:
    """Metrics of predicted classes, over the labelled events.

    With n events, of which `hits` were predicted right:

    - accuracy = hits / n.
    - log_loss = -(1/n) sum log max(p, 1e-6), p the probability that was given to the label that came.
    - kappa (Cohen) = (accuracy - e) / (1 - e), e = sum over classes of share predicted x share occurred.
    - no_change = accuracy of the classifier that predicts the last label of the event's key. The first
      event of a key counts as an error.
    - majority = accuracy of the classifier that predicts the most frequent label so far, of equals the one
      that appeared first. The first event counts as an error.
    - kappa_temporal = (accuracy - no_change) / (1 - no_change), on the same events.
    - calibration_error (expected calibration error, Guo et al. 2017, equation 3) = sum over 15 bins of
      |right - sum of confidence| / m, over the m events that came with a confidence: the probability that was given to
      the predicted class. Bin b of 1 to 15 holds the confidences in ((b - 1) / 15, b / 15], the first one 0 too.

    A value is NaN where it is undefined: before the first event, or with a denominator of 0.

    Attributes:
        labels: the classes in order of first appearance, as predictions or labels.
        predicted: events predicted as each of `labels`.
        occurred: events labelled as each of `labels`.
        last: index in `labels` of the last label of each key, by key code; -1 for none.
        sure, sure_hits, confidence: of each bin the events, those predicted right, and the sum of their confidences.
        merged: the counts come from several folds; they can be read, and go on no further.
    """

    hits: int = 0
    no_change_hits: int = 0
    majority_hits: int = 0
    loss: float = 0.0
    labels: list[Hashable] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)
    occurred: list[int] = field(default_factory=list)
    last: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sure: list[int] = field(default_factory=lambda: [0] * BINS)
    sure_hits: list[int] = field(default_factory=lambda: [0] * BINS)
    confidence: list[float] = field(default_factory=lambda: [0.0] * BINS)
    merged: bool = False

    def __post_init__(self) -> None:
        self.last = np.array(self.last, np.int64)

    def update(
        self,
        predicted: np.ndarray,
        y: np.ndarray,
        probability: np.ndarray,
        *,
        classes: Sequence[Hashable],
        key: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
    ) -> None:
        """Counts events, in log order.

        Args:
            predicted: integers [n]; index in `classes` of what was predicted.
            y: [n]; index in `classes` of the label that came, NaN where none did.
            probability: floats [n]; the probability that the prediction gave to the label that came.
            classes: the labels that `predicted` and `y` index; may differ from call to call.
            key: integers [n] (see `KeyCodes`); None: one key.
            confidence: floats [n]; the probability that the prediction gave to the predicted class, NaN or None where
                it is not known.

        Raises:
            ValueError: lengths differ, a probability is outside [0, 1], or the object is merged.
        """
        columns = _labelled(self.merged, y, predicted, probability, key, confidence)
        y, (predicted, probability, key, confidence) = columns
        _check_probabilities(probability)
        if confidence is not None:
            _check_probabilities(confidence[~np.isnan(confidence)])
        both = np.stack([y.astype(np.int64), np.asarray(predicted, np.int64)], axis=1)
        occurred, guessed = self._codes(both.ravel(), classes).reshape(-1, 2).T
        previous, self.last = previous_labels(occurred, key, self.last)
        self.hits += int(np.count_nonzero(guessed == occurred))
        self.no_change_hits += int(np.count_nonzero(previous == occurred))
        self.majority_hits += _majority_hits(occurred, np.array(self.occurred, np.int64))
        self.loss = _carried(self.loss, -np.log(np.maximum(probability, CLIP)))
        self.predicted = (self.predicted + np.bincount(guessed, minlength=len(self.labels))).tolist()
        self.occurred = (self.occurred + np.bincount(occurred, minlength=len(self.labels))).tolist()
        if confidence is not None:
            self._calibrate(np.asarray(confidence, np.float64), guessed == occurred)

    def _calibrate(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Takes in confidences, NaN where there is none, and whether the prediction was right."""
        right, confidence = right[~np.isnan(confidence)], confidence[~np.isnan(confidence)]
        bins = np.maximum(np.ceil(BINS * confidence).astype(np.int64) - 1, 0)
        sums = np.array(self.confidence)
        np.add.at(sums, bins, confidence)  # one after the other, from the sum so far
        self.confidence = sums.tolist()
        self.sure = (self.sure + np.bincount(bins, minlength=BINS)).tolist()
        self.sure_hits = (self.sure_hits + np.bincount(bins[right], minlength=BINS)).tolist()

    def update_binary(self, probability: np.ndarray, y: np.ndarray, *, key: np.ndarray | None = None) -> None:
        """Counts events of a binary target, predicted as 1 where the probability is at least 0.5.

        Args:
            probability: floats [n], the probability of 1.
            y: [n]; 0 or 1, NaN where there is no label.
            key: as in `update`.
        """
        probability = np.asarray(probability, np.float64)
        of_label = np.where(y == 1, probability, 1 - probability)
        sure = np.maximum(probability, 1 - probability)
        self.update((probability >= 0.5).astype(np.int64), y, of_label, classes=(0, 1), key=key, confidence=sure)

    @property
    def events(self) -> int:
        """Labelled events counted."""
        return sum(self.occurred)

    def values(self) -> dict[str, float]:
        """Every metric by name."""
        n = self.events
        accuracy = _ratio(self.hits, n)
        chance = _ratio(sum(one * other for one, other in zip(self.predicted, self.occurred)), n * n)
        no_change = _ratio(self.no_change_hits, n)
        return {
            "events": n,
            "accuracy": accuracy,
            "log_loss": _ratio(self.loss, n),
            "kappa": _ratio(accuracy - chance, 1 - chance),
            "kappa_temporal": _ratio(accuracy - no_change, 1 - no_change),
            "no_change": no_change,
            "majority": _ratio(self.majority_hits, n),
            "calibration_error": _ratio(
                float(np.abs(np.subtract(self.sure_hits, self.confidence)).sum()), sum(self.sure)
            ),
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole state as plain values; `Classification(**state)` goes on from it."""
        return {**asdict(self), "last": self.last.tolist()}

    @classmethod
    def merge(cls, parts: Iterable[Classification]) -> Classification:
        """The metrics over the events of several folds, each with its own majority and its own keys."""
        out = cls(merged=True)
        for part in parts:
            codes = out._codes(np.arange(len(part.labels)), part.labels)
            for code, predicted, occurred in zip(codes.tolist(), part.predicted, part.occurred):
                out.predicted[code] += predicted
                out.occurred[code] += occurred
            out.hits += part.hits
            out.no_change_hits += part.no_change_hits
            out.majority_hits += part.majority_hits
            out.loss += part.loss
            out.sure = np.add(out.sure, part.sure).tolist()
            out.sure_hits = np.add(out.sure_hits, part.sure_hits).tolist()
            out.confidence = np.add(out.confidence, part.confidence).tolist()
        return out

    def _codes(self, indices: np.ndarray, classes: Sequence[Hashable]) -> np.ndarray:
        """Indices into `classes` as indices into `labels`, which takes in those it has not met."""
        met, first = np.unique(indices, return_index=True)
        if len(met) and not 0 <= met[0] <= met[-1] < len(classes):
            raise ValueError(f"class index {met[0]}..{met[-1]}: accepted: 0 to {len(classes) - 1}")
        table = np.zeros(len(classes), np.int64)
        known = {label: code for code, label in enumerate(self.labels)}
        for index in met[np.argsort(first)].tolist():
            table[index] = known.setdefault(classes[index], len(known))
        for label in list(known)[len(self.labels) :]:
            self.labels.append(label)
            self.predicted.append(0)
            self.occurred.append(0)
        return table[indices]


@dataclass
class Regression:
    """Metrics of predicted numbers, over the labelled events.

    - mae = (1/n) sum |prediction - label|; rmse = sqrt((1/n) sum (prediction - label)^2).
    - no_change_mae, no_change_rmse: the same of the forecast "the last label of the event's key", over the
      events whose key has one.
    - interval_coverage = share of the labels with |label - prediction| <= half-width; interval_width = mean of twice
      the half-width, both over the events that came with an interval.

    A value is NaN before the first event that it is over.

    Attributes:
        last: the last label of each key, by key code; NaN for none.
        intervals, covered, width: events with an interval, labels inside it, sum of the whole widths.
        merged: the sums come from several folds; they can be read, and go on no further.
    """

    events: int = 0
    absolute: float = 0.0
    squared: float = 0.0
    no_change_events: int = 0
    no_change_absolute: float = 0.0
    no_change_squared: float = 0.0
    last: np.ndarray = field(default_factory=lambda: np.zeros(0))
    intervals: int = 0
    covered: int = 0
    width: float = 0.0
    merged: bool = False

    def __post_init__(self) -> None:
        self.last = np.array(self.last, np.float64)

    def update(
        self,
        predicted: np.ndarray,
        y: np.ndarray,
        *,
        key: np.ndarray | None = None,
        interval: np.ndarray | None = None,
        start: np.ndarray | None = None,
    ) -> None:
        """Counts events, in log order.

        Args:
            predicted: floats [n].
            y: floats [n]; NaN where there is no label.
            key: integers [n] (see `KeyCodes`); None: one key.
            start: floats [n]; what no change forecasts for a key that had no label yet; None: such events are not
                counted for it.
            interval: floats [n]; half the width of the interval around the prediction, NaN or None where it has none.

        Raises:
            ValueError: lengths differ, a prediction is not finite, a width is negative or infinite, or the object is
                merged.
        """
        y, (predicted, key, interval, start) = _labelled(self.merged, y, predicted, key, interval, start)
        if not np.isfinite(predicted).all():
            raise ValueError(f"prediction: {predicted[~np.isfinite(predicted)][0]}; accepted: finite numbers")
        if interval is not None and not (np.isnan(interval) | (interval >= 0) & (interval < np.inf)).all():
            raise ValueError(f"interval: {interval.min()} to {interval.max()}; accepted: finite half-widths from 0")
        previous, self.last = previous_labels(y, key, self.last)
        if start is not None:
            previous = np.where(np.isnan(previous), start, previous)
        error = np.asarray(predicted, np.float64) - y
        change = (previous - y)[~np.isnan(previous)]
        self.events += len(y)
        self.no_change_events += len(change)
        self.absolute = _carried(self.absolute, np.abs(error))
        self.squared = _carried(self.squared, error * error)
        self.no_change_absolute = _carried(self.no_change_absolute, np.abs(change))
        self.no_change_squared = _carried(self.no_change_squared, change * change)
        if interval is not None:
            given = ~np.isnan(interval)
            self.intervals += int(np.count_nonzero(given))
            self.covered += int(np.count_nonzero(np.abs(error)[given] <= interval[given]))
            self.width = _carried(self.width, 2.0 * np.asarray(interval, np.float64)[given])

    def values(self) -> dict[str, float]:
        """Every metric by name."""
        return {
            "events": self.events,
            "mae": _ratio(self.absolute, self.events),
            "rmse": math.sqrt(_ratio(self.squared, self.events)),
            "no_change_mae": _ratio(self.no_change_absolute, self.no_change_events),
            "no_change_rmse": math.sqrt(_ratio(self.no_change_squared, self.no_change_events)),
            "interval_coverage": _ratio(self.covered, self.intervals),
            "interval_width": _ratio(self.width, self.intervals),
        }

    def to_dict(self) -> dict[str, Any]:
        """The whole state as plain values; `Regression(**state)` goes on from it."""
        return {**asdict(self), "last": self.last.tolist()}

    @classmethod
    def merge(cls, parts: Iterable[Regression]) -> Regression:
        """The metrics over the events of several folds, each with its own keys."""
        out = cls(merged=True)
        for part in parts:
            out.events += part.events
            out.absolute += part.absolute
            out.squared += part.squared
            out.no_change_events += part.no_change_events
            out.no_change_absolute += part.no_change_absolute
            out.no_change_squared += part.no_change_squared
            out.intervals += part.intervals
            out.covered += part.covered
            out.width += part.width
        return out


def _labelled(merged: bool, y: np.ndarray, *columns: np.ndarray | None) -> tuple[np.ndarray, list[Any]]:
    """The columns, without the events that have no label."""
    if merged:
        raise ValueError("these metrics were merged from several folds; accepted: reading, no further events")
    y = np.asarray(y, np.float64)
    lengths = {len(y), *(len(column) for column in columns if column is not None)}
    if len(lengths) > 1:
        raise ValueError(f"the columns have {sorted(lengths)} rows; accepted: equally many")
    here = ~np.isnan(y)
    return y[here], [None if column is None else np.asarray(column)[here] for column in columns]


def _check_probabilities(probability: np.ndarray) -> None:
    wrong = probability[~((probability >= 0) & (probability <= 1))]
    if len(wrong):
        raise ValueError(f"probability: {wrong[0]} is none; accepted: numbers from 0 to 1")


def previous_labels(y: np.ndarray, key: np.ndarray | None, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The label before each event's under the same key.

    Args:
        y: labels [n], integers or floats; every event has one.
        key: integers [n] (see `KeyCodes`); None: one key.
        last: the last label of each key before these events, by key code; it is changed or outgrown.

    Returns:
        The labels before, and the last ones after; where there is none, -1 for integers and NaN for floats.
    """
    if not len(y):
        return y, last
    key = np.zeros(len(y), np.int64) if key is None else key
    none = -1 if y.dtype.kind == "i" else math.nan
    new = max(0, int(key.max()) + 1 - len(last))
    ending = np.append(last, np.full(new, none, y.dtype)) if new else last
    if (key == key[0]).all():
        previous = np.append(ending[key[:1]], y[:-1])
        ending[key[0]] = y[-1]
        return previous, ending
    order = np.argsort(key, kind="stable")
    sorted_key, sorted_y = key[order], y[order]
    starts = np.append(True, sorted_key[1:] != sorted_key[:-1])
    before = np.append(sorted_y[:1], sorted_y[:-1])
    before[starts] = ending[sorted_key[starts]]
    previous = np.empty_like(before)
    previous[order] = before
    ends = np.append(starts[1:], True)
    ending[sorted_key[ends]] = sorted_y[ends]
    return previous, ending


def _majority_hits(codes: np.ndarray, counts: np.ndarray) -> int:
    """How many of `codes` equal the most frequent code before them, given the counts before the first."""
    hits, counts = 0, counts.copy()
    step = max(1, CELLS // max(1, len(np.unique(codes)) + 1))
    for start in range(0, len(codes), step):
        part = codes[start : start + step]
        # Only the classes that occur here can gain; of the others only the leader matters.
        rivals = np.setdiff1d(np.arange(len(counts)), part)
        leader = rivals[[np.argmax(counts[rivals])]] if len(rivals) else rivals
        columns = np.sort(np.append(np.unique(part), leader))
        gains = np.cumsum(part[:, None] == columns, axis=0)
        standing = counts[columns] + gains - (part[:, None] == columns)
        best = standing.argmax(axis=1)
        hits += int(np.count_nonzero((columns[best] == part) & (standing.max(axis=1) > 0)))
        counts += np.bincount(part, minlength=len(counts))
    return hits


def _carried(total: float, values: np.ndarray) -> float:
    """The sum so far plus `values`, one after the other."""
    return float(np.add.accumulate(np.append(total, values))[-1])


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
