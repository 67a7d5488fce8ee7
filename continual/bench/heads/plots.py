"""The picture of `continual bench heads`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual.bench.recurrent.plots import COLOURS

MARKERS = "osD^vPX<>dph"
Pairs = Mapping[str, Mapping[str, tuple[float, float]]]
Looks = Mapping[str, Mapping[str, str]]


def gains(gain: Pairs, coverage: Pairs, covered: Sequence[float], path: Path, least: float = -0.12) -> None:
    """Nats gained over the Adam head on each stream, with intervals, and the coverage of 90 % intervals; a PNG.

    Args:
        gain: learner -> stream -> mean gain, half of its interval.
        coverage: learner -> stream -> coverage (a share), width; may be empty.
        covered: the band that is asked for, two shares.
        path: of the file.
        least: gains below this are written at the edge in place of drawn.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys([*gain, *coverage]))
    looks = {name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in
             enumerate(name for name in names if name in gain)}  # fmt: skip
    looks |= {name: {"color": "#777777", "marker": "x"} for name in names if name not in gain}
    figure = Figure(figsize=(12.5, 5.2), dpi=130, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.9, 1.0))
    _gains(left, gain, looks, least)
    _coverage(right, coverage, gain, looks, covered)
    handles: dict[str, Any] = {}
    for axis in (left, right):
        for handle, label in zip(*axis.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path)


def _places(count: int, index: int, width: float = 0.7) -> float:
    return width * ((index + 0.5) / count - 0.5)


def _gains(axis: Any, gain: Pairs, looks: Looks, least: float) -> None:
    streams = list(dict.fromkeys(stream for one in gain.values() for stream in one))
    axis.axhline(0, color="#444444", linestyle="--", linewidth=1.2, label="cell + Adam")
    shown = [value for one in gain.values() for value, _ in one.values() if value >= least]
    low, high = min([0.0, *shown]), max([0.0, *shown])
    margin = 0.1 * (high - low) or 0.01
    axis.set_ylim(low - 1.6 * margin, high + margin)
    for index, (name, found) in enumerate(gain.items()):
        for place, stream in enumerate(streams):
            if stream not in found:
                continue
            value, half = found[stream]
            at = place + _places(len(gain), index)
            style = {**looks[name], "linestyle": "none", "markersize": 6, "capsize": 3}
            if value >= least:
                axis.errorbar([at], [value], [half], label=name, **style)
            else:
                axis.errorbar([], [], [], label=name, **style)
                note = {"ha": "center", "va": "bottom", "fontsize": 7, "rotation": 90, "color": looks[name]["color"]}
                axis.text(at, low - 1.5 * margin, f"{value:+.2f}", **note)
    _columns(axis, streams)
    axis.set_ylabel("nats per event gained over the Adam head (up is better)", fontsize=9)
    axis.set_title("Log-score against the linear head of the default cell", fontsize=11, loc="left")


def _coverage(axis: Any, coverage: Pairs, gain: Pairs, looks: Looks, covered: Sequence[float]) -> None:
    axis.axhspan(100 * covered[0], 100 * covered[1], color="#009E73", alpha=0.12, linewidth=0)
    axis.axhline(90, color="#444444", linestyle="--", linewidth=1.2)
    streams = list(dict.fromkeys(stream for one in coverage.values() for stream in one))
    for index, (name, found) in enumerate(coverage.items()):
        at = [streams.index(stream) + _places(len(coverage), index) for stream in found]
        share = [100 * value for value, _ in found.values()]
        style = {**looks[name], "linestyle": "none", "markersize": 6}
        axis.plot(at, share, label=name if name in gain else f"{name}, normal interval", **style)
    values = np.array([100 * value for one in coverage.values() for value, _ in one.values()] or [90.0])
    axis.set_ylim(min(85.0, values.min() - 1), max(95.0, values.max() + 1))
    _columns(axis, streams)
    axis.set_ylabel("labels inside the 90 % interval, %", fontsize=9)
    axis.set_title("Coverage (shaded: asked for)", fontsize=11, loc="left")


def _columns(axis: Any, streams: Sequence[str]) -> None:
    axis.set_xticks(range(len(streams)), streams)
    axis.set_xlim(-0.5, max(1, len(streams)) - 0.5)
    for edge in range(1, len(streams)):
        axis.axvline(edge - 0.5, color="#cccccc", linewidth=0.8)
    axis.tick_params(labelsize=9)
    axis.grid(True, axis="y", alpha=0.3, linewidth=0.6)
