"""What admission needs to know of a spec, compiled once per model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import TypeAdapter

from learners.spec import BinaryTarget, Feature, ModelSpec, MulticlassTarget, RegressionTarget, Target

MAX_ROWS = 65_536
"""Rows of one batch."""

TargetSpec = BinaryTarget | MulticlassTarget | RegressionTarget


@dataclass(frozen=True, slots=True)
class Schema:
    """The shape of a model's events.

    Attributes:
        model: name of the model.
        features: names of the columns of `x`, in order.
        column: feature name -> column of `x`.
        required: bool [d]; whether a missing value is refused.
        any_required: whether any of `required` is set.
        target: the target of the spec.
        kind: its kind: "binary", "multiclass" or "regression".
        binary: label -> 0.0 or 1.0 for a binary target; empty otherwise.
    """

    model: str
    features: tuple[str, ...]
    column: dict[str, int]
    required: np.ndarray
    any_required: bool
    target: TargetSpec
    kind: str
    binary: dict[int | str, float]

    @property
    def width(self) -> int:
        """Number of features, d."""
        return len(self.features)

    @classmethod
    def of(cls, spec: ModelSpec) -> Schema:
        """Compiles the schema of a spec."""
        return cls._build(spec.name, spec.features, spec.target)

    @classmethod
    def from_json(cls, spec_json: str) -> Schema:
        """Compiles the schema of a spec in JSON without loading its learner.

        Raises:
            pydantic.ValidationError: features or target are not those of a spec.
        """
        spec = json.loads(spec_json)
        features = TypeAdapter(list[Feature]).validate_python(spec["features"])
        return cls._build(spec["name"], features, TypeAdapter(Target).validate_python(spec["target"]))

    @classmethod
    def _build(cls, name: str, features: Sequence[Feature], target: TargetSpec) -> Schema:
        names = tuple(feature.name for feature in features)
        required = np.array([feature.missing == "refuse" for feature in features])
        binary = {label: float(i) for i, label in enumerate(target.labels)} if target.kind == "binary" else {}
        column = {name: i for i, name in enumerate(names)}
        return cls(name, names, column, required, bool(required.any()), target, target.kind, binary)
