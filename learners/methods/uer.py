"""UER (Lin et al. 2023, arXiv 2309.04081): the stream is learned by angles, what is replayed by products.

    L = mean CE(cos(stream) / temperature) + mean CE(dot(replayed)),   prediction: the largest dot

The bias towards new classes arises in the angles, and norms keep what was learned: so the stream may only move angles.
Its gradient is orthogonal to the weights of every class (`kernels.cpu.replay.losses`). The temperature, the bias (none)
and the prediction are this project's choice, where the paper's abstract says nothing.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Unbiased(Replaying):
    """The step."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        spec, (old_x, old_y) = self.spec, self.recall()
        self.net.see(x, old_x)
        for group, (labels, by) in enumerate(((y, spec.stream), (old_y, spec.replayed))):
            if by == "dot":
                self.net.entropy(group, labels)
            else:
                self.net.angle_entropy(group, labels, spec.temperature)
        self.net.back()


By = Literal["cosine", "dot"]


class UerSpec(ReplaySpec):
    """Replay with the angle factor for the stream and both factors for the buffer."""

    kind: Literal["uer"] = "uer"
    rate: float = Field(0.1, gt=0, le=100, description="Step size of the descent.")
    bias: bool = Field(False, description="Whether logits by products have a bias.")
    temperature: float = Field(0.1, gt=0, le=100, description="What cosines are divided by.")
    stream: By = Field("cosine", description="Logits that the stream is learned by.")
    replayed: By = Field("dot", description="Logits that the buffer is learned by.")
    predicts: By = Field("dot", description="Logits that are served.")

    method: ClassVar[type[Replaying]] = Unbiased

    def predicts_by_angles(self) -> float:
        """See `learners.replay.spec.NetworkSpec`."""
        return self.temperature if self.predicts == "cosine" else 0.0
