"""The parts of a kernel: linked into it whoever calls whom, and turned into machine code there alone."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest
from numba.core.codegen import JITCodeLibrary
from numba.extending import overload

from kernels.cpu.numerics import CALL, INLINE, JIT, exp


@nb.njit(**INLINE)
def _square(x):
    return x * x


@nb.njit(**CALL)
def _squares(x):
    total = 0.0
    for i in range(len(x)):
        total += _square(x[i])
    return total


def _raised(x):
    raise NotImplementedError("for compiled code")


@overload(_raised, jit_options=INLINE)  # type: ignore[arg-type]
def _raised_of(x):
    return lambda x: exp(x) + _square(x)


def _kernel(x):
    return _squares(x) + _squares(x[1:]) + _raised(x[0])


def test_parts_become_machine_code_in_their_kernel_only(monkeypatch: pytest.MonkeyPatch) -> None:
    made, finalize = [], JITCodeLibrary._finalize_specific

    def noted(library: JITCodeLibrary) -> None:
        made.append(library.name)
        finalize(library)

    x = np.random.default_rng(0).normal(size=9)
    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", noted)
    got = nb.njit(**{**JIT, "cache": False})(_kernel)(x)
    assert got == pytest.approx((x * x).sum() + (x[1:] * x[1:]).sum() + np.exp(x[0]) + x[0] * x[0], rel=1e-14)
    assert set(made) - {"nrt"} == {"_kernel"}  # and, in a fresh process, the runtime of numba
