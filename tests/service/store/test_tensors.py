"""Arrays as bytes: a view comes back as it reads, whatever lies where in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from learners.conformance import random_log
from learners.spec import ModelSpec
from service.store.tensors import pack, unpack

BASE = np.arange(24.0).reshape(2, 3, 4)

VIEWS = {
    "as it is": BASE,
    "transposed": BASE[0].T,
    "axes moved": np.moveaxis(BASE, 1, 0),
    "Fortran order": np.asfortranarray(BASE[0]),
    "columns of Fortran order": np.asfortranarray(BASE[0])[:, 1:3],
    "stacked Fortran order": np.stack([np.asfortranarray(BASE[0])] * 2),
    "picked columns": BASE[0][:, [2, 0, 1]],
    "strided": BASE[:, :, ::2],
    "a piece": BASE[:, :2],
    "reversed": BASE[0][::-1],
    "broadcast": np.broadcast_to(np.arange(3.0), (2, 3)),
    "zero-size": np.zeros((0, 3)).T,
    "0-d": np.array(3.0),
    "0-d of a view": BASE[1, 2, 3, ...],
    "other byte order": BASE[0].T.astype(">f8"),
    "read only": np.frombuffer(BASE.tobytes()).reshape(4, 6).T,
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_comes_back_as_it_reads(name: str, dtype: type) -> None:
    view = VIEWS[name] if dtype is np.float64 else VIEWS[name].astype(dtype, order="K")
    found = unpack(pack({"a": view, "beside": np.arange(3)}))
    assert found["a"].shape == view.shape
    assert found["a"].dtype == view.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found["a"], view)
    np.testing.assert_array_equal(found["beside"], np.arange(3))


def test_arrays_can_be_written_to() -> None:
    found = unpack(pack({"a": np.broadcast_to(1.0, (2, 2))}))["a"]
    found[0, 0] = 5.0
    assert found.tolist() == [[5.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("gammas", [[1.0], [1.0, 0.999, 0.99], [0.99, 0.9]], ids=str)
@pytest.mark.parametrize("target", ["binary", "regression", "multiclass"])
def test_what_a_kalman_head_gives_to_others_arrives(target: str, gammas: list[float]) -> None:
    """The means of members that forget lie by member in memory and are given by class: a view."""
    named: dict[str, Any] = {"kind": target} | ({"max_classes": 4} if target == "multiclass" else {})
    learner = {"kind": "static", "head": {"kind": "kalman", "gammas": gammas}}
    spec = ModelSpec.model_validate(
        {
            "name": "m",
            "features": ["a", "b", "c"],
            "target": named,
            "learner": learner,
            "deployment": {"exchange": {"every": 10}},
        }
    )
    one: Any = spec.learner.build(spec)
    one.fold(random_log(spec, 0))
    given = one.contribution()
    arrived = unpack(pack(given))
    assert arrived.keys() == given.keys()
    for name, array in given.items():
        np.testing.assert_array_equal(arrived[name], array, err_msg=name)
