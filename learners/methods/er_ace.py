"""ER-ACE (Caccia et al., ICLR 2022, arXiv 2104.05025), task-free: the stream competes among its own classes only.

    L = mean CE(stream, over the classes of the mini-batch) + mean CE(replayed, over all classes)

The paper's sum of the stream also runs over classes not seen yet; a class exists here from its first label on, so there
are none. It masks from the first event on, without a task boundary.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Asymmetric(Replaying):
    """The step."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        old_x, old_y = self.recall()
        present = np.zeros(self.net.known)
        present[y] = 1.0
        self.net.see(x, old_x)
        self.net.entropy(0, y, present)
        self.net.entropy(1, old_y)
        self.net.back()


class ErAceSpec(ReplaySpec):
    """Replay with asymmetric cross-entropy."""

    kind: Literal["er_ace"] = "er_ace"

    method: ClassVar[type[Replaying]] = Asymmetric
