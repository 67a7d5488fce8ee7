"""Values that are bound once for a kernel, and read by it at every call."""

from __future__ import annotations

import copy
import gc
import math
import pickle
from typing import Any, NamedTuple

import numba as nb
import numpy as np
import pytest

from kernels.cpu.bound import Binding, Bound, values_of
from kernels.cpu.numerics import SHORT


class Inner(NamedTuple):
    table: np.ndarray
    nothing: Any
    on: bool


class Group(NamedTuple):
    count: int
    rate: float
    inner: Inner
    row: np.ndarray


class Pair(NamedTuple):
    a: np.ndarray
    b: np.ndarray


def swapped() -> Any:
    """Another class with the name of `Pair`, and its fields the other way round."""

    class Pair(NamedTuple):
        b: np.ndarray
        a: np.ndarray

    Pair.__qualname__ = "Pair"
    return Pair


@nb.njit(**{**SHORT, "cache": False})
def summed(bound, times):
    group = values_of(bound)
    total = group.count + group.rate
    if group.inner.on and group.inner.nothing is None:
        for i in range(group.inner.table.shape[0]):
            for j in range(group.inner.table.shape[1]):
                total += (10 * i + j) * group.inner.table[i, j]
    for k in range(len(group.row)):
        total += group.row[k]
    return total * times


@nb.njit(**{**SHORT, "cache": False})
def first(bound):
    pair = values_of(bound)
    pair.b[0] += 1
    return pair.a[0]


def group_of(rng: np.random.Generator, on: bool = True) -> Group:
    return Group(3, 0.25, Inner(rng.normal(size=(4, 5)), None, on), rng.integers(0, 9, 6).astype(np.int64))


def expected(group: Group) -> float:
    rows, columns = np.indices(group.inner.table.shape)
    table = ((10 * rows + columns) * group.inner.table).sum() if group.inner.on else 0.0
    return group.count + group.rate + table + group.row.sum()


@pytest.mark.parametrize("on", [True, False])
def test_a_kernel_reads_every_value(on: bool) -> None:
    group = group_of(np.random.default_rng(0), on)
    assert math.isclose(summed(Bound(group), 2), 2 * expected(group), rel_tol=1e-12)


def test_what_changes_in_an_array_is_seen_and_what_a_kernel_writes_too() -> None:
    pair = Pair(np.zeros(1), np.zeros(2))
    bound = Bound(pair)
    pair.a[0] = 7.0
    assert first(bound) == 7.0
    assert pair.b.tolist() == [1.0, 0.0]


def test_arrays_live_as_long_as_what_they_are_bound_in() -> None:
    bound = Bound(Pair(np.full(1 << 16, 5.0), np.zeros(1)))
    gc.collect()
    others = [np.full(1 << 16, float(k)) for k in range(20)]
    assert first(bound) == 5.0
    assert len(others) == 20


def test_the_same_objects_are_bound_once_and_others_anew() -> None:
    binding = Binding(Pair)
    a, b = np.zeros(1), np.zeros(1)
    bound = binding.of((a, b))
    first(bound)
    compiled = len(first.overloads)
    assert binding.of((a, b)) is bound
    a[0] = 1.0  # in place: it is the same object
    assert binding.of([a, b]) is bound
    assert first(binding.of((np.full(3, 2.0), b))) == 2.0
    assert b[0] == 2.0
    assert len(first.overloads) == compiled, "an array of another size is of the same type"
    assert first(binding.of((np.full(1, 3, np.float32), b))) == 3.0
    assert len(first.overloads) == compiled + 1, "one of another dtype is not"
    locked = np.full(1, 4.0)
    locked.flags.writeable = False
    assert first(binding.of((locked, b))) == 4.0
    assert len(first.overloads) == compiled + 2, "nor one that may not be written"


def test_classes_that_share_their_name_are_told_apart() -> None:
    """The fields of one stand where those of the other do not."""
    assert first(Bound(Pair(a=np.full(1, 1.0), b=np.full(1, 2.0)))) == 1.0
    assert first(Bound(swapped()(a=np.full(1, 1.0), b=np.full(1, 2.0)))) == 1.0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_is_bound_to_copied_values(copied: Any) -> None:
    a, b = np.full(1, 1.0), np.zeros(1)
    binding = Binding(Pair)
    binding.of((a, b))
    pair, other = copied((Pair(a, b), binding))
    pair.a[0] = 9.0
    other._latest.values.a[0] = 9.0
    bound = other._latest
    assert first(bound) == 9.0
    assert bound.values.b[0] == 1.0
    assert (a[0], b[0]) == (1.0, 0.0), "the original is not touched"
    assert first(binding.of((a, b))) == 1.0
