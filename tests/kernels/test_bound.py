"""Values that are bound once for a kernel, and read by it at every call."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from collections import namedtuple
from typing import Any

import numba as nb
import numpy as np
import pytest

from kernels.cpu.bound import Binding, Bound, _BoundType, values_of
from kernels.cpu.layout import Rows
from kernels.cpu.numerics import SHORT

NO_CACHE = {**SHORT, "cache": False}


@nb.njit(**NO_CACHE)
def summed(bound, times):
    count, rate, (table, nothing, on), row = values_of(bound)
    total = count + rate
    if on and nothing is None:
        for i in range(table.shape[0]):
            for j in range(table.shape[1]):
                total += (10 * i + j) * table[i, j]
    for k in range(len(row)):
        total += row[k]
    return total * times


@nb.njit(**NO_CACHE)
def first(bound):
    rows = values_of(bound)
    rows.body[0] += 1
    return rows.head[0]


def rows_of(head: np.ndarray, body: np.ndarray) -> Rows:
    """A group of arrays of the kernels, of which the tests use two: a class of theirs would get into the cache."""
    return Rows(head, body, *(np.zeros(1) for _ in Rows._fields[2:]))


@pytest.mark.parametrize("on", [True, False])
def test_a_kernel_reads_every_value(on: bool) -> None:
    rng = np.random.default_rng(0)
    table, row = rng.normal(size=(4, 5)), rng.integers(0, 9, 6)
    i, j = np.indices(table.shape)
    expected = 3 + 0.25 + (((10 * i + j) * table).sum() if on else 0.0) + row.sum()
    assert math.isclose(summed(Bound((3, 0.25, (table, None, on), row)), 2), 2 * expected, rel_tol=1e-12)


def test_what_changes_in_an_array_is_seen_and_what_a_kernel_writes_too() -> None:
    rows = rows_of(np.zeros(1), np.zeros(2))
    bound = Bound(rows)
    rows.head[0] = 7.0
    assert first(bound) == 7.0
    assert rows.body.tolist() == [1.0, 0.0]


def test_arrays_live_as_long_as_what_they_are_bound_in() -> None:
    bound = Bound(rows_of(np.full(1 << 16, 5.0), np.zeros(1)))
    gc.collect()
    others = [np.full(1 << 16, float(k)) for k in range(20)]
    assert first(bound) == 5.0
    assert len(others) == 20


def test_the_same_objects_are_bound_once_and_others_anew() -> None:
    binding = Binding(Rows)
    rows = rows_of(np.zeros(1), np.zeros(1))
    bound = binding.of(rows)
    first(bound)
    compiled = len(first.overloads)
    assert binding.of(rows) is bound
    rows.head[0] = 1.0  # in place: it is the same object
    assert binding.of(tuple(rows)) is bound
    assert first(binding.of(rows._replace(head=np.full(3, 2.0)))) == 2.0
    assert rows.body[0] == 2.0
    assert len(first.overloads) == compiled, "an array of another size is of the same type"
    assert first(binding.of(rows._replace(head=np.full(1, 3, np.float32)))) == 3.0
    assert len(first.overloads) == compiled + 1, "one of another dtype is not"
    locked = np.full(1, 4.0)
    locked.flags.writeable = False
    assert first(binding.of(rows._replace(head=locked))) == 4.0
    assert len(first.overloads) == compiled + 2, "nor one that may not be written"


def test_types_are_told_apart_by_more_than_their_names() -> None:
    """Two classes may share theirs, with fields in another order."""
    one, other = (namedtuple("Group", fields)(np.zeros(1), np.zeros(1)) for fields in ("a b", "b a"))
    kinds = [_BoundType(nb.typeof(values)) for values in (one, other, one)]
    assert kinds[0] == kinds[2] != kinds[1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_bound_to_copied_values(copied: Any) -> None:
    rows, binding = rows_of(np.full(1, 1.0), np.zeros(1)), Binding(Rows)
    bound = binding.of(rows)
    its_rows, its_binding = copied((rows, binding))
    its_rows.head[0] = 9.0
    assert first(its_binding.of(its_rows)) == 9.0
    assert its_rows.body[0] == 1.0
    assert rows.body[0] == 0.0, "the original is not touched"
    assert binding.of(rows) is bound
    assert first(bound) == 1.0
