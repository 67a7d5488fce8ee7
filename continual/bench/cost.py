"""What an event costs in process: the default learner against River and Vowpal Wabbit, predict and learn."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numba as nb
import numpy as np

from continual.bench._helpers import (
    Row,
    Stream,
    alternate,
    check,
    cuts,
    fold,
    load,
    median,
    ratio_row,
    score,
    spec,
    stream_options,
    value_row,
    warm,
)
from continual.bench.report import out_option, publish
from continual.peers import Peer, river_linear, vowpal_wabbit, vw_lines, vw_options

BATCH = 1024
OTHER_BATCHES = (1, 16, 256, 4096)
TARGETS = {64: (0.2, 0.25), 16: (0.07, 0.08)}
"""Units -> at most so many times River's cost, and Vowpal Wabbit's."""


@click.command()
@stream_options
@click.option("--rounds", default=5, show_default=True, help="Of every measurement, in turn; medians are compared.")
@out_option
def cost(stream: str, events: int | None, rounds: int, out: Path | None, as_json: bool) -> None:
    """Cost per event, predict and learn: the default learner, River's linear model, Vowpal Wabbit."""
    chosen = load(stream, events)
    n = len(chosen.batch)
    work: dict[str, Callable[[], float]] = {}
    for units in TARGETS:
        warm(spec(chosen, units), chosen.batch)
        work[f"{units} units"] = _ours(chosen, units, BATCH)
    peers = {"River": river_linear("binary", previous=True), "VW": vowpal_wabbit("binary", previous=True)}
    peers["VW, learn only"] = vowpal_wabbit("binary", previous=True, single_call=True)
    work |= {name: _peer(peer, chosen) for name, peer in peers.items()}
    work |= {"parse": lambda: _parsing(chosen), "text": lambda: _text(chosen)}
    for size in OTHER_BATCHES:
        work[f"64 units by {size}"] = _ours(chosen, 64, size)
    seconds = alternate(rounds, work)
    micro = {name: 1e6 * median(values) / n for name, values in seconds.items()}
    least = {name: 1e6 * min(values) / n for name, values in seconds.items()}
    publish(
        "cost",
        f"Cost per event, predict + learn, {n:,} events of {stream}, microseconds",
        _rows(micro) + _floor_rows(chosen),
        notes=_notes(micro, rounds),
        details={"median_us": micro, "min_us": least, "seconds": seconds, "spec": spec(chosen).model_dump(mode="json")},
        out=out,
        as_json=as_json,
    )


def _ours(stream: Stream, units: int, size: int) -> Callable[[], float]:
    """Folds the stream with a fresh learner; checked against the fold of the whole stream as one batch."""
    model = spec(stream, units)
    reference = model.learner.build(model)
    reference.fold(stream.batch)
    digest = reference.digest()

    def once() -> float:
        learner = model.learner.build(model)
        seconds, folded = fold(learner, cuts(stream.batch, size))
        values = np.concatenate([part.value for part in folded])
        check(len(values) == len(stream.batch) and bool(np.isfinite(values).all()), "a prediction for every event")
        check(learner.digest() == digest, f"batches of {size}, state as after one batch")
        check(score(values, stream.batch)["accuracy"] > 0.5, "better than a coin")
        return seconds

    return once


def _peer(peer: Peer, stream: Stream) -> Callable[[], float]:
    def once() -> float:
        result = peer.run(stream.batch)
        if result.unavailable:
            raise click.ClickException(f"{peer.name}: {result.unavailable}")
        check(bool(np.isfinite(result.predicted).all()), f"{peer.name}: a prediction for every event")
        check(result.values(stream.batch, "binary")["accuracy"] > 0.5, f"{peer.name}: better than a coin")
        return result.seconds

    return once


def _parsing(stream: Stream) -> float:
    """Seconds that Vowpal Wabbit takes to parse the examples from text, part of its figures above."""
    from vowpalwabbit import pyvw

    model = pyvw.Workspace(f"{vw_options('binary')} --quiet --no_stdin")
    lines = vw_lines(stream.batch, "binary")
    start = time.perf_counter()
    for line in lines:
        model.finish_example(model.parse(line))
    seconds = time.perf_counter() - start
    model.finish()
    return seconds


def _text(stream: Stream) -> float:
    """Seconds to write the examples as text, no part of the figures."""
    start = time.perf_counter()
    vw_lines(stream.batch, "binary")
    return time.perf_counter() - start


def _rows(micro: dict[str, float]) -> list[Row]:
    rows = []
    for units, (river, vw) in TARGETS.items():
        ours = micro[f"{units} units"]
        what = f"{units} units, float32, Adam, batches of {BATCH}"
        rows.append(ratio_row(what, ours, "River StandardScaler | LogisticRegression", micro["River"], river))
        rows.append(ratio_row(what, ours, "Vowpal Wabbit --coin, predict + learn", micro["VW"], vw))
        rows.append(ratio_row(what, ours, "Vowpal Wabbit --coin, learn only", micro["VW, learn only"], vw))
    return rows + [value_row(f"64 units, batches of {size}", micro[f"64 units by {size}"]) for size in OTHER_BATCHES]


@nb.njit
def _empty(x: Any, value: Any) -> None:
    for row in range(len(x)):
        value[row] = x[row, 0]


@nb.njit
def _copy(source: Any, target: Any, times: int) -> None:
    for _ in range(times):
        for place in range(len(source)):
            target[place] = source[place] + np.float32(1.0)


def _best(work: Callable[[], Any], rounds: int = 5) -> float:
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _floor_rows(stream: Stream) -> list[Row]:
    """What no implementation can go below: the loop itself, and moving the state at the speed of a compiled copy."""
    x, value = stream.batch.x, np.empty(len(stream.batch))
    rows = [value_row("floor: an empty compiled loop", 1e6 * _best(lambda: _empty(x, value)) / len(x))]
    for units in TARGETS:
        moved = _bytes_moved(stream, units)
        rows.append(value_row(f"floor: {moved:,} bytes of {units} units' state, read or written", 1e6 * _moving(moved)))
    return rows


def _moving(size: int, times: int = 20_000) -> float:
    """Seconds to move `size` bytes within the cache, half of them read, half of them written."""
    source = np.zeros(size // 8, np.float32)
    target = np.zeros_like(source)
    return _best(lambda: _copy(source, target, times)) / times


def _bytes_moved(stream: Stream, units: int) -> int:
    """Bytes that an event reads and writes: traces, weights, both moments of Adam, hidden state, read-out."""
    inputs = len(stream.mapping.features) + 2  # the previous label and the constant
    cell = 2 * inputs * units
    read_out = units + inputs
    return 2 * 4 * (4 * cell + units + 3 * read_out)


def _notes(micro: dict[str, float], rounds: int) -> list[str]:
    return [
        f"Medians of {rounds} rounds, everything in turn in one process. Every learner sees the same inputs: the "
        "stream's features and the last label (ours takes it from its own state).",
        "Ours: cutting into batches and key lookup included. River: dictionaries are built before the clock starts.",
        f"Vowpal Wabbit: text lines are built before the clock starts ({micro['text']:.2f} us), parsing them is part "
        f"of its figures ({micro['parse']:.2f} us), since its binding learns from text. 'learn only' reads the "
        "prediction that learning made before its update.",
    ]
