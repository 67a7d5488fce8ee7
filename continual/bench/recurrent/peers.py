"""Peers under equal conditions: the same columns, the last label, and the target transform of our own learner."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from continual.bench.recurrent.streams import Stream
from continual.peers import Majority, NoChange, Peer, Result, River, river_forest, river_linear, river_tree
from streams.batch import Batch
from streams.mapping import TargetKind

WINDOW = 5000
"""Labels over which the deviation of the change runs; our default spec's."""

CLIP = 5.0
"""Bound on an input and on a residual, in deviations; our default spec's."""

FLAT = 1e-14
"""A variance below this share of the squared mean is rounding: the column counts as constant."""


@dataclass(frozen=True)
class Changes:
    """A regression stream with the change since the last label as its target, in running deviations.

    Attributes:
        batch: the events; two more features: the last label, and the last change in deviations. The target is NaN
            (not learned) at the first event, which has no last label.
        base: float64 [n], the last label, 0 before the first.
        scale: float64 [n], the deviation as it was known when the event was predicted.
    """

    batch: Batch
    base: np.ndarray
    scale: np.ndarray

    def label(self, change: np.ndarray) -> np.ndarray:
        """Forecasts of the label from those of the transformed target; 0 gives the no-change forecast."""
        return self.base + self.scale * change


def changes(batch: Batch, window: float = WINDOW, clip: float = CLIP) -> Changes:
    """What our regression read-out does to the target (`kernels.cpu.heads`), for one key with every label at once.

    The deviation is the root of the mean squared change, over all changes up to `window` of them and exponential from
    there on. The target of an event is divided by the deviation that includes it, a forecast is multiplied by the one
    before: no forecast knows its label.

    Raises:
        ValueError: the events have several keys, or labels are missing.
    """
    if len(batch.key.data) or np.isnan(batch.y).any():
        raise ValueError("changes takes one key and a label with every event; got several keys or missing labels")
    n = len(batch)
    base, scale, target, last = np.zeros(n), np.zeros(n), np.full(n, np.nan), np.zeros(n)
    label, change, mean, count = 0.0, 0.0, 0.0, 0
    for row, y in enumerate(batch.y.tolist()):
        base[row], scale[row] = label, math.sqrt(mean)
        last[row] = min(clip, max(-clip, change / scale[row])) if mean > 0 else 0.0
        if row:
            change, count = y - label, count + 1
            mean += (change * change - mean) / min(count, window)
            target[row] = change / math.sqrt(mean) if mean > 0 else 0.0
        label = y
    x = np.column_stack([batch.x, base, last]).astype(np.float32)
    return Changes(replace(batch, x=x, y=target), base, scale)


def inputs(batch: Batch, target: TargetKind, window: float = WINDOW, clip: float = CLIP) -> np.ndarray:
    """What our learner's cell is given of a stream of one key, but for the constant: float64 [n, inputs].

    The features and, for a number, the last label are standardised by running moments that include the value itself,
    over `window` events (exact up to there, exponential after), and bounded by `clip`; 0 in a column that has been
    constant. A binary last label is -1 or 1, 0 before the first; a number has the last change in deviations beside it.
    """
    if target == "regression":
        told = changes(batch, window, clip)
        last = standardised(told.base[1:, None], window, clip)
        return np.column_stack(
            [standardised(batch.x, window, clip), np.vstack([np.zeros((1, 1)), last]), told.batch.x[:, -1]]
        )
    label = np.append(0.0, 2.0 * batch.y[:-1] - 1.0)[: len(batch)]
    return np.column_stack([standardised(batch.x, window, clip), label])


