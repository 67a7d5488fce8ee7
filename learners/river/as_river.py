"""Our learners as River's: classifiers, regressors and forecasters that its pipelines and evaluations take.

    from river import evaluate, metrics
    from learners.river import AsRiver

    model = AsRiver({"kind": "recurrent"}, target="binary", key="card")
    evaluate.progressive_val_score(dataset, model, metrics.LogLoss())

The features are those of the first event learned, in order of their names: others that come later are ignored, and
one that is missing counts as its mean. River predicts without learning, so an event counts when it is learned.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from river import base
from river.time_series.base import Forecaster as RiverForecaster

from learners.base import Learner, MemoryRows
from learners.spec import LearnerSpec, ModelSpec
from streams.batch import LABELLED, OBSERVATION, Batch, Keys

Description = LearnerSpec | dict[str, Any] | None
"""A learner's spec; None: the recurrent one with its defaults."""

NOTHING = "nothing"
"""Name of the column, always missing, of a model without features."""


class Fold:
    """A learner with its rows; copies and pickles are made of its arrays and rows alone.

    Args:
        spec: of the model.
        arrays: shared arrays to start from; None: a fresh learner.
        rows: keyed rows to start from.
    """

    def __init__(self, spec: ModelSpec, arrays: dict[str, np.ndarray] | None = None, rows: tuple = ()) -> None:
        self._spec = spec
        self._cold = MemoryRows()
        self._cold.put_rows(rows)
        self.learner: Learner = spec.learner.build(spec)
        if arrays is None:
            self.learner.attach(self._cold)
        else:
            self.learner.load(arrays, self._cold)

    def __reduce__(self) -> tuple:
        names = list(self._cold.iter_keys())
        cold = zip(names, self._cold.get_rows(names, self.learner.position))
        rows = {name: (name, *row) for name, row in cold if row is not None}
        arrays = self.learner.begin_capture(0)
        while (piece := self.learner.capture(1 << 20)) is not None:
            rows |= {row[0]: row for row in piece}
        self.learner.end_capture()
        plain = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in sorted(arrays.items())}
        return _restored, (self._spec.to_json(), plain, tuple(row for _, row in sorted(rows.items())))

    def __deepcopy__(self, memo: dict) -> Fold:
        function, arguments = self.__reduce__()
        return function(*arguments)


def _restored(spec: str, arrays: dict[str, tuple[str, tuple[int, ...], bytes]], rows: tuple) -> Fold:
    made = {name: np.frombuffer(data, dtype).reshape(shape) for name, (dtype, shape, data) in arrays.items()}
    return Fold(ModelSpec.model_validate_json(spec), made, rows)


class _Wrapped:
    """What the wrappers share: from River's dictionaries to batches of one event."""

    learner: Description
    key: str | None
    _target: dict[str, Any]

    def _begin(self) -> None:
        self._fold: Fold | None = None
        self._names: tuple[Any, ...] = ()

    @classmethod
    def _unit_test_params(cls) -> Iterator[dict[str, Any]]:
        yield {"learner": {"kind": "recurrent", "cell": {"units": 4}}}

    @property
    def _raw_memory_usage(self) -> int:
        """Bytes of the state: what a copy is made of."""
        return len(pickle.dumps(self))

    def _learn(self, x: dict, y: float, kind: int = LABELLED, classes: tuple[int | str, ...] = ()) -> None:
        if self._fold is None:
            self._names = tuple(sorted((name for name in x if name != self.key), key=str))
            self._fold = Fold(self._spec([str(name) for name in self._names] or [NOTHING]))
        self._fold.learner.fold(self._batch(x, y, kind, classes))

    def _spec(self, names: list[str]) -> ModelSpec:
        """The spec of the model.

        Raises:
            pydantic.ValidationError: the learner's spec is not valid, or does not fit features and target.
        """
        features = [{"name": name, "missing": "mean"} for name in names]
        learner = {"kind": "recurrent"} if self.learner is None else self.learner
        given = {"name": "as-river", "features": features, "target": self._target, "learner": learner}
        return ModelSpec.model_validate(given)

    def _batch(self, x: dict, y: float, kind: int, classes: tuple[int | str, ...]) -> Batch:
        row = [_number(name, x.get(name)) for name in self._names] or [math.nan]
        key = b"" if self.key is None else str(x.get(self.key, "")).encode()
        return Batch(
            np.array([row], np.float32),
            np.array([kind], np.uint8),
            np.array([y]),
            Keys(np.array([0, len(key)]), np.frombuffer(key, np.uint8)),
            np.zeros(1, np.int64),
            np.zeros((1, 2), np.uint64),
            classes,
        )

    def _predict(self, x: dict, probabilities: bool = False) -> Any:
        """What the learner says of the features; None before anything was learned."""
        if self._fold is None:
            return None
        return self._fold.learner.predict(self._batch(x, math.nan, OBSERVATION, ()), probabilities)


def _number(name: Any, value: Any) -> float:
    """A feature as a number of 32 bits; NaN where it is missing.

    Raises:
        TypeError: it is no number.
        ValueError: it is infinite, or becomes so in 32 bits.
    """
    if value is None:
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        what = f"feature {name!r}: got {value!r}; accepted: numbers (river.preprocessing.OneHotEncoder makes them)"
        raise TypeError(what) from error
    if abs(number) > np.finfo(np.float32).max:
        raise ValueError(f"feature {name!r}: got {number}; accepted: numbers of 32 bits")
    return number


