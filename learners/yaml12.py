"""YAML as version 1.2 has it (the core schema), which JSON is a part of; PyYAML reads version 1.1."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_RESOLVERS = (
    ("merge", r"<<", "<"),  # not of the schema, but in use
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's, with the types of YAML 1.2, and without a key that is there twice."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 - PyYAML's way

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[Any, Any] = {}
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                first = seen[key].line + 1
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice, first in line {first}", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen[key] = key_node.start_mark
        return super().construct_mapping(node, deep=deep)


    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # a tag that the value does not bear, or a number of thousands of digits
            raise yaml.constructor.ConstructorError(None, None, f"no {node.tag}: {error}", node.start_mark) from error


def _int(loader: Any, node: Any) -> int:
    text = node.value
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: Any, node: Any) -> float:
    text = node.value.lower()
    if text.endswith((".inf", ".nan")):
        return math.nan if text.endswith("nan") else -math.inf if text.startswith("-") else math.inf
    return float(text)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which also quotes text that version 1.2 would not read as text."""


for _name, _pattern, _first in _RESOLVERS:
    _firsts = ["" if one == "\0" else one for one in _first]
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _firsts)
_Loader.add_constructor(_TAG + "int", _int)
_Loader.add_constructor(_TAG + "float", _float)


def from_yaml(text: str) -> Any:
    """What a YAML (or JSON) document says.

    `on`, `off`, `yes` and `no` are text, and so are dates, `12:30:45` and `1_000`; `010` is ten and `1e3` a number.

    Raises:
        yaml.YAMLError: it is none, or a mapping has a key twice; with the line.
    """
    return yaml.load(text, _Loader)


def to_yaml(value: Any, *, escaped: bool = False) -> str:
    """A document that says the same to readers of either version; keys keep their order.

    Args:
        value: of plain types.
        escaped: everything but ASCII stands in escapes.
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=not escaped)
