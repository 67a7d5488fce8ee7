"""Schemas of every kind of target, and when two batches are the same."""

from __future__ import annotations

import json

import numpy as np

from learners.spec import BinaryTarget, Feature, MulticlassTarget, RegressionTarget
from service.wire import Schema

TARGETS = {
    "binary": BinaryTarget(labels=("DOWN", "UP")),
    "multiclass": MulticlassTarget(),
    "regression": RegressionTarget(),
}
FEATURES = [Feature(name="price"), Feature(name="demand", missing="mean"), Feature(name="day")]


def schema(kind="binary", features=FEATURES):
    target = TARGETS[kind].model_dump(mode="json")
    spec = {"name": "m", "features": [f.model_dump() for f in features], "target": target}
    return Schema.from_json(json.dumps(spec))


ROW = {"price": 1.0, "demand": 2.0, "day": 3.0}
SCHEMAS = {kind: schema(kind) for kind in TARGETS}


def same(a, b):
    for name in ("x", "kind", "y", "time", "id"):
        one, two = getattr(a, name), getattr(b, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two, err_msg=name)
    np.testing.assert_array_equal(a.key.offsets, b.key.offsets)
    np.testing.assert_array_equal(a.key.data, b.key.data)
    assert a.classes == b.classes
