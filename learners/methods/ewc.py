"""Online EWC (Schwarz et al., ICML 2018, arXiv 1805.06370), without task boundaries: important weights are held back.

    L = mean CE(stream) + strength / 2 sum_i F_i (w_i - w*_i)^2
    at every `period` labels:   F <- decay F + (mean over its labels of (d CE / d w_i)^2),   w* <- w

The paper consolidates at the ends of tasks; a stream has none, so a period of labels stands in. The Fisher information
is the empirical one, of each label of the period with the weights that it was learned with; no entry of a gradient
counts as more than the bound on a step's (see `Classifier`). The penalty is a step of
its own after the descent, at most to w* itself: however large F is, it cannot overshoot.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from kernels.cpu.replay.losses import add_squares, penalty
from learners.methods.finetune import Descent
from learners.replay.classifier import Classifier
from learners.replay.method import Method
from learners.replay.spec import NetworkSpec

NAMES = ("body", "head.w", "head.b")


class Consolidated(Descent):
    """The step.

    Attributes:
        fisher, anchor, squares: float64, T and float64; F, w* and the sum of squares in the running period, each a
            list with an array for every one of `NAMES`, with room for every class.
        labels: in the running period.
    """

    def __init__(self, spec: Any, net: Classifier) -> None:
        super().__init__(spec, net)
        self.labels = 0
        weights = self._all()
        self.fisher, self.squares = ([np.zeros(w.shape) for w in weights] for _ in range(2))
        self.anchor = [np.zeros_like(w) for w in weights]

    def _all(self) -> list[np.ndarray]:
        return [self.net.body.theta, self.net.w, self.net.b]

    def reserve(self, classes: int) -> None:
        """See `Model`: a class that is new is not held back."""
        super().reserve(classes)
        for arrays in (self.fisher, self.squares, self.anchor):
            for k in (1, 2):
                grown = np.zeros(self._all()[k].shape, arrays[k].dtype)
                grown[: len(arrays[k])] = arrays[k]
                arrays[k] = grown

    def _known(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """The part of the classes that there are, flat."""
        known = self.net.known
        return [arrays[0], arrays[1][:known].reshape(-1), arrays[2][:known]]

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `Method`: the squares of each label's own gradient first."""
        squares, most = self._known(self.squares), self.net.longest(self.spec.rate)
        for row in range(len(y)):
            self.net.see(x[row : row + 1], train=False)
            self.net.entropy(0, y[row : row + 1])
            self.net.back()
            for g, total in zip(self.net.gradients, squares):
                add_squares(g, most, total)
        self.labels += len(y)
        super().gradient(x, y)

    def after(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `Method`: draws the weights towards the anchor, and consolidates at the end of a period."""
        spec = self.spec
        for w, anchor, fisher in zip(self.net.weights, self._known(self.anchor), self._known(self.fisher)):
            penalty(w, anchor, fisher, spec.rate, spec.strength)
        if self.labels >= spec.period:
            parts = (self._known(arrays) for arrays in (self.anchor, self.fisher, self.squares))
            for w, anchor, importance, squares in zip(self.net.weights, *parts):
                importance[:] = spec.decay * importance + squares / self.labels
                squares[:] = 0
                anchor[:] = w
            self.labels = 0

    def arrays(self, known: int) -> dict[str, np.ndarray]:
        """See `Model`."""
        arrays = super().arrays(known) | {"ewc.labels": np.array([self.labels])}
        for what in ("fisher", "squares", "anchor"):
            parts = getattr(self, what)
            arrays |= {f"ewc.{what}.{n}": a if n == "body" else a[:known] for n, a in zip(NAMES, parts)}
        return arrays

    def load(self, arrays: dict[str, np.ndarray], known: int) -> None:
        """See `Model`."""
        super().load(arrays, known)
        self.labels = int(arrays["ewc.labels"][0])
        for what in ("fisher", "squares", "anchor"):
            for name, mine in zip(NAMES, getattr(self, what)):
                given = arrays[f"ewc.{what}.{name}"]
                mine[: len(given)], mine[len(given) :] = given, 0


class EwcSpec(NetworkSpec):
    """Online elastic weight consolidation."""

    kind: Literal["ewc"] = "ewc"
    strength: float = Field(100.0, ge=0, le=1e9, description="Weight of the penalty.")
    decay: float = Field(0.9, ge=0, le=1, description="What is kept of the importance at the end of a period.")
    period: int = Field(1000, ge=1, description="Labels after which the weights become the anchor.")

    method: ClassVar[type[Method]] = Consolidated
