"""Streams as scenarios: one pass, no test set, every event predicted before it is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from continual import data
from continual.bench.recurrent import streams as known
from continual.datasets.tables import read
from continual.scenarios.scenario import Experience, Given, Scenario
from streams.batch import Batch
from streams.mapping import TargetKind

PROTOCOL = "One pass in the order of the stream. Every event is predicted, then learned; all figures are prequential."
RECURRING = 40_000
"""Events of the generated stream."""


def of(
    name: str,
    title: str,
    features: tuple[str, ...],
    target: TargetKind,
    batch: Batch,
    labels: tuple[int | str, ...],
    events: int | None = None,
) -> Scenario:
    """A stream, cut to its first `events`, as a scenario of one experience."""
    batch = batch.slice(0, min(len(batch), events or len(batch)))
    one = Experience("the stream", Given(batch), None, tuple(range(len(labels))))
    title = f"{title}, {len(batch):,} events"
    return Scenario(name, title, PROTOCOL, (one,), features, target, labels, (len(features),))


def drift(name: str, events: int | None = None, seed: int = 0) -> Scenario:
    """One of the drift streams of `continual bench recurrent`; of "exchange" the first currency.

    Raises:
        continual.data.NoData: its file is not in the data folder.
    """
    if name == "shuttle":
        title = "Shuttle: an anomaly or not, shuffled"
        return of("shuttle-stream", title, data.SHUTTLE.features, "binary", data.shuttle(), (0, 1), events)
    stream = known.recurring(events or RECURRING, seed)[0] if name == "recurring" else known.STREAMS[name]()
    labels = (0, 1) if stream.target == "binary" else ()
    title = f"{name}, {stream.columns}"
    return of(f"{name}-stream", title, stream.features, stream.target, stream.batches[0], labels, events)


def table(path: Path, label: str | None, events: int | None = None) -> Scenario:
    """A file of one's own as a stream.

    Raises:
        continual.datasets.dataset.BadData: see `continual.datasets.tables.read`.
    """
    mapping, batch = read(path, label)
    labels = batch.classes or (mapping.labels if mapping.target == "binary" else ())
    scenario = of(path.name, path.name, mapping.features, mapping.target, batch, labels, events)
    return replace(scenario, missing=mapping.missing)



STREAMS = (*known.STREAMS, "shuttle", "recurring")
"""What `drift` knows."""
