"""What a change costs: this build and the one before it, the same work in turn, in one run."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import click

import continual
from continual import data
from continual.bench import _build
from continual.bench._helpers import Row, median, ratio_row
from continual.bench.report import out_option, publish

WORK = {
    "fold, 64 units": ("us an event", 1e6 / _build.FOLDED),
    "fold, 16 units": ("us an event", 1e6 / _build.FOLDED),
    "Learn by 256": ("us an event", 1e6 / _build.LEARNED),
    "Learn by 1,024": ("us an event", 1e6 / _build.LEARNED),
    "Predict p50": ("ms", 1e3),
    "Update p50": ("ms", 1e3),
}
"""By the name of the work: the unit of its figure, and how many of them a second is."""


class Build:
    """A build at work in a process of its own, with a deployment of its own.

    Args:
        checkout: folder of its sources.
        stream: name of the stream that it folds.
    """

    def __init__(self, checkout: Path, stream: str) -> None:
        held = data.folder()  # one beside this build need not be beside the other
        here = {"PYTHONPATH": str(checkout)} | ({"CONTINUAL_DATA": str(held)} if held else {})
        command = [sys.executable, "-P", _build.__file__, stream]  # its folder has modules of the same names
        self._child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env=os.environ | here,
        )
        self._ask(None, "ready")

    def __enter__(self) -> Build:
        return self

    def __exit__(self, *exception: object) -> None:
        self._child.communicate()

    def _ask(self, work: str | None, expected: str = "") -> str:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        if work is not None:
            self._child.stdin.write(work + "\n")
            self._child.stdin.flush()
        said = self._child.stdout.readline().strip()
        if not said or (expected and said != expected):
            raise click.ClickException(f"a build ended, or said {said!r}: see above for what went wrong")
        return said

    def seconds(self, work: str) -> float:
        """What some work takes."""
        return float(self._ask(work))


@click.command()
@click.argument("checkout", type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path))
@click.option("--stream", type=click.Choice(["elec2", "shuttle"]), default="elec2", show_default=True)
@click.option("--rounds", default=7, show_default=True, help="Of all the work, the two builds in turn.")
@click.option("--most", default=1.05, show_default=True, help="Ratio that is aimed at.")
@out_option
def before(checkout: Path, stream: str, rounds: int, most: float, out: Path | None, as_json: bool) -> None:
    """Fold, Learn, Predict and Update of this build, as ratios to those of the build in the folder CHECKOUT."""
    here = Path(continual.__file__).resolve().parent.parent
    seconds: dict[str, dict[str, list[float]]] = {name: {"now": [], "before": []} for name in WORK}
    with ExitStack() as stack:
        builds = {
            "now": stack.enter_context(Build(here, stream)),
            "before": stack.enter_context(Build(checkout, stream)),
        }
        for number in range(rounds + 1):
            order = list(builds) if number % 2 else list(builds)[::-1]
            for work in WORK:
                for which in order:
                    spent = builds[which].seconds(work)
                    if number:  # the first round loads and warms
                        seconds[work][which].append(spent)
            click.echo(f"round {number} of {rounds}", err=True)
    publish(
        "before",
        f"This build beside the one before it, {stream}",
        [_row(work, seconds[work], most) for work in WORK],
        notes=[
            f"Medians of {rounds} rounds in turn, one process and one deployment of one shard for each build, on one "
            "machine. Of folds the processor time is compared, of the others wall time; Predict and Update are calls "
            f"by the client library, the median of {_build.CALLS} in each round."
        ],
        details={"seconds": seconds},
        out=out,
        as_json=as_json,
    )


def _row(work: str, seconds: dict[str, list[float]], most: float) -> Row:
    unit, factor = WORK[work]
    now, then = (factor * median(seconds[which]) for which in ("now", "before"))
    return ratio_row(f"{work}, {unit}", now, "the build before", then, most)
