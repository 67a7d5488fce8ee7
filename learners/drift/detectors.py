"""River's drift detectors by spec, on the losses of a learner or on its inputs.

    loss    classes: -log of the probability that the label was given (at least 1e-6); numbers: |prediction - label|
    error   classes: 1 where the predicted class is not the label, else 0; numbers: as loss
    inputs  one detector for each feature, on its values as they come; missing ones are left out

On losses and errors a change counts when they rose: a learner that gets better has not met a drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.base import Folded
from learners.spec import Strict
from streams.metrics import CLIP

MOST_INPUTS = 256
"""Features that `on: inputs` accepts: there is a Python object for each, and a call for each value."""


class Detector(Strict):
    """Base of the detectors' specs."""

    on: Literal["loss", "error", "inputs"] = Field("loss", description="What is watched.")

    binary: ClassVar[bool] = False
    """Whether it takes nothing but errors of 0 and 1."""
    random: ClassVar[bool] = False
    """Whether it draws random numbers."""

    def build(self, seed: int) -> Any:
        """A fresh detector of River."""
        raise NotImplementedError(f"{type(self).__name__} builds no detector")

    def rises(self) -> Callable[[Any, float], bool]:
        """What takes in a value and says whether it was a drift."""
        return _detects


class Adwin(Detector):
    """ADWIN (Bifet & Gavalda 2007): a window that drops its old end when the means of its parts differ."""

    kind: Literal["adwin"] = "adwin"
    delta: float = Field(0.002, gt=0, lt=1, description="Confidence: smaller means fewer false alarms.")

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river import drift

        return drift.ADWIN(delta=self.delta)

    def rises(self) -> Callable[[Any, float], bool]:
        """See `Detector`; of a window that was cut the mean must have risen."""
        return _detects if self.on == "inputs" else _adwin_rises


class PageHinkley(Detector):
    """Page-Hinkley: a cumulative sum of deviations from the running mean."""

    kind: Literal["page_hinkley"] = "page_hinkley"
    delta: float = Field(0.005, ge=0, description="Deviation that is tolerated.")
    threshold: float = Field(50.0, gt=0, description="Sum that is a drift: larger means fewer false alarms, later.")
    alpha: float = Field(0.9999, gt=0, le=1, description="What the sum keeps per value.")

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river import drift

        mode = "both" if self.on == "inputs" else "up"
        return drift.PageHinkley(delta=self.delta, threshold=self.threshold, alpha=self.alpha, mode=mode)


class KSWIN(Detector):
    """KSWIN (Raab et al. 2020): a Kolmogorov-Smirnov test of the latest values against a sample of those before."""

    kind: Literal["kswin"] = "kswin"
    alpha: float = Field(0.0001, gt=0, lt=1, description="Level of each test, of which there is one for each value.")
    window: int = Field(100, ge=4, le=100_000, description="Values held.")
    latest: int = Field(30, ge=2, description="Those of them that are compared with a sample of the others.")

    random: ClassVar[bool] = True

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river import drift

        return drift.KSWIN(alpha=self.alpha, window_size=self.window, stat_size=self.latest, seed=seed % 2**32)

    def rises(self) -> Callable[[Any, float], bool]:
        """See `Detector`; the latest values must have a larger mean than those before them."""
        return _detects if self.on == "inputs" else _kswin_rises


class DDM(Detector):
    """DDM (Gama et al. 2004): the rate of errors against its least value so far."""

    kind: Literal["ddm"] = "ddm"
    on: Literal["error"] = Field("error", description="What is watched.")
    threshold: float = Field(3.0, gt=0, description="Deviations above the least rate that are a drift.")
    binary: ClassVar[bool] = True

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river.drift import binary

        return binary.DDM(drift_threshold=self.threshold)


class HDDMA(Detector):
    """HDDM_A (Frias-Blanco et al. 2015): Hoeffding's bound on the rise of a mean of errors."""

    kind: Literal["hddm_a"] = "hddm_a"
    on: Literal["error"] = Field("error", description="What is watched.")
    confidence: float = Field(0.001, gt=0, lt=1, description="Smaller means fewer false alarms.")
    binary: ClassVar[bool] = True

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river.drift import binary

        return binary.HDDMA(drift_confidence=self.confidence, warning_confidence=self.confidence)


