"""A hash table from byte-string keys to slots, looked up for a whole column at once.

Linear probing with backward-shift deletion; keys are compared byte by byte, so equal hashes never merge two keys.
The hash is XXH64 with seed 0 (https://github.com/Cyan4973/xxHash, specification), the stable hash that also cuts
the key space into partitions.
"""

from __future__ import annotations

from typing import NamedTuple

import numba as nb
import numpy as np

from kernels.cpu.bound import values_of
from kernels.cpu.numerics import INLINE, SHORT

_P1 = np.uint64(11400714785074694791)
_P2 = np.uint64(14029467366897019727)
_P3 = np.uint64(1609587929392839161)
_P4 = np.uint64(9650029242287828579)
_P5 = np.uint64(2870177450012600261)


class Table(NamedTuple):
    """Arrays of the table; `cells` has a power-of-two length, at least twice the number of slots."""

    cells: np.ndarray
    """int64: slot + 1, or 0 for a free cell."""
    hash: np.ndarray
    """uint64 [S]."""
    start: np.ndarray
    """int64 [S], where the key's bytes begin in `arena`."""
    length: np.ndarray
    """int64 [S]."""
    arena: np.ndarray
    """uint8: the bytes of all keys."""


@nb.njit(**INLINE)
def _rotate(x, r):
    return (x << np.uint64(r)) | (x >> np.uint64(64 - r))


@nb.njit(**INLINE)
def _word(data, at, size):
    word = np.uint64(0)
    for i in range(size):
        word |= np.uint64(data[at + i]) << np.uint64(8 * i)
    return word


@nb.njit(**INLINE)
def _round(acc, word):
    return _rotate(acc + word * _P2, 31) * _P1


@nb.njit(**SHORT)
def xxh64(data, start, stop):
    """XXH64 (seed 0) of data[start:stop], uint8, as uint64."""
    length = stop - start
    at = start
    if length >= 32:
        v1 = _P1 + _P2
        v2 = _P2
        v3 = np.uint64(0)
        v4 = np.uint64(0) - _P1
        while at + 32 <= stop:
            v1 = _round(v1, _word(data, at, 8))
            v2 = _round(v2, _word(data, at + 8, 8))
            v3 = _round(v3, _word(data, at + 16, 8))
            v4 = _round(v4, _word(data, at + 24, 8))
            at += 32
        h = _rotate(v1, 1) + _rotate(v2, 7) + _rotate(v3, 12) + _rotate(v4, 18)
        h = (h ^ _round(np.uint64(0), v1)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), v2)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), v3)) * _P1 + _P4
        h = (h ^ _round(np.uint64(0), v4)) * _P1 + _P4
    else:
        h = _P5
    h += np.uint64(length)
    while at + 8 <= stop:
        h = _rotate(h ^ _round(np.uint64(0), _word(data, at, 8)), 27) * _P1 + _P4
        at += 8
    if at + 4 <= stop:
        h = _rotate(h ^ (_word(data, at, 4) * _P1), 23) * _P2 + _P3
        at += 4
    while at < stop:
        h = _rotate(h ^ (np.uint64(data[at]) * _P5), 11) * _P1
        at += 1
    h = (h ^ (h >> np.uint64(33))) * _P2
    h = (h ^ (h >> np.uint64(29))) * _P3
    return h ^ (h >> np.uint64(32))


@nb.njit(**SHORT)
def hashes(offsets, data, out):
    """Writes the hash of every key of a column (int64 offsets [n + 1], uint8 data) to `out` uint64 [n]."""
    for i in range(len(out)):
        out[i] = xxh64(data, offsets[i], offsets[i + 1])


@nb.njit(**INLINE)
def _find(table, h, data, start, stop):
    """(cell, slot) of a key; slot -1 and the free cell that ended the search when it is absent."""
    mask = len(table.cells) - 1
    cell = np.int64(h & np.uint64(mask))
    while table.cells[cell] != 0:
        slot = table.cells[cell] - 1
        if table.hash[slot] == h and table.length[slot] == stop - start:
            same = True
            for i in range(stop - start):
                if table.arena[table.start[slot] + i] != data[start + i]:
                    same = False
                    break
            if same:
                return cell, slot
        cell = (cell + 1) & mask
    return cell, -1


@nb.njit(**SHORT)
def lookup(table, offsets, data, slots):
    """Writes the slot of every key of a column (int64 offsets [n + 1], uint8 data) to `slots` int64 [n]; -1 if absent.

    `table` is a `Bound` one. Returns how many are absent.
    """
    table = values_of(table)
    absent = 0
    for i in range(len(slots)):
        start, stop = offsets[i], offsets[i + 1]
        if i > 0 and stop - start == start - offsets[i - 1] and slots[i - 1] >= 0:
            same = True
            for b in range(stop - start):
                if data[start + b] != data[offsets[i - 1] + b]:
                    same = False
                    break
            if same:
                slots[i] = slots[i - 1]
                continue
        _, slot = _find(table, xxh64(data, start, stop), data, start, stop)
        slots[i] = slot
        if slot < 0:
            absent += 1
    return absent


@nb.njit(**SHORT)
def distinct(table, offsets, rows, first, group):
    """Numbers the different keys among `rows` of a column, in order of first appearance; returns how many there are.

    Args:
        table: an empty one whose arena is the column's data, with a slot per row.
        offsets: int64 [n + 1] of the column.
        rows: int64 [m], increasing.
        first: int64 [m]; for every number the first row with that key. Written.
        group: int64 [m]; the number of each row's key. Written.
    """
    count = 0
    for i in range(len(rows)):
        start, stop = offsets[rows[i]], offsets[rows[i] + 1]
        h = xxh64(table.arena, start, stop)
        cell, slot = _find(table, h, table.arena, start, stop)
        if slot < 0:
            slot = count
            table.cells[cell] = slot + 1
            table.hash[slot] = h
            table.start[slot] = start
            table.length[slot] = stop - start
            first[slot] = rows[i]
            count += 1
        group[i] = slot
    return count


@nb.njit(**SHORT)
def insert(table, slot, data, at):
    """Enters an absent key, whose bytes lie in `table.arena[at:at + len(data)]`, under `slot`."""
    h = xxh64(data, 0, len(data))
    cell, _ = _find(table, h, data, 0, len(data))
    table.cells[cell] = slot + 1
    table.hash[slot] = h
    table.start[slot] = at
    table.length[slot] = len(data)


@nb.njit(**SHORT)
def remove(table, slot):
    """Takes the key of `slot` out and closes the gap, so that no search ends early."""
    mask = len(table.cells) - 1
    cell = np.int64(table.hash[slot] & np.uint64(mask))
    while table.cells[cell] != slot + 1:
        cell = (cell + 1) & mask
    gap = cell
    cell = (cell + 1) & mask
    while table.cells[cell] != 0:
        home = np.int64(table.hash[table.cells[cell] - 1] & np.uint64(mask))
        if ((cell - home) & mask) >= ((cell - gap) & mask):
            table.cells[gap] = table.cells[cell]
            gap = cell
        cell = (cell + 1) & mask
    table.cells[gap] = 0


@nb.njit(**SHORT)
def rebuild(table, used):
    """Enters every slot with `used[slot]` (bool [S]) into the cleared cells, from the stored hashes."""
    mask = len(table.cells) - 1
    for slot in range(len(used)):
        if used[slot]:
            cell = np.int64(table.hash[slot] & np.uint64(mask))
            while table.cells[cell] != 0:
                cell = (cell + 1) & mask
            table.cells[cell] = slot + 1
