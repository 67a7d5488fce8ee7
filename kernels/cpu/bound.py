"""Arguments that stay the same from call to call of a kernel, taken apart once.

At every call numba finds out the type of each argument and takes it apart, arrays and tuples down to single numbers:
of a learner about a hundred, which takes longer than a fold of one event. `Bound` holds the numbers as the kernel wants
them, and counts as one argument.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import is_not
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.datamodel import ArgPacker, default_manager, models
from numba.extending import NativeValue, intrinsic, register_model, unbox

from kernels.cpu.numerics import SHORT

_PLACE = 8
"""Bytes for each number."""


class _BoundType(types.Type):
    """Of a `Bound` of values of a type."""

    def __init__(self, of: types.Type) -> None:
        super().__init__(f"Bound({of})")
        self.of = of

    @property
    def key(self) -> types.Type:
        """What makes it equal to another: not the name, as two classes of named tuples may share theirs."""
        return self.of


@register_model(_BoundType)
class _BoundModel(models.OpaqueModel):
    """A pointer to the numbers."""


@unbox(_BoundType)
def _pointer(kind: Any, bound: Any, c: Any) -> NativeValue:
    address = c.pyapi.object_getattr_string(bound, "address")
    pointer = c.pyapi.long_as_voidptr(address)
    c.pyapi.decref(address)
    return NativeValue(pointer, is_error=c.pyapi.c_api_error())


def _places(builder: Any, memory: Any, packer: ArgPacker) -> list[Any]:
    """A pointer to the place of each number."""
    i64 = ir.IntType(64)
    return [
        builder.bitcast(builder.gep(memory, [i64(_PLACE * k)]), number.as_pointer())
        for k, number in enumerate(packer.argument_types)
    ]


def _values_of(typingctx: Any, bound: Any) -> Any:
    def codegen(context, builder, signature, args):
        packer = context.get_arg_packer([signature.return_type])
        numbers = [builder.load(place) for place in _places(builder, args[0], packer)]
        return packer.from_arguments(builder, numbers)[0]

    return bound.of(bound), codegen


values_of: Any = intrinsic(_values_of)
"""The values that a `Bound` was made of (compiled code only)."""


def _write(typingctx: Any, values: Any, memory: Any) -> Any:
    def codegen(context, builder, signature, args):
        packer = context.get_arg_packer([signature.args[0]])
        data = context.make_array(signature.args[1])(context, builder, value=args[1]).data
        places = _places(builder, data, packer)
        for number, place in zip(packer.as_arguments(builder, [args[0]]), places, strict=True):
            builder.store(number, place)
        return context.get_dummy_value()

    return nb.void(values, memory), codegen


_store: Any = intrinsic(_write)


@nb.njit(**SHORT)
def _bind(values, memory):
    """Writes the numbers of `values` into `memory`, uint8."""
    _store(values, memory)


class Bound:
    """Values bound for a kernel that reads them by `values_of`.

    Arrays are bound where they lie: what is in them may change at any time, and is not copied.

    Args:
        values: named tuples, numbers, arrays.
        like: one whose values are of the same types, where that is known: to find them out takes long.
    """

    __slots__ = ("_memory", "_numba_type_", "address", "values")

    def __init__(self, values: tuple, like: Bound | None = None) -> None:
        self.values = values  # its arrays must live as long as this
        if like is None:
            self._numba_type_ = _BoundType(nb.typeof(values))
            size = len(ArgPacker(default_manager, [self._numba_type_.of]).argument_types)
            self._memory = np.zeros(_PLACE * size, np.uint8)
        else:
            self._numba_type_ = like._numba_type_
            self._memory = np.zeros_like(like._memory)
        _bind(values, self._memory)
        self.address = self._memory.ctypes.data

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is bound to the values that were copied with it."""
        return Bound, (self.values,)


class Binding:
    """The latest `Bound`: of the same objects it is the same, of others a new one.

    Args:
        group: the named tuple that the values are bound as.
    """

    def __init__(self, group: Any) -> None:
        self._group = group
        self._latest: Bound | None = None

    def of(self, values: Sequence[Any]) -> Bound:
        """The values bound; see `Bound`. What changes must come as another object: no lists."""
        latest = self._latest
        if latest is None or any(map(is_not, values, latest.values)):
            like = latest if latest is not None and all(map(_alike, values, latest.values)) else None
            self._latest = latest = Bound(self._group._make(values), like)
        return latest


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are arrays that numba has one type for."""
    return one is other or (
        type(one) is type(other) is np.ndarray
        and one.dtype is other.dtype
        and one.ndim == other.ndim
        and one.flags.carray
        and other.flags.carray
    )
