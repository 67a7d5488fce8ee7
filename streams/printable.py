"""Texts of others (labels, names, keys, reasons, payloads) as they may be printed.

What controls a terminal, turns the direction of reading or begins a new line is shown as an escape, and does nothing.
"""

from __future__ import annotations

import logging
from typing import Any

_RANGES = (
    (0x00, 0x1F),  # C0: escape, bell, line feed, ...
    (0x7F, 0x9F),  # DEL and C1
    (0x061C, 0x061C),  # direction of reading
    (0x200E, 0x200F),
    (0x202A, 0x202E),
    (0x2066, 0x2069),
    (0x2028, 0x2029),  # line and paragraph separators
    (0xD800, 0xDFFF),  # halves of a pair, which cannot be encoded
)
_CODES = [code for first, last in _RANGES for code in range(first, last + 1)]
_SHORT = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_SHOWN = {code: _SHORT.get(code) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}") for code in _CODES}
_JSON = {code: f"\\u{code:04x}" for code in _CODES if code > 0x1F}


def printable(text: str) -> str:
    r"""The text in one line, with escapes such as `\x1b` and `\u202e` in place of what must not be printed."""
    return text.translate(_SHOWN)


def printable_json(text: str) -> str:
    """A JSON document that says the same, and holds nothing that must not be printed but line breaks between values."""
    return text.translate(_JSON)


class LineFormatter(logging.Formatter):
    """One record, one line; the lines of a traceback are indented, so that none can be taken for a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is that of the library)
        """See `logging.Formatter`."""
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 (the name is that of the library)
        """See `logging.Formatter`."""
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 (the name is that of the library)
        """See `logging.Formatter`."""
        return _indented(stack_info)


def _indented(text: str) -> str:
    return "\n".join("    " + printable(line) for line in text.split("\n"))
