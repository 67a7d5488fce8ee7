"""Events from CSV and JSON Lines files, plain or compressed, and from Parquet files.

A file of lines is read in blocks of whole lines, each parsed by Arrow under a schema that is fixed before the first
event is yielded, so neither where a block ends nor what stands later in the file changes how a value is read.

One line is one row: a value must not contain a line break. A header and blank lines are no rows. Empty CSV
cells and Arrow's usual spellings (`NA`, `null`, `NaN`, ...) are missing; an empty text label is no label.
A Parquet file brings its types along; see `streams.tables`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import xxhash

from streams.batch import Batch
from streams.columns import Events, Parser, events
from streams.labels import Cells, are_integers
from streams.mapping import BadRow, Mapping, OnBad, some
from streams.objects import block_size, fields_of, object_schema, read_objects
from streams.opened import opened
from streams.records import broken_lines

Format = Literal["csv", "jsonl", "parquet"]
SUFFIXES: dict[str, Format] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
SAMPLE_ROWS = 1024
PARSED_ROWS = 8192
"""Rows parsed in one call: enough that the call costs nothing beside its rows."""
PARSED_VALUES = 1 << 20
"""Features parsed in one call, about, so that wide rows need no more memory."""
CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 64 << 20
ONE_LINE = "one record in a line: a quote closed, and no line break in a value"


def read_file(
    path: str | Path,
    mapping: Mapping,
    *,
    rows: int = 4096,
    start: int = 0,
    on_bad: OnBad | None = None,
    columns: tuple[str, ...] | None = None,
    delimiter: str | None = None,
) -> Iterator[tuple[int, Batch]]:
    """Reads the events of a file.

    The labels of a multi-class target in a CSV file are integers when every label among the first 1,024 rows is
    written as one (1, 1.0, true, but not 01), else text; a later label that does not fit is a bad row. See
    `streams.labels` and `streams.times` for the rules that hold for every source.

    Args:
        path: `.csv`, `.tsv`, `.txt` (comma), `.jsonl`, `.ndjson` or `.json` (one object a line), and any of
            them with `.gz`, `.bz2` or `.zst`; `.parquet` or `.pq`.
        mapping: which column is what.
        rows: the most events in a batch.
        start: rows to pass over: the offset that an earlier reading came to.
        on_bad: called with each row that does not fit; without it the first one is raised. It may see a row
            again when a reading resumes from an offset before it.
        columns: names of the columns of a CSV file that has no header.
        delimiter: what separates the cells of a CSV file; by default a tab for `.tsv` and a comma for others.

    Yields:
        `(offset, batch)`: the batch holds the consecutive rows `offset - len(batch)` to `offset - 1`.

    Raises:
        ValueError: the file's kind is unknown, a mapped column is not in it, or `start` lies beyond its end.
        BadRow: a row does not fit and there is no `on_bad`.
        OSError: the file cannot be read, or its compressed stream is damaged.
    """
    for item in read_rows(path, mapping, rows, start, columns, delimiter):
        if not isinstance(item, BadRow):
            yield item.end, item.batch
        elif on_bad is None:
            raise item
        else:
            on_bad(item)


def read_rows(
    path: str | Path,
    mapping: Mapping,
    rows: int = 4096,
    start: int = 0,
    columns: tuple[str, ...] | None = None,
    delimiter: str | None = None,
) -> Iterator[Events | BadRow]:
    """The same with ids as text, and with bad rows where they stand; raises as `read_file` does."""
    if rows < 1 or start < 0:
        raise ValueError(f"rows must be >= 1 and start >= 0, got rows={rows}, start={start}")
    at_once = rows * max(1, min(PARSED_ROWS, PARSED_VALUES // len(mapping.features)) // rows)
    parser: Parser
    if format_of(path) == "parquet":
        from streams.tables import TableParser, no_rows, parquet_blocks

        parser = TableParser(str(path), mapping, no_rows(path))
        tables = parquet_blocks(path, list(mapping.columns), at_once, start)
        blocks: Iterator[tuple[int, Any, bool]] = ((row, table, False) for row, table in tables)
    else:
        parser, header = open_parser(path, mapping, columns=columns, delimiter=delimiter)
        cut = delimiter_of(path, delimiter) if format_of(path) == "csv" else None
        blocks = (run for block in _blocks(path, at_once, start, header, cut) for run in block.runs())
    for row, block, is_broken in blocks:
        if is_broken:
            value = parser.found(block, "")
            yield BadRow(str(path), row, "", value=value, accepted=ONE_LINE, original=parser.original(block))
            continue
        for item in events(parser, block, row):
            if isinstance(item, BadRow):
                yield item
            else:
                yield from item.cut(rows)


def identity(path: str | Path) -> str:
    """The producer name of a file's events: "file:" and the digest of its bytes as they lie on disk.

    With the number of the row as sequence, a file that is sent twice, under any name, adds nothing.
    """
    return f"file:{digest_of(path)}"


def digest_of(path: str | Path) -> str:
    """XXH3-128 (hex) of the bytes of a file."""
    digest = xxhash.xxh3_128()
    with Path(opened(path)).open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def format_of(path: str | Path) -> Format:
    """What a file holds, by its name.

    Raises:
        ValueError: the name says nothing.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSED
    held = SUFFIXES.get(suffixes[-1 - compressed]) if len(suffixes) > compressed else None
    if held is None or (compressed and held == "parquet"):
        lines = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind != "parquet")
        tables = ", ".join(suffix for suffix, kind in SUFFIXES.items() if kind == "parquet")
        raise ValueError(
            f"{path}: unknown kind of file; accepted: {lines}, each also with {', '.join(COMPRESSED)}; {tables}"
        )
    return held


