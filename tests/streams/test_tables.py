"""Parquet files say what CSV files say; every type that a column may have."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import Batch
from streams.files import read_file, read_rows
from streams.mapping import BadRow, Mapping
from streams.sniff import sniff

FULL = Mapping(("a", "b"), "y", key="k", time="t", id="i", missing=("b",))


def columns_of(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "k": [f"card{n}" for n in rng.integers(5, size=rows)],
            "a": rng.normal(size=rows).round(4),
            "i": [f"e{row}" for row in range(rows)],
            "b": [None if gone else int(n) for gone, n in zip(rng.random(rows) < 0.2, rng.integers(9, size=rows))],
            "t": np.arange(1000, 1000 + rows),
            "y": [None if gone else int(n) for gone, n in zip(rng.random(rows) < 0.1, rng.integers(2, size=rows))],
        }
    )


def same(one: Batch, other: Batch) -> None:
    for name in ("x", "kind", "y", "time", "id"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert [one.key[row] for row in range(len(one))] == [other.key[row] for row in range(len(other))]
    assert one.classes == other.classes


@settings(max_examples=30, deadline=None)
@given(group=st.integers(1, 40), rows=st.integers(1, 70), start=st.integers(0, 60))
def test_any_row_groups_and_any_resumption_give_what_a_csv_file_gives(
    tmp_path_factory: pytest.TempPathFactory, group: int, rows: int, start: int
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    table = columns_of(60)
    pyarrow.parquet.write_table(table, folder / "e.parquet", row_group_size=group)
    names = table.column_names
    lines = [",".join("" if row[name] is None else str(row[name]) for name in names) for row in table.to_pylist()]
    (folder / "e.csv").write_text("\n".join([",".join(names), *lines]))
    paths = {suffix: folder / f"e.{suffix}" for suffix in ("csv", "parquet")}
    parts = {suffix: list(read_file(path, FULL, rows=rows, start=start)) for suffix, path in paths.items()}
    for got in parts.values():
        sizes = [len(batch) for _, batch in got]
        assert [end for end, _ in got] == [start + int(n) for n in np.cumsum(sizes)]
        assert sum(sizes) == 60 - start
    if start < 60:
        same(*(Batch.concat([batch for _, batch in got]) for got in parts.values()))


def write(folder: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), folder / "t.parquet")
    return folder / "t.parquet"


NOON = datetime.datetime(1970, 1, 2, 12, tzinfo=datetime.UTC)
US = 129_600_000_000


@pytest.mark.parametrize(
    ("times", "unit", "expected"),
    [
        (pa.array([NOON], pa.timestamp("ns", "UTC")), "s", US),
        (pa.array([NOON.replace(tzinfo=None)], pa.timestamp("ms")), "s", US),
        (pa.array([NOON.date()], pa.date32()), "s", US // 3 * 2),
        (pa.array([129_600], pa.int32()), "s", US),
        (pa.array([129_600_000], pa.uint64()), "ms", US),
        (pa.array([129_600.5], pa.float64()), "s", US + 500_000),
        (pa.array(["1970-01-02T12:00:00Z"]), "s", US),
        (pa.array(["1970-01-02 12:00:00"]), "s", US),
        (pa.array(["1970-01-02 12:00:00"]).dictionary_encode(), "s", US),
    ],
)
def test_times_of_every_type(tmp_path: Path, times: pa.Array, unit: str, expected: int) -> None:
    path = write(tmp_path, a=[1.0], t=times)
    batch = next(read_file(path, Mapping(("a",), time="t", time_unit=unit)))[1]  # type: ignore[arg-type]
    assert batch.time.tolist() == [expected]


@pytest.mark.parametrize(
    "held",
    [
        pa.array([1, 0, None], pa.uint8()),
        pa.array([1.0, 0.0, float("nan")], pa.float32()),
        pa.array([True, False, None]),
        pa.array([decimal.Decimal("1.00"), decimal.Decimal("0.00"), None]),
        pa.array([1, 0, None]).dictionary_encode(),
    ],
)
def test_features_and_labels_of_every_type(tmp_path: Path, held: pa.Array) -> None:
    path = write(tmp_path, a=held, y=held)
    batch = next(read_file(path, Mapping(("a",), "y", missing=("a",))))[1]
    np.testing.assert_array_equal(batch.x[:, 0], np.array([1, 0, np.nan], np.float32))
    np.testing.assert_array_equal(batch.y, [1, 0, np.nan])


def test_classes_are_text_or_whole(tmp_path: Path) -> None:
    path = write(tmp_path, a=[1.0] * 3, y=pa.array(["red", None, "blue"], pa.large_string()), n=[7, None, 3])
    mapping = Mapping(("a",), "y", target="multiclass")
    assert next(read_file(path, mapping))[1].classes == ("red", "blue")
    assert next(read_file(path, Mapping(("a",), "n", target="multiclass")))[1].classes == (7, 3)
    path = write(tmp_path, a=[1.0] * 2, y=[1.0, 1.5])
    with pytest.raises(BadRow, match=r"row 1, column 'y': 1.5 does not fit; accepted: a whole number of 64 bits"):
        list(read_file(path, mapping))


def test_bad_rows_are_named_with_their_content(tmp_path: Path) -> None:
    path = write(tmp_path, a=["1", "two", "3", None, "1e39"], k=["a", "b", "c", "d", "e"])
    items = list(read_rows(path, Mapping(("a",), key="k"), rows=2))
    bad = [item for item in items if isinstance(item, BadRow)]
    assert [(one.row, one.value) for one in bad] == [(1, "two"), (3, None), (4, float("inf"))]
    assert {one.column for one in bad} == {"a"}
    assert bad[0].original == b'{"a": "two", "k": "b"}'
    good = [item for item in items if not isinstance(item, BadRow)]
    assert [(item.end, item.batch.x[:, 0].tolist()) for item in good] == [(1, [1]), (3, [3])]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, a=[[1.0]], b=[1.0])
    with pytest.raises(ValueError, match=r"column 'a' is of type list.*accepted: numbers"):
        list(read_file(path, Mapping(("a",))))
    with pytest.raises(ValueError, match=r"named \['z'\]; columns: a, b"):
        list(read_file(path, Mapping(("z",))))
    with pytest.raises(ValueError, match="offset 2 lies beyond the end of the file, at 1"):
        list(read_file(path, Mapping(("b",)), start=2))
    assert list(read_file(path, Mapping(("b",)), start=1)) == []
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OSError, match=r"cut.parquet: not a Parquet file, or damaged"):
        list(read_file(cut, Mapping(("b",))))
    with pytest.raises(ValueError, match="unknown kind of file"):
        list(read_file(tmp_path / "e.parquet.gz", Mapping(("b",))))


def test_a_damaged_page_is_the_files_fault(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    table = pa.table({"a": np.random.default_rng(0).normal(size=5000)})
    pyarrow.parquet.write_table(table, path, use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"d.parquet: the file is damaged"):
        list(read_file(path, Mapping(("a",))))


def test_a_parquet_file_proposes_a_mapping(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    pyarrow.parquet.write_table(columns_of(50), path)
    found = sniff(path, label="y", key="k", time="t", id="i")
    assert (found.mapping.features, found.mapping.missing, found.mapping.labels) == (("a", "b"), ("b",), (0, 1))
    same(next(read_file(path, found.mapping))[1], next(read_file(path, FULL))[1])
