"""Reading ahead: the next batches are parsed while the last one is folded."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class _Failed:
    """What ended the source early, on its way to the reader's thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(source: Iterable[T], depth: int = 2) -> Iterator[T]:
    """The items of `source`, read in a thread of its own, at most `depth` ahead.

    Parsing and folding both leave the interpreter's lock, so on two cores a file costs the slower of the two
    and not their sum. A callback of the source (`on_bad`) runs in the reading thread.

    Args:
        source: read in order; what it raises is raised here, in its place.
        depth: items held ready.

    Yields:
        The items, in order. When the iterator is closed early the source is closed with it.

    Raises:
        ValueError: `depth` is below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be >= 1, got {depth}")
    ready: queue.Queue[object] = queue.Queue(depth)
    stop = threading.Event()
    end = object()

    def offer(item: object) -> bool:
        """Waits for room; False when the reader has gone."""
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.05)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        items = iter(source)
        try:
            while offer(item := next(items, end)) and item is not end:
                pass
        except BaseException as error:
            offer(_Failed(error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not end:
            if isinstance(item, _Failed):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()
