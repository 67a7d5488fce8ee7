"""A learner with a fault: one event stops it. Registered by naming this module in `CONTINUAL_LEARNERS`."""

from __future__ import annotations

import os
import signal
import time
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

How = Literal["nothing", "raise", "exit", "crash", "kill"]


class PoisonedSpec(RecurrentSpec):
    """The recurrent learner, but for the marked event, and slower if told so."""

    kind: Literal["poisoned"] = "poisoned"  # type: ignore[assignment]
    how: How = Field(
        "raise",
        description="What the marked event does: `raise` an exception, `exit` the process, `crash` it by SIGSEGV, "
        "`kill` it as if from outside, `nothing`.",
    )
    pause: float = Field(0.0, ge=0, description="Seconds that each event takes longer.")

    def build(self, model: ModelSpec) -> CompiledLearner:
        """A fresh learner for `model`."""
        return PoisonedLearner(model)


class PoisonedLearner(CompiledLearner):
    """Folds the events of a batch up to the marked one, as a native learner might."""

    def fold(self, batch: Batch) -> Folded:
        """See `learners.base.Learner`.

        Raises:
            RuntimeError: the batch holds the marked event.
        """
        learner = self.spec.learner
        assert isinstance(learner, PoisonedSpec)
        if learner.pause:
            time.sleep(learner.pause * len(batch))
        marked = np.flatnonzero(batch.x[:, 0] == MARK)
        if learner.how == "nothing" or not len(marked):
            return super().fold(batch)
        if marked[0]:
            super().fold(batch.slice(0, int(marked[0])))  # what is left behind is of no use to anybody
        end(learner.how)
        raise RuntimeError("the marked event")


def end(how: How) -> None:
    """Ends this process, unless the marked event raises."""
    if how == "exit":
        os._exit(3)
    if how == "crash":
        signal.raise_signal(signal.SIGSEGV)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)
