"""Ids of Redis Streams as numbers: `<ms>-<seq>` is ms * 2^20 + seq, which keeps their order."""

from __future__ import annotations

SEQ_BITS = 20
MAX_MS = 2**42 - 1
"""In the year 2109; a producer's numbers stay below 2^62."""


def number_of(id: str | bytes) -> int:
    """The number of an entry id; `<ms>` alone means `<ms>-0`.

    Raises:
        ValueError: it is no id, or one that cannot be numbered.
    """
    text = id.decode() if isinstance(id, bytes) else id
    ms, _, seq = text.partition("-")
    if not ms.isdecimal() or not (seq or "0").isdecimal():
        raise ValueError(f"id: got {text!r}; accepted: <ms>-<seq>")
    high, low = int(ms), int(seq or 0)
    if high > MAX_MS or low >> SEQ_BITS:
        accepted = f"ids up to {MAX_MS}-{(1 << SEQ_BITS) - 1}, which Redis makes by itself"
        raise ValueError(f"id: got {text!r}; accepted: {accepted}")
    return high << SEQ_BITS | low


def id_of(number: int) -> str:
    """The inverse of `number_of`."""
    return f"{number >> SEQ_BITS}-{number & ((1 << SEQ_BITS) - 1)}"
