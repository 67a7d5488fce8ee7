"""A stream in a file of one's own: CSV, JSON Lines or Parquet, its columns taken as they come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from continual.datasets.dataset import BadData
from streams.batch import Batch
from streams.files import format_of
from streams.mapping import TargetKind

MOST_CLASSES = 100
"""Whole numbers with more distinct values than this are a number to predict, not classes."""


@dataclass(frozen=True)
class Table:
    """A stream read from a file.

    Attributes:
        features: names of the numeric columns but the label.
        target: what the label is: text, truth and whole numbers of few values are classes.
        batch: the events, in the order of the file.
    """

    features: tuple[str, ...]
    target: TargetKind
    batch: Batch


def is_table(path: str) -> bool:
    """Whether a name is that of a file which `read` takes."""
    try:
        return Path(path).suffix == ".parquet" or bool(format_of(path))
    except ValueError:
        return False


def read(path: Path, label: str | None = None) -> Table:
    """Reads a whole file.

    Args:
        path: .csv, .tsv, .jsonl (also compressed) or .parquet.
        label: the column to predict; None: the last one.

    Raises:
        BadData: the file cannot be read, there is no such column, no numeric one beside it, or a label is missing.
    """
    try:
        table = _table(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as fault:
        raise BadData(f"{path}: cannot be read: {fault}") from fault
    label = label or table.column_names[-1]
    if label not in table.column_names:
        raise BadData(f"{path}: no column {label!r}; columns: {', '.join(table.column_names)}")
    numeric = [name for name in table.column_names if name != label and _is_number(table.schema.field(name).type)]
    if not numeric or not table.num_rows:
        raise BadData(f"{path}: {table.num_rows} rows, numeric columns beside {label!r}: {numeric}; accepted: some")
    if table[label].null_count:
        raise BadData(f"{path}: column {label!r}: {table[label].null_count} rows have no label; accepted: none such")
    x = np.column_stack([table[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in numeric])
    target, y, classes = _labels(table[label], path, label)
    return Table(tuple(numeric), target, Batch.of(x, y, classes=classes))


def _table(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    if format_of(path) == "jsonl":
        return pyarrow.json.read_json(path)
    tabs = ".tsv" in path.suffixes
    return pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter="\t" if tabs else ","))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _labels(column: pa.ChunkedArray, path: Path, name: str) -> tuple[TargetKind, np.ndarray, tuple[int | str, ...]]:
    """What the label is, its values as `Batch.y` holds them, and the classes of a multi-class target."""
    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and pc.count_distinct(column).as_py() > MOST_CLASSES):
        y = column.cast(pa.float64()).to_numpy()
        if not np.isfinite(y).all():
            raise BadData(f"{path}: column {name!r}: {int((~np.isfinite(y)).sum())} labels are not finite")
        return "regression", y, ()
    if not (_is_number(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise BadData(f"{path}: column {name!r} is {kind}; accepted: numbers, text, true and false")
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    classes = tuple(int(value) if isinstance(value, bool) else value for value in values)
    y = encoded.indices.to_numpy().astype(np.float64)
    if sorted(map(str, classes)) == ["0", "1"]:
        return "binary", np.array([int(value) for value in classes], np.float64)[y.astype(np.int64)], ()
    return "multiclass", y, classes
