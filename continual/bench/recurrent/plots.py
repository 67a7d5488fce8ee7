"""The pictures of `continual bench recurrent`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench.accuracy import interval
from continual.bench.recurrent.streams import Stream

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4EAB", "#8C6D31", "#A51E4E")
"""Of cells, in order; told apart by colour-blind readers too as far as nine colours go."""

RIVER = {
    "River linear, our inputs": "P",
    "River linear": "s",
    "River Hoeffding tree": "^",
    "River Hoeffding tree, standardised": "v",
    "River forest": "D",
    "River forest, standardised": "d",
}


@dataclass(frozen=True)
class Mark:
    """A learner in the picture.

    Attributes:
        name: in the legend.
        role: `cell`, `frozen`, `step`, `river` or `baseline`.
        cost: microseconds per event.
        value: accuracy in percent, or MAE over no-change MAE.
        half: half of the interval of the value, 0 for none.
    """

    name: str
    role: str
    cost: float
    value: float
    half: float


def scatter(panels: Sequence[tuple[Stream, Sequence[Mark]]], path: Path) -> None:
    """Quality against cost per event (logarithmic), a panel for each stream, better is up; written as PNG."""
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.7 * lines + 1.3), dpi=130, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, (stream, marks) in zip(axes, panels):
        _panel(axis, stream, marks)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path)


def _panel(axis: Any, stream: Stream, marks: Sequence[Mark]) -> None:
    from matplotlib.ticker import FuncFormatter

    binary = stream.target == "binary"
    learners = [mark for mark in marks if mark.role not in ("baseline", "step")]
    base = next(mark.value for mark in marks if mark.name == "no change")
    low, high = _range(learners, base, binary)
    axis.axhline(base, color="#444444", linestyle="--", linewidth=1.2, label="no change")
    colours = dict(zip((mark.name for mark in marks if mark.role == "cell"), itertools.cycle(COLOURS)))
    off = []
    for mark in learners:
        # An entry in the legend in any case: the learner may be on the scale of no panel.
        label = "frozen (hollow)" if mark.role == "frozen" else mark.name
        shown = low <= mark.value <= high
        place = (mark.cost, mark.value, mark.half) if shown else ([], [], [])
        axis.errorbar(*place, label=label, **_style(mark, colours))
        if not shown:
            off.append(f"{mark.name} {mark.value:.3g}")
    if not low <= base <= high:
        off.append(f"no change {base:.3g}")
    if off:
        axis.set_title("off the scale: " + ", ".join(off), fontsize=7.5, loc="right", color="#555555")
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}"))
    axis.set_ylim((low, high) if binary else (high, low))
    costs = [mark.cost for mark in learners]
    axis.set_xlim(0.5 * min(costs), 2 * max(costs))
    axis.set_title(stream.name, fontsize=11, loc="left")
    axis.set_xlabel("microseconds per event", fontsize=9)
    axis.set_ylabel("accuracy, %" if binary else "MAE / no-change MAE (up is better)", fontsize=9)
    axis.grid(True, alpha=0.3, linewidth=0.6)
    axis.tick_params(labelsize=8.5)


def _style(mark: Mark, colours: dict[str, str]) -> dict[str, Any]:
    """Cells are filled circles, frozen ones hollow in the same colour, River's models grey shapes."""
    if mark.role == "river":
        return {"marker": RIVER.get(mark.name, "X"), "color": "#777777", "linestyle": "none", "markersize": 6}
    colour = colours.get(mark.name.partition(",")[0], COLOURS[0])
    fill = "white" if mark.role == "frozen" else colour
    looks = {"marker": "o", "color": colour, "markerfacecolor": fill, "linestyle": "none", "markersize": 7}
    return {**looks, "capsize": 3, "zorder": 3}


def _range(marks: Sequence[Mark], base: float, binary: bool) -> tuple[float, float]:
    """Limits that show what is near the best: within 25 points of accuracy, or half above the no-change MAE."""
    values = [mark.value for mark in marks]
    near = [max(values) - 25, math.inf] if binary else [-math.inf, 1.5 * max(base, min(values))]
    shown = [value for value in [*values, base] if near[0] <= value <= near[1]]
    ends = [mark.value + sign * mark.half for mark in marks if mark.value in shown for sign in (-1, 1)]
    low, high = min([*shown, *ends]), max([*shown, *ends])
    margin = 0.08 * (high - low) or 0.01
    return low - margin, high + margin


def tenths(panels: Sequence[tuple[str, np.ndarray]], path: Path) -> None:
    """Accuracy by tenth of the stream against that in the first one of the same concept and seed; written as PNG.

    A panel for each learner, a line for the mean over seeds of each concept, and its 95 % interval.

    Args:
        panels: name, and float64 [seeds, tenths, concepts], shares.
        path: of the file.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(max(5.6, 4.4 * columns), 3.4 * lines + 0.6), dpi=130, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, (name, accuracy) in zip(axes, panels):
        change = 100 * (accuracy - accuracy[:, :1])
        number = np.arange(1, change.shape[1] + 1)
        axis.axhline(0, color="#444444", linestyle="--", linewidth=1.2, label="as in the first tenth")
        for concept, colour in zip(range(change.shape[2]), COLOURS):
            half = np.nan_to_num([interval(change[:, one, concept].tolist()) for one in range(len(number))])
            # A little apart, so that the bars can be told from each other.
            at = number + 0.12 * (concept - (change.shape[2] - 1) / 2)
            looks = {"color": colour, "marker": "o", "markersize": 4, "linewidth": 1.3, "elinewidth": 1}
            axis.errorbar(at, change[:, :, concept].mean(axis=0), half, label=f"concept {concept}", **looks)
        axis.set_title(name, fontsize=11, loc="left")
        axis.set_xlabel("tenth of the stream", fontsize=9)
        axis.set_ylabel("accuracy, change in points", fontsize=9)
        axis.set_xticks(number)
        axis.tick_params(labelsize=8.5)
        axis.grid(True, alpha=0.3, linewidth=0.6)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    wide = 5 if columns > 1 else 3
    figure.legend(handles, labels, loc="outside lower center", ncols=wide, frameon=False, fontsize=9)
    figure.savefig(path)
