"""A River estimator as a step of a fold: what it says in the form of `learners.base`, and learning that cannot stop."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from learners.river import pickles

NUMERIC = (ArithmeticError, ValueError)
"""What River raises where numbers run out, as in an overflow or the logarithm of zero; anything else stops the fold."""

UNDECIDED = 0.5
"""The probability of the positive label where River gives none."""


class Said(NamedTuple):
    """A prediction.

    Attributes:
        value: see `learners.base.Folded`.
        code: see there.
        finite: whether River said something finite.
        given: what River gives to each label; empty for a regression, and where it gives nothing.
        total: sum of `given`.
        known: classes known at the time.
    """

    value: float
    code: int
    finite: bool
    given: dict[Any, float]
    total: float
    known: int

    def share(self, y: int) -> float:
        """The probability given to class `y`; where River gives none, the same to each that is known."""
        if self.total > 0.0:
            return self.given.get(y, 0.0) / self.total
        return 1.0 / self.known if y < self.known else 0.0


class Served:
    """An estimator with its kind of target.

    Args:
        estimator: of River.
        task: kind of target. Labels are bool for a binary target, the number of the class for a multi-class one.
        change: for a regression, whether the estimator sees changes from a base.
    """

    def __init__(self, estimator: Any, task: str, change: bool = False) -> None:
        self.estimator = estimator
        self._task = task
        self._change = change

    def say(self, x: dict[str, Any], base: float, known: int) -> Said:
        """The prediction for named features.

        Args:
            x: features by name.
            base: of a regression, what is predicted where River says nothing finite, and what changes are from.
            known: classes known.
        """
        try:
            said = self._ask(x)
            if self._task == "regression":
                return self._number(said, base)
            total = math.fsum(said.values())
        except NUMERIC:
            said, total = {}, math.nan
        finite = math.isfinite(total)
        if self._task == "regression":
            return Said(base, -1, False, {}, 0.0, 0)
        if not (finite and total > 0.0):
            said, total = {}, 0.0
        if self._task == "binary":
            p = said.get(True, 0.0) / total if said else UNDECIDED
            return Said(p, int(p >= UNDECIDED), finite, said, total, known)
        if not said:
            return Said(1.0 / known if known else 0.0, 0 if known else -1, finite, said, total, known)
        best = max(said, key=said.__getitem__)
        return Said(said[best] / total, int(best), finite, said, total, known)

    def _number(self, said: float | None, base: float) -> Said:
        """The prediction of a regression; some of River's say None before they have learned."""
        value = base if said is None else base + said if self._change else float(said)
        finite = math.isfinite(value)
        return Said(value if finite else base, -1, finite, {}, 0.0, 0)

    def _ask(self, x: dict[str, Any]) -> Any:
        """What River says: a number, or what it gives to each label (an empty mapping: nothing yet)."""
        if self._task == "regression":
            return self.estimator.predict_one(x)
        try:
            return self.estimator.predict_proba_one(x)
        except NotImplementedError:
            label = self.estimator.predict_one(x)
            return {} if label is None else {label: 1.0}

    def prime(self, names: tuple[str, ...], whole: frozenset) -> None:
        """Asks once about all inputs, at 0.

        Pipelines make their plan at the first call, and scalers an entry for a name at the first sight of it, in
        learning as in predicting; afterwards a prediction changes nothing.
        """
        self.say({name: 0 if name in whole else 0.0 for name in names}, 0.0, 0)

    def settled(self, names: tuple[str, ...], whole: frozenset) -> bytes:
        """The pickled estimator after a prediction.

        Some of River's work out at the first prediction what follows from what they learned, as the mean of a
        Bayesian regression does from its precision. That changes their pickle and none of their answers.
        """
        self.prime(names, whole)
        return pickles.dump(self.estimator)

    def with_estimator(self, estimator: Any) -> Served:
        """The same with another estimator."""
        return Served(estimator, self._task, self._change)

    def learn(self, x: dict[str, Any], y: float, base: float) -> bool:
        """Teaches one label; whether River took it.

        One that fails midway leaves what River has done until then, which is the same in every replay.
        """
        label: Any = {"binary": bool, "multiclass": int}.get(self._task, float)(y)
        try:
            self.estimator.learn_one(x, label - base if self._change else label)
        except NUMERIC:
            return False
        return True
