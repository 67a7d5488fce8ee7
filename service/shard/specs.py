"""Specs on their way into a shard: parsed, checked, compiled."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np
from pydantic import ValidationError

from learners.exchange import Taken, combine
from learners.fingerprint import fingerprint
from learners.river import signing
from learners.spec import ModelSpec
from service import errors
from service.errors import MAX_TEXT, MAX_VIOLATIONS
from service.shard.aside import aside
from service.shard.requests import keys_inside
from service.shard.statistics import Statistics
from service.store.catalog import Catalog
from streams.batch import Batch
from streams.reach import OutOfReach, Reach


async def name_in(spec_json: str) -> str:
    """The name that a spec gives its model; "" where there is none that a model could have.

    Nothing else of it is looked at, so that it costs little: whoever owns the name checks the whole.
    """

    def read() -> Any:
        with suppress(ValueError, RecursionError):
            found = json.loads(spec_json)
            return found.get("name") if isinstance(found, dict) else None

    name = read() if len(spec_json) < SMALL_TEXT else await aside(read)
    return name if isinstance(name, str) and len(name) <= MAX_TEXT else ""


def parse_spec(spec_json: str) -> ModelSpec:
    """A spec from JSON.

    Raises:
        service.errors.Refused: with a violation for every field that does not fit.
    """
    try:
        return ModelSpec.model_validate_json(spec_json)
    except ValidationError as error:
        violations = [
            errors.Violation(
                ".".join(map(str, ("spec", *item["loc"]))),
                "nothing" if item["type"] == "missing" else errors.shorten(item["input"]),
                accepted(item),
            )
            for item in islice(error.errors(include_url=False), MAX_VIOLATIONS)
        ]
        raise errors.invalid_fields(violations, "INVALID_SPEC", error.error_count()) from error


SMALL_TEXT = 65_536
"""Characters of JSON that are read in less time than a thread takes to start."""


def accepted(item: Any) -> str:
    """What would be accepted for a field of a spec, by an entry of `ValidationError.errors`."""
    if item["type"] == "extra_forbidden":
        return "the fields that `continual models schema` lists; this is none"
    if item["type"] == "missing":
        return "a value: it has no default"
    if item["type"] == "union_tag_invalid":
        return f"kind {item['ctx']['expected_tags']}"
    return item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def is_stored(catalog: Catalog, spec: ModelSpec) -> bool:
    """Whether a model has this very spec, which an earlier version may have written in other words."""
    text = catalog.get(spec.name)
    return text is not None and ModelSpec.stored(text).to_json() == spec.to_json()


def check_signing(spec: ModelSpec) -> None:
    """Refuses a learner whose state must be signed where this process was given no key.

    Raises:
        service.errors.Refused: saying how to give one.
    """
    if spec.learner.signed and not signing.has_key():
        kind = f"{spec.learner.kind!r}, whose state is a pickle that must be signed"
        raise errors.invalid("spec.learner.kind", kind, f"it, once there is a key: {signing.HOW}", "NO_SIGNING_KEY")


def check_reach(spec: ModelSpec, reach: Reach) -> None:
    """Refuses sources and sinks that name what the operator has not opened to specs.

    Raises:
        service.errors.Refused: naming every such field.
    """
    violations = []
    for part in ("sources", "sinks"):
        for number, one in enumerate(getattr(spec.deployment, part)):
            try:
                reach.check(one)
            except OutOfReach as error:
                field = f"spec.deployment.{part}.{number}.{error.field}"
                violations.append(errors.Violation(field, errors.shorten(error.value), error.accepted))
    if violations:
        raise errors.invalid_fields(violations, "OUT_OF_REACH")


def compile_learner(spec: ModelSpec) -> None:
    """Folds and predicts with a learner to be thrown away: what is compiled now stalls no request later."""
    fingerprint(spec)
    small = spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"slots": 1})})
    learner = spec.learner.build(small)
    classes = (0,) if spec.target.kind == "multiclass" else ()
    rows = spec.learner.rehearsal()
    events = Batch.of(np.zeros((rows, len(spec.features))), np.zeros(rows), classes=classes)
    learner.predict(events.slice(0, 1), probabilities=True)
    Statistics(spec.target.kind).update(learner.fold(events))
    keys_inside(events.key, 0, 1)
    if spec.deployment.exchange:
        learner.receive(combine(1, learner.classes(), Taken(), {"1": learner.contribution()}, {}))
