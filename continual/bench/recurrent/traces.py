"""How far the gradient of a learner whose weights change is from the one its traces are exact for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench.recurrent import drift
from continual.bench.recurrent.streams import Stream
from continual.bench.report import publish
from kernels.cpu import layout, sequence
from kernels.reference.inputs import prepare
from learners import recurrence
from learners.compiled import CompiledLearner
from learners.methods.recurrent import RecurrentSpec
from streams.batch import Batch

POSITIONS = (100, 500, 1000, 2000, 5000)
LAST = 20
"""Events up to a position over which figures are averaged."""


class Compared:
    """A binary learner with one layer, folded event by event, and the gradients at its last event."""

    def __init__(self, stream: Stream, learner: dict[str, Any], seed: int) -> None:
        model = drift.model(stream, learner, seed)
        spec = model.learner
        assert isinstance(spec, RecurrentSpec)
        self._learner: CompiledLearner = spec.build(model)
        self._cell, self._config = spec.cell.compiled(), recurrence.config(model, spec)
        self._work = sequence.work(self._cell, self._config.width, spec.cell.hidden, np.dtype(spec.dtype))
        self._dtype = np.dtype(spec.dtype)
        self._inputs: list[np.ndarray] = []

    def fold(self, event: Batch) -> None:
        """Folds a labelled event of the only key."""
        self._note_inputs(event)
        self._learner.fold(event)

    def fold_and_compare(self, event: Batch) -> tuple[float, float]:
        """Folds a labelled event; its online gradient of the recurrence against that of weights held from the start.

        The online one is what the fold used: state and traces as they were carried while the weights changed. The
        other runs the whole prefix with the weights of this event.

        Returns:
            The cosine of the two, and the norm of the first over that of the second; NaN where one of them is zero
            (a prediction that is certain and right).
        """
        self._note_inputs(event)
        shared = {name: self._learner.shared_arrays()[name].copy() for name in ("cell", "out", "skip")}
        self._learner.fold(event)
        online = self._gradient(shared, self._learner.rows.columns["body"][self._slot(event)][None], float(event.y[0]))
        body = np.zeros((1, self._work.sizes.body), self._dtype)
        phi = np.zeros((1, self._config.hidden), self._dtype)
        x = np.stack(self._inputs)[None]
        sequence.run(self._cell, shared["cell"], x, 1.0, 0, body, phi, self._work)
        held = self._gradient(shared, body, float(event.y[0]))
        sizes = float(np.linalg.norm(online)), float(np.linalg.norm(held))
        if not all(sizes):
            return math.nan, math.nan
        return float(online @ held) / (sizes[0] * sizes[1]), sizes[0] / sizes[1]

    def _slot(self, event: Batch) -> int:
        return int(self._learner.rows.lookup(event.key)[0])

    def _note_inputs(self, event: Batch) -> None:
        """What the fold makes of the event, with the statistics as they are."""
        arrays, slot = self._learner.shared_arrays(), self._slot(event)
        columns = self._learner.rows.columns
        new = np.zeros(layout.HEAD), np.zeros(0)
        head, unit = (columns["head"][slot], columns["unit"][slot]) if slot >= 0 else new
        shared = layout.Shared(**{name: arrays[name] for name in layout.Shared._fields})
        self._inputs.append(np.array(prepare(self._config, shared, head, unit, event.x[0], False), self._dtype))

    def _gradient(self, shared: dict[str, np.ndarray], body: np.ndarray, y: float) -> np.ndarray:
        """float64: the gradient of the recurrence at the last inputs, by state and traces in `body` [1, P]."""
        x = self._inputs[-1][None, None]
        phi = np.zeros((1, self._config.hidden), self._dtype)
        sequence.read(self._cell, shared["cell"], x, body, phi, self._work)
        logit = float(shared["out"][0] @ phi[0] + shared["skip"][0] @ x[0, 0])
        error = 1.0 / (1.0 + np.exp(-logit)) - y
        g = np.zeros_like(shared["cell"])
        sequence.gradient(
            self._cell, shared["cell"], x, body, (error * shared["out"][:1]).astype(g.dtype), g, self._work
        )
        return g[: self._work.sizes.out].astype(np.float64)


def compare(stream: Stream, learner: dict[str, Any], seed: int, positions: Sequence[int]) -> np.ndarray:
    """Cosine and ratio of norms, means over the `LAST` events up to each position: float64 [positions, 2].

    Events without a gradient are left out.
    """
    compared, batch = Compared(stream, learner, seed), stream.batches[0]
    found: list[list[tuple[float, float]]] = [[] for _ in positions]
    for at in range(max(positions)):
        event = batch.slice(at, at + 1)
        near = [number for number, position in enumerate(positions) if position - LAST <= at < position]
        if near:
            figures = compared.fold_and_compare(event)
            for number in near:
                found[number].append(figures)
        else:
            compared.fold(event)
    return np.array([np.nanmean(figures, axis=0) for figures in found])


def measure(
    kinds: Sequence[str],
    stream: Stream,
    *,
    seeds: int = 5,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Compares the gradients of each cell at its default spec on the first events of a stream; publishes a table.

    Args:
        kinds: of cells.
        stream: binary, of one key.
        seeds: at least 1.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    positions = [position for position in POSITIONS if position <= stream.events] or [stream.events]
    figures = {}
    for kind in kinds:
        say(f"traces: {kind}, {seeds} seeds of {max(positions):,} events")
        learner = {"kind": "recurrent", "cell": {"kind": kind}}
        figures[kind] = np.stack([compare(stream, learner, seed, positions) for seed in range(seeds)])
    publish(
        "recurrent-traces",
        f"Online gradient against that of weights held through the prefix, {stream.name}: cosine, mean (least seed)",
        [_row(kind, values, positions) for kind, values in figures.items()],
        notes=[
            f"Default spec, {seeds} seeds. Means over the {LAST} events up to each position; gradients of the weights "
            "of the recurrence. Online: state and traces carried while the weights changed, as served. The other is "
            "exact for the weights at the event, the whole prefix run again with them.",
            "Size: norm of the online gradient over that of the other, at the last position.",
        ],
        details={
            "positions": positions,
            "cosine and size": {kind: values.tolist() for kind, values in figures.items()},
            "axes": ["seed", "position", "figure"],
        },
        out=out,
        as_json=as_json,
    )


def _row(kind: str, values: np.ndarray, positions: Sequence[int]) -> dict[str, Any]:
    cosine = values[:, :, 0]
    shown = {f"{at:,}": f"{cosine[:, n].mean():.3f} ({cosine[:, n].min():.3f})" for n, at in enumerate(positions)}
    return {"cell": kind, **shown, "size": f"{values[:, -1, 1].mean():.3f}"}
