# ruff: noqa: N818 (they say what happened: `Fenced`, not `FencedError`)
"""What the store raises, and which errors of Redis mean "try again later"."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import redis

FULL_BYTES = 64 << 10
"""With less room than this a disk counts as full."""


MEANING = {
    "CONNECTION": "it cannot be reached: it is stopped, or starting",
    "TIMEOUT": "it does not answer in time: it is paused, or has too much to do",
    "LOADING": "it is reading its data and will serve soon",
    "OOM": "it is out of memory: raise its maxmemory",
    "MISCONF": "it cannot write its files: make room on its disk",
    "READONLY": "it is a replica, which takes no writes: point --redis at the primary",
    "AUTH": "it refuses the user or the password",
    "NOREPLICAS": "fewer of its replicas are in step than its min-replicas-to-write asks for",
    "CLUSTER": "its cluster is down, or another node has taken slots, and one node must hold all",
}
"""What each state is, and what to do about it; the service goes on by itself once it is over."""


class StoreError(Exception):
    """Base of everything the store raises on purpose."""


class StoreUnavailable(StoreError):
    """Redis cannot serve now; the outcome of a write is unknown and every write may be repeated.

    Attributes:
        reason: one of `MEANING`.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"redis is unavailable ({reason}): {MEANING[reason]}; it says: {message}")
        self.reason = reason


class StoreRefused(StoreError):
    """The Redis that was given does not offer what is needed; the message says what to change."""


class Fenced(StoreError):
    """Another owner holds the partition (or none does): this one must stop writing and exit.

    Attributes:
        token: the token that was presented.
        holder: the token that holds the partition now; empty if none does.
    """

    def __init__(self, token: str, holder: str) -> None:
        super().__init__(f"owner token {token!r} is no longer valid; the partition is held by {holder!r}")
        self.token = token
        self.holder = holder


class OwnedElsewhere(StoreError):
    """A live owner kept confirming for as long as the caller was ready to wait."""


class LogMismatch(StoreError):
    """The log does not continue where it must.

    Attributes:
        expected: the position that was expected.
        found: the position that the log has instead.
    """

    def __init__(self, expected: int, found: int, message: str) -> None:
        super().__init__(f"{message}: expected position {expected}, found {found}")
        self.expected = expected
        self.found = found


class SnapshotUnreadable(StoreError):
    """A committed snapshot is incomplete, altered, or of a format this version does not know."""


class SnapshotReplaced(StoreError):
    """The snapshot being written was aborted or replaced by another one of the same owner."""


class ModelExists(StoreError):
    """A model of that name exists with another spec."""


class MapConflict(StoreError):
    """The partition map of a model moved on since it was read.

    Attributes:
        expected: the version that the caller had read.
        found: the version that is current.
    """

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(f"partition map is at version {found}, not {expected}: read it again")
        self.expected = expected
        self.found = found


_CODES = {
    "OOM": "OOM",
    "MISCONF": "MISCONF",
    "READONLY": "READONLY",
    "LOADING": "LOADING",
    "MASTERDOWN": "READONLY",
    "NOREPLICAS": "NOREPLICAS",
    "CLUSTERDOWN": "CLUSTER",
    "TRYAGAIN": "CLUSTER",
    "MOVED": "CLUSTER",
    "ASK": "CLUSTER",
}
_CODE = re.compile(r"(?:^|[\s:-])(" + "|".join(_CODES) + r")\b")
_CLASSES: tuple[tuple[type[Exception], str], ...] = (  # first match wins: subclasses stand before their bases
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.AuthenticationError, "AUTH"),
    (redis.exceptions.AuthorizationError, "AUTH"),
    (redis.exceptions.ConnectionError, "CONNECTION"),
    (redis.exceptions.TimeoutError, "TIMEOUT"),
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.ClusterDownError, "CLUSTER"),
    (redis.exceptions.TryAgainError, "CLUSTER"),
    (redis.exceptions.AskError, "CLUSTER"),  # and MovedError, which is one
)


def unavailable(error: redis.RedisError) -> StoreUnavailable | None:
    """Returns what `error` means if it is a passing state of the server or the way to it, else None.

    An error inside a script reaches the client as text that quotes the original code, so codes are looked for
    in the message too.
    """
    for kind, reason in _CLASSES:
        if isinstance(error, kind):
            return StoreUnavailable(reason, str(error))
    code = _CODE.search(str(error)) if isinstance(error, redis.ResponseError) else None
    return StoreUnavailable(_CODES[code[1]], str(error)) if code else None


def translated(error: redis.RedisError, socket: str | None = None) -> Exception:
    """Returns what to raise for `error`: `StoreUnavailable` where that applies, else `error` itself.

    Args:
        error: of redis-py.
        socket: path of the unix socket that the server listens on, if it does. A server that syncs every append ends
            when its disk is full, and so cannot say why: the disk beside its socket can.
    """
    found = unavailable(error)
    if found is None:
        return error
    if found.reason == "CONNECTION" and socket and _full(Path(socket).parent):
        return StoreUnavailable("MISCONF", f"{error}; no room is left in {Path(socket).parent}")
    return found


def _full(folder: Path) -> bool:
    return folder.is_dir() and shutil.disk_usage(folder).free < FULL_BYTES
