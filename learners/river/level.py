"""The labels of a regression as far as River is given them as inputs: their mean, and the last one, kept near it.

A label that is far from all others would be an input of any size, which no scaler of River's withstands.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.inputs import REACH, standardise, standardise_target
from kernels.cpu.layout import S_COUNT, S_MEAN, S_SPAN, S_VARIANCE, SCALER
from kernels.cpu.numerics import SHORT


class _Config(NamedTuple):
    """What `standardise` asks of a learner's scalars: moments over all labels, and a bound on their deviations."""

    window: float = math.inf
    clip: float = REACH


@nb.njit(**SHORT)
def _near(config, scaler, value, commit):
    """The value, or where it is beyond the bound the number that lies there."""
    z = standardise(config, scaler, 0, value, commit)
    deviation = math.sqrt(scaler[0, S_VARIANCE])
    return value if abs(value - scaler[0, S_MEAN]) <= config.clip * deviation else scaler[0, S_MEAN] + z * deviation


@nb.njit(**SHORT)
def _means(config, scaler, labels, before):
    for i in range(len(labels)):
        before[i] = scaler[0, S_MEAN]
        standardise_target(config, scaler, 0, labels[i], True)


class Level:
    """The running level of the labels.

    Attributes:
        scaler: float64 [1, 9], state: see `kernels.cpu.inputs.standardise`.
    """

    def __init__(self) -> None:
        self.scaler = np.zeros((1, SCALER))
        self.near(0.0)  # compiled now

    @property
    def mean(self) -> float:
        """The mean of all labels, far ones counting as nearer; 0 before the first."""
        return float(self.scaler[0, S_MEAN])

    def learn(self, label: float) -> None:
        """Counts a label."""
        _near(_Config(), self.scaler, label, True)

    def means(self, labels: np.ndarray) -> np.ndarray:
        """Counts n labels, float64, NaN where there is none, as a compiled learner with an endless `window` does.

        Returns:
            float64 [n], the mean before each.
        """
        before = np.empty(len(labels))
        _means(_Config(), self.scaler, labels, before)
        return before

    def near(self, label: float) -> float:
        """The label, kept within `REACH` deviations of the mean."""
        return _near(_Config(), self.scaler, label, False)

    def load(self, shared: dict[str, np.ndarray], labels: int) -> None:
        """Takes on a state; of one with a mean alone that is the first value."""
        self.scaler[:] = 0
        if "level" in shared:
            self.scaler[:] = shared["level"]
        elif labels:
            self.scaler[0, [S_COUNT, S_MEAN, S_SPAN]] = labels, shared["mean"][0], 1
