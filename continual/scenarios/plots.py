"""Pictures of a bench: accuracy while the stream is learned, and how each test set fared after each experience."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from continual.scenarios.methods import find
from continual.scenarios.scenario import Scenario
from continual.scenarios.summary import Result

COLOURS = ("#0f766e", "#ea580c", "#1d4ed8", "#a855f7", "#44403c", "#be123c", "#84cc16", "#0ea5e9", "#c026d3", "#ca8a04")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
GREY, INK = "#78716c", "#1c1917"


def looks(number: int) -> dict[str, Any]:
    """Colour and dashes of the k-th method: ten colours, then the same ones dashed."""
    return {"color": COLOURS[number % len(COLOURS)], "ls": DASHES[number // len(COLOURS) % len(DASHES)]}


def wrapped(label: str, width: int = 27) -> str:
    """The name of a method in lines of about `width` characters; a line ends where a change of a field does."""
    lines = [""]
    for part in re.split(r"(?=\+)|(?<=, )", label):
        if lines[-1] and len(lines[-1]) + len(part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def curves(results: Sequence[Result], scenario: Scenario) -> bytes:
    """Accuracy over events, means over seeds, with the range of the seeds as a band. A PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    lines = [wrapped(result.label).count("\n") + 1 for result in results]
    legend = 0.4 + 0.16 * sum(lines) + 0.07 * len(lines)  # inches that it takes
    figure = Figure(figsize=(10, max(5.2, legend)), dpi=140, layout="constrained")
    axes = figure.subplots()
    for number, result in enumerate(results):
        events, values = _lines(result, scenario)
        style = looks(number)
        if find(result.method).joint:
            style["ls"] = ":"
            axes.axhline(result.mean("average_accuracy"), lw=1.2, label=wrapped(f"{result.label}, at the end"), **style)
            continue
        axes.plot(events, values.mean(axis=0), lw=1.9, label=wrapped(result.label), **style)
        if len(values) > 1:
            axes.fill_between(events, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.1, lw=0)
    if scenario.tested:
        ends = np.cumsum([len(one.train) for one in scenario.experiences])
        for end in ends[:-1]:
            axes.axvline(end, color=GREY, lw=0.8, ls=":", zorder=0)
        axes.set_ylabel("accuracy on what was met so far")
    else:
        axes.set_ylabel("mean absolute error" if scenario.target == "regression" else "accuracy, block by block")
    if scenario.target != "regression":
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("events learned")
    axes.grid(alpha=0.25)
    axes.margins(x=0.01)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return _png(figure)


def _lines(result: Result, scenario: Scenario) -> tuple[np.ndarray, np.ndarray]:
    """Events [P] and accuracies [seeds, P] of a method.

    Another seed has the classes in another order, so its experiences may end elsewhere: it is read between its points.
    """
    runs = [one.run for one in result.done]
    if scenario.tested:
        events = np.array(runs[0].points["events"])
        return events, np.stack([np.interp(events, run.points["events"], run.curve().met()) for run in runs])
    return np.array(runs[0].blocks["events"]), np.array([run.blocks["score"] for run in runs])


def matrices(results: Sequence[Result], scenario: Scenario) -> bytes | None:
    """One heat map for each method: row i is after experience i, column j the test set j. A PNG; None: no matrices."""
    from matplotlib.figure import Figure

    shown = [one for one in results if "forgetting" in one.values]
    if not scenario.tested or not shown:
        return None
    wide = min(4, len(shown))
    tall = -(-len(shown) // wide)
    size = len(scenario.experiences)
    figure = Figure(figsize=(10, 2.75 * tall + 0.3), dpi=140, layout="constrained")
    axes = np.atleast_1d(figure.subplots(tall, wide, squeeze=False)).ravel()
    image = None
    for axis, result in zip(axes, shown):
        table = np.mean([one.run.matrix for one in result.done], axis=0)
        image = axis.imshow(table, vmin=0, vmax=1, cmap="viridis")
        axis.set_title(wrapped(result.label), fontsize=9.5, loc="left")
        axis.set_xticks(range(size), [str(k + 1) for k in range(size)], fontsize=7)
        axis.set_yticks(range(size), [str(k + 1) for k in range(size)], fontsize=7)
        axis.tick_params(length=0)
        if size <= 6:
            for i, row in enumerate(table):
                for j, value in enumerate(row):
                    colour = INK if value > 0.55 else "#f5f5f4"
                    axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7.5, color=colour)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    axes[0].set_ylabel("after experience", fontsize=8.5)
    axes[0].set_xlabel("accuracy on test set", fontsize=8.5)
    if image is not None:
        figure.colorbar(image, ax=axes.tolist(), shrink=0.7, aspect=30, format=lambda value, _: f"{100 * value:.0f} %")
    return _png(figure)


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
