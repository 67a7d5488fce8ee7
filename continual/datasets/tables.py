"""A stream in a file of one's own: CSV, JSON Lines or Parquet, read as `continual models create --from` would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from continual import data
from continual.datasets.dataset import BadData
from streams.batch import Batch
from streams.files import format_of
from streams.mapping import Mapping
from streams.sniff import sniff


def is_table(path: str) -> bool:
    """Whether a name is that of a file which `read` takes."""
    try:
        return bool(format_of(path))
    except ValueError:
        return False


def read(path: Path, label: str | None = None) -> tuple[Mapping, Batch]:
    """Reads a whole file.

    Args:
        path: .csv, .tsv, .jsonl (also compressed) or .parquet.
        label: the column to predict; None: the last one.

    Returns:
        The numeric columns as features and what the label is, and the events in the order of the file.

    Raises:
        BadData: the file cannot be read, there is no such column, no numeric one beside it, or a label is missing.
    """
    try:
        mapping = sniff(path, label=label or sniff(path).columns[-1].name).mapping
        batch = data.load(path, mapping)
    except (ValueError, OSError, pa.ArrowException) as fault:
        raise BadData(f"{path}: cannot be read: {fault}") from fault
    unlabelled = int(np.isnan(batch.y).sum())
    if unlabelled:
        raise BadData(f"{path}: column {mapping.label!r}: {unlabelled} rows have no label; accepted: none such")
    return mapping, batch
