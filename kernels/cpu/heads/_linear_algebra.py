"""Dense linear algebra of the heads: float64, in place, no allocation, a fixed order of every sum.

A symmetric or triangular matrix [n, n] is held as the packed rows of its lower triangle: row i begins at i (i + 1) / 2
and has i + 1 entries.
"""

from __future__ import annotations

import math

import numba as nb
import numpy as np

from kernels.cpu.numerics import INLINE, JIT, dot

SWEEPS = 40
"""Most sweeps of `eigen`; it converges quadratically, in practice within ten."""

_NEGLIGIBLE = 1e-32
"""Squared cosine between two columns below which `eigen` takes them as orthogonal."""


def packed(n: int) -> int:
    """Entries of a packed triangle of a matrix [n, n]."""
    return n * (n + 1) // 2


@nb.njit(**INLINE)
def squared_distance(a, b, n):
    """Sum of (a[i] - b[i])^2 for i < n in float64, in eight interleaved partial sums added as a tree."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = 0.0
    whole = n - n % 8
    for i in range(0, whole, 8):
        d0 = np.float64(a[i]) - np.float64(b[i])
        d1 = np.float64(a[i + 1]) - np.float64(b[i + 1])
        d2 = np.float64(a[i + 2]) - np.float64(b[i + 2])
        d3 = np.float64(a[i + 3]) - np.float64(b[i + 3])
        d4 = np.float64(a[i + 4]) - np.float64(b[i + 4])
        d5 = np.float64(a[i + 5]) - np.float64(b[i + 5])
        d6 = np.float64(a[i + 6]) - np.float64(b[i + 6])
        d7 = np.float64(a[i + 7]) - np.float64(b[i + 7])
        s0 += d0 * d0
        s1 += d1 * d1
        s2 += d2 * d2
        s3 += d3 * d3
        s4 += d4 * d4
        s5 += d5 * d5
        s6 += d6 * d6
        s7 += d7 * d7
    total = ((s0 + s4) + (s2 + s6)) + ((s1 + s5) + (s3 + s7))
    for i in range(whole, n):
        d = np.float64(a[i]) - np.float64(b[i])
        total += d * d
    return total


@nb.njit(**JIT)
def cholesky(a, n):
    """The factor L of A = L L' in place of the packed A [n, n].

    Returns whether A is positive definite; where not, what is in `a` is of no use.
    """
    for i in range(n):
        row = a[i * (i + 1) // 2 :]
        for j in range(i):
            other = a[j * (j + 1) // 2 :]
            row[j] = (row[j] - dot(row, other, j, 0.0)) / other[j]
        pivot = row[i] - dot(row, row, i, 0.0)
        if not pivot > 0.0:
            return False
        row[i] = math.sqrt(pivot)
    return True


@nb.njit(**JIT)
def solve(factor, b, n):
    """Solves L L' x = b in place of `b` [n], with the packed `factor` L of `cholesky`."""
    for i in range(n):
        row = factor[i * (i + 1) // 2 :]
        b[i] = (b[i] - dot(row, b, i, 0.0)) / row[i]
    for i in range(n - 1, -1, -1):
        row = factor[i * (i + 1) // 2 :]
        b[i] /= row[i]
        x = b[i]
        for j in range(i):
            b[j] -= x * row[j]


@nb.njit(**INLINE)
def _rotate(a, b, n, cosine, sine):
    for i in range(n):
        x = a[i]
        y = b[i]
        a[i] = cosine * x - sine * y
        b[i] = sine * x + cosine * y


@nb.njit(**JIT)
def eigen(a, v, n):
    """Eigenvalues and eigenvectors of the symmetric `a` [n, n] (the whole square), by cyclic Jacobi rotations.

    Leaves the eigenvalues on the diagonal of `a`, in no order, and the eigenvector of a[i, i] in the row v[i]. An
    entry is set to zero until it is negligible beside its two diagonal entries, not beside the largest: of a positive
    definite matrix small eigenvalues are then as accurate as its scaled condition allows (Demmel and Veselic 1992).
    """
    for i in range(n):
        for j in range(n):
            v[i, j] = 1.0 if i == j else 0.0
    for _ in range(SWEEPS):
        rotations = 0
        for p in range(n - 1):
            for q in range(p + 1, n):
                off = a[p, q]
                if off == 0.0 or off * off <= _NEGLIGIBLE * (a[p, p] * a[q, q]):
                    continue
                rotations += 1
                ratio = (a[q, q] - a[p, p]) / (2.0 * off)
                tangent = 1.0 / (abs(ratio) + math.sqrt(1.0 + ratio * ratio))
                tangent = -tangent if ratio < 0.0 else tangent
                cosine = 1.0 / math.sqrt(1.0 + tangent * tangent)
                sine = tangent * cosine
                low, high = a[p, p] - tangent * off, a[q, q] + tangent * off
                _rotate(a[p], a[q], n, cosine, sine)
                _rotate(v[p], v[q], n, cosine, sine)
                a[p, p], a[q, q] = low, high
                a[p, q] = a[q, p] = 0.0
                for k in range(n):
                    a[k, p] = a[p, k]
                    a[k, q] = a[q, k]
        if rotations == 0:
            break
