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

INSTEAD = {"SWINN": "; give `engine: {path: river.neighbors.LazySearch}`"}

ADDRESSES = {"RandomTreesEmbedding"}
"""Classes of River that know their parts by `id`, which is another one after a load."""

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
        if reason := _tried(first, events, names, whole):
            return reason
        for number, (x, y) in enumerate(events):
            if number % 2:  # a label by id is learned without a prediction just before
                second.say(x, 0.0, 3)
            second.learn(x, y, 0.0)
        if second.settled(names, whole) != first.settled(names, whole):
            return (
                "it does not learn the same from the same events: it draws without a seed, or learns otherwise where "
                "it was not asked for a prediction before"
            )
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
    if reason := _unrepeatable(pickles.instances(model)):
        return reason
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


def _tried(
    served: Served, events: list[tuple[dict[str, Any], float]], names: tuple[str, ...], whole: frozenset
) -> str:
    learned = 0
    for number, (x, y) in enumerate(events):
        before = served.settled(names, whole)
        said = served.say(x, 0.0, 3)
        if pickles.dump(served.estimator) != before:
            return "a prediction changes its state"
        restored = served.with_estimator(pickles.load(before))
        try:
            same = pickles.dump(restored.estimator) == before and restored.say(x, 0.0, 3) == said
        except Exception as error:
            return f"it fails after its state was stored: {type(error).__name__}: {error}"
        if not same:
            return "its state is not the same after it was stored"
        learned += served.learn(x, y, 0.0)
        if number == len(events) - 1:
            restored.learn(x, y, 0.0)
            if restored.settled(names, whole) != served.settled(names, whole):
                return "its state goes on otherwise after it was stored"
    return _unrepeatable(pickles.instances(served.estimator)) if learned else "it learns from no event: numbers run out"


def _unrepeatable(objects: list[Any]) -> str:
    for obj in objects:
        name = type(obj).__name__
        if name in OUTSIDE:
            instead = INSTEAD.get(name, "")
            return f"{name} keeps state outside its instances, which is lost with the process{instead}"
        if name in ADDRESSES:
            return f"{name} knows its parts by their addresses in memory, which are others after it was stored"
        walks = name in HASHING or (name == "Select" and isinstance(obj.keys, set) and len(obj.keys) > 1)
        if walks and sys.flags.hash_randomization:
            return (
                f"{name} depends on how texts hash, which differs in every process: set PYTHONHASHSEED=0 for the shards"
            )
    return ""
