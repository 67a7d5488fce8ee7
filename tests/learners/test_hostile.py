"""Everything that `continual models schema` offers, on hostile streams; what is new there is driven by itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from continual.commands._schema import spec_schema
from learners.conformance.hostile import LARGEST, STREAMS, check_finite, random_ways, survives
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import Batch

Json = dict[str, Any]

SCHEMA = spec_schema()

SMALL: Json = {
    "units": 5,
    "samples": 4,
    "refresh": 20,
    "neighbours": 3,
    "memory": 256,
    "rank": 3,
    "penalties": [1.0, 10.0],
    "batch": 3,
    "replay": 4,
    "size": 20,
    "candidates": 10,
    "period": 20,
    "teacher": 50,
    "outputs": 6,
    "every": 8,
    "span": 20,
    "image": [1, 4, 6],
    "patch": 2,
    "stride": 1,
    "filters": 3,
    "hidden": [7, 5],
}
"""Fields by name, so that folds are short and what is done now and then is done here."""

OTHERWISE: dict[str, Json] = {
    "pec": {"units": 4, "batch": 1},
    "kswin": {"window": 40, "latest": 10},
    "page_hinkley": {"threshold": 1.0},
    "resnet18": {"width": 1},
    "river": {"estimator": {"path": "river.tree.HoeffdingTreeClassifier", "parameters": {"grace_period": 10}}},
}
"""Fields by kind."""

PLAIN = {"cell": "rtu", "head": "linear", "optimizer": "adam", "features": "raw"}
PLAIN |= {"network": "mlp", "buffer": "reservoir"}
"""The kind of a part where another part is varied."""

NEEDS: dict[str, Json] = {
    "forget": {"learner": {"kind": "static", "head": {"kind": "kalman", "samples": 4}}},
}
"""What else a learner must be for one of its parts to be accepted."""

RIVER: list[tuple[str, Any]] = [
    ("binary", [{"path": "river.preprocessing.StandardScaler"}, {"path": "river.linear_model.LogisticRegression"}]),
    ("multiclass", {"path": "river.naive_bayes.GaussianNB"}),
    ("multiclass", {"path": "river.forest.ARFClassifier", "parameters": {"n_models": 3}}),
    ("regression", [{"path": "river.preprocessing.StandardScaler"}, {"path": "river.linear_model.LinearRegression"}]),
    ("regression", {"path": "river.tree.HoeffdingTreeRegressor", "parameters": {"grace_period": 10}}),
]


def _objects(held: Json) -> list[Json]:
    """The object schemas among what a field may hold, references followed."""
    if "$ref" in held:
        return _objects(SCHEMA["$defs"][held["$ref"].rpartition("/")[2]])
    several = held.get("oneOf") or held.get("anyOf")
    return [one for part in several for one in _objects(part)] if several else [held] if "properties" in held else []


def _kinds(part: Json) -> list[str]:
    kind = part["properties"].get("kind", {})
    return kind.get("enum", [kind["const"]] if "const" in kind else [])


def _variants(part: Json, options: bool = False) -> Iterator[Json]:
    """An object of every kind, and of every kind of each of its parts; the plain one first.

    With `options` every choice of a field of words, or of yes and no, is a variant too.
    """
    fields = part["properties"]
    for kind in _kinds(part) or [None]:
        small = {name: value for name, value in SMALL.items() if name in fields}
        plain = {"kind": kind} | small | OTHERWISE.get(kind, {}) if kind else small
        inner = {name: _objects(held) for name, held in fields.items() if name != "learner"}
        for name in (name for name in PLAIN if name in inner):  # in one order: names of tests follow
            of_kind = next(one for one in inner[name] if PLAIN[name] in _kinds(one))
            plain |= {name: next(_variants(of_kind))}
        yield plain
        for name, held in fields.items() if options else ():
            words = held.get("enum", [not held["default"]] if held.get("type") == "boolean" else [])
            yield from (plain | {name: word} for word in words if name != "kind" and word != held.get("default"))
        for name, parts in inner.items():
            for one in parts:
                for variant in _variants(one, options):
                    if variant != plain.get(name):
                        yield plain | {name: variant} | NEEDS.get(variant.get("kind", ""), {})


def _named(held: Any) -> Iterator[str]:
    """Every kind that a spec holds."""
    if isinstance(held, dict) and "kind" in held:
        yield held["kind"]
    for one in held.values() if isinstance(held, dict) else held if isinstance(held, (list, tuple)) else ():
        yield from _named(one)


TARGETS: list[Json] = [{"kind": "multiclass", "max_classes": 8}, {"kind": "regression"}, {"kind": "binary"}]
LABELS: list[Json] = [{"arrive": "delayed", "pending": 3}, {}]


def _models(learner: Json) -> Iterator[ModelSpec]:
    """The models that a learner may be part of: targets and label policies."""
    images = [one["image"] for one in learner.values() if isinstance(one, dict) and "image" in one]
    width = prod(images[0]) if images else 3
    features = [{"name": f"f{k}", "missing": "refuse" if k == 1 else "mean"} for k in range(width)]
    for target, labels in product(TARGETS, LABELS):
        model = {"name": "m", "features": features, "target": target, "labels": labels, "learner": learner}
        try:
            yield ModelSpec.model_validate(model)
        except ValidationError as error:
            _refused[json.dumps(learner)] = str(error)


_refused: dict[str, str] = {}


def _name(learner: Json) -> str:
    return json.dumps(learner).translate(str.maketrans("", "", '{}" ')).replace("kind:", "")


def _learners(options: bool) -> dict[str, Json]:
    kinds = _objects(SCHEMA["properties"]["learner"])
    return {_name(variant): variant for kind in kinds for variant in _variants(kind, options)}


def _compiled_elsewhere(learner: Json) -> bool:
    """Whether a fold is one that other tests compile too: every cell with one head, every head without a cell."""
    kind, head, optimizer = learner["kind"], learner.get("head", {}), learner.get("optimizer", {})
    if kind == "recurrent":
        return head["kind"] == "linear"
    return kind != "static" or optimizer["kind"] == "adam"


ALL_LEARNERS = _learners(options=True)
LEARNERS = {name: learner for name, learner in _learners(options=False).items() if _compiled_elsewhere(learner)}


def _slow(learner: Json) -> bool:
    """A step in PyTorch takes milliseconds."""
    return learner.get("network", {}).get("kind") == "resnet18"


def test_every_kind_of_the_schema_is_driven() -> None:
    offered: set[str] = set()
    parts, met = _objects(SCHEMA["properties"]["learner"]), set()
    while parts:
        part = parts.pop()
        if part["title"] not in met:
            met.add(part["title"])
            offered |= set(_kinds(part))
            parts += [one for held in part["properties"].values() for one in _objects(held)]
    driven: set[str] = set()
    for learner in LEARNERS.values():
        model = next(_models(learner), None)
        assert model is not None, f"{learner}: {_refused[json.dumps(learner)]}"
        driven |= set(_named(model.learner.model_dump()))
    assert offered <= driven, f"never built: {sorted(offered - driven)}"
    assert {kind for kind, spec in LearnerSpec.known().items() if spec.__module__.startswith("learners.")} <= driven


@pytest.mark.parametrize("name", LEARNERS)
def test_hostile_streams(name: str) -> None:
    """Targets and label policies in turn."""
    learner, number = LEARNERS[name], list(LEARNERS).index(name)
    models = list(_models(learner))
    model = models[number % len(models)]
    for seed, ways in list(enumerate(STREAMS))[:: 9 if _slow(learner) else 1]:
        survives(model, ways, 1000 * number + seed)


@pytest.mark.parametrize(("target", "estimator"), RIVER, ids=str)
def test_hostile_streams_of_river(target: str, estimator: Any) -> None:
    """What River raises where numbers run out is caught; anything else of it would stop the partition."""
    model = {"name": "m", "features": ["a", {"name": "b", "missing": "mean"}], "target": {"kind": target}}
    spec = ModelSpec.model_validate(model | {"learner": {"kind": "river", "estimator": estimator}})
    for seed, ways in enumerate(STREAMS):
        survives(spec, ways, seed)


def test_categories_that_name_nothing() -> None:
    """Numbers of categories up to the largest float32, in a learner that embeds them."""
    features = ["a", {"name": "b", "categories": 3, "missing": "mean"}]
    learner = {"kind": "recurrent", "cell": {"units": 5}, "encoder": {"units": 4}}
    model = {"name": "m", "features": features, "target": {"kind": "binary"}, "learner": learner}
    spec = ModelSpec.model_validate(model)
    for seed, ways in enumerate(STREAMS):
        survives(spec, ways, seed)
    values = np.array([0, 2, 3, -1, 0.5, 1e30, -1e30, LARGEST, np.nan, -0.0], np.float32)
    learner = spec.learner.build(spec)
    folded = learner.fold(Batch.of(np.stack([values, values], axis=1)[[0, 1, 2, 3, 4, 5, 6, 7, 9]], np.ones(9)))
    assert np.isfinite(folded.value).all()
    check_finite(learner)


@pytest.mark.long
@pytest.mark.parametrize("name", ALL_LEARNERS)
def test_hostile_streams_at_length(name: str) -> None:
    """Ways to be hostile paired at random, for every target and label policy that the learner accepts."""
    learner = ALL_LEARNERS[name]
    for number, model in enumerate(_models(learner)):
        for seed in range(5 if _slow(learner) else 300):
            ways = random_ways(1000 * number + seed)
            survives(model, ways, seed, events=50 if seed % 10 else 400)
