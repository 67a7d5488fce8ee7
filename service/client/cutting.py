"""Batches that are larger than a message: where they are cut, and what of them cannot be sent at all."""

from __future__ import annotations

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.channels import MAX_MESSAGE_BYTES
from service.errors import Refused, invalid
from service.wire import take_columns
from service.wire.schema import MAX_ROWS

BESIDE_BYTES = 64 << 10
"""Room in a message for what stands beside the columns."""

PIECE_BYTES = 4 << 20
"""About the size of a piece."""

NUMBER_BYTES = 8
"""Of a row, where a request says them."""

ROW_BYTES, LABEL_BYTES = 40, 16
"""More than a row takes beside its features, key and id, and than a label takes beside itself."""

FEW_LABELS = 16
"""More of them are sized with the whole."""


def fits(columns: pb.Columns) -> bool:
    """Whether columns can be sent in one message. Quick for those that are far from it."""
    if columns.rows > MAX_ROWS:
        return False
    if len(columns.labels) <= FEW_LABELS:
        most = len(columns.x) + len(columns.key) + len(columns.id) + ROW_BYTES * columns.rows + BESIDE_BYTES
        if most + sum(label.ByteSize() + LABEL_BYTES for label in columns.labels) <= MAX_MESSAGE_BYTES:
            return True
    return columns.ByteSize() + NUMBER_BYTES * columns.rows + BESIDE_BYTES <= MAX_MESSAGE_BYTES


def pieces(columns: pb.Columns, numbers: np.ndarray | None = None) -> list[slice]:
    """The rows of each piece, one after the other.

    Args:
        columns: that do not fit.
        numbers: uint64 [n], of the rows in the count of a producer: rows that share one stay together.

    Raises:
        Refused: a row, or rows of one number, are larger than a message; or the columns contradict each other.
    """
    sizes = _sizes(columns)
    ends = np.cumsum(sizes)
    may_begin = np.ones(columns.rows, bool) if numbers is None else np.append(True, numbers[1:] != numbers[:-1])
    begins = np.append(np.flatnonzero(may_begin), columns.rows)
    found, start = [], 0
    while start < columns.rows:
        before = ends[start - 1] if start else 0
        most = min(int(np.searchsorted(ends, before + PIECE_BYTES, "right")), start + MAX_ROWS)
        place = int(np.searchsorted(begins, most, "right")) - 1  # the last one that does not make it too large
        stop = int(begins[place])
        if stop <= start:
            stop = int(begins[np.searchsorted(begins, start, "right")])
            if ends[stop - 1] - before > MAX_MESSAGE_BYTES - BESIDE_BYTES or stop - start > MAX_ROWS:
                raise _too_large(start, stop, int(ends[stop - 1] - before))
        found.append(slice(start, stop))
        start = stop
    return found


def taken(columns: pb.Columns, rows: slice) -> pb.Columns:
    """Some rows as columns of their own, with those of the labels that they use."""
    piece = take_columns(columns, np.arange(rows.start, rows.stop))
    if piece.code and columns.labels:
        codes = np.frombuffer(piece.code, "<i4")
        used, places = np.unique(codes, return_inverse=True)
        named = used[used >= 0]
        places = places - (len(used) - len(named))  # -1, none, comes first
        del piece.labels[:]
        piece.labels.extend(columns.labels[code] for code in named.tolist())
        piece.code = places.astype("<i4").tobytes()
    return piece


def check_size(what: str, size: int) -> None:
    """Refuses a request that is larger than a message.

    Raises:
        Refused: it is.
    """
    if size > MAX_MESSAGE_BYTES:
        raise invalid(what, f"{size} bytes", f"at most {MAX_MESSAGE_BYTES} bytes in a request", "MESSAGE_TOO_LARGE")


def _too_large(start: int, stop: int, size: int) -> Refused:
    where = f"columns[{start}]" if stop == start + 1 else f"columns[{start}:{stop}], of one number"
    accepted = f"at most {MAX_MESSAGE_BYTES - BESIDE_BYTES} bytes and {MAX_ROWS} rows, as it cannot be cut"
    return invalid(where, f"{size} bytes in {stop - start} rows", accepted, "MESSAGE_TOO_LARGE")


def _sizes(columns: pb.Columns) -> np.ndarray:
    """int64 [n]: bytes of every row, its label with it.

    Raises:
        Refused: the columns have not as many values as rows.
    """
    fixed = 0
    for name in ("x", "kind", "y", "code", "time_us", "key_length", "id_length"):
        length = len(getattr(columns, name))
        if not columns.rows or length % columns.rows:
            accepted = f"a multiple of {columns.rows} bytes, as many as there are rows"
            raise invalid(f"columns.{name}", f"{length} bytes", accepted, "WRONG_LENGTH")
        fixed += length // columns.rows
    sizes = np.full(columns.rows, fixed + NUMBER_BYTES, np.int64)
    for name in ("key", "id"):
        lengths = np.frombuffer(getattr(columns, name + "_length"), "<u4")
        if int(lengths.sum()) != len(getattr(columns, name)) or len(lengths) not in (0, columns.rows):
            accepted = f"{len(getattr(columns, name))} bytes in all, those of `{name}`"
            raise invalid(f"columns.{name}_length", f"{int(lengths.sum())} bytes", accepted, "WRONG_LENGTH")
        if len(lengths):
            sizes += lengths
    if columns.code and columns.labels:
        codes = np.frombuffer(columns.code, "<i4")
        if len(codes) != columns.rows or int(codes.max()) >= len(columns.labels):
            accepted = f"an index into the {len(columns.labels)} of columns.labels for every row, or -1"
            raise invalid("columns.code", f"{len(codes)} codes up to {int(codes.max())}", accepted, "WRONG_LENGTH")
        named = np.array([label.ByteSize() + 8 for label in columns.labels] + [0], np.int64)
        sizes += named[codes]  # -1, none, takes the last
    return sizes
