"""One rule for labels, whatever a table is written as."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import Batch
from streams.files import read_file
from streams.labels import are_integers, binary_of, class_in, class_of, plain, target_of
from streams.mapping import BadRow, Mapping
from streams.river_source import LABEL, read_river
from streams.sniff import sniff
from streams.sources.messages import MessageParser, Messages


def told(batch: Batch) -> list[Any]:
    """The labels of a batch as they were meant."""
    return [None if np.isnan(y) else batch.classes[int(y)] if batch.classes else y for y in batch.y.tolist()]


def parse(values: list[Any], target: str, **more: Any) -> tuple[list[Any], list[tuple[int, str]]]:
    """Labels of messages, and the columns of those refused."""
    mapping = Mapping(("a",), "label", target=target)  # type: ignore[arg-type]
    messages = Messages("q", 0, len(values), range(len(values)), values)
    parsed = MessageParser(mapping, **more).parse(messages)
    return [] if parsed.batch is None else told(parsed.batch), [(at, bad.column) for at, bad in parsed.bad]


@pytest.mark.parametrize("value", [1, 1.0, True, np.int8(1), np.uint64(1), np.float16(1), np.True_, Decimal("1.00")])
def test_a_whole_number_is_the_same_class_however_it_is_written(value: Any) -> None:
    assert class_of(value) == 1
    assert type(class_of(value)) is int
    assert binary_of(value, (0, 1)) == binary_of(value, ("0", "1")) == 1.0
    assert target_of(value) == 1.0


@pytest.mark.parametrize("value", [None, float("nan"), np.float32("nan"), "", pd.NA, pd.NaT, Decimal("nan")])
def test_nothing_is_no_label(value: Any) -> None:
    assert plain(value) is class_of(value) is binary_of(value, (0, 1)) is target_of(value) is None


@pytest.mark.parametrize(
    "value", [0.5, 2**63, -(2**63) - 1, np.uint64(2**63), 1e19, float("inf"), Decimal("0.5"), Decimal(2**64), "x" * 257]
)
def test_what_is_no_class_is_refused_and_never_wrapped(value: Any) -> None:
    with pytest.raises(ValueError, match="accepted: a whole number of 64 bits"):
        class_of(value)


@pytest.mark.parametrize("value", [b"1", [1], {}, object(), np.datetime64("2024")])
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    for rule in (class_of, target_of, lambda held: binary_of(held, (0, 1))):
        with pytest.raises(TypeError, match="of type"):
            rule(value)


def test_the_labels_of_a_binary_target_are_known_by_how_they_are_written() -> None:
    for value in ("1", "1.0", "01", "true", "TRUE", " 1", "1e0", 1.0, True):
        assert binary_of(value, (0, 1)) == 1
    assert binary_of(True, ("false", "true")) == binary_of(True, ("False", "True")) == 1
    assert binary_of(7, ("7", "8")) == 0
    assert [binary_of(value, (1, "1")) for value in (1, "1", 1.0)] == [0, 1, 0]  # what is exactly it comes first
    for value in ("2", "one", "1.5", 0.5, "nan"):
        with pytest.raises(ValueError, match="accepted: 0, 1 or nothing"):
            binary_of(value, (0, 1))


def test_text_that_is_a_number_is_a_target_of_a_regression() -> None:
    assert [target_of(text) for text in ("1.5", " -2e3 ", ".5", "7")] == [1.5, -2000, 0.5, 7]
    for value in ("one", "0x10", "1_0", "inf", 1.1e100, float("inf")):
        with pytest.raises(ValueError, match="accepted: a finite number"):
            target_of(value)


def test_cells_are_integers_only_where_all_are_written_as_integers() -> None:
    assert are_integers(["1", "2.0", "", "NA", "true", "-3", " 4"])
    assert not are_integers(["1", "01"])
    assert not any(map(are_integers, (["1", "x"], ["0.5"], ["1", "+1"], ["1e3"])))
    assert [class_in(cell, "canonical") for cell in ("1", "1.0", "", "NA", "true")] == [1, 1, None, None, 1]
    assert [class_in(cell, "text") for cell in ("1", "01", "NA", "")] == ["1", "01", "NA", None]
    assert [class_in(cell, "integer") for cell in ("1", "01", "1.0", "NA")] == [1, 1, 1, None]
    for cell, cells in (("01", "canonical"), ("x", "integer"), ("0.5", "integer"), (str(2**63), "integer")):
        with pytest.raises(ValueError, match="accepted"):
            class_in(cell, cells)  # type: ignore[arg-type]


def write(folder: Path, labels: list[Any]) -> dict[str, Path]:
    """The same labels as pandas writes them, in every kind of file."""
    frame = pd.DataFrame({"a": np.arange(len(labels), dtype=float), "label": labels})
    paths = {kind: folder / f"t.{kind}" for kind in ("csv", "jsonl", "parquet")}
    frame.to_csv(paths["csv"], index=False)
    frame.to_json(paths["jsonl"], orient="records", lines=True)
    frame.to_parquet(paths["parquet"])
    return paths


@pytest.mark.parametrize("labels", [[1, 0, 1, 0], [1, 0, None, 1], [1.0, 0.0, None, 1.0], [True, False, None, True]])
def test_labels_with_gaps_are_read_from_every_file_and_proposed_as_binary(tmp_path: Path, labels: list[Any]) -> None:
    expected = [None if y is None else float(y) for y in labels]
    for kind, path in write(tmp_path, labels).items():
        mapping = sniff(path, label="label").mapping
        assert (mapping.target, mapping.labels) == ("binary", (0, 1)), kind
        assert told(Batch.concat([batch for _, batch in read_file(path, mapping)])) == expected, kind
        many = Mapping(("a",), "label", target="multiclass")
        assert told(next(read_file(path, many))[1]) == expected, kind


def test_classes_are_told_apart_where_the_source_tells_them_apart(tmp_path: Path) -> None:
    many = Mapping(("a",), "label", target="multiclass")
    for labels in (["NA", "01", "1", None], ["1", "x", "1.0", None], ["null", "NaN", "nan", None]):
        for kind, path in write(tmp_path, labels).items():
            assert told(next(read_file(path, many))[1]) == labels, kind
    lines = [{"a": 1, "label": y} for y in (1, "1", "01", 1.0, True, None, 2**53 + 1, 9.0)]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    batch = next(read_file(path, many))[1]
    assert list(map(repr, told(batch))) == ["1", "'1'", "'01'", "1", "1", "None", str(2**53 + 1), "9"]


def test_a_class_with_leading_zeros_among_integers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,label\n" + "1,1\n" * 1100 + "1,01\n1,0.5\n1,99999999999999999999\n1,NA\n")
    bad: list[BadRow] = []
    read = [batch for _, batch in read_file(path, Mapping(("a",), "label", target="multiclass"), on_bad=bad.append)]
    assert sum(map(len, read)) == 1101
    assert [(one.row, one.column, one.value) for one in bad] == [
        (1100, "label", "01"),
        (1101, "label", "0.5"),
        (1102, "label", "99999999999999999999"),
    ]
    assert "an integer of 64 bits without leading zeros, as the first rows have" in str(bad[0])


@pytest.mark.parametrize(
    "held",
    [
        pa.array([1, 2**63], pa.uint64()),
        pa.array([1.0, 1e19]),
        pa.array([1.0, 0.5], pa.float32()),
        pa.array([Decimal(1), Decimal(2**64)], pa.decimal128(38, 0)),
    ],
    ids=lambda held: str(held.type),
)
def test_a_number_that_is_no_class_is_named_in_a_table(tmp_path: Path, held: pa.Array) -> None:
    path = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table({"a": [1.0, 2.0], "label": held}), path)
    for target in ("binary", "multiclass"):
        bad: list[BadRow] = []
        list(read_file(path, Mapping(("a",), "label", target=target), on_bad=bad.append))  # type: ignore[arg-type]
        assert [(one.row, one.column, one.value) for one in bad] == [(1, "label", held[1].as_py())]


def test_messages_follow_the_rule_whatever_stands_beside_them() -> None:
    labels = [1, 1.0, True, "1", None, 2**63, 0.5, {}, [1], "x" * 257, 3]
    values = [json.dumps({"a": 1, "label": y}).encode() for y in labels]
    good, bad = parse(values, "multiclass")
    assert list(map(repr, good)) == ["1", "1", "1", "'1'", "None", "3"]
    assert bad == [(at, "label") for at in (5, 6, 7, 8, 9)]
    for at, value in enumerate(values):
        alone, refused = parse([value], "multiclass")
        assert (not alone, bool(refused)) == ((at in range(5, 10)),) * 2
    good, bad = parse(values[:5], "binary")
    assert (good, bad) == ([1, 1, 1, 1, None], [])
    good, bad = parse([json.dumps({"a": 1, "label": y}).encode() for y in (1, True, "2.5", None, "x")], "regression")
    assert (good, bad) == ([1, 1, 2.5, None], [(4, "label")])
    fields = [{b"a": b"1", b"label": y} for y in (b"1", b"01", b"1.0", b"NA", b"")]
    assert parse(fields, "multiclass") == (["1", "01", "1.0", "NA", None], [])
    assert parse(fields, "multiclass", label_as="integer") == ([1, 1, 1, None, None], [])
    assert parse(fields, "binary") == ([1, 1, 1, None, None], [])
    assert parse(fields, "regression") == ([1, 1, 1, None, None], [])


def test_a_field_twice_is_refused_even_where_labels_differ_in_type() -> None:
    values = [b'{"a": 1, "label": 1}', b'{"a": 1, "label": "x"}', b'{"a": 1, "label": "x", "label": "y"}']
    assert parse(values, "multiclass")[1] == [(2, "label")]


def test_river_labels_follow_the_rule() -> None:
    pairs = [({"a": 1.0}, y) for y in (1, True, 1.0, "1", None, 0.5)]
    bad: list[BadRow] = []
    mapping = Mapping(("a",), LABEL, target="multiclass")
    held = [one for _, batch in read_river(pairs, mapping, on_bad=bad.append) for one in told(batch)]
    assert list(map(repr, held)) == ["1", "1", "1", "'1'", "None"]
    assert [(one.row, one.value) for one in bad] == [(5, 0.5)]


VALUES = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.booleans(), st.text(max_size=3),
    st.integers(-(2**70), 2**70), st.sampled_from(["1", "01", "1.0", "NA", "true", "nan", 1.0, 1e19, 2.0**53 + 2]),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(VALUES, min_size=1, max_size=9),
    target=st.sampled_from(["binary", "multiclass", "regression"]),
    cut=st.integers(1, 9),
)
def test_json_says_of_each_label_what_the_rule_says(labels: list[Any], target: str, cut: int) -> None:
    """Whatever stands beside it, and however the messages are read together."""
    rule = {"binary": lambda y: binary_of(y, (0, 1)), "multiclass": class_of, "regression": target_of}[target]
    expected: list[Any] = []
    for label in labels:
        try:
            expected.append(repr(rule(label)))
        except ValueError:
            expected.append("refused")
    got: list[Any] = []
    values = [json.dumps({"a": 1, "label": y}).encode() for y in labels]
    for at in range(0, len(values), cut):
        good, bad = parse(values[at : at + cut], target)
        held = iter(map(repr, good))
        refused = {place for place, _ in bad}
        got += ["refused" if place in refused else next(held) for place in range(len(values[at : at + cut]))]
    assert [one.replace("-0.0", "0.0") for one in got] == [one.replace("-0.0", "0.0") for one in expected]
