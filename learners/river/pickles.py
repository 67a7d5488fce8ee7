"""Pickles in one form: equal states give equal bytes, in whatever process and after however many loads.

`pickle` writes an immutable value that occurs twice as one or as two, by whether it is one object in memory, and a
set in the order of its hash table; both change on the way through a load. Here

    text, bytes         are one object per value
    tuples, frozensets, numpy's scalars and dtypes      are written in full each time
    sets                are written in the order of their elements
    arrays              as dtype, shape and bytes

    generators of distributions without a seed      not at all: they serve `sample` only, which no learning calls

so that what is left of identity is that of mutable objects, which is part of the state: two trees that share a
generator of random numbers do so after a load. Dictionaries keep their order, which decides ties.
"""

from __future__ import annotations

import io
import pickle
import platform
import random
from importlib.metadata import version
from types import BuiltinMethodType, MethodType, ModuleType
from typing import Any, Literal

import numpy as np

PLAIN = frozenset({int, float, bool, type(None), dict, list})
ATOMS = frozenset({int, float, bool, type(None), str, bytes})

SET, KNOWN_SET, FROZENSET, SCALAR, DTYPE = range(5)
"""What a persistent id, where it is a tuple, stands for; a list stands for a tuple."""

MODULES = ("river",)
"""Packages whose own classes and functions may be restored, but for those below."""

READERS = frozenset({"api", "checks", "datasets", "evaluate", "stream"})
"""Packages of River that read files and sockets, and hold no state."""

