"""The bank of filters against each of its members alone, and against the online gradient of the rate of forgetting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench import _helpers as helpers
from continual.bench.accuracy import interval
from continual.bench.heads.runs import RECURRENT, run, seeds_of
from continual.bench.recurrent.drift import Figures, mean, model, text
from continual.bench.recurrent.streams import SEA_NOTE, Stream, load
from continual.bench.report import publish
from learners.heads.kalman import Kalman

BELOW: dict[str, dict[str, Any]] = {"cell": RECURRENT, "raw": {"kind": "static"}}
"""What is below the head: the default cell, and the inputs alone."""

RATES = (1e-5, 1e-4, 1e-3)
"""Of the online gradient of gamma."""

FIRST = 0.999
"""Where that gradient starts."""

BANK = "bank"
ALLOWED = 0.01
"""Nats per event by which the bank may be worse than its best member."""


def heads(gammas: Sequence[float] = Kalman().gammas) -> dict[str, dict[str, Any]]:
    """Name -> spec of the head: each member alone, the bank of all, a single one whose gamma moves."""
    alone = {f"{gamma:g}": {"kind": "kalman", "gammas": (gamma,)} for gamma in gammas}
    moved = {f"gradient {rate:g}": {"kind": "kalman", "gammas": (FIRST,), "gamma_rate": rate} for rate in RATES}
    return {**alone, BANK: {"kind": "kalman", "gammas": tuple(gammas)}, **moved}


Runs = dict[str, list[Figures]]
"""Head -> its figures, seed by seed."""


def run_stream(stream: Stream, below: str, seeds: int, say: Callable[[str], None]) -> Runs:
    """Every head on one stream."""
    runs: Runs = {}
    for name, head in heads().items():
        learner = {**BELOW[below], "head": head}
        # The samples of the softmax are all that is random on raw inputs.
        of = seeds_of(learner, stream, seeds) if below == "cell" or stream.target == "binary" else range(1)
        say(f"{stream.name}, {below}: {name}, {len(of)} seeds")
        helpers.warm(model(stream, learner), stream.batches[0])
        runs[name] = [run(stream, learner, seed) for seed in of]
    return runs


def row(stream: str, below: str, runs: Runs) -> helpers.Row:
    """Nats per event of every head on a stream, and by how much the bank is worse than its best member."""
    nats = {name: mean(seeds, "nats") for name, seeds in runs.items()}
    best = min((name for name in nats if name[0].isdigit()), key=lambda name: nats[name])
    worse = [one["nats"] - other["nats"] for one, other in zip(runs[BANK], runs[best], strict=True)]
    over = float(np.mean(worse))
    return {
        "stream": stream,
        "features": below,
        **{name: text(value, 4) for name, value in nats.items()},
        "best": best,
        "bank - best": f"{over:+.4f}",
        "+-": text(interval(worse), 4),
        f"<= {ALLOWED:g}": "yes" if over <= ALLOWED else "NO",
        "best gradient - best": f"{min(nats[name] for name in nats if name.startswith('gradient')) - nats[best]:+.4f}",
    }


def measure(
    names: Sequence[str],
    *,
    seeds: int = 5,
    events: int | None = None,
    out: Path | None = None,
    as_json: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Runs the streams and publishes one table.

    Args:
        names: of streams, in order.
        seeds: of each learner in which something is random, at least 1.
        events: only the first so many of each stream; None: all.
        out: folder for the files; nothing is written without.
        as_json: JSON in place of the table.
        say: is told what begins.
    """
    table, runs = [], {}
    for stream in (load(name, events) for name in names):
        for below in BELOW:
            runs[f"{stream.name}, {below}"] = found = run_stream(stream, below, seeds, say)
            table.append(row(stream.name, below, found))
    publish(
        "heads-forgetting",
        "Kalman head: a bank of rates of forgetting against each rate alone, nats per event",
        table,
        notes=_notes(),
        details={"runs": runs, "heads": heads(), "seeds": list(range(seeds))},
        out=out,
        as_json=as_json,
    )


def _notes() -> list[str]:
    return [
        "nats: mean of -log p of the label, as in `heads-classes.md` and `heads-numbers.md`; lower is better. A number "
        "is a filter that keeps so much of its weights per event, alone; the bank mixes these four by fixed share.",
        "features: cell, the default recurrent cell, which learns through a read-out of its own; raw, the standardised "
        "inputs and the last label. Both are the same for every head.",
        f"bank - best: against the best of its members on this stream, chosen afterwards; +- is half of the 95 % "
        f"interval over seeds (Student's t). gradient: one filter, gamma from {FIRST:g} by the gradient of the "
        "evidence, at this rate; the last column takes the best of the rates, chosen afterwards too.",
        SEA_NOTE,
    ]
