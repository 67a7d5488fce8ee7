"""Whether a River estimator can be served: it is tried on a few made-up events before a model is created."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from learners.river import estimators, pickles
from learners.river.served import Served

ROWS, FEWER_ROWS, WIDE = 24, 6, 1000
"""Events of a trial; fewer for specs with more features than the last."""

OUTSIDE = {"SWINN", "Vertex", "KolmogorovSmirnov"}
"""Classes of River with state of the class or of the process: flags of isolated vertices, the global generator."""

HASHING = {"RBFSampler", "AMRules"}
"""Classes of River that walk sets of names in their order, or keep hashes of them."""


@lru_cache(maxsize=64)
def refusal(steps: str, seed: int, target: str, names: tuple[str, ...], whole: frozenset, absent: frozenset) -> str:
    """Why an estimator cannot be served; "" if it can.

    Args:
        steps: its `estimators.Steps`, as JSON.
        seed: of the learner.
        target: kind of target.
        names: of its inputs.
        whole: those of them that are whole numbers.
        absent: those that may be missing.

    Raises:
        ValueError: River refuses its parameters.
    """
    described = TypeAdapter(estimators.Steps).validate_json(steps)
    first, second = (Served(estimators.build(described, seed), target) for _ in range(2))
    if reason := _unfit(first.estimator, target):
        return reason
    events = list(_events(target, names, whole, absent))
    try:
        first.prime(names, whole)
        second.prime(names, whole)
        if reason := _tried(first, events):
            return reason
        for x, y in events:
            second.say(x, 0.0, 3)
            second.learn(x, y, 0.0)
        if pickles.dump(first.estimator) != pickles.dump(second.estimator):
            return "it does not learn the same from the same events: it draws without a seed"
    except pickles.NotRestorable as error:
        return f"its state cannot be stored: {error}"
    except Exception as error:
        return f"it fails on events of this model: {type(error).__name__}: {error}"
    return ""


def _unfit(model: Any, target: str) -> str:
    from river import base

    kinds = base.AnomalyDetector, base.Clusterer, base.MultiLabelClassifier, base.MultiTargetRegressor
    wanted: Any = base.Regressor if target == "regression" else base.Classifier
    last = getattr(model, "_last_step", model)
    if not isinstance(last, wanted) or isinstance(last, kinds):
        return f"it is not a {wanted.__name__.lower()} (of one label), which a {target} target needs"
    if target == "multiclass" and not last._multiclass:
        return "it tells two classes apart only; river.multiclass.OneVsRestClassifier makes several of it"
    if model._is_stochastic:
        return "it draws random numbers without a seed; give every `seed` in its parameters"
    return ""


def _events(
    target: str, names: tuple[str, ...], whole: frozenset, absent: frozenset
) -> Iterator[tuple[dict[str, Any], float]]:
    draws = np.random.default_rng(0)
    for row in range(ROWS if len(names) <= WIDE else FEWER_ROWS):
        numbers = draws.normal(size=len(names)).tolist()
        x = {name: int(abs(v) * 2) if name in whole else v for name, v in zip(names, numbers)}
        y = {"binary": float(row % 3 == 0), "multiclass": row % 3, "regression": numbers[0] + row % 3}[target]
        for name in absent if row % 5 == 0 else ():
            del x[name]
        yield x, y


def _tried(served: Served, events: list[tuple[dict[str, Any], float]]) -> str:
    learned = 0
    for number, (x, y) in enumerate(events):
        before = pickles.dump(served.estimator)
        said = served.say(x, 0.0, 3)
        if pickles.dump(served.estimator) != before:
            return "a prediction changes its state"
        restored = served.with_estimator(pickles.load(before))
        if pickles.dump(restored.estimator) != before or restored.say(x, 0.0, 3) != said:
            return "its state is not the same after it was stored"
        learned += served.learn(x, y, 0.0)
        if number == len(events) - 1:
            restored.learn(x, y, 0.0)
            if pickles.dump(restored.estimator) != pickles.dump(served.estimator):
                return "its state goes on otherwise after it was stored"
    return _unrepeatable(pickles.instances(served.estimator)) if learned else "it learns from no event: numbers run out"


def _unrepeatable(objects: list[Any]) -> str:
    for obj in objects:
        name = type(obj).__name__
        if name in OUTSIDE:
            return f"{name} keeps state outside its instances, which is lost with the process"
        walks = name in HASHING or (name == "Select" and isinstance(obj.keys, set) and len(obj.keys) > 1)
        if walks and sys.flags.hash_randomization:
            return (
                f"{name} depends on how texts hash, which differs in every process: set PYTHONHASHSEED=0 for the shards"
            )
    return ""