NAMES = {
    "builtins": {"bool", "bytearray", "complex", "dict", "float", "frozenset", "int", "list", "object", "range"}
    | {"set", "slice", "tuple"},
    "collections": {"ChainMap", "Counter", "OrderedDict", "UserDict", "UserList", "defaultdict", "deque"},
    "copyreg": {"__newobj__", "__newobj_ex__", "_reconstructor"},
    "datetime": {"date", "datetime", "timedelta"},
    "functools": {"partial"},
    "itertools": {"count"},
    "numpy": {"ndarray", "dtype"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.random._pickle": {"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"},
    "numpy.random._mt19937": {"MT19937"},
    "numpy.random._pcg64": {"PCG64"},
    "numpy.random.bit_generator": {"SeedSequence"},
    "random": {"Random"},
    "statistics": {"NormalDist"},
    "copy": {"deepcopy"},
    __name__: {"_array", "_distribution", "_method"},
}
"""What else may be: containers, arrays and generators of random numbers."""


class NotRestorable(ValueError):  # noqa: N818 (says what is the case)
    """An object that cannot be written in one form, or must not be restored; the message names it."""


def numerics() -> dict[str, str]:
    """What the bits of River's arithmetic depend on; see `learners.fingerprint`."""
    return {"river": version("river"), "python": platform.python_version(), "numpy": np.__version__}


def dump(value: Any) -> bytes:
    """The bytes of a state.

    Raises:
        NotRestorable: it holds what cannot be pickled, or a set of objects without an order.
    """
    buffer = io.BytesIO()
    try:
        _Writer(buffer, protocol=5).dump(value)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise NotRestorable(f"{type(value).__name__} cannot be written: {error}") from error
    return buffer.getvalue()


def load(data: bytes) -> Any:
    """The state again. Verify where the bytes come from first: what is allowed here is a second line only.

    Raises:
        NotRestorable: they hold a class or function that a state does not need, or are no pickle at all.
    """
    try:
        return _Reader(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError) as error:
        raise NotRestorable(f"the state cannot be read: {error}") from error


def instances(value: Any) -> list[Any]:
    """The objects that a state holds, containers and numbers left out."""
    writer = _Writer(io.BytesIO(), protocol=5)
    writer.dump(value)
    return writer.met


class _Writer(pickle.Pickler):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.met: list[Any] = []
        self._texts: dict[str | bytes, str | bytes] = {}
        self._sets: dict[int, tuple[int, set]] = {}  # by identity; held, so that no other object takes it

    def persistent_id(self, obj: Any) -> Any:
        kind = type(obj)
        if kind in PLAIN:
            return None
        if kind is str or kind is bytes:
            return self._texts.setdefault(obj, obj)
        if kind is tuple:
            return list(obj) if obj else None
        if kind is set:
            return self._set(obj)
        if kind is frozenset:
            return (FROZENSET, _in_order(obj))
        return _of_numpy(obj) if isinstance(obj, (np.generic, np.dtype)) else None

    def _set(self, obj: set) -> tuple:
        if id(obj) in self._sets:
            return (KNOWN_SET, self._sets[id(obj)][0])
        number = len(self._sets)
        self._sets[id(obj)] = (number, obj)
        return (SET, number, _in_order(obj))

    def reducer_override(self, obj: Any) -> Any:
        self.met.append(obj)
        if type(obj) is np.ndarray and not obj.dtype.hasobject and obj.dtype.names is None:
            order: Literal["C", "F"] = "F" if obj.flags.f_contiguous and not obj.flags.c_contiguous else "C"
            return _array, (obj.dtype.str, obj.shape, order, obj.tobytes(order))
        if type(obj).__module__.startswith("river.proba.") and getattr(obj, "seed", 0) is None:
            return _distribution, (type(obj),), {name: value for name, value in vars(obj).items() if name != "_rng"}
        if isinstance(obj, (MethodType, BuiltinMethodType)) and not isinstance(obj.__self__, (ModuleType, type(None))):
            return _method, (obj.__self__, obj.__name__)
        return NotImplemented


class _Reader(pickle.Unpickler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._sets: dict[int, set] = {}

    def persistent_load(self, pid: Any) -> Any:
        kind = type(pid)
        if kind is list:
            return tuple(pid)
        if kind is not tuple:
            return pid
        what, first, *rest = pid
        if what == SET:
            return self._sets.setdefault(first, set(rest[0]))
        if what == KNOWN_SET:
            return self._sets[first]
        if what == FROZENSET:
            return frozenset(first)
        return np.dtype(first) if what == DTYPE else np.frombuffer(rest[0], first)[0]

    def find_class(self, module: str, name: str) -> Any:
        if name in NAMES.get(module, ()):
            return super().find_class(module, name)
        package, _, inner = module.partition(".")
        if package in MODULES and inner.partition(".")[0] not in READERS:
            found = super().find_class(module, name)
            # A name may lead through a module to another one that it imports: what it leads to says where it is from.
            whence = str(getattr(found, "__module__", "")).split(".")
            if callable(found) and whence[0] in MODULES and not READERS & set(whence[1:2]):
                return found
        raise NotRestorable(f"the state names {module}.{name}, which no state of a River estimator needs")


def _of_numpy(obj: Any) -> tuple | None:
    if isinstance(obj, np.dtype):
        return (DTYPE, obj.str) if obj.names is None else None
    return None if obj.dtype.hasobject or obj.dtype.names else (SCALAR, obj.dtype.str, obj.tobytes())


def _array(dtype: str, shape: tuple[int, ...], order: Any, data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order=order)


def _distribution(kind: type) -> Any:
    """A distribution still without its state, with some generator."""
    found: Any = object.__new__(kind)
    found._rng = random.Random(0)
    return found


def _method(owner: Any, name: str) -> Any:
    """A bound method of an object of River, or of a generator of random numbers."""
    module = getattr(owner, "__module__", type(owner).__module__)
    if not str(module).startswith(("river.", "random", "numpy.random.")) or name.startswith("__"):
        raise NotRestorable(f"the state names the method {name!r} of a {type(owner).__name__}")
    return getattr(owner, name)


def _in_order(values: set | frozenset) -> list:
    return sorted(values, key=_place)


def _place(value: Any) -> tuple[str, str]:
    """What orders the elements of a set: the same in every process."""
    if type(value) not in ATOMS and not (type(value) in (tuple, frozenset) and all(map(_place, value))):
        raise NotRestorable(f"a set of {type(value).__name__} has no order in which it could be written")
    if isinstance(value, frozenset):
        return "frozenset", repr(sorted(map(_place, value)))
    return type(value).__name__, repr(value)
