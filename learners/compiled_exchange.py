"""The arrays of a compiled learner as what it exchanges, and back; each says its law where it is declared."""

from __future__ import annotations

from typing import Any

import numpy as np

from kernels.cpu.layout import (
    AVERAGED,
    EXCHANGED,
    POOLED_COLUMNS,
    READ_OUT,
    S_RUN_AT,
    S_SPAN,
    TARGET_MEANS,
    WEIGHTS,
    Shared,
)
from learners.exchange import COUNT, MEAN, VARIANCE, Quantities

HEAD, FADING = "head.", "head.fading."
"""Before the names of a head's arrays; before those of coordinates that are averaged."""


def quantities(shared: Shared, head: Any, classes: int, weights: str) -> Quantities:
    """What a learner exchanges, copied.

    Args:
        shared: its arrays.
        head: it too.
        classes: rows for so many (see `learners.heads.base.state_arrays`).
        weights: "sum": of the weights what each partition has changed is added up; "mean": they are averaged.
    """
    averaged, summed = {}, {}
    for name in (name for name, law in EXCHANGED.items() if law == AVERAGED):
        array = getattr(shared, name)
        if array.size:
            averaged[name] = array[:classes].copy() if name in READ_OUT else array[None].copy()
    for name in (name for name in WEIGHTS if name in averaged and weights == "sum"):
        summed[name] = averaged.pop(name).astype(np.float64)
    pooled = {"scaler": shared.scaler[:, :POOLED_COLUMNS].copy(), "target": _means(shared.target)}
    if not hasattr(head, "state"):
        return Quantities(averaged, summed, pooled)
    for name in _averaged_of(head):
        averaged[HEAD + name] = _by_class(head, name, getattr(head.state, name)).copy()[:classes]
    lasting, fading = head.coordinates(classes)
    averaged |= {FADING + name: _by_class(head, name, array) for name, array in fading.items()}
    summed |= {HEAD + name: _by_class(head, name, array) for name, array in lasting.items()}
    return Quantities(averaged, summed, pooled)


def take_on(shared: Shared, head: Any, before: Quantities, after: Quantities, window: float) -> bool:
    """Writes back what `quantities` gave and an exchange has changed, all of it or (False) nothing.

    Of the scaler what others have seen makes the present level older by as much; beyond `window` nothing counts.
    """
    for group in after:
        if not all(np.isfinite(array).all() for array in group.values()):
            return False
    if hasattr(head, "state") and not _head_takes_on(head, before, after):
        return False
    for name, array in (after.averaged | after.summed).items():
        if not name.startswith(HEAD):
            own = getattr(shared, name) if name in READ_OUT else getattr(shared, name)[None]
            own[: len(array)] = array
    shared.scaler[:, :POOLED_COLUMNS] = pooled = after.pooled["scaler"]
    count, was = pooled[:, COUNT], before.pooled["scaler"][:, COUNT]
    more = np.maximum(count - np.minimum(was, window), 0.0)
    shared.scaler[:, S_SPAN] = np.minimum(shared.scaler[:, S_SPAN] + more, count)
    shared.scaler[:, S_RUN_AT] += count - was
    for entries, row in zip(TARGET_MEANS, after.pooled["target"]):
        shared.target[list(entries)] = row[COUNT], row[MEAN]
    return True


def _head_takes_on(head: Any, before: Quantities, after: Quantities) -> bool:
    parts = [
        {name: (group[name], old[name]) for name in group if name.startswith(prefix)}
        for group, old, prefix in ((after.summed, before.summed, HEAD), (after.averaged, before.averaged, FADING))
    ]
    if any(not np.array_equal(*pair) for part in parts for pair in part.values()):
        summed, fading = (
            {name.removeprefix(prefix): _back(head, name.removeprefix(prefix), new) for name, (new, _) in part.items()}
            for part, prefix in zip(parts, (HEAD, FADING))
        )
        if not head.take_on(summed, fading):
            return False
    for name in _averaged_of(head):
        array = after.averaged[HEAD + name]
        own = _by_class(head, name, getattr(head.state, name))
        own[: len(array)] = array
    return True


def _averaged_of(head: Any) -> list[str]:
    return [name for name, law in head.EXCHANGED.items() if law == AVERAGED]


def _by_class(head: Any, name: str, array: np.ndarray) -> np.ndarray:
    """A view with the classes along the first axis, or with one row where there are none."""
    axis = head.PER_CLASS.get(name)
    return array[None] if axis is None else np.moveaxis(array, axis, 0)


def _back(head: Any, name: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `_by_class`."""
    axis = head.PER_CLASS.get(name)
    return array[0] if axis is None else np.moveaxis(array, 0, axis)


def _means(target: np.ndarray) -> np.ndarray:
    """The running means of a regression's target, as what is pooled."""
    rows = np.zeros((len(TARGET_MEANS), VARIANCE + 1))
    for row, (count, mean) in zip(rows, TARGET_MEANS):
        row[[COUNT, MEAN]] = target[[count, mean]]
    return rows
