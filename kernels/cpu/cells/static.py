"""No recurrence: features of this event alone, for heads that learn by themselves.

    phi = relu(W' x)        W [J, H] random and fixed; without columns there are no features but the inputs
    phi = mean relu(w' p)   over the patches p of an image, see `kernels.cpu.convolution`

A cell without units has no state and no traces, and passes no error on.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from kernels.cpu import convolution
from kernels.cpu.cells import backward, features, forward, made
from kernels.cpu.dispatch import implements


@made(order=1, matrices=0, contracts=True)
class Static(NamedTuple):
    """Random features (Rahimi & Recht, NeurIPS 2008), rectified as in RanPAC (McDonnell et al., NeurIPS 2023)."""

    weights: np.ndarray
    """T [J, H], drawn once from the seed: not part of the state."""
    units: int = 0


@made(order=1, matrices=0, contracts=True)
class Convolution(NamedTuple):
    """Random filters over an image, which the first inputs are."""

    filters: convolution.Filters
    units: int = 0

    def room(self) -> int:
        """See `kernels.cpu.cells.room`."""
        return self.filters.room


@implements(forward, Static)
@implements(forward, Convolution)
def _forward(cell, w, x, before, gap, units, width, s):
    pass


@implements(features, Static)
def _features(cell, w, x, h, units, width, s):
    zero = cell.weights.dtype.type(0)
    phi = s.phi
    for i in range(len(phi)):
        phi[i] = zero
    for j in range(width):
        row, value = cell.weights[j], x[j]
        for i in range(len(phi)):
            phi[i] += row[i] * value
    for i in range(len(phi)):
        phi[i] = phi[i] if phi[i] > zero else zero


@implements(features, Convolution)
def _filtered(cell, w, x, h, units, width, s):
    convolution.respond(cell.filters, x, s.work, s.phi)


@implements(backward, Static)
@implements(backward, Convolution)
def _backward(cell, w, h, units, width, s, d_x):
    pass
