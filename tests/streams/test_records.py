"""Half a record of a CSV file never becomes an event."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.files import read_file
from streams.mapping import BadRow, Mapping
from streams.records import MOST_LINES, broken_lines
from streams.sniff import sniff

MAPPING = Mapping(("a",), "y", target="multiclass")


def read(path: Path, **more) -> tuple[dict[int, str], list[int]]:
    """The class of each good row, and the rows refused."""
    bad: list[BadRow] = []
    good = {}
    for end, batch in read_file(path, MAPPING, on_bad=bad.append, **more):
        for at, y in enumerate(batch.y):
            good[end - len(batch) + at] = "" if np.isnan(y) else str(batch.classes[int(y)])
    return good, [one.row for one in bad]


def lines_broken(data: str, delimiter: str = ",") -> list[int]:
    text = data.encode()
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1
    spans, certain = broken_lines(text, ends, delimiter, 0, True)
    assert certain == len(ends)
    return [line for span in spans for line in span]


def by_hand(data: str, delimiter: str = ",") -> list[int]:
    """The same, character by character."""
    broken: list[int] = []
    at, lines = 0, data.split("\n")[:-1]
    while at < len(lines):
        quoted, start, stop = False, True, at
        while stop < min(len(lines), at + MOST_LINES):
            line, place = lines[stop] + "\n", 0
            while place < len(line):
                if quoted:
                    if line[place] == '"':
                        quoted = line[place + 1] == '"'
                        place += quoted
                elif start and line[place] == '"':
                    quoted, start = True, False
                else:
                    start = line[place] in (delimiter, "\n")
                place += 1
            stop += 1
            if not quoted:
                break
        if stop > at + 1 or quoted:
            stray = quoted and stop < len(lines)
            stop = at + 1 if stray else stop
            broken += range(at, stop)
        at = stop
    return broken


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text('a",;\r', max_size=8), max_size=8), st.sampled_from(",;"))
def test_broken_lines_are_those_of_a_reader_of_single_characters(lines: list[str], delimiter: str) -> None:
    data = "".join(line + "\n" for line in lines)
    assert lines_broken(data, delimiter) == by_hand(data, delimiter)


def test_a_quote_that_is_never_closed_is_a_stray_one_after_a_thousand_lines() -> None:
    rows = ["1,x\n"] * (MOST_LINES - 1)
    assert lines_broken("".join(['1,"x\n', *rows])) == list(range(MOST_LINES))  # the file ends: it may be cut off
    assert lines_broken("".join(['1,"x\n', *rows, "1,x\n"])) == [0]
    assert lines_broken("".join(['1,"x\n', *rows[1:], '1,x"\n'])) == list(range(MOST_LINES))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("rows", "good", "bad"),
    [
        (['1,"x', 'y"', "2,z", '3,"w'], {2: "z"}, [0, 1, 3]),
        (['1,"x', '2,y"', "3,z"], {2: "z"}, [0, 1]),
        (['1,"x', "2,y", 'z"', "3,w"], {3: "w"}, [0, 1, 2]),
        (['1,"x', "", 'z"', "3,w"], {2: "w"}, [0, 1]),  # a blank line is no row
        (['"1', '",x', "2,z"], {2: "z"}, [0, 1]),
        (['1,"x ""quoted"""', '2,"a,b"', '3,""'], {0: 'x "quoted"', 1: "a,b", 2: ""}, []),
        (['1,5" pipe', '2,x"y"z', '3,"x"y'], {0: '5" pipe', 1: 'x"y"z', 2: "xy"}, []),
        (['1,"x""', '2,y"', "3,z"], {2: "z"}, [0, 1]),
        (["1,x", '2,"'], {0: "x"}, [1]),
    ],
)
def test_the_lines_of_a_broken_record_are_refused_and_no_others(
    tmp_path: Path, rows: list[str], good: dict[int, str], bad: list[int], newline: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(("a,y" + newline + newline.join(rows)).encode())
    assert read(path) == (good, bad)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.files.CHUNK_BYTES", 3)
        patch.setattr("streams.files.PARSED_ROWS", 1)
        for size in (1, 2, 3):
            assert read(path, rows=size) == (good, bad)
            for start in range(len(good) + len(bad)):
                held = ({row: y for row, y in good.items() if row >= start}, [row for row in bad if row >= start])
                assert read(path, rows=size, start=start) == held
    with gzip.open(tmp_path / "t.csv.gz", "wb") as file:
        file.write(path.read_bytes())
    assert read(tmp_path / "t.csv.gz") == (good, bad)


CELLS = st.text(st.sampled_from('ab ",\n;'), max_size=5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), CELLS), max_size=12), st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_whole_records_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[int, str]], chunk: int, rows: int, every: bool
) -> None:
    """What a writer of CSV wrote is read as it was, or refused where it holds a line break."""
    path = tmp_path_factory.mktemp("records") / "t.csv"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL if every else csv.QUOTE_MINIMAL)
    writer.writerow(["a", "y"])
    for row in table:
        writer.writerow(row)
    path.write_text(out.getvalue(), newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.files.CHUNK_BYTES", chunk)
        patch.setattr("streams.files.PARSED_ROWS", 4)
        good, refused = read(path, rows=rows)
    assert list(good.values()) == [text for _, text in table if "\n" not in text]
    assert bool(refused) == any("\n" in text for _, text in table)


def test_a_header_that_goes_on_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,"y\nz"\n1,2\n')
    with pytest.raises(ValueError, match=r"t.csv, the header: .* is not closed; accepted: one record in a line"):
        list(read_file(path, MAPPING))


def test_a_mapping_is_proposed_from_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,y\n1,"no\nyes"\n2,yes\n3,no\n')
    assert sniff(path, label="y").mapping.labels == ("no", "yes")


def test_json_objects_over_two_lines_are_no_events(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1, "y": 1}{"a":\n2, "y": 2}\n{"a": 3, "y": 3}\r\n {"a": 4, "y": 4} \n')
    assert read(path) == ({2: "3", 3: "4"}, [0, 1])
