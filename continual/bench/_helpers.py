"""What the benchmarks share: streams, specs, folds, alternating measurements, rows of their tables."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from continual import data
from continual.datasets import catalog
from continual.datasets.dataset import BadData, Dataset
from learners.base import Folded, Learner
from learners.spec import ModelSpec
from streams.batch import Batch, Keys
from streams.mapping import Mapping
from streams.metrics import Classification

Row = dict[str, Any]


@dataclass(frozen=True)
class Stream:
    """A binary stream, whole: what it is called, its columns, its events."""

    name: str
    mapping: Mapping
    batch: Batch


def stream_options(command: Any) -> Any:
    """The options `--stream` and `--events` of benchmarks that fold a stream."""
    command = click.option("--events", type=click.IntRange(1), help="Only the first so many events.")(command)
    return click.option(
        "--stream",
        type=click.Choice(["elec2", "shuttle"]),
        default="elec2",
        show_default=True,
        help="elec2 is looked for in CONTINUAL_DATA; shuttle ships with River.",
    )(command)


def load(name: str, events: int | None = None) -> Stream:
    """A stream by name, cut to its first `events`.

    Raises:
        click.ClickException: its file is not there.
    """
    try:
        mapping, batch = (data.ELEC2, data.elec2()) if name == "elec2" else (data.SHUTTLE, data.shuttle())
    except data.NoData as missing:
        raise click.ClickException(f"{missing}; --stream shuttle needs no file") from missing
    return Stream(name, mapping, batch.slice(0, min(len(batch), events or len(batch))))


def mnist() -> Dataset:
    """MNIST.

    Raises:
        click.ClickException: its files are not there, or damaged.
    """
    try:
        return catalog.load("mnist")
    except (data.NoData, BadData) as wrong:
        raise click.ClickException(str(wrong)) from wrong


def spec(stream: Stream, units: int = 64, seed: int = 0, name: str = "bench", **deployment: Any) -> ModelSpec:
    """The default spec for a stream, but for the number of units and the seed."""
    return ModelSpec.model_validate(
        {
            "name": name,
            "features": stream.mapping.features,
            "target": {"kind": "binary", "labels": stream.mapping.labels},
            "learner": {"kind": "recurrent", "seed": seed, "cell": {"kind": "mingru", "units": units}},
            "deployment": deployment,
        }
    )


def cuts(batch: Batch, rows: int) -> list[Batch]:
    """The batch in pieces of `rows` events, the last one shorter."""
    return [batch.slice(at, min(at + rows, len(batch))) for at in range(0, len(batch), rows)]


def repeated(batch: Batch, events: int) -> Batch:
    """The batch over and over, until there are `events`."""
    whole = Batch.concat([batch] * -(-events // len(batch)))
    return whole.slice(0, events)


def with_keys(batch: Batch, keys: int, seed: int = 0) -> Batch:
    """The same events, dealt at random to `keys` entities."""
    names = [b"key-%07d" % key for key in range(keys)]
    chosen = np.random.default_rng(seed).integers(0, keys, len(batch)).tolist()
    return replace(batch, key=Keys.pack(names[key] for key in chosen))


def fold(learner: Learner, pieces: Sequence[Batch]) -> tuple[float, list[Folded]]:
    """Folds the pieces in order; returns the seconds that it took, and what the fold said."""
    start = time.perf_counter()
    folded = [learner.fold(piece) for piece in pieces]
    return time.perf_counter() - start, folded


def warm(model: ModelSpec, batch: Batch) -> None:
    """Loads the compiled fold of a spec, or compiles it, outside of what is timed."""
    learner = model.learner.build(model)
    learner.fold(batch.slice(0, min(8, len(batch))))
    learner.predict(batch.slice(0, 1))


def score(probability: np.ndarray, batch: Batch) -> dict[str, float]:
    """Prequential metrics of a binary stream of one key."""
    metrics = Classification()
    metrics.update_binary(probability, batch.y)
    return metrics.values()


def alternate(rounds: int, work: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Runs every item once a round, in turn, so that what disturbs the machine disturbs all of them.

    Returns:
        What each returned, round by round.
    """
    figures: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            figures[name].append(one())
    return figures


def median(values: Sequence[float]) -> float:
    """The median, as a plain number."""
    return float(np.median(values))


def percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    """The median and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile(np.asarray(seconds) * 1e3, [50, 99])
    return float(p50), float(p99)


def ratio_row(what: str, ours: float, against: str, theirs: float, target: float, *, at_least: bool = False) -> Row:
    """A row that holds a ratio to its target.

    Args:
        what: what was measured, unit included.
        ours: our figure.
        against: what it is compared with.
        theirs: its figure, in the same unit.
        target: bound on ours / theirs; NaN: none was set.
        at_least: the ratio must reach the bound, in place of staying below it.
    """
    ratio = ours / theirs
    met = "" if math.isnan(target) else ("yes" if (ratio >= target if at_least else ratio <= target) else "NO")
    bound = "" if math.isnan(target) else f"{'>=' if at_least else '<='} {target:g}"
    compared = {"against": against, "theirs": theirs, "ratio": ratio}
    return {"figure": what, "ours": ours, **compared, "target": bound, "met": met}


def value_row(what: str, ours: float, bound: float = math.nan, *, at_least: bool = False) -> Row:
    """A row of one figure that is compared with a bound, or only printed."""
    met = "" if math.isnan(bound) else ("yes" if (ours >= bound if at_least else ours <= bound) else "NO")
    target = "" if math.isnan(bound) else f"{'>=' if at_least else '<='} {bound:g}"
    return {"figure": what, "ours": ours, "against": "", "theirs": "", "ratio": "", "target": target, "met": met}


class WrongResult(click.ClickException):
    """What was timed did not do what it should have: no ratio is printed."""


def check(holds: bool, what: str) -> None:
    """Refuses to go on unless `holds`.

    Raises:
        WrongResult: with what was expected.
    """
    if not holds:
        raise WrongResult(f"not compared, because the results are wrong: {what}")


@contextmanager
def logs_on_failure(folder: Path) -> Iterator[None]:
    """When the block fails, the ends of the shards' logs in a data folder go to standard error."""
    try:
        yield
    except BaseException:
        for log in sorted(folder.glob("logs/*.log")):
            click.echo("\n".join([f"{log.name}:", *log.read_text().splitlines()[-40:]]), err=True)
        raise


def until(done: Callable[[], bool], seconds: float, what: str, every: float = 0.005) -> None:
    """Waits until `done()`.

    Raises:
        click.ClickException: it was not within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise click.ClickException(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def write_csv(stream: Stream, path: Path, copies: int = 1) -> Path:
    """The events as a CSV file with a header, `copies` times one after the other.

    Features are written with the digits that give back the same float32.
    """
    rows = [",".join([*map(str, x), str(int(y))]) for x, y in zip(stream.batch.x, stream.batch.y.tolist())]
    body = "\n".join(rows) + "\n"
    label = stream.mapping.label or "label"
    path.write_text(",".join([*stream.mapping.features, label]) + "\n" + body * copies)
    return path
