"""PCR (Lin et al., CVPR 2023, arXiv 2304.04408): proxies of the classes in place of the samples of a contrastive loss.

    L = mean over stream and replayed of  -log( exp(cos_y / temperature) / sum_c n_c exp(cos_c / temperature) )

where c runs over the classes of the step's events and n_c is how many of them have that class. Predictions are by the
same cosines, over all classes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Proxies(Replaying):
    """The step."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        old_x, old_y = self.recall()
        labels = np.concatenate([y, old_y])
        times = np.bincount(labels, minlength=self.net.known).astype(np.float64)
        self.net.see(np.concatenate([x, old_x]))
        self.net.angle_entropy(0, labels, self.spec.temperature, times)
        self.net.back()


class PcrSpec(ReplaySpec):
    """Proxy-based contrastive replay."""

    kind: Literal["pcr"] = "pcr"
    rate: float = Field(0.1, gt=0, le=100, description="Step size of the descent.")
    bias: Literal[False] = Field(False, description="Angles have none.")
    temperature: float = Field(0.09, gt=0, le=100, description="What cosines are divided by.")

    method: ClassVar[type[Replaying]] = Proxies

    def predicts_by_angles(self) -> float:
        """See `learners.replay.spec.NetworkSpec`."""
        return self.temperature
