"""Heads that only the benchmarks know: one that learns nothing, and one whose weighting of labels stays its own."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from kernels.cpu.dispatch import implements
from kernels.cpu.heads import error, kalman, predict, step
from kernels.cpu.layout import BINARY, REGRESSION, Config
from learners.heads.base import HeadSpec
from learners.heads.kalman import Kalman


class Constant(NamedTuple):
    """Predicts one half, or no change, and learns nothing: a fold with it costs what all heads share."""


Constant.PER_CLASS = {}  # type: ignore[attr-defined]


@implements(predict, Constant)
def _predict(head, config, shared, base, phi, x, draw, elapsed, s):
    s.logits[0] = 0.5
    s.logits[1] = 0.5
    if config.task == REGRESSION:
        return base, -1
    return 0.5, 1 if config.task == BINARY else 0


@implements(error, Constant)
def _error(head, config, shared, base, y, phi, x, draw, elapsed, d_phi, s):
    for i in range(config.hidden):
        d_phi[i] = d_phi.dtype.type(0)
    return 0, True


@implements(step, Constant)
def _step(head, config, shared, base, y, phi, x, elapsed, rows, r, q, s):
    pass


class ConstantSpec(HeadSpec):
    """The spec of `Constant`. Without a default for its kind it is not a head that a model can name."""

    teaches: ClassVar[bool] = False

    def compiled(self, config: Config, classes: int, seed: int) -> Constant:
        """See `HeadSpec`."""
        return Constant()


class Alone(kalman.Kalman):
    """A robust Kalman head that keeps its doubts to itself: no label is refused, so outliers reach everything else."""


for _function, _form in ((predict, kalman._predict), (error, kalman._error), (step, kalman._step)):
    implements(_function, Alone)(_form)


class AloneSpec(HeadSpec):
    """The spec of `Alone`."""

    inner: Kalman

    def compiled(self, config: Config, classes: int, seed: int) -> Any:
        """See `HeadSpec`."""
        return Alone(*self.inner.compiled(config, classes, seed))

    @property
    def optimized(self) -> bool:
        """See `HeadSpec`."""
        return self.inner.optimized

    def uses_seed(self) -> bool:
        """See `HeadSpec`."""
        return self.inner.uses_seed()

    def knows(self, task: int) -> tuple[bool, bool, bool]:
        """See `HeadSpec`."""
        return self.inner.knows(task)