def open_parser(
    path: str | Path,
    mapping: Mapping,
    *,
    columns: tuple[str, ...] | None = None,
    delimiter: str | None = None,
) -> tuple[Parser, int]:
    """The parser of a file, and the number of header lines.

    Whether the classes of a CSV file are integers is told by its first 1,024 rows.

    Raises:
        ValueError: the file's kind is unknown, or a mapped column is not in it.
    """
    header, sample = head_of(path, columns, delimiter)
    if header is None:
        present: set[str] = set().union(*map(fields_of, sample))
    else:
        present = {name for name, times in Counter(header).items() if times == 1}
    absent = [name for name in mapping.columns if name not in present]
    if absent and sample:
        raise ValueError(
            f"{path}: no column (or more than one) named {absent[:10]}; columns: {some(sorted(present))}"
        )
    if header is None:
        return _JsonLines(str(path), mapping), 0
    parser = _Csv(str(path), mapping, names=header, delimiter=delimiter_of(path, delimiter))
    if mapping.target == "multiclass" and mapping.label is not None:
        cells = cells_of(sample, header, mapping.label, parser.delimiter)
        parser.cells = "canonical" if are_integers(cells) else "text"
    return parser, int(columns is None)


def head_of(
    path: str | Path, columns: tuple[str, ...] | None, delimiter: str | None, rows: int = SAMPLE_ROWS
) -> tuple[list[str] | None, list[bytes]]:
    """The names of a CSV file's columns (None for JSON Lines) and its first whole rows as lines.

    Raises:
        ValueError: the file's kind is unknown, or it has no header.
    """
    held = format_of(path)
    cut = delimiter_of(path, delimiter) if held == "csv" else None
    block = next(_blocks(path, rows + 1, 0, 0, cut), None)
    lines = [] if block is None else [(bytes(line), bad) for _, run, bad in block.runs() for line in split_lines(run)]
    if held == "jsonl" or columns is not None:
        named = None if held == "jsonl" or columns is None else list(columns)
        return named, [line for line, bad in lines[:rows] if not bad]
    if not lines:
        raise ValueError(
            f"{path}: the file is empty; a CSV file needs a header, or its columns must be named"
        )
    first, bad = lines[0]
    if bad:
        raise ValueError(f"{path}, the header: {first[:200]!r} is not closed; accepted: {ONE_LINE}")
    try:
        text = first.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, the header: {first!r} is not UTF-8") from error
    return next(csv.reader([text], delimiter=cut or ",")), [line for line, bad in lines[1:] if not bad]


def delimiter_of(path: str | Path, delimiter: str | None) -> str:
    """The delimiter that was asked for, else the one that the file's name implies."""
    return delimiter or ("\t" if ".tsv" in Path(path).suffixes else ",")


def split_lines(block: Any) -> list[bytes]:
    """The lines of a block, each with its line feed."""
    return [line + b"\n" for line in bytes(block).split(b"\n")[:-1]]


@dataclass
class _Csv:
    """Parses lines of a CSV file."""

    name: str
    mapping: Mapping
    names: list[str]
    delimiter: str
    cells: Cells = "text"

    def __post_init__(self) -> None:
        mapping = self.mapping
        types = dict.fromkeys(mapping.columns, pa.string()) | dict.fromkeys(mapping.features, pa.float32())
        if mapping.label is not None and mapping.target == "regression":
            types[mapping.label] = pa.float64()
        self.schema = pa.schema(list(types.items()))

    def table(self, block: Any, schema: pa.Schema) -> pa.Table:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(block),
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=block_size(block), column_names=self.names
            ),
            pyarrow.csv.ParseOptions(delimiter=self.delimiter),
            pyarrow.csv.ConvertOptions(column_types=schema, include_columns=schema.names),
        )
        return _complete(table, block)

    def found(self, row: Any, column: str) -> Any:
        text = bytes(row).decode(errors="backslashreplace").rstrip("\r\n")
        if not column:
            return text
        return next(iter(cells_of([text.encode()], self.names, column, self.delimiter)), None)

    split = staticmethod(split_lines)
    join = staticmethod(b"".join)
    original = staticmethod(bytes)


