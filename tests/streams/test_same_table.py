"""The same table gives the same batch, whatever it is written as; names and widths of any kind."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learners.spec import ModelSpec, source_mapping
from service.wire import Schema, columns_of, decode_columns
from streams.batch import Batch
from streams.columns import to_batch
from streams.files import open_parser, read_file
from streams.mapping import BadRow, Mapping
from streams.sniff import sniff
from streams.sources.arrow import ArrowParser
from streams.sources.messages import MessageParser, Messages
from streams.sources.spec import Fields, FolderSource, RedisStreamSource

NOON = 1_714_564_800_000_000
FULL = Mapping(("a", "b"), "label", key="key", time="time", missing=("b",), time_unit="us")


def content(batch: Batch) -> dict[str, Any]:
    """A batch as plain values; classes by name."""
    y = [None if np.isnan(y) else batch.classes[int(y)] if batch.classes else y for y in batch.y.tolist()]
    keys = [batch.key[row] for row in range(len(batch))]
    return {"x": np.nan_to_num(batch.x, nan=-1).tolist(), "y": y, "key": keys, "time": batch.time.tolist()}


def as_text(value: Any) -> str:
    return "" if value is None else str(value)


def every_form(folder: Path, rows: list[dict[str, Any]], mapping: Mapping) -> dict[str, Batch]:
    """The batch that each way of writing these rows gives."""
    names = list(rows[0])
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(names)
    writer.writerows([[as_text(row[name]) for name in names] for row in rows])
    (folder / "t.csv").write_text(out.getvalue(), newline="")
    (folder / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pa.table({name: [row[name] for row in rows] for name in names})
    pyarrow.parquet.write_table(table, folder / "t.parquet")
    held = {
        kind: Batch.concat([b for _, b in read_file(folder / f"t.{kind}", mapping)])
        for kind in ("csv", "jsonl", "parquet")
    }

    def parsed(values: list[Any]) -> Batch:
        messages = Messages("q", 0, len(values), range(len(values)), values)
        result = MessageParser(mapping).parse(messages)
        assert not result.bad, [str(bad) for _, bad in result.bad]
        assert result.batch is not None
        return result.batch

    held["messages"] = parsed([json.dumps(row).encode() for row in rows])
    held["fields"] = parsed([{name.encode(): as_text(value).encode() for name, value in row.items()} for row in rows])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    arrow = ArrowParser(mapping, 1000).parse(Messages("q", 0, 1, [0], [sink.getvalue().to_pybytes()]))[0]
    assert arrow.batch is not None
    held["arrow"] = arrow.batch
    target = {"kind": mapping.target} | ({"labels": mapping.labels} if mapping.target == "binary" else {})
    features = [{"name": name, "missing": "mean" if name in mapping.missing else "refuse"} for name in mapping.features]
    schema = Schema.of(ModelSpec.model_validate({"name": "m", "features": features, "target": target}))
    for kind, frame in (("frame", pd.DataFrame(rows)), ("nullable frame", pd.DataFrame(rows).convert_dtypes())):
        held[kind] = decode_columns(columns_of(frame, schema), schema)
    lists = {"x": [[np.nan if row[name] is None else row[name] for name in mapping.features] for row in rows]}
    lists |= {
        name: [row[column] for row in rows] for name, column in (("y", "label"), ("key", "key"), ("time", "time"))
    }
    held["lists"] = decode_columns(columns_of(lists, schema), schema)
    return held


TIMES = st.one_of(
    st.integers(0, 2**57),
    st.sampled_from(
        ["2024-05-01T12:00:00Z", "2024-05-01 12:00:00.123456789", "2024-05-01t14:00:00.5+02:00", str(NOON)]
    ),
)
WORDS = st.text(st.sampled_from("aé01N A;,"), min_size=1, max_size=4).filter(lambda text: text.strip() == text)


@settings(max_examples=20, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore::streams.mapping.ClockWarning")
@pytest.mark.parametrize("target", ["binary", "texts", "multiclass", "regression"])
def test_the_same_table_gives_the_same_batch(tmp_path_factory: pytest.TempPathFactory, target: str, data: Any) -> None:
    labels = {
        "binary": st.sampled_from([0, 1, None]) | st.sampled_from([0.0, 1.0, None]),
        "texts": st.sampled_from(["UP", "DOWN", None]),
        "multiclass": WORDS | st.none(),
        "regression": st.floats(-1e6, 1e6) | st.none(),
    }[target]
    one_clock = data.draw(st.sampled_from([st.integers(0, 2**57), TIMES.filter(lambda time: isinstance(time, str))]))
    row = st.fixed_dictionaries(
        {
            "a": st.floats(-1e6, 1e6),
            "b": st.floats(-1e6, 1e6) | st.none(),
            "label": labels,
            "key": WORDS,
            "time": one_clock,
        }
    )
    rows = data.draw(st.lists(row, min_size=1, max_size=8))
    if target == "multiclass":  # a cell that could be an integer is told by what the others are
        rows[0]["label"] = "x"
    more = {"labels": ("DOWN", "UP")} if target == "texts" else {"target": target}
    mapping = Mapping(FULL.features, "label", key="key", time="time", missing=("b",), time_unit="us", **more)  # type: ignore[arg-type]
    forms = every_form(tmp_path_factory.mktemp("same"), rows, mapping)
    expected = content(forms["messages"])
    for kind, batch in forms.items():
        assert content(batch) == expected, kind


def parse(value: Any, **mapping: Any) -> Batch:
    held = Messages("q", 0, 1, [0], [value], None, [b"outer"], [7])
    batch = MessageParser(Mapping(**{"features": ("a",), "label": "label"} | mapping)).parse(held).batch
    assert batch is not None
    return batch


NAMES = ["$amount", "$", "$$", "$key2", "$time", "$key", "$id", "$$time"]


@pytest.mark.parametrize("name", NAMES)
def test_a_feature_or_label_may_have_any_name(name: str) -> None:
    event = {name: 3.5, "label": 1}
    fields = {key.encode(): str(value).encode() for key, value in event.items()}
    for value in (json.dumps(event).encode(), fields):
        assert parse(value, features=(name,), missing=(name,)).x.tolist() == [[3.5]]
        assert parse(value, features=(name,), missing=(name,), key="$key", time="$time").time.tolist() == [7]
    event = {"a": 1, name: 1}
    fields = {key.encode(): str(value).encode() for key, value in event.items()}
    for value in (json.dumps(event).encode(), fields):
        assert parse(value, label=name, key="$key", time="$time").y.tolist() == [1.0]


def test_a_key_time_or_id_may_be_a_field_with_a_dollar() -> None:
    event = {"a": 1, "$key": "inner", "$time": 5, "$id": "i", "$card": "c", "$$card": "d"}
    fields = {key.encode(): str(value).encode() for key, value in event.items()}
    for value in (json.dumps(event).encode(), fields):
        outer = parse(value, key="$key", time="$time", time_unit="us")
        assert (outer.key[0], outer.time[0]) == (b"outer", 7)
        inner = parse(value, key="$$key", time="$$time", id="$$id", time_unit="us")
        assert (inner.key[0], inner.time[0], inner.id.any()) == (b"inner", 5, True)
        assert parse(value, features=("$time",), key="$key", time="$time").x.tolist() == [[5.0]]
        assert parse(value, key="$card").key[0] == b"c"
        assert parse(value, key="$$$card").key[0] == b"d"


def test_columns_of_a_folder_follow_the_same_names(tmp_path: Path) -> None:
    spec = {"name": "m", "features": ["$amount"], "target": {"kind": "binary"}}
    fields = Fields(label="$outcome", key="$$key", time="$when")
    mapping = source_mapping(ModelSpec.model_validate(spec), FolderSource(path="/data", fields=fields))
    path = tmp_path / "t.csv"
    path.write_text("$amount,$outcome,$key,$when\n3.5,1,k,2024-05-01\n")
    batch = next(read_file(path, mapping))[1]
    assert (batch.x.tolist(), batch.y.tolist(), batch.key[0]) == ([[3.5]], [1.0], b"k")
    with pytest.raises(ValueError, match=r"\$time come with messages, and a row has none"):
        FolderSource(path="/data", fields=Fields(time="$time"))
    queue = RedisStreamSource(stream="s", fields=fields)
    assert source_mapping(ModelSpec.model_validate(spec), queue).key == "$$key"


def test_fields_of_an_envelope_are_no_fields_of_the_event() -> None:
    event = {"specversion": "1.0", "id": "1", "source": "/s", "time": "2024-05-01T12:00:00Z", "partitionkey": "p"}
    value = json.dumps(event | {"data": {"ce time": 3, "time": 4, "label": 1}}).encode()
    held = Messages("q", 0, 1, [0], [value], [{"content-type": b"application/cloudevents+json"}])
    batch = MessageParser(Mapping(("ce time", "time"), "label", key="$key", time="$time", id="$id")).parse(held).batch
    assert batch is not None
    assert (batch.x.tolist(), batch.time.tolist(), batch.key[0]) == ([[3.0, 4.0]], [NOON], b"p")


class Counted(str):
    """A name that counts how often it is compared."""

    compared = 0
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_work_grows_with_the_width_and_not_with_its_square(tmp_path: Path, kind: str) -> None:
    """By comparisons of names, not by a clock: a wide file was searched once for each of its columns."""
    compared = {}
    for width in (200, 800):
        names = [f"p{i}" for i in range(width)]
        path = tmp_path / f"w{width}.{kind}"
        frame = pd.DataFrame(np.ones((40, width)), columns=names).assign(label=1)
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path)
        Counted.compared = 0
        mapping = Mapping(tuple(map(Counted, names)), "label", missing=tuple(map(Counted, names)))
        assert sum(len(batch) for _, batch in read_file(path, mapping)) == 40
        compared[width] = Counted.compared
        assert sniff(path, label="label").mapping.features == tuple(names)
    assert compared[800] <= 4.5 * compared[200] + 100


def test_the_parser_of_a_wide_file_parses_no_column_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.csv"
    path.write_text(",".join([*(f"p{i}" for i in range(500)), "label"]) + "\n" + "1," * 500 + "1\n")
    calls = []
    monkeypatch.setattr("pyarrow.csv.read_csv", lambda *args: calls.append(args))
    open_parser(path, Mapping(tuple(f"p{i}" for i in range(500)), "label"))
    assert not calls


def test_the_column_at_fault_is_found_among_many(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    names = [f"p{i}" for i in range(3000)]
    rows = [["1"] * 3000 for _ in range(4)]
    rows[1][2718] = "oops"
    rows[2][0] = "inf"
    path.write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n1,2\n")
    bad: list[BadRow] = []
    assert sum(len(batch) for _, batch in read_file(path, Mapping(tuple(names)), on_bad=bad.append)) == 2
    assert [(one.row, one.column, one.value) for one in bad[:2]] == [(1, "p2718", "oops"), (2, "p0", float("inf"))]
    assert (bad[2].row, bad[2].column) == (4, "")
    assert "Expected 3000 columns, got 2" in str(bad[2])


def test_labels_that_come_late_cost_no_column_each() -> None:
    names = tuple(f"p{i}" for i in range(2000))
    table = pa.table({name: pa.nulls(2, pa.float32()) for name in names} | {"label": [1, 0], "id": ["a", "b"]})
    batch, _, refused = to_batch(table, Mapping(names, "label", id="id", late=True))
    assert (batch.kind.tolist(), refused, batch.x.any()) == ([2, 2], [], False)
