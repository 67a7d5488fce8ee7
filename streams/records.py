"""Which lines of a CSV file are no whole records: a quoted value goes on in the next line, or is never closed.

Each line is read as one row. A quoted line break would make two rows of one record, each of them half of it, so all its
lines are refused. Quotes count as Arrow's reader counts them: one that stands at the beginning of a cell opens a quoted
value, two within it are one of its characters, any other is a character like others.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

MOST_LINES = 1000
"""Of one record. A quote that is not closed within them is a stray one, and only its own line is refused."""
MOST_BYTES = 64 << 20
"""Of one record, in the same way."""

_QUOTE, _LINE_FEED, _RETURN = b'"\n\r'


def broken_lines(
    data: bytes, ends: np.ndarray, delimiter: str, carried: int, final: bool
) -> tuple[list[range], int]:
    """Finds the lines that are no records.

    Args:
        data: lines, each with its line feed.
        ends: int64 [n], the position after each.
        delimiter: what separates cells.
        carried: how many lines at the beginning belong to a broken record that began before.
        final: whether the file ends here.

    Returns:
        The lines of each broken record, in order; and the number of lines of which that is certain: the others need
        what follows them.
    """
    spans = [range(carried)] if carried else []
    if b'"' not in data:
        return spans, len(ends)
    closed, closing = _patterns(delimiter)
    at = carried
    for first in _suspects(data, ends, delimiter).tolist():
        start = int(ends[first - 1]) if first else 0
        if first < at or closed.fullmatch(data, start, int(ends[first])):
            continue
        at = first + 1
        while at < min(len(ends), first + MOST_LINES) and ends[at - 1] - start < MOST_BYTES:
            at += 1
            if closing.fullmatch(data, int(ends[at - 2]), int(ends[at - 1])):
                break
        else:
            if at < len(ends):
                at = first + 1
            elif not final:
                return spans, first
        spans.append(range(first, at))
    return spans, len(ends)


def _suspects(data: bytes, ends: np.ndarray, delimiter: str) -> np.ndarray:
    """The lines whose quotes are not all in pairs around whole cells; every line that leaves one open is among them."""
    text = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(text == _QUOTE)
    line = np.searchsorted(ends, quotes, side="right")
    starts_line = np.append(True, line[1:] != line[:-1])
    rank = np.arange(len(quotes))
    closes = ((rank - np.maximum.accumulate(np.where(starts_line, rank, 0))) & 1).astype(bool)
    before, after = text[quotes - 1], text[quotes + 1]
    begins = (quotes == 0) | (before == ord(delimiter)) | (before == _LINE_FEED) | (before == _QUOTE)
    stops = (after == ord(delimiter)) | (after == _LINE_FEED) | (after == _RETURN) | (after == _QUOTE)
    ends_line = np.append(starts_line[1:], True)
    return np.unique(line[~np.where(closes, stops, begins) | (ends_line & ~closes)])


@lru_cache(maxsize=8)
def _patterns(delimiter: str) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What a line is that leaves no quote open; and one that closes what an earlier one left open, and leaves none."""
    cut = re.escape(delimiter.encode())
    rest = rb"[^%b\n]*+" % cut
    quoted = rb'(?>[^"]+|"")*+"' + rest
    cell = rb'(?:"%b|[^"%b\n]%b|)' % (quoted, cut, rest)
    more = rb"(?:%b%b)*+\n" % (cut, cell)
    return re.compile(cell + more), re.compile(quoted + more)