@dataclass
class _JsonLines:
    """Parses lines of one JSON object each."""

    name: str
    mapping: Mapping
    cells: Cells = "typed"

    def __post_init__(self) -> None:
        self.schema = object_schema(self.mapping)

    def table(self, block: Any, schema: pa.Schema) -> pa.Table:
        return read_objects(block, schema, self.mapping)

    def found(self, row: Any, column: str) -> Any:
        if column:
            return fields_of(row).get(column)
        return bytes(row).decode(errors="backslashreplace").rstrip("\r\n")

    split = staticmethod(split_lines)
    join = staticmethod(b"".join)
    original = staticmethod(bytes)


def cells_of(lines: list[bytes], names: list[str], column: str, delimiter: str) -> list[str]:
    """The cells of a column, of those lines of a CSV file that have as many cells as there are names."""
    at = names.index(column)
    rows = csv.reader((line.decode(errors="replace") for line in lines), delimiter=delimiter)
    return [row[at] for row in rows if len(row) == len(names)]


def _complete(table: pa.Table, block: Any) -> pa.Table:
    """Refuses a table that has not one row for each line: a quoted value spans lines, or a line is blank."""
    lines = int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))
    if table.num_rows != lines:
        raise pa.ArrowInvalid(f"{lines} lines hold {table.num_rows} rows; one line must be one row")
    return table


@dataclass(frozen=True, slots=True)
class _Block:
    """Consecutive lines of a file, without blank ones.

    Attributes:
        first: number of the first; 0 is the one after the header.
        data: their bytes.
        edges: int64 [n + 1], where each begins, and the end of the last.
        broken: bool [n], those that are no whole record; None: all are.
    """

    first: int
    data: bytes
    edges: np.ndarray
    broken: np.ndarray | None

    def runs(self) -> Iterator[tuple[int, memoryview, bool]]:
        """`(number of the first line, bytes, whether they are broken)` of whole lines together, and each broken one."""
        view, rows = memoryview(self.data), len(self.edges) - 1
        bad = [] if self.broken is None else np.flatnonzero(self.broken).tolist()
        at = 0
        for stop in [*bad, rows]:
            if stop > at:
                yield self.first + at, view[self.edges[at] : self.edges[stop]], False
            if stop < rows:
                yield self.first + stop, view[self.edges[stop] : self.edges[stop + 1]], True
            at = stop + 1


def _blocks(path: str | Path, rows: int, start: int, header: int, delimiter: str | None = None) -> Iterator[_Block]:
    """Cuts a file into blocks of `rows` lines, the last one shorter, from line `start` on.

    Args:
        path: of the file.
        rows: lines of a block.
        start: the first line.
        header: how many lines are no rows.
        delimiter: of a CSV file, where a record may wrongly go on in the next line; None: of another.
    """
    line, rest, final, carried = -header, b"", False, 0
    with _open(path) as stream:
        while not final:
            chunk = _read(stream, max(CHUNK_BYTES, len(rest)), path)
            final = not chunk
            data = rest + chunk + (b"\n" if final and rest and not rest.endswith(b"\n") else b"")
            cut = data.rfind(b"\n") + 1
            whole, ends = _lines(data[:cut])
            rest = data[cut:]
            if len(rest) > LONGEST_LINE_BYTES:
                raise ValueError(f"{path}: a line is longer than {LONGEST_LINE_BYTES} bytes")
            spans: list[range] = []
            certain = len(ends)
            if delimiter is not None:
                spans, certain = broken_lines(whole, ends, delimiter, carried, final)
            broken = None
            if spans:
                broken = np.zeros(len(ends), bool)
                broken[[row for span in spans for row in span]] = True
            at = min(max(start - line, 0), certain)
            line += at
            edges = np.append(0, ends)
            taken = at + (certain - at if final else (certain - at) // rows * rows)
            while at < taken:
                last = min(at + rows, taken)
                yield _Block(line, whole, edges[at : last + 1], None if broken is None else broken[at:last])
                line, at = line + last - at, last
            begun = (span.stop - taken for span in spans if span.start < taken < span.stop)
            carried = carried - taken if carried > taken else next(begun, 0)
            rest = whole[edges[taken] :] + rest
    if line < start:
        raise ValueError(f"{path}: offset {start} lies beyond the end of the file, at {line}")


def _lines(data: bytes) -> tuple[bytes, np.ndarray]:
    """The lines of `data`, which ends with one, without blank ones; and the position after each."""
    text = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(text == ord("\n")) + 1
    lengths = np.diff(ends, prepend=0)
    if len(ends) and lengths.min() <= 2:
        blank = (lengths == 1) | ((lengths == 2) & (text[np.maximum(ends - 2, 0)] == ord("\r")))
        if blank.any():
            kept = [line + b"\n" for line in data.split(b"\n")[:-1] if line not in {b"", b"\r"}]
            return b"".join(kept), np.cumsum([len(line) for line in kept], dtype=np.int64)
    return data, ends


def _open(path: str | Path) -> pa.NativeFile:
    return pa.input_stream(opened(path), compression=COMPRESSED.get(Path(path).suffix.lower()))


def _read(stream: pa.NativeFile, size: int, path: str | Path) -> bytes:
    try:
        return stream.read(size)
    except OSError as error:
        raise OSError(f"{path}: the file is damaged: {error}") from error
