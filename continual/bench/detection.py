"""Drift on streams whose changes are known: how late it is noticed, how often in vain, and what reacting is worth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual import data
from continual.bench import _helpers as helpers
from continual.bench._helpers import Row
from continual.bench.accuracy import interval
from continual.bench.report import out_option, publish
from learners.base import SIGNALS, Folded
from learners.spec import ModelSpec
from streams.batch import Batch

SIZE = 1024
PART = 10_000
"""Events between two changes of a generated stream."""

WIDTH = 1000
"""Events over which a gradual change happens."""

DETECTORS: dict[str, dict[str, Any]] = {
    "ADWIN": {"kind": "adwin"},
    "ADWIN, error": {"kind": "adwin", "on": "error"},
    "Page-Hinkley": {"kind": "page_hinkley"},
    "DDM": {"kind": "ddm"},
    "HDDM_A": {"kind": "hddm_a"},
    "HDDM_W": {"kind": "hddm_w"},
    "KSWIN": {"kind": "kswin"},
    "ADWIN, inputs": {"kind": "adwin", "on": "inputs"},
}

LEARNERS: dict[str, dict[str, Any]] = {
    "default": {"kind": "recurrent"},
    "slow (SGD 0.003)": {"kind": "recurrent", "optimizer": {"kind": "sgd", "rate": 0.003}},
    "Kalman": {"kind": "static", "head": {"kind": "kalman", "gammas": [1.0]}},
}
"""What is watched: the default; one that unlearns slowly; a filter that forgets nothing by itself."""

REACTIONS: dict[str, dict[str, Any]] = {
    "signal": {"kind": "signal"},
    "rate": {"kind": "rate"},
    "forget": {"kind": "forget"},
    "challenger": {"kind": "challenger"},
}

Figures = dict[str, float]


@dataclass(frozen=True)
class Drifting:
    """A stream with known changes.

    Attributes:
        name: shown.
        batch: labelled events.
        changes: the events at which a change begins, after the first concept.
        over: events that a change takes.
    """

    name: str
    batch: Batch
    changes: tuple[int, ...]
    over: int = 1

    def window(self, change: int) -> int:
        """The event before which a signal counts as this change noticed: halfway to the next one at the latest."""
        later = [at for at in (*self.changes, len(self.batch)) if at > change]
        return change + (later[0] - change) // 2


def sea_file() -> Drifting:
    """The SEA file: one and the same threshold fits all of its parts alike, so nothing is to be noticed in it."""
    return Drifting("SEA file, no change", data.sea(), ())


def sea(seed: int) -> Drifting:
    """SEA (Street & Kim 2001) by River's generator, 10 % of noise: its four thresholds, one after the other."""
    from river.datasets import synth

    parts = [list(synth.SEA(variant, noise=0.1, seed=10 * seed + variant).take(PART)) for variant in range(4)]
    x = np.array([list(features.values()) for part in parts for features, _ in part], np.float32)
    y = np.array([label for part in parts for _, label in part], float)
    return Drifting("SEA", Batch.of(x, y), tuple(range(PART, len(y), PART)))


def generated(name: str, seed: int, gradual: bool = False, inputs: bool = False) -> Drifting:
    """Four concepts of a hyperplane in 5 inputs with 5 % of noise; or, with `inputs`, one concept whose inputs move.

    Within a gradual change an event is of the new concept with a probability that rises from 0 to 1.
    """
    rng = np.random.default_rng([seed, 77])
    events, width = 4 * PART, WIDTH if gradual else 1
    changes = tuple(range(PART, events, PART))
    progress = np.clip((np.arange(events)[:, None] - np.array(changes) + 1) / width, 0, 1)
    concept = (rng.random((events, 1)) < progress).sum(axis=1)
    x = rng.normal(size=(events, 5))
    if inputs:
        x += 1.5 * concept[:, None] * np.array([1.0, -1.0, 0.0, 0.0, 0.0])
        concept = np.zeros(events, np.int64)
    planes = rng.normal(size=(4, 5))
    planes[1::2] = -planes[::2]  # every second change turns the labels round
    y = ((planes[concept] * x).sum(axis=1) > 0) ^ (rng.random(events) < 0.05)
    return Drifting(name, Batch.of(x.astype(np.float32), y.astype(float)), changes, width)


