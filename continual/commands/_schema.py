"""The JSON schema of a model's spec, and the same as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

WITHIN = "CompiledSpec"
"""The definition of the learners that another learner may hold; the table shows their fields once."""


def spec_schema() -> dict[str, Any]:
    """The JSON schema of `ModelSpec`, with the fields of every registered learner, cell and head."""
    from learners.cells.base import CellSpec
    from learners.compiled import CompiledSpec
    from learners.heads.base import HeadSpec
    from learners.spec import LearnerSpec, ModelSpec

    document = ModelSpec.model_json_schema()
    learner = _registered(document, LearnerSpec.known())
    document["$defs"].pop("LearnerSpec", None)
    document["properties"]["learner"] = learner | {"description": "How it learns."}
    watched = {kind: one for kind, one in LearnerSpec.known().items() if issubclass(one, CompiledSpec)}
    document["$defs"][WITHIN] = _registered(document, watched)
    for family in (CellSpec, HeadSpec):
        document["$defs"][family.__name__] = _registered(document, family.known())
    return document


def _registered(document: dict[str, Any], registry: dict[str, Any]) -> dict[str, Any]:
    """A choice among the specs of a registry, whose schemas join the definitions."""
    for kind in registry.values():
        own = kind.model_json_schema()
        document["$defs"].update(own.pop("$defs", {}))
        document["$defs"][kind.__name__] = own
    return {"oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in registry.values()]}


def fields(document: dict[str, Any]) -> list[list[str]]:
    """Rows of path, accepted, default and meaning, for every field below a schema."""
    return list(_fields(document, document, ""))


def _fields(document: dict[str, Any], part: dict[str, Any], path: str) -> Iterator[list[str]]:
    required = part.get("required", [])
    for name, held in part.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        if held.get("$ref", "").endswith(f"/{WITHIN}"):
            kinds = (_kind(document, one) for one in document["$defs"][WITHIN]["oneOf"])
            yield [here, f"as {path.partition('(')[0]}: {' | '.join(kinds)}", "", held.get("description", "")]
            continue
        parts = [one for one in _parts(document, held) if "properties" in one]
        if name == "kind" and "const" in held:
            continue
        default = "required" if name in required else _text(held.get("default")) if not parts else ""
        yield [here, "" if parts else _accepted(document, held), default, held.get("description", "")]
        for one in parts:
            kind = one["properties"].get("kind", {}).get("const")
            below = here + ("[]" if held.get("type") == "array" else "") + (f"({kind})" if kind else "")
            if kind:
                yield [below, "", "", " ".join(one.get("description", "").split())]
            yield from _fields(document, one, below)


def _kind(document: dict[str, Any], held: dict[str, Any]) -> str:
    """The kind of the definition that is referred to."""
    return document["$defs"][held["$ref"].rpartition("/")[2]]["properties"]["kind"]["const"]


def _parts(document: dict[str, Any], held: dict[str, Any]) -> list[dict[str, Any]]:
    """What a field may hold, references followed."""
    if "$ref" in held:
        return _parts(document, document["$defs"][held["$ref"].rpartition("/")[2]])
    several = held.get("oneOf") or held.get("anyOf")
    if several:
        return [part for one in several for part in _parts(document, one)]
    if held.get("type") == "array" and "items" in held:
        return [one for one in _parts(document, held["items"]) if "properties" in one] or [held]
    return [held]


_BOUNDS = {"minimum": ">= {}", "exclusiveMinimum": "> {}", "maximum": "<= {}", "exclusiveMaximum": "< {}"}


def _accepted(document: dict[str, Any], held: dict[str, Any]) -> str:
    several = [_accepted(document, one) for one in held.get("oneOf") or held.get("anyOf") or ()]
    if several:
        return " or ".join(several)
    if "const" in held:
        return str(held["const"])
    if "enum" in held:
        return " | ".join(map(str, held["enum"]))
    if "prefixItems" in held:
        return "[" + ", ".join(_accepted(document, one) for one in held["prefixItems"]) + "]"
    bounds = [text.format(held[name]) for name, text in _BOUNDS.items() if name in held]
    return " ".join(filter(None, [held.get("type"), ", ".join(bounds), held.get("pattern")]))


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value)
