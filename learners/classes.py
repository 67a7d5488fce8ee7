"""The classes of a multi-class target, numbered as they are learned."""

from __future__ import annotations

from typing import Any

import numpy as np

from streams.batch import OBSERVATION, Batch

Classes = dict[int | str, int]
"""Number of each class."""


def resolve(batch: Batch, labels: tuple[Any, ...], known: Classes) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels of a batch for a fold that numbers a class when it learns one: a label without effect leaves none.

    Args:
        batch: whose `y` are indices into `labels`.
        labels: its classes; what follows them (a default label) is used whatever the batch holds.
        known: the classes that have a number.

    Returns:
        (y, indices, classes): the labels as indices, of labels that are there twice the same one; int64 [labels], the
        number of each, -1 where the fold may have to choose one; and how many classes there may be after it.
    """
    y, indices = batch.y, np.full(len(labels), -1, np.int64)
    codes: Classes = {}
    used = np.unique(y[batch.kind != OBSERVATION]).astype(np.int64).tolist()
    for code in [*range(len(batch.classes), len(labels)), *used]:
        label = labels[code]
        if label in codes:
            y = np.where(y == code, codes[label], y)
            continue
        codes[label] = code
        indices[code] = known.get(label, -1)
    fresh = sum(int(indices[code] < 0) for code in codes.values())
    return y, indices, len(known) + fresh


def note_learned(labels: tuple[Any, ...], indices: np.ndarray, known: Classes) -> None:
    """Takes the numbers that a fold has chosen, as it left them in the `indices` of `resolve`, into `known`."""
    count = len(known)
    learned = np.flatnonzero(indices >= count)
    for code in learned[np.argsort(indices[learned])].tolist():
        known[labels[code]] = int(indices[code])