class BinaryClassifier(_Wrapped, base.Classifier):
    """One of our learners as a River classifier of two classes, False and True.

    Args:
        learner: its spec, e.g. `{"kind": "recurrent"}`.
        key: name of the feature that says which entity an event belongs to; None: all events belong to one.
    """

    def __init__(self, learner: Description = None, key: str | None = None) -> None:
        self.learner = learner
        self.key = key
        self._target = {"kind": "binary"}
        self._begin()

    def learn_one(self, x: dict, y: Any) -> None:
        """Folds a labelled event.

        Raises:
            ValueError: the label is neither False nor True (nor 0, nor 1).
        """
        if y not in (0, 1):
            raise ValueError(f"label: got {y!r}; accepted: False or True")
        self._learn(x, float(bool(y)))

    def predict_proba_one(self, x: dict, **options: Any) -> dict[Any, float]:
        """The probabilities of False and True; equal before anything was learned."""
        said = self._predict(x)
        p = 0.5 if said is None else float(said.value[0])
        return {False: 1.0 - p, True: p}


class MulticlassClassifier(_Wrapped, base.Classifier):
    """One of our learners as a River classifier of any number of classes, which appear as they are learned.

    Args:
        learner: its spec.
        key: see `BinaryClassifier`.
        max_classes: bound on the classes; events with further labels are observed only.
    """

    def __init__(self, learner: Description = None, key: str | None = None, max_classes: int = 1000) -> None:
        self.learner = learner
        self.key = key
        self.max_classes = max_classes
        self._target = {"kind": "multiclass", "max_classes": max_classes}
        self._numbers: dict[Any, int] = {}
        self._begin()

    @property
    def _multiclass(self) -> bool:
        return True

    def learn_one(self, x: dict, y: Any) -> None:
        """Folds a labelled event; a label may be anything that can be a key of a dictionary."""
        label = y.item() if isinstance(y, np.generic) else y
        if label not in self._numbers and len(self._numbers) >= self.max_classes:
            self._learn(x, math.nan, OBSERVATION)
            return
        self._learn(x, 0.0, classes=(self._numbers.setdefault(label, len(self._numbers)),))

    def predict_proba_one(self, x: dict, **options: Any) -> dict[Any, float]:
        """The probability of every class that was learned; empty before the first."""
        said = self._predict(x, probabilities=True)
        if said is None or said.probabilities is None:
            return {}
        assert self._fold is not None
        shares = said.probabilities[0].astype(np.float64)
        shares /= shares.sum()
        labels = list(self._numbers)
        return {labels[int(code)]: share for code, share in zip(self._fold.learner.classes(), shares.tolist())}


class Regressor(_Wrapped, base.Regressor):
    """One of our learners as a River regressor.

    Args:
        learner: its spec.
        key: see `BinaryClassifier`.
    """

    def __init__(self, learner: Description = None, key: str | None = None) -> None:
        self.learner = learner
        self.key = key
        self._target = {"kind": "regression"}
        self._begin()

    def learn_one(self, x: dict, y: Any) -> None:
        """Folds a labelled event."""
        self._learn(x, _label(y))

    def predict_one(self, x: dict, **options: Any) -> float:
        """The target predicted; 0 before anything was learned."""
        said = self._predict(x)
        return 0.0 if said is None else float(said.value[0])


class Forecaster(_Wrapped, RiverForecaster):
    """One of our learners as a River forecaster of one series: a regression whose last label is an input.

    Args:
        learner: its spec.
        key: see `BinaryClassifier`; looked for in the additional features.
    """

    def __init__(self, learner: Description = None, key: str | None = None) -> None:
        self.learner = learner
        self.key = key
        self._target = {"kind": "regression"}
        self._begin()

    def learn_one(self, y: float, x: dict | None = None) -> None:
        """Folds the next value of the series."""
        self._learn(x or {}, _label(y))

    def forecast(self, horizon: int, xs: list[dict] | None = None) -> list[float]:
        """The next values: each is what the learner predicts on a copy for which those before came true.

        Raises:
            ValueError: `xs` has not as many elements as the horizon has steps.
        """
        if xs is not None and len(xs) != horizon:
            raise ValueError(f"xs: got {len(xs)} elements; accepted: {horizon}, one for each step")
        if self._fold is None:
            return [0.0] * horizon
        ahead, said = copy.deepcopy(self) if horizon > 1 else self, []
        for step in range(horizon):
            x = xs[step] if xs is not None else {}
            said.append(float(ahead._predict(x).value[0]))
            if step + 1 < horizon:
                ahead._learn(x, said[-1])
        return said


def _label(y: Any) -> float:
    """A target as a number.

    Raises:
        ValueError: it is not finite.
    """
    if not math.isfinite(y):
        raise ValueError(f"label: got {y!r}; accepted: finite numbers")
    return float(y)


KINDS = {
    "binary": BinaryClassifier,
    "multiclass": MulticlassClassifier,
    "regression": Regressor,
    "forecast": Forecaster,
}


def AsRiver(  # noqa: N802 (it reads like the class that it makes)
    learner: Description = None,
    target: Literal["binary", "multiclass", "regression", "forecast"] = "binary",
    key: str | None = None,
    **options: Any,
) -> Any:
    """One of our learners as a River estimator.

    Args:
        learner: its spec, or a mapping that is one; None: the recurrent learner with its defaults.
        target: what it predicts, which decides the kind of estimator.
        key: name of the feature that says which entity an event belongs to; None: all events belong to one.
        options: further parameters of that kind, such as `max_classes`.

    Returns:
        `BinaryClassifier`, `MulticlassClassifier`, `Regressor` or `Forecaster`.

    Raises:
        ValueError: there is no such target.
    """
    if target not in KINDS:
        raise ValueError(f"target: got {target!r}; accepted: {', '.join(KINDS)}")
    return KINDS[target](learner, key, **options)