@cache
def streams(seed: int) -> list[Drifting]:
    """Those of a seed; the file is the same for all."""
    return [
        sea_file(),
        sea(seed),
        generated("abrupt", seed),
        generated("gradual", seed, gradual=True),
        generated("inputs move", seed, inputs=True),
    ]


@click.command()
@click.option("--part", type=click.Choice(["detectors", "reactions", "all"]), default="all", show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Of learners and generators.")
@click.option("--events", type=click.IntRange(1), help="Only the first so many events of a stream.")
@out_option
def detection(part: str, seeds: int, events: int | None, out: Path | None, as_json: bool) -> None:
    """How late and how often in vain detectors signal on streams with known changes, and what reactions gain.

    detectors: the default learner, only watched. delay: events from a change to the first signal, over the changes that
    are noticed before half of the time to the next one has passed. false alarms: signals outside of these windows, and
    all after the first within one are left out. reactions: accuracy with each reaction of learners that adapt by
    themselves, slowly, and not at all.
    """
    start = time.monotonic()

    def say(what: str) -> None:
        click.echo(f"[{time.monotonic() - start:6.0f} s] {what}", err=True)

    try:
        if part in ("detectors", "all"):
            _detectors(seeds, events, say, out, as_json)
        if part in ("reactions", "all"):
            _reactions(seeds, events, say, out, as_json)
    except data.NoData as missing:
        raise click.ClickException(str(missing)) from missing


def run(stream: Drifting, learner: dict[str, Any], detector: dict[str, Any], reaction: str, seed: int) -> Figures:
    """Folds a stream: delays and false alarms of its signals, accuracy, and that of the 2,000 events after changes."""
    spec = ModelSpec.model_validate(
        {
            "name": "drift",
            "features": [f"x{column}" for column in range(stream.batch.x.shape[1])],
            "target": {"kind": "binary"},
            "learner": {
                "kind": "drift",
                "learner": learner,
                "detector": detector,
                "reaction": REACTIONS[reaction],
                "seed": seed,
            },
        }
    )
    _, parts = helpers.fold(spec.learner.build(spec), helpers.cuts(stream.batch, SIZE))
    folded = Folded.concat(parts)
    helpers.check(bool(np.isfinite(folded.value).all()), "finite predictions")
    right = (folded.value >= 0.5) == (stream.batch.y == 1)
    after = np.concatenate([right[at : at + 2000] for at in stream.changes] or [np.full(1, np.nan)])
    counts = {name: int(np.count_nonzero(folded.signals[:, 1] == kind)) for kind, name in enumerate(SIGNALS)}
    positions = folded.signals[folded.signals[:, 1] == 0, 0]
    return {
        **verdicts(stream, positions),
        "accuracy": float(right.mean()),
        "after": float(after.mean()),
        **counts,
    }


def verdicts(stream: Drifting, positions: np.ndarray) -> Figures:
    """Changes noticed, mean delay of these in events (NaN for none), and false alarms per 100,000 events.

    Args:
        stream: with its changes.
        positions: int64 [m], the positions after the events at which a drift was signalled.
    """
    at = positions - 1
    delays, false = [], np.ones(len(at), bool)
    for change in stream.changes:
        within = (at >= change) & (at < stream.window(change))
        false &= ~within
        if within.any():
            delays.append(int(at[within].min()) - change)
    return {
        "noticed": len(delays) / len(stream.changes) if stream.changes else float("nan"),
        "delay": float(np.mean(delays)) if delays else float("nan"),
        "false": 1e5 * int(false.sum()) / len(stream.batch),
    }


def _runs(
    seeds: int, events: int | None, learner: dict[str, Any], detector: dict[str, Any], reaction: str
) -> dict[str, list[Figures]]:
    """By stream, a run for each seed."""
    found: dict[str, list[Figures]] = {}
    for seed in range(seeds):
        for stream in streams(seed):
            batch = stream.batch.slice(0, min(len(stream.batch), events or len(stream.batch)))
            cut = Drifting(stream.name, batch, tuple(at for at in stream.changes if at < len(batch)), stream.over)
            found.setdefault(stream.name, []).append(run(cut, learner, detector, reaction, seed))
    return found


def _mean(runs: Sequence[Figures], name: str) -> float:
    values = [one[name] for one in runs if not np.isnan(one[name])]
    return float(np.mean(values)) if values else float("nan")


def _number(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _detectors(seeds: int, events: int | None, say: Any, out: Path | None, as_json: bool) -> None:
    found: dict[str, dict[str, list[Figures]]] = {}
    for name, detector in DETECTORS.items():
        few = 1 if name == "KSWIN" else seeds
        found[name] = _runs(few, events, LEARNERS["default"], detector, "signal")
        say(name)
    notes = [
        "Detectors at their defaults on the losses of the default learner (DDM and HDDM: on its errors), which goes on "
        "learning: 'signal' changes nothing. KSWIN, which takes a test of River's for each value, has one seed.",
        f"SEA (River's generator), abrupt and gradual (over {WIDTH:,} events) change the concept three times. 'inputs "
        "move' changes the inputs and not what they mean: a detector of losses that keeps silent there is right. In "
        "the SEA file nothing changes: one threshold fits all its parts.",
        "A change counts as noticed until half of the time to the next one has passed; delays are of those noticed.",
    ]
    details = {"runs": found}
    publish("detection", "Drift noticed", detector_rows(found), notes=notes, details=details, out=out, as_json=as_json)


def detector_rows(found: dict[str, dict[str, list[Figures]]]) -> list[Row]:
    """The table of detectors, from the runs by detector and stream."""
    return [
        {
            "stream": stream,
            "detector": name,
            "noticed, %": _number(100 * _mean(by[stream], "noticed"), 0),
            "delay, events": _number(_mean(by[stream], "delay"), 0),
            "false alarms per 1e5": _number(_mean(by[stream], "false"), 1),
            "seeds": len(by[stream]),
        }
        for stream in next(iter(found.values()))
        for name, by in found.items()
    ]


def _reactions(seeds: int, events: int | None, say: Any, out: Path | None, as_json: bool) -> None:
    found: dict[str, dict[str, dict[str, list[Figures]]]] = {}
    for learner, spec in LEARNERS.items():
        found[learner] = {}
        for reaction in ("signal", "forget" if learner == "Kalman" else "rate", "challenger"):
            found[learner][reaction] = _runs(seeds, events, spec, DETECTORS["ADWIN, error"], reaction)
            say(f"{learner}, {reaction}")
    notes = [
        "ADWIN on errors, reactions at their defaults. Figures are means over seeds; +- is half of the 95 % interval "
        "of the mean accuracy (Student's t).",
        "The default learner follows a change by itself; the slow one does not soon; the filter with gamma 1 weighs "
        "all of the past alike.",
    ]
    details = {"runs": found}
    publish("reactions", "Drift answered", reaction_rows(found), notes=notes, details=details, out=out, as_json=as_json)


def reaction_rows(found: dict[str, dict[str, dict[str, list[Figures]]]]) -> list[Row]:
    """The table of reactions, from the runs by learner, reaction and stream."""
    names = next(iter(next(iter(found.values())).values()))
    return [
        {
            "stream": stream,
            "learner": learner,
            "reaction": "none" if reaction == "signal" else reaction,
            "accuracy, %": _number(100 * _mean(by[stream], "accuracy"), 2),
            "+-": _number(100 * interval([one["accuracy"] for one in by[stream]]), 2),
            "2,000 after a change, %": _number(100 * _mean(by[stream], "after"), 2),
            "drifts": _number(_mean(by[stream], "drift"), 1),
            "promoted": _number(_mean(by[stream], "challenger_promoted"), 1),
            "seeds": len(by[stream]),
        }
        for stream in names
        for learner, reactions in found.items()
        for reaction, by in reactions.items()
    ]
