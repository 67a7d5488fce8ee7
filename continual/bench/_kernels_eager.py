"""One event of the default recurrent learner in eager PyTorch: minGRU, logistic read-out, exact RTRL, Adam or SGD.

Written for speed, without autograd and with in-place operations: what one would write by hand without a compiler.
"""

from __future__ import annotations

import math
import time

import torch

from continual.bench._helpers import check, median
from kernels.reference import wave
from kernels.reference.wave_cells import CELLS

TOLERANCE = 1e-4


class Eager:
    """Weights, moments and one key's state.

    Args:
        width: inputs J, the constant included.
        units: N.
        kind: "adam" or "sgd".
        rate: step size.
    """

    def __init__(self, width: int, units: int, kind: str, rate: float = 1e-3) -> None:
        self.kind, self.rate, self.width, self.units = kind, rate, width, units
        rng = torch.Generator().manual_seed(0)
        self.cell = torch.randn(2, width, units, generator=rng) / math.sqrt(width)
        self.out = torch.randn(units + width, generator=rng) / math.sqrt(units)
        self.moments = [torch.zeros_like(part) for part in (self.cell, self.cell, self.out, self.out)]
        self.h, self.trace, self.steps = torch.zeros(units), torch.zeros(2, width, units), 0
        self._learn = self._event

    def event(self, x: torch.Tensor, y: float) -> torch.Tensor:
        """Predicts and learns from the inputs `x` [J] and the label `y`; returns the logit."""
        self.steps += 1
        root = math.sqrt(1.0 - 0.999**self.steps)
        scalars = torch.tensor([y, self.rate * root / (1.0 - 0.9**self.steps), 1e-8 * root])
        return self._learn(x, scalars)

    def _event(self, x: torch.Tensor, scalars: torch.Tensor) -> torch.Tensor:
        pre = x @ self.cell  # [2, N]
        z, c = torch.sigmoid(pre[0]), torch.tanh(pre[1])
        keep = 1 - z
        factor = torch.stack([(c - self.h) * z * keep, z * (1 - c * c)])
        self.h.mul_(keep).addcmul_(z, c)
        seen = torch.cat([self.h, x])
        logit = self.out @ seen
        slope = torch.sigmoid(logit) - scalars[0]
        error = slope * self.out[: self.units]
        self.trace.mul_(keep).addcmul_(factor[:, None], x[None, :, None])
        self._step(self.cell, self.trace * error, self.moments[:2], scalars)
        self._step(self.out, slope * seen, self.moments[2:], scalars)
        return logit

    def _step(self, w: torch.Tensor, g: torch.Tensor, moments: list[torch.Tensor], scalars: torch.Tensor) -> None:
        if self.kind == "sgd":
            w.sub_(g, alpha=self.rate)
            return
        m, v = moments
        m.lerp_(g, 0.1)
        v.mul_(0.999).addcmul_(g, g, value=0.001)
        w.sub_(scalars[1] * m / (v.sqrt() + scalars[2]))

    def verify(self) -> None:
        """A few events against `kernels.reference.wave`.

        Raises:
            continual.bench._helpers.WrongResult: the weights differ by more than `TOLERANCE`.
        """
        cell, rng = CELLS["mingru"], torch.Generator().manual_seed(1)
        weights, out = self.cell.flatten().clone(), self.out.clone()
        theirs = wave.optimizer(weights, self.kind, rate=self.rate)
        theirs_out = wave.optimizer(out, self.kind, rate=self.rate)
        pool, row = torch.zeros(1, cell.body(self.width, self.units)), torch.zeros(1, dtype=torch.int64)
        for step in range(20):
            x, y = torch.randn(self.width, generator=rng), float(step % 2)
            self.event(x, y)
            h, local = wave.forward(cell, weights, pool, row, x[None])
            seen = torch.cat([h[0, 0], x])
            slope = torch.sigmoid(out @ seen) - y
            error = (slope * out[: self.units])[None, None]
            wave.learn_rows(cell, weights, theirs, pool, row, x[None], h, local, error)
            wave.step(theirs_out, out, slope * seen, torch.tensor(1), len(out))
        for name, ours, other in (("cell", self.cell.flatten(), weights), ("read-out", self.out, out)):
            apart = float((ours - other).norm() / other.norm())
            check(apart <= TOLERANCE, f"eager event, {self.kind}: {name} differs from the reference by {apart:.1e}")

    def seconds(self, events: int, rounds: int) -> float:
        """Median seconds of an event, inputs ready."""
        x, taken = torch.randn(events, self.width), []
        with torch.inference_mode():
            for _ in range(rounds + 1):
                start = time.perf_counter()
                for row in x:
                    self.event(row, 1.0)
                taken.append((time.perf_counter() - start) / events)
        return median(taken[1:])

    def compiled_seconds(self, events: int, rounds: int) -> float:
        """The same by `torch.compile`, compilation not counted.

        Raises:
            torch._dynamo.exc.TorchDynamoException: it cannot compile on this machine.
        """
        self._learn = torch.compile(self._event)
        return self.seconds(events, rounds)
