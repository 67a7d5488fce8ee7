"""Fine-tuning: plain descent on the stream, nothing kept of the past. The lower bound of every other method.

L = mean CE(stream)
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from learners.replay.method import Method
from learners.replay.spec import NetworkSpec


class Descent(Method):
    """The step."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        self.net.see(x)
        self.net.entropy(0, y)
        self.net.back()


class FinetuneSpec(NetworkSpec):
    """Descent on the stream alone."""

    kind: Literal["finetune"] = "finetune"

    method: ClassVar[type[Method]] = Descent
