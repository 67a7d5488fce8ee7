"""A learner with a fault: one event stops it. Registered by naming this module in `CONTINUAL_LEARNERS`."""

from __future__ import annotations

import os
import signal
from typing import Literal

import numpy as np
from pydantic import Field

from learners.base import Folded
from learners.compiled import CompiledLearner
from learners.methods.recurrent import RecurrentSpec
from learners.spec import ModelSpec
from streams.batch import Batch

MARK = 12345.0
"""An event whose first feature is this stops the fold."""


class PoisonedSpec(RecurrentSpec):
    """The recurrent learner, but for the marked event."""

    kind: Literal["poisoned"] = "poisoned"  # type: ignore[assignment]
    how: Literal["raise", "kill"] = Field("raise", description="The marked event raises, or kills the process.")

    def build(self, model: ModelSpec) -> CompiledLearner:
        """A fresh learner for `model`."""
        return PoisonedLearner(model)


class PoisonedLearner(CompiledLearner):
    """Folds nothing of a batch that holds the marked event."""

    def fold(self, batch: Batch) -> Folded:
        """See `learners.base.Learner`.

        Raises:
            RuntimeError: the batch holds the marked event.
        """
        if np.any(batch.x[:, 0] == MARK):
            learner = self.spec.learner
            if isinstance(learner, PoisonedSpec) and learner.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("the marked event")
        return super().fold(batch)
