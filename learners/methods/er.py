"""Experience replay (Chaudhry et al. 2019, arXiv 1902.10486): every mini-batch with as many events of the past.

    L = mean CE(stream) + mean CE(replayed)

The two means are added. Where both are averaged together instead, the same descent has half the rate.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Replay(Replaying):
    """The step."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        old_x, old_y = self.recall()
        self.net.see(x, old_x)
        self.net.entropy(0, y)
        self.net.entropy(1, old_y)
        self.net.back()


class ErSpec(ReplaySpec):
    """Experience replay."""

    kind: Literal["er"] = "er"

    method: ClassVar[type[Replaying]] = Replay
