"""MIR (Aljundi et al., NeurIPS 2019, arXiv 1908.04742): what the step on the stream would harm most is replayed.

    theta' = theta - rate grad mean CE(stream);   of `candidates` drawn, those with the largest l(theta') - l(theta)
    L = mean CE(stream) + mean CE(those)

Losses of candidates are those of predictions (batch normalisation by its running moments); of equal increases the one
drawn first is taken.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from learners.methods.er import Replay
from learners.replay.method import Replaying
from learners.replay.spec import ReplaySpec


class Interfered(Replay):
    """The step: that of experience replay, with other events."""

    def gradient(self, x: np.ndarray, y: np.ndarray) -> None:
        """See `learners.replay.method.Method`."""
        self._chosen = self._most_interfered(x, y)
        super().gradient(x, y)

    def recall(self, purpose: int = 1, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The candidates that were chosen."""
        return self.memory.x[self._chosen], self.memory.y[self._chosen]

    def _most_interfered(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Rows of the buffer, in order of how much the step on the stream alone would raise their loss."""
        places = self.memory.draw(self.spec.candidates, 1)
        if len(places) <= self.spec.replay:
            return places
        drawn_x, drawn_y = self.memory.x[places], self.memory.y[places]
        before = self.net.losses(drawn_x, drawn_y)
        with self.net.aside():
            self.net.see(x)
            self.net.entropy(0, y)
            self.net.back()
            self.net.descend(self.spec.rate)
            after = self.net.losses(drawn_x, drawn_y)
        increase = np.nan_to_num(after - before, nan=0.0)
        return places[np.argsort(-increase, kind="stable")[: self.spec.replay]]


class MirSpec(ReplaySpec):
    """Maximally interfered retrieval."""

    kind: Literal["mir"] = "mir"
    candidates: int = Field(50, ge=1, le=65_536, description="Events drawn, of which `replay` are replayed.")

    method: ClassVar[type[Replaying]] = Interfered
