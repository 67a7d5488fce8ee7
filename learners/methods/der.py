"""DER++ (Buzzega et al., NeurIPS 2020, arXiv 2004.07211): the buffer keeps logits beside the labels.

    L = mean CE(stream) + alpha mean (l(x1) - l1)^2 + beta mean CE(x2)

with (x1, l1) and (x2, y2) two draws of the buffer, and l1 the logits when x1 was learned (before that step). With
beta = 0 it is DER. The mean of the squares runs over the logits that were stored: of classes that came later none was,
and their columns do not count.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class DarkExperience(Replaying):
    """The step."""

    NOTED = True

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        spec, memory, known = self.spec, self.memory, self.net.known
        first = memory.draw(spec.replay, 1)
        second_x, second_y = self.recall(purpose=2) if spec.beta > 0 else (x[:0], y[:0])
        self.net.see(x, memory.x[first], second_x)
        self._logits = self.net.entropy(0, y)
        stored = np.ascontiguousarray(memory.notes[first, :known])
        self.net.distance(1, stored, memory.noted_classes[first], spec.alpha)
        self.net.entropy(2, second_y, scale=spec.beta)
        self.net.back()

    def after(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        finite = np.isfinite(self._logits)
        self.memory.insert(x, y, self._logits if finite.all() else np.where(finite, self._logits, 0))


class DerSpec(ReplaySpec):
    """Dark experience replay, with labels (DER++) or without."""

    kind: Literal["der"] = "der"
    alpha: float = Field(0.1, ge=0, le=100, description="Weight of the stored logits.")
    beta: float = Field(0.5, ge=0, le=100, description="Weight of the stored labels; 0: DER, above: DER++.")

    method: ClassVar[type[Replaying]] = DarkExperience
