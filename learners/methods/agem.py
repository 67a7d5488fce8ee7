"""A-GEM (Chaudhry et al., ICLR 2019, arXiv 1812.00420): a step that does not raise the loss of the past.

    g = grad mean CE(stream),  r = grad mean CE(drawn from the buffer);   where g r < 0:  g - (g r / r r) r

Nothing is taken away where r r is zero, as squares of small numbers are, or g r / r r is not finite.

The buffer is filled from the first event on, by the rule of `buffer` (in the paper: at the ends of tasks).
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import numpy as np

from kernels.cpu.replay.losses import product, project
from learners.replay.classifier import Classifier
from learners.replay.memory import Memory
from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Averaged(Replaying):
    """The step."""

    def __init__(self, spec: Any, net: Classifier, memory: Memory) -> None:
        super().__init__(spec, net, memory)
        nothing = np.zeros(1, net.body.theta.dtype)
        project(nothing, nothing, 0.0)  # compiled now: which step needs it first depends on the events

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        old_x, old_y = self.recall()
        reference = []
        if len(old_y):
            self._of(old_x, old_y)
            reference = [g.copy() for g in self.net.gradients]
        self._of(x, y)
        along = sum(product(g, r) for g, r in zip(self.net.gradients, reference))
        size = sum(product(r, r) for r in reference)
        share = along / size if along < 0 < size else 0.0
        if share and math.isfinite(share):
            for g, r in zip(self.net.gradients, reference):
                project(g, r, share)

    def _of(self, x: np.ndarray, y: np.ndarray) -> None:
        self.net.see(x)
        self.net.entropy(0, y)
        self.net.back()


class AgemSpec(ReplaySpec):
    """Averaged gradient episodic memory."""

    kind: Literal["agem"] = "agem"

    method: ClassVar[type[Replaying]] = Averaged
