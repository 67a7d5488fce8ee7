"""From a description to a River estimator: only what is River's own, with parameters that its signature names.

    estimator: {path: river.tree.HoeffdingTreeClassifier, parameters: {grace_period: 50}}
    estimator: [{path: river.preprocessing.StandardScaler}, {path: river.linear_model.LogisticRegression}]

A list is a pipeline. A parameter may be such a step again, a list of steps, or `{pipeline: [...]}`.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
from typing import Any

from pydantic import Field, model_validator

from learners.spec import Strict

PATH = re.compile(r"river(\.[A-Za-z]\w*)+")
PACKAGES = frozenset(
    {"active", "anomaly", "bandit", "cluster", "compose", "conf", "drift", "dummy", "ensemble", "facto", "forest"}
    | {"feature_extraction", "feature_selection", "imblearn", "linear_model", "metrics", "misc", "model_selection"}
    | {"multiclass", "multioutput", "naive_bayes", "neighbors", "optim", "preprocessing", "proba", "reco", "rules"}
    | {"sketch", "stats", "time_series", "tree"}
)
"""Those of River that hold estimators and their parts. Its others (`datasets`, `stream`, `checks`, ...) read files and
sockets, and are not even imported."""

DEEPEST = 8
"""Bound on steps within parameters of steps."""

EXAMPLE = "the import path of one of River's classes, e.g. river.tree.HoeffdingTreeClassifier"


class Step(Strict):
    """An estimator of River, or another of its objects: import path and parameters."""

    path: str = Field(max_length=200, description="Import path within `river`.")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments by name: numbers, texts, lists, mappings, or steps again. `*args` goes by its name, as "
        "a list. Where the signature has a `seed` that is not given, it is the learner's.",
    )

    @model_validator(mode="after")
    def _known(self) -> Step:
        check(self.path, self.parameters)
        return self


Steps = tuple[Step, ...]


# What a description may say


def resolve(path: str) -> type:
    """The class that an import path names.

    Raises:
        ValueError: it leads outside River, to nothing, or to something that is no `river.base.Base` class.
    """
    if not PATH.fullmatch(path):
        raise ValueError(f"path: got {path!r}; accepted: {EXAMPLE}")
    package = path.split(".")[1]
    if package not in PACKAGES:
        raise ValueError(f"path: got {path!r}; accepted: a class of river.{', river.'.join(sorted(PACKAGES))}")
    from river.base import Base

    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"path: got {path!r}, which cannot be imported ({error}); accepted: {EXAMPLE}") from error
    own = isinstance(found, type) and found.__module__.split(".")[0] == "river"
    if not own or not issubclass(found, Base) or inspect.isabstract(found):
        raise ValueError(f"path: got {path!r}, which is not a class of River to be built; accepted: {EXAMPLE}")
    return found


def check(path: str, parameters: dict[str, Any], depth: int = 0) -> None:
    """Refuses a step that River has not.

    Raises:
        ValueError: naming path or parameter, what it is and what is accepted.
    """
    if depth > DEEPEST:
        raise ValueError(f"parameters: steps within steps beyond {DEEPEST} levels; accepted: {DEEPEST} at most")
    known = _signature(resolve(path))
    for name, value in parameters.items():
        if name not in known:
            accepted = ", ".join(known) or "none"
            raise ValueError(f"parameters of {path}: got {name!r}; accepted: {accepted}")
        if known[name].kind is inspect.Parameter.VAR_POSITIONAL and not isinstance(value, (list, tuple)):
            raise ValueError(f"parameter {name!r} of {path}: got {value!r}; accepted: a list")
        if _takes_function(known[name]) and value is not None and not (isinstance(value, dict) and _is_step(value)):
            raise ValueError(f"parameter {name!r} of {path}: got {value!r}; it is a function, and a spec names none")
        _check_value(f"parameter {name!r} of {path}", value, depth)
    for name, parameter in known.items():
        variadic = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        if parameter.default is inspect.Parameter.empty and not variadic and name not in parameters:
            raise ValueError(f"parameters of {path}: {name!r} is missing and has no default")


def _signature(kind: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {name: given for name, given in parameters.items() if given.kind is not inspect.Parameter.VAR_KEYWORD}


def _takes_function(parameter: inspect.Parameter) -> bool:
    return any(word in str(parameter.annotation) for word in ("Callable", "DistanceFunc"))


def _check_value(where: str, value: Any, depth: int) -> None:
    if isinstance(value, dict):
        if _is_step(value):
            check(value["path"], value.get("parameters", {}), depth + 1)
            return
        for item in value.values():
            _check_value(where, item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check_value(where, item, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where}: got {value}; accepted: finite numbers")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"{where}: got a {type(value).__name__}; accepted: numbers, texts, lists, mappings, steps")


def _is_step(value: dict) -> bool:
    return (
        isinstance(value.get("path"), str)
        and value.keys() <= {"path", "parameters"}
        and isinstance(value.get("parameters", {}), dict)
    )


# Building


def build(estimator: Steps, seed: int) -> Any:
    """A fresh estimator; a list of several steps is a `river.compose.Pipeline`.

    Raises:
        ValueError: River does not accept the parameters; the message is River's.
    """
    try:
        return _pipeline([_built(step.path, step.parameters, seed) for step in estimator])
    except Exception as error:
        raise ValueError(f"estimator: River refuses it: {type(error).__name__}: {error}") from error


def _pipeline(steps: list[Any]) -> Any:
    if len(steps) == 1:
        return steps[0]
    from river.compose import Pipeline

    return Pipeline(*steps)


def _built(path: str, parameters: dict[str, Any], seed: int) -> Any:
    kind = resolve(path)
    known = _signature(kind)
    values = {name: _value(value, seed) for name, value in parameters.items()}
    if "seed" in known:
        values.setdefault("seed", seed % 2**32)  # numpy's generators take no more
    many = [name for name, given in known.items() if given.kind is inspect.Parameter.VAR_POSITIONAL]
    given = values.pop(many[0], []) if many else []
    built = kind(*given, **values)
    if path == "river.compose.Select":
        built.keys = dict.fromkeys(given)  # River keeps a set, and gives the features in its order
    return built


def _value(value: Any, seed: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_value(item, seed) for item in value]
    if not isinstance(value, dict):
        return value
    if _is_step(value):
        return _built(value["path"], value.get("parameters", {}), seed)
    if value.keys() == {"pipeline"}:
        return _pipeline(_value(value["pipeline"], seed))
    return {name: _value(item, seed) for name, item in value.items()}
