from __future__ import annotations

import bz2
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import LABELLED, OBSERVATION, Batch
from streams.files import identity, read_file
from streams.mapping import BadRow, Mapping
from streams.sniff import sniff

FULL = Mapping(("a", "b"), "y", key="k", time="t", id="i", missing=("b",))
HEADER = "k,a,i,b,other,t,y\n"


def rows_of(n: int, seed: int = 0) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [
        {
            "k": f"card{rng.integers(5)}",
            "a": round(float(rng.normal()), 4),
            "i": f"e{row}",
            "b": None if rng.random() < 0.2 else int(rng.integers(9)),
            "other": "x",
            "t": 1000 + row,
            "y": None if rng.random() < 0.1 else int(rng.integers(2)),
        }
        for row in range(n)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    if ".csv" in path.suffixes:
        lines = [",".join("" if value is None else str(value) for value in row.values()) for row in rows]
        text = HEADER + "\n".join(lines)  # and no line feed at the end
    else:
        text = "\n".join(json.dumps(row) for row in rows)
    opener = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    with opener(path, "wb") as file:
        file.write(text.encode())
    return path


def together(batches: list[Batch]) -> dict:
    return {
        "x": np.concatenate([batch.x for batch in batches]).tobytes(),
        "y": [
            batch.classes[int(v)] if batch.classes and not np.isnan(v) else str(v)
            for batch in batches
            for v in batch.y
        ],
        "key": [batch.key[row] for batch in batches for row in range(len(batch))],
        "time": np.concatenate([batch.time for batch in batches]).tolist(),
        "id": np.concatenate([batch.id for batch in batches]).tolist(),
        "kind": np.concatenate([batch.kind for batch in batches]).tolist(),
    }


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz", "e.csv.bz2", "e.jsonl", "e.ndjson.gz"])
def test_reads_every_column(tmp_path: Path, name: str) -> None:
    rows = rows_of(50)
    (offset, batch), *rest = read_file(write(tmp_path / name, rows), FULL)
    assert (offset, rest) == (50, [])
    expected = np.array([[row["a"], np.nan if row["b"] is None else row["b"]] for row in rows], np.float32)
    np.testing.assert_array_equal(batch.x, expected)
    for index, row in enumerate(rows):
        assert batch.key[index] == row["k"].encode()
        assert batch.time[index] == row["t"] * 1_000_000
        digest = xxhash.xxh3_128_intdigest(row["i"].encode())
        assert (int(batch.id[index, 0]) << 64 | int(batch.id[index, 1])) == digest
        assert batch.kind[index] == (OBSERVATION if row["y"] is None else LABELLED)
        assert row["y"] is None or batch.y[index] == row["y"]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    start=st.integers(0, 60),
    chunk=st.integers(1, 4000),
    suffix=st.sampled_from(["csv", "jsonl"]),
)
def test_any_cut_and_any_resumption_gives_the_same_events(
    tmp_path_factory: pytest.TempPathFactory, rows: int, start: int, chunk: int, suffix: str
) -> None:
    path = write(tmp_path_factory.mktemp("cut") / f"e.{suffix}", rows_of(60))
    whole = [batch for _, batch in read_file(path, FULL)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.files.CHUNK_BYTES", chunk)
        patch.setattr("streams.files.PARSED_ROWS", 8)
        pieces = list(read_file(path, FULL, rows=rows, start=start))
    assert [len(batch) for _, batch in pieces[:-1]] == [rows] * max(0, len(pieces) - 1)
    ends = [offset for offset, _ in pieces]
    assert ends == [start + end for end in np.cumsum([len(batch) for _, batch in pieces]).tolist()]
    assert (ends[-1] if ends else start) == 60
    if pieces:
        assert together([batch for _, batch in pieces]) == together([whole[0].slice(start, 60)])


def test_blank_lines_and_line_ends_are_no_rows(tmp_path: Path) -> None:
    plain, spaced = tmp_path / "p.csv", tmp_path / "s.csv"
    plain.write_text("a,y\n1,0\n2,1\n3,0\n")
    spaced.write_bytes(b"\xef\xbb\xbfa,y\r\n\r\n1,0\r\n\n2,1\r\n\r\n\r\n3,0")
    mapping = Mapping(("a",), "y")
    (one, first), (two, second) = next(read_file(plain, mapping)), next(read_file(spaced, mapping))
    assert one == two == 3
    assert together([first]) == together([second])
    assert next(read_file(spaced, mapping, start=2))[1].x.tolist() == [[3.0]]


BAD = [
    ("a", "oops", "finite number"),
    ("a", "inf", "finite number"),
    ("a", "1e39", "float32"),
    ("a", "", "finite number"),
    ("b", "1.2.3", "or nothing"),
    ("y", "2", "0, 1 or nothing"),
    ("y", "no", "0, 1 or nothing"),
    ("t", "-5", "from 1970 to 9999"),
    ("t", "", "from 1970 to 9999"),
    ("t", "99999999999999999", "from 1970 to 9999"),
    ("k", "x" * 1025, "1024 bytes"),
    ("i", "x" * 257, "256 bytes"),
]


@pytest.mark.parametrize(("column", "value", "accepted"), BAD, ids=[f"{c}-{v[:8]}" for c, v, _ in BAD])
def test_a_bad_value_is_named(tmp_path: Path, column: str, value: str, accepted: str) -> None:
    rows = rows_of(20)
    rows[7][column] = value
    path = write(tmp_path / "bad.csv", rows)
    seen = []
    with pytest.raises(BadRow, match="row 7") as caught:
        seen.extend(read_file(path, FULL))
    assert sum(len(batch) for _, batch in seen) == 7  # what stood before it was yielded
    bad = caught.value
    assert (bad.file, bad.row, bad.column) == (str(path), 7, column)
    assert accepted in bad.accepted
    assert bad.original.decode().split(",")[0] == rows[7]["k"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_bad_rows_are_reported_and_passed_over(tmp_path: Path, suffix: str) -> None:
    rows = rows_of(100)
    for row in (0, 13, 14, 99):
        rows[row]["a"] = "oops"
    rows[50]["y"] = 7
    path = write(tmp_path / f"bad.{suffix}", rows)
    lines = path.read_text().splitlines()
    broken = 30 + (suffix == "csv")
    lines[broken] = lines[broken][:12]
    path.write_text("\n".join(lines))
    dead: list[BadRow] = []
    batches = list(read_file(path, FULL, rows=16, on_bad=dead.append))
    assert [bad.row for bad in dead] == [0, 13, 14, 30, 50, 99]
    assert [bad.column for bad in dead] == ["a", "a", "a", "", "y", "a"]
    assert dead[3].original.decode() == lines[broken] + "\n"
    good = [row for offset, batch in batches for row in range(offset - len(batch), offset)]
    assert good == [row for row in range(100) if row not in {0, 13, 14, 30, 50, 99}]
    at = {
        row: batch.x[row - offset + len(batch), 0]
        for offset, batch in batches
        for row in range(offset - len(batch), offset)
    }
    assert all(at[row] == np.float32(rows[row]["a"]) for row in good)


def test_text_that_is_not_utf8_is_a_bad_row(tmp_path: Path) -> None:
    rows = rows_of(9)
    for suffix in ("csv", "jsonl"):
        path = write(tmp_path / f"bad.{suffix}", rows)
        lines = path.read_bytes().split(b"\n")
        broken = 4 + (suffix == "csv")
        lines[broken] = lines[broken].replace(b"card", b"c\xffrd")
        path.write_bytes(b"\n".join(lines))
        dead: list[BadRow] = []
        assert sum(len(batch) for _, batch in read_file(path, FULL, on_bad=dead.append)) == 8
        assert [(bad.row, bad.original.strip()) for bad in dead] == [(4, lines[broken])]
        with pytest.raises(BadRow, match=f"bad.{suffix}, row 4"):
            list(read_file(path, FULL))
    path = tmp_path / "header.csv"
    path.write_bytes(b"a,\xff\n1,2\n")
    with pytest.raises(ValueError, match=r"header.csv, the header: .* is not UTF-8"):
        list(read_file(path, Mapping(("a",))))


def test_labels_of_many_classes(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("a,y\n" + "".join(f"1,{label}\n" for label in ["7", "3", "", "7", "12"]))
    batch = next(read_file(path, Mapping(("a",), "y", target="multiclass")))[1]
    assert [None if np.isnan(v) else batch.classes[int(v)] for v in batch.y] == [7, 3, None, 7, 12]
    path.write_text("a,y\n" + "".join(f"1,{label}\n" for label in ["7", "red", "", "blue"]))
    batch = next(read_file(path, Mapping(("a",), "y", target="multiclass")))[1]
    assert [None if np.isnan(v) else batch.classes[int(v)] for v in batch.y] == ["7", "red", None, "blue"]
    path.write_text("a,y\n" + "1,5\n" * 2000 + "1,red\n")
    with pytest.raises(BadRow, match=r"row 2000, column 'y': 'red'.*an integer of 64 bits without leading zeros"):
        list(read_file(path, Mapping(("a",), "y", target="multiclass")))


def test_labels_of_text_truth_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text("a,y\n1,UP\n1,DOWN\n1,\n")
    batch = next(read_file(path, Mapping(("a",), "y", labels=("DOWN", "UP"))))[1]
    np.testing.assert_array_equal(batch.y, [1, 0, np.nan])
    path = tmp_path / "l.jsonl"
    path.write_text('{"a": 1, "y": true}\n{"a": 1, "y": false}\n{"a": 1}\n')
    np.testing.assert_array_equal(next(read_file(path, Mapping(("a",), "y")))[1].y, [1, 0, np.nan])
    path.write_text('{"a": 1, "y": 1.5}\n{"a": 1}\n{"a": 1, "y": 2e100}\n')
    with pytest.raises(BadRow, match=r"row 2, column 'y'.*1e\+100"):
        list(read_file(path, Mapping(("a",), "y", target="regression")))


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("86400", "s"),
        ("86400.0", "s"),
        ("86400000", "ms"),
        ("1970-01-02", "s"),
        ("1970-01-02 00:00:00", "s"),
        ("1970-01-02T00:00:00Z", "s"),
    ],
)
def test_times(tmp_path: Path, text: str, unit: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"a,t\n1,{text}\n")
    batch = next(read_file(path, Mapping(("a",), time="t", time_unit=unit)))[1]  # type: ignore[arg-type]
    assert batch.time.tolist() == [86_400_000_000]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", rows_of(3))
    with pytest.raises(ValueError, match=r"\['z'\]; columns: a, b, i"):
        next(read_file(path, Mapping(("a", "z"))))
    with pytest.raises(ValueError, match="offset 4 lies beyond"):
        list(read_file(path, FULL, start=4))
    assert list(read_file(path, FULL, start=3)) == []
    with pytest.raises(ValueError, match="unknown kind of file"):
        next(read_file(tmp_path / "e.orc", FULL))
    with pytest.raises(FileNotFoundError):
        next(read_file(tmp_path / "none.csv", FULL))
    empty = tmp_path / "empty.csv"
    empty.touch()
    with pytest.raises(ValueError, match="empty"):
        next(read_file(empty, FULL))


def test_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv.gz", rows_of(5000))
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(OSError, match="damaged"):
        list(read_file(path, FULL))


def test_a_mapping_that_contradicts_itself_is_refused() -> None:
    for wrong in ({"features": ()}, {"features": ("a", "a")}, {"features": ("a",), "label": "a"}):
        with pytest.raises(ValueError, match="feature"):
            Mapping(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing"):
        Mapping(("a",), missing=("b",))


def test_identity_is_of_the_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "1.csv", tmp_path / "2.csv"
    one.write_bytes(b"a\n1\n" * 999_999)
    two.write_bytes(one.read_bytes())
    assert identity(one) == identity(two) == "file:" + xxhash.xxh3_128_hexdigest(one.read_bytes())
    two.write_bytes(b"a\n2\n")
    assert identity(one) != identity(two)


@pytest.mark.parametrize("name", ["e.csv", "e.jsonl.gz"])
def test_sniffs_a_mapping_that_reads_the_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, rows_of(200))
    found = sniff(path, label="y", key="k", id="i", time="t")
    assert found.mapping == FULL
    assert found.ignored == ("other",)
    assert sum(len(batch) for _, batch in read_file(path, found.mapping)) == 200
    with pytest.raises(ValueError, match=r"\['nope'\]"):
        sniff(path, label="nope")


def test_sniffs_targets(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    for labels, target in (
        (range(50), "regression"),
        (range(9), "multiclass"),
        ("abc", "multiclass"),
        ([0.5], "regression"),
    ):
        path.write_text("a,y\n" + "".join(f"1,{label}\n" for label in labels))
        assert sniff(path, label="y").mapping.target == target
    path.write_text("a,y\n1,yes\n2,no\n")
    assert sniff(path, label="y").mapping.labels == ("no", "yes")
