"""Counter-based random numbers in compiled code: every one is a function of what it is for, none of what came before.

A draw is keyed by (seed, number): the number says which event or step it belongs to. Its words are the SplitMix64
sequence (Steele, Lea and Flood 2014) that begins at a hash of the key.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from kernels.cpu.numerics import INLINE, SHORT

GOLDEN, _MIX1, _MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@nb.njit(**INLINE)
def mix(x):
    """SplitMix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))


@nb.njit(**INLINE)
def base_of(seed, number):
    """Where the words of a draw begin."""
    return mix(mix(np.uint64(seed) + GOLDEN) + np.uint64(number) * GOLDEN)


@nb.njit(**INLINE)
def below(base, word, bound):
    """An integer in [0, bound) from one word of a draw; no value is likelier than another by more than 2^-32."""
    return np.int64(mix(base + np.uint64(word + 1) * GOLDEN) % np.uint64(bound))


@nb.njit(**SHORT)
def distinct(seed, number, bound, out):
    """Fills `out` int64 [m] with m <= bound different integers in [0, bound); every set of m is as likely.

    Floyd's algorithm (Bentley and Floyd 1987).
    """
    base, count = base_of(seed, number), len(out)
    for i in range(count):
        last = bound - count + i
        chosen = below(base, i, last + 1)
        for k in range(i):
            if out[k] == chosen:
                chosen = last
                break
        out[i] = chosen