def standardised(columns: np.ndarray, window: float = WINDOW, clip: float = CLIP) -> np.ndarray:
    """Running standardisation of float [n, d] without missing values, as `kernels.cpu.inputs` does it."""
    mean, variance = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
    out = np.empty(columns.shape)
    for row, value in enumerate(np.asarray(columns, np.float64)):
        weight = 1.0 / min(row + 1.0, window)
        delta = value - mean
        mean = mean + weight * delta
        variance = (1.0 - weight) * (variance + weight * (delta * delta))
        varies = variance > FLAT * (mean * mean)
        out[row] = np.where(varies, (value - mean) / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
    return np.clip(out, -clip, clip)


class OnChanges(Peer):
    """A peer that is given a regression stream as `changes`, its forecasts turned back into labels.

    The transform is made before the clock starts.
    """

    def __init__(self, inner: Peer) -> None:
        super().__init__(inner.name, "regression")
        self.inner, self.requires, self.install = inner, inner.requires, inner.install

    def _fold(self, batch: Batch) -> Result:
        told = changes(batch)
        result = self.inner.run(told.batch)
        return replace(result, predicted=told.label(result.predicted))


class OnOurInputs(Peer):
    """A peer that is given what our learner's cell is given (`inputs`), and for a number the target of `changes`."""

    def __init__(self, inner: Peer) -> None:
        super().__init__(inner.name, inner.target)
        self.inner, self.requires, self.install = inner, inner.requires, inner.install

    def _fold(self, batch: Batch) -> Result:
        x = inputs(batch, self.target).astype(np.float32)
        if self.target == "binary":
            return self.inner.run(replace(batch, x=x))
        told = changes(batch)
        result = self.inner.run(replace(told.batch, x=x))
        return replace(result, predicted=told.label(result.predicted))


class SeasonalNoChange(Peer):
    """Predicts the label of the last event that is at least a season old; before there is one, the last label.

    Args:
        name: shown in tables.
        target: what it predicts.
        season: in the unit of the events' time, at least 1.

    Raises:
        ValueError: on running, the events are not in order of time.
    """

    requires = install = "numpy"

    def __init__(self, name: str, target: TargetKind, season: int) -> None:
        super().__init__(name, target)
        if season < 1:
            raise ValueError(f"season must be at least 1, got {season}")
        self.season = season

    def _fold(self, batch: Batch) -> Result:
        if (np.diff(batch.time) < 0).any():
            raise ValueError("time: a season needs events in order of time, these are not")
        start = time.perf_counter()
        at = np.searchsorted(batch.time, batch.time - self.season, side="right") - 1
        last = np.append(0.0, batch.y[:-1])[: len(batch)]
        predicted = np.where(at >= 0, batch.y[np.maximum(at, 0)], last)
        return Result(self.name, predicted, None, time.perf_counter() - start)


def baselines(stream: Stream) -> list[Peer]:
    """No-change, seasonal no-change where there is a season, and majority (for a number: the mean so far)."""
    peers: list[Peer] = [NoChange("no change", stream.target)]
    if stream.season:
        peers.append(SeasonalNoChange("a day ago", stream.target, stream.season))
    return [*peers, Majority("majority or mean", stream.target)]


def rivers(stream: Stream, *, forest: bool = True) -> list[Peer]:
    """River's linear model, Hoeffding tree and adaptive random forest of 10 trees, under equal conditions.

    A binary target: the columns and the last label. A number: the columns, the last label and the last change, and the
    target as `changes` makes it. The linear model gets them standardised; the trees of a number, which hold linear
    models in their leaves, once as they are and once standardised. Everything is at River's defaults. The linear model
    comes twice: as it is, and on the inputs of our cell with our loss (Huber, 5 deviations), so that only the
    recurrence and the optimizer differ.
    """
    kind = stream.target
    peers: list[Peer] = [OnOurInputs(River("River linear, our inputs", kind, _linear(kind)))]
    makers = {"River Hoeffding tree": river_tree, **({"River forest": river_forest} if forest else {})}
    if kind == "binary":
        peers.append(_named("River linear", river_linear(kind, previous=True)))
        return peers + [_named(name, make(kind, previous=True)) for name, make in makers.items()]
    peers.append(OnChanges(_named("River linear", river_linear(kind))))
    for name, make in makers.items():
        peers.append(OnChanges(_named(name, make(kind))))
        peers.append(OnChanges(_scaled(f"{name}, standardised", make(kind))))
    return peers


def _named(name: str, peer: Peer) -> Peer:
    peer.name = name
    return peer


def _linear(kind: TargetKind) -> Callable[[], Any]:
    def build() -> Any:
        from river import linear_model, optim

        if kind == "binary":
            return linear_model.LogisticRegression()
        return linear_model.LinearRegression(loss=optim.losses.Huber(CLIP))

    return build


def _scaled(name: str, peer: Peer) -> Peer:
    """A River peer behind River's standard scaler."""
    assert isinstance(peer, River)
    build = peer.build

    def scaled() -> Any:
        from river import preprocessing

        return preprocessing.StandardScaler() | build()

    return River(name, peer.target, scaled)
