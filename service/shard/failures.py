"""What stops a partition, as exceptions."""

from __future__ import annotations

from service.errors import shorten


class FoldFailed(Exception):  # noqa: N818 - it says what happened
    """A fold raised, or ended the process that tried it.

    Attributes:
        first: position of the first event of that fold.
        count: of its events.
        reason: what happened, in words.
    """

    def __init__(self, first: int, count: int, reason: str) -> None:
        events = f"the {count} events from position {first}" if count > 1 else f"the event at position {first}"
        super().__init__(f"the fold of {events} {reason}")
        self.first = first
        self.count = count
        self.reason = reason

    @classmethod
    def raised(cls, first: int, count: int, error: BaseException) -> FoldFailed:
        """Of an exception that came out of a fold."""
        return cls(first, count, raised(error))


class Unrecoverable(Exception):  # noqa: N818 - it says what is the case
    """What the store holds of a partition cannot be brought to serve: the message says why."""


class Stopped(Exception):  # noqa: N818 - it says what happened
    """The shard stops, and a recovery with it."""


def raised(error: BaseException) -> str:
    """An exception in words."""
    text = " ".join(str(error).split())
    return f"raised {type(error).__name__}" + (f": {shorten(text)}" if text else "")
