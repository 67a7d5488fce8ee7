"""The posteriors of a Kalman head in their natural coordinates, in which independent evidence adds up.

    N(M_k, A):   Lambda = A^-1,   eta_k = Lambda M_k;   the prior N(0, sw I) has I / sw and 0

Evidence is what a posterior says beyond its prior, (Lambda - I / sw, eta). That of two streams is the sum of both, as
long as nothing is forgotten. Of filters that forget, the mean of the evidence is a covariance intersection (Julier and
Uhlmann 1997): it counts nothing twice, whatever they have in common. There and back are by Cholesky, in one fixed order
of every sum.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.cpu.heads._bank import State
from kernels.cpu.heads._filter import places
from kernels.cpu.heads._linear_algebra import cholesky, packed, solve
from kernels.cpu.numerics import JIT, dot


@nb.njit(**JIT)
def invert(a, n, out):
    """Writes the inverse of the packed A [n, n] to the square `out`, symmetric to the last bit; `a` is used up.

    Returns whether A is positive definite; where not, nothing is written.
    """
    if not cholesky(a, n):
        return False
    for j in range(n):
        row = out[j]
        for i in range(n):
            row[i] = 1.0 if i == j else 0.0
        solve(a, row, n)
    for i in range(n):
        for j in range(i):
            out[j, i] = out[i, j]
    return True


@nb.njit(**JIT)
def multiply(a, rows, out):
    """Writes rows A to `out` [k, n], for the symmetric square `a` [n, n]."""
    n = len(a)
    for k in range(len(rows)):
        for i in range(n):
            out[k, i] = dot(a[i], rows[k], n, 0.0)


def _diagonal(n: int) -> np.ndarray:
    """Places of the diagonal in a packed triangle."""
    return np.cumsum(np.arange(1, n + 1)) - 1


def evidence(mean: np.ndarray, cov: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray]:
    """What a posterior says beyond its prior.

    Args:
        mean: float64 [K, M].
        cov: float64 [n], tiles of A [M, M] (`_filter.places`), positive definite.
        prior: sw.

    Returns:
        eta [K, M], and the packed triangle of Lambda - I / sw, where `cov` is not positive definite of NaN.
    """
    n = mean.shape[1]
    row, column = places(n)
    square = np.empty((n, n))
    square[row, column] = cov
    precision, shift = np.empty((n, n)), np.empty(mean.shape)
    low = np.tril_indices(n)
    if not invert(np.ascontiguousarray(square[low]), n, precision):
        return np.full(mean.shape, np.nan), np.full(packed(n), np.nan)
    multiply(precision, np.ascontiguousarray(mean), shift)
    beyond = precision[low]
    beyond[_diagonal(n)] -= 1.0 / prior
    return shift, beyond


def posterior(shift: np.ndarray, beyond: np.ndarray, prior: float) -> tuple[np.ndarray, np.ndarray] | None:
    """The inverse of `evidence`: mean [K, M] and tiles of A; None where that is no posterior."""
    n = shift.shape[1]
    precision = beyond.copy()
    precision[_diagonal(n)] += 1.0 / prior
    cov, mean = np.empty((n, n)), np.empty(shift.shape)
    if not invert(precision, n, cov):
        return None
    multiply(cov, np.ascontiguousarray(shift), mean)
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        return None
    return mean, cov[places(n)]


Arrays = dict[str, np.ndarray]


def coordinates(state: State, lasting: np.ndarray, classes: int) -> tuple[Arrays, Arrays]:
    """The evidence of the members that forget nothing, `lasting` bool [G], and that of the others.

    Returns:
        twice `mean` [members, classes, M] and `cov` [members, n], see `evidence`; nothing where there is none such.
    """
    found = [evidence(*one) for one in zip(state.mean[:, :classes], state.cov, state.prior.tolist())]
    shift, beyond = (np.stack(part) for part in zip(*found))
    both = [{"mean": shift[some], "cov": beyond[some]} if some.any() else {} for some in (lasting, ~lasting)]
    return both[0], both[1]


def take_on(state: State, lasting: np.ndarray, summed: Arrays, averaged: Arrays) -> bool:
    """The inverse of `coordinates`, in place; False where some are no posterior: then nothing is changed."""
    said = {}
    for some, given in ((lasting, summed), (~lasting, averaged)):
        for row, g in enumerate(np.flatnonzero(some).tolist() if given else []):
            found = posterior(given["mean"][row], given["cov"][row], float(state.prior[g]))
            if found is None:
                return False
            said[g] = found
    for g, (mean, cov) in said.items():
        state.mean[g, : len(mean)] = mean
        state.cov[g] = cov
    return True
