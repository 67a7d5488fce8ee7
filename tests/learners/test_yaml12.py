"""Specs are YAML 1.2: what is a number, what is text, and no key twice."""

from __future__ import annotations

import json
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.spec import ModelSpec
from learners.yaml12 import from_yaml, to_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, text) for text in ("12:30:45", "1:30", "190:20:30.15", "1_000", "2024-05-01", "2024-05-01T12:00:00Z")),
        *((text, text) for text in ("yes", "No", "on", "OFF", "y", "=", "0b11", "1.2.3", "0o8", "e3")),
        *((text, None) for text in ("", "~", "null", "Null", "NULL")),
        *((text, True) for text in ("true", "True", "TRUE")),
        *((text, 10) for text in ("10", "010", "+10", "0o12", "0xA")),
        *((text, 1000.0) for text in ("1e3", "1.0e3", "1000.", "+1E+3")),
        *((text, 0.5) for text in (".5", "0.5", "5e-1")),
        *((text, math.inf) for text in (".inf", "+.INF")),
    ],
)
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert from_yaml(f"a: {text}") == {"a": value}
    assert type(from_yaml(f"a: {text}")["a"]) is type(value)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(from_yaml("a: .NaN")["a"])


@pytest.mark.parametrize(
    ("text", "key", "first", "second"),
    [
        ("a: 1\nb: 2\na: 3", "'a'", 1, 3),
        ("x:\n  - {a: 1, a: 2}", "'a'", 2, 2),
        ('{"a": 1,\n "b": 0,\n "a": 2}', "'a'", 1, 3),
        ("1: a\n0x1: b", "1", 1, 2),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(text: str, key: str, first: int, second: int) -> None:
    with pytest.raises(yaml.YAMLError, match=f"the key {key} is there twice, first in line {first}\n.*line {second}"):
        from_yaml(text)


def test_merges_of_older_specs_are_still_read() -> None:
    assert from_yaml("a: &x {b: 1, c: 3}\nd:\n  <<: *x\n  b: 2")["d"] == {"b": 2, "c": 3}


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.from_regex(r"[-+0-9.:_eox~ntfyNTF]{1,8}", fullmatch=True),
    st.sampled_from(["08", "1e3", "0o10", "12:30:45", "<<", "=", "null", "yes", "2024-05-01", "1_0", ".5", "", "~"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=8),
)
VALUES = st.recursive(SCALARS, lambda held: st.lists(held) | st.dictionaries(st.text("abc01", max_size=3), held))


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    assert repr(from_yaml(to_yaml(value))) == repr(value)


@settings(deadline=None)
@given(VALUES.filter(lambda value: "inf" not in repr(value)))
def test_json_is_yaml(value: object) -> None:
    assert repr(from_yaml(json.dumps(value, ensure_ascii=False))) == repr(value)


def test_names_in_a_spec_are_the_text_that_is_written(tmp_path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("name: m\nfeatures: [12:30, 'on', 1_0]\ntarget: {kind: binary, labels: [NO, '01']}\n")
    spec = ModelSpec.load(path)
    assert [one.name for one in spec.features] == ["12:30", "on", "1_0"]
    assert spec.target.labels == ("NO", "01")
