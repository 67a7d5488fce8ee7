from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from streams.prefetch import prefetch


def test_keeps_order() -> None:
    assert list(prefetch(range(1000), depth=3)) == list(range(1000))
    assert list(prefetch([])) == []


def test_reads_no_further_than_asked() -> None:
    read: list[int] = []
    held = prefetch((read.append(item) or item for item in range(100)), depth=2)
    assert next(held) == 0
    held.close()
    assert len(read) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_raises_what_the_source_raises_in_its_place() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    held = prefetch(source())
    assert next(held) == 1
    with pytest.raises(KeyError, match="two"):
        next(held)


def test_closing_closes_the_source() -> None:
    closed = threading.Event()

    def source() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    held = prefetch(source())
    next(held)
    held.close()
    assert closed.is_set()
    with pytest.raises(ValueError, match="depth"):
        next(prefetch([], depth=0))