class HDDMW(Detector):
    """HDDM_W (Frias-Blanco et al. 2015): McDiarmid's bound on the rise of a weighted mean of errors."""

    kind: Literal["hddm_w"] = "hddm_w"
    on: Literal["error"] = Field("error", description="What is watched.")
    confidence: float = Field(0.001, gt=0, lt=1, description="Smaller means fewer false alarms.")
    decay: float = Field(0.05, gt=0, le=1, description="Weight of the latest error in the mean.")
    binary: ClassVar[bool] = True

    def build(self, seed: int) -> Any:
        """See `Detector`."""
        from river.drift import binary

        given = {"drift_confidence": self.confidence, "warning_confidence": self.confidence}
        return binary.HDDMW(**given, lambda_val=self.decay)


AnyDetector = Annotated[Adwin | PageHinkley | KSWIN | DDM | HDDMA | HDDMW, Field(discriminator="kind")]


def _detects(detector: Any, value: float) -> bool:
    detector.update(value)
    return detector.drift_detected


def _adwin_rises(detector: Any, value: float) -> bool:
    before = detector.estimation
    detector.update(value)
    return detector.drift_detected and detector.estimation > before


def _kswin_rises(detector: Any, value: float) -> bool:
    before, held = sum(detector.window), len(detector.window)
    detector.update(value)
    if not detector.drift_detected:
        return False
    latest = sum(detector.window) / len(detector.window)  # those that are left
    return latest > before / held


def feed(spec: AnyDetector, detectors: list[Any], values: np.ndarray) -> list[tuple[int, int]]:
    """Takes in values float64 [n, inputs or 1], NaN where there is none.

    Returns:
        (row, column) of every value at which a detector saw a drift, row by row.
    """
    rises, found = spec.rises(), []
    for column, detector in enumerate(detectors):
        for row, value in enumerate(values[:, column].tolist()):
            if math.isfinite(value) and rises(detector, value):
                found.append((row, column))
    return sorted(found)


def losses(task: str, on: str, met: np.ndarray) -> np.ndarray:
    """float64 [n]: the loss or error of each label that met its prediction, NaN elsewhere.

    Args:
        task: kind of target.
        on: "loss" or "error".
        met: float64 [n, 5], see `Folded.met`.
    """
    value, code, _, label, _ = met.T
    if task == "regression":
        return np.abs(value - label)
    if on == "error":
        return np.where(np.isnan(label), np.nan, code != label)
    return -np.log(np.maximum(_given(task, value, label), CLIP))


def _given(task: str, value: np.ndarray, label: np.ndarray) -> np.ndarray:
    """The probability that the label was given; NaN where it is not known."""
    given = value if task == "multiclass" else np.where(label > 0, value, 1.0 - value)
    return np.where(np.isnan(label), np.nan, given)


def better_by(task: str, one: Folded, other: Folded) -> np.ndarray:
    """float64 [m]: by how much the other's loss was smaller, in [-1, 1], at each label that both had predicted.

    Classes: the difference of (1 - p)^2, p the probability that the label was given. Numbers: that of the absolute
    errors as a share of their sum.
    """
    a, b = one.met(), other.met()
    if task == "regression":
        x, y = np.abs(a[:, 0] - a[:, 3]), np.abs(b[:, 0] - b[:, 3])
        difference = np.divide(x - y, x + y, out=np.where(np.isnan(x + y), np.nan, 0.0), where=x + y > 0)
    else:
        difference = (1 - _given(task, a[:, 0], a[:, 3])) ** 2 - (1 - _given(task, b[:, 0], b[:, 3])) ** 2
    return difference[~np.isnan(difference)]


def is_better(total: float, squares: float, alpha: float) -> bool:
    """Whether a sum of differences shows, at any time it is looked at, that their mean is above 0.

        S > sqrt((V + 1) log((V + 1) / alpha^2)),   V the sum of their squares

    (the method of mixtures, Robbins 1970, for self-normalised sums, de la Pena 1999). Were there no difference, this
    would ever be so with probability alpha at most, if differences are as likely d as -d given what came before.
    """
    level = squares + 1.0
    return total > math.sqrt(level * math.log(level / alpha**2))
