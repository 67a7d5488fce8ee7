"""The hash of a key, by which keys belong to partitions: XXH64 with seed 0.

What is stored was divided by it, so it stays as it is (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Shards
have the same function compiled (`kernels.cpu.keys.hashes`); for clients, which need no compiler, it is here in numpy.
"""

from __future__ import annotations

import numpy as np
import xxhash

from streams.batch import Keys

_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(prime)
    for prime in (
        11400714785074694791,
        14029467366897019727,
        1609587929392839161,
        9650029242287828579,
        2870177450012600261,
    )
)


def key_hash(key: bytes) -> int:
    """The stable 64-bit hash of a key."""
    return xxhash.xxh64_intdigest(key)


def key_hashes(keys: Keys) -> np.ndarray:
    """uint64 [n]: `key_hash` of every key of a column, all keys of one length at a time."""
    out = np.empty(len(keys), np.uint64)
    lengths = np.diff(keys.offsets)
    for length in np.unique(lengths).tolist():
        rows = np.flatnonzero(lengths == length)
        out[rows] = _hash(keys.data[keys.offsets[rows][:, None] + np.arange(length)])
    return out


def _rotated(value: np.ndarray, bits: int) -> np.ndarray:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


def _round(accumulator: np.ndarray | np.uint64, word: np.ndarray) -> np.ndarray:
    return _rotated(accumulator + word * _P2, 31) * _P1


def _hash(block: np.ndarray) -> np.ndarray:
    """uint64 [m] of uint8 [m, length]."""
    many, length = block.shape
    start = np.zeros(many, np.uint64)
    at = 0
    if length >= 32:
        lanes = [start + _P1 + _P2, start + _P2, start, start - _P1]
        for at in range(0, length - 31, 32):
            lanes = [_round(lane, _words(block, at + 8 * i, 8)) for i, lane in enumerate(lanes)]
        at += 32
        value = start
        for lane, bits in zip(lanes, (1, 7, 12, 18)):
            value = value + _rotated(lane, bits)
        for lane in lanes:
            value = (value ^ _round(start, lane)) * _P1 + _P4
    else:
        value = start + _P5
    value = value + np.uint64(length)
    while at + 8 <= length:
        value = _rotated(value ^ _round(start, _words(block, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= length:
        value = _rotated(value ^ (_words(block, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    for place in range(at, length):
        value = _rotated(value ^ (block[:, place].astype(np.uint64) * _P5), 11) * _P1
    value = (value ^ (value >> np.uint64(33))) * _P2
    value = (value ^ (value >> np.uint64(29))) * _P3
    return value ^ (value >> np.uint64(32))


def _words(block: np.ndarray, at: int, size: int) -> np.ndarray:
    """uint64 [m]: `size` bytes of every row, little-endian."""
    return np.ascontiguousarray(block[:, at : at + size]).view(f"<u{size}")[:, 0].astype(np.uint64)
