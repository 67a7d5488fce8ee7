"""Snapshots of a partition: arrays written beside the log, made real by one small write.

`begin_snapshot` names a fresh key and drops what a crashed writer left. `write` puts arrays there, in chunks.
`commit` sets the manifest, keeps the one before as `previous`, and drops the arrays of the one before that.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import xxhash

from service.store.errors import LogMismatch, SnapshotReplaced, SnapshotUnreadable
from service.store.rows import CHUNK_BYTES
from service.store.scripting import FENCE, PartitionBase, Script
from service.store.tensors import pack, unpack

FORMAT = 1
"""Version of the layout of manifest and arrays."""
RESERVED = ("format", "writer", "position", "groups")
LOAD_CHUNKS = 16
"""Chunks fetched in one round trip."""

# KEYS: owner, snapshots, head, the key to write, the key a crashed writer left (or the key to write again).
_BEGIN = Script(
    FENCE
    + """
local head = tonumber(redis.call('HGET', KEYS[3], 'position') or '0')
if tonumber(ARGV[2]) > head then return {-2, head} end
local committed = tonumber(redis.call('HGET', KEYS[2], 'position') or '-1')
if tonumber(ARGV[2]) < committed then return {-3, committed} end
redis.call('UNLINK', KEYS[4], KEYS[5])
redis.call('HSET', KEYS[2], 'pending', ARGV[2], 'pending_key', KEYS[4])
return {1}
"""
)
_WRITE = Script(
    FENCE
    + """
if redis.call('HGET', KEYS[2], 'pending_key') ~= KEYS[3] then return {-2} end
redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
return {1}
"""
)
# KEYS: owner, snapshots, the arrays written, the arrays to drop (the same again if there are none).
_COMMIT = Script(
    FENCE
    + """
local now = redis.call('HMGET', KEYS[2], 'pending_key', 'key', 'manifest', 'position')
if now[1] ~= KEYS[3] then
  if now[2] == KEYS[3] then return {0} end
  return {-2}
end
if KEYS[4] ~= KEYS[3] then redis.call('UNLINK', KEYS[4]) end
if now[2] then
  redis.call('HSET', KEYS[2], 'previous_key', now[2], 'previous_manifest', now[3])
  redis.call('HSET', KEYS[2], 'previous_position', now[4])
end
redis.call('HDEL', KEYS[2], 'pending', 'pending_key')
redis.call('HSET', KEYS[2], 'key', KEYS[3], 'manifest', ARGV[2], 'position', ARGV[3])
return {1}
"""
)
_ABORT = Script(
    FENCE
    + """
if redis.call('HGET', KEYS[2], 'pending_key') ~= KEYS[3] then return {0} end
redis.call('UNLINK', KEYS[3])
redis.call('HDEL', KEYS[2], 'pending', 'pending_key')
return {1}
"""
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A committed snapshot.

    Attributes:
        position: the state is that after the events before this one.
        manifest: what the writer gave, with `format`, `writer`, `position` and `groups` added.
        arrays: by name.
    """

    position: int
    manifest: dict[str, Any]
    arrays: dict[str, np.ndarray]


class SnapshotWriter:
    """One snapshot in the making; see `Snapshots.begin_snapshot`.

    Attributes:
        position: of the snapshot.
        bytes: written so far.
    """

    def __init__(self, partition: Snapshots, token: str, position: int, key: str, retired: str) -> None:
        self.position = position
        self.bytes = 0
        self._partition = partition
        self._token = token
        self._key = key
        self._retired = retired
        self._groups: list[dict[str, Any]] = []
        self._names: set[str] = set()

    def write(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays; may be called again with others.

        Args:
            arrays: any shape and a dtype that safetensors knows, by names not written before.

        Raises:
            ValueError: if a name was written before.
            Fenced: if another owner holds the partition.
            SnapshotReplaced: if this snapshot was aborted or another one begun.
            StoreUnavailable: if Redis cannot serve now.
        """
        twice = self._names & arrays.keys()
        if twice:
            raise ValueError(f"arrays: {sorted(twice)} were written before; accepted: each name once")
        if not arrays:
            return
        group = len(self._groups)
        body = pack(arrays)
        chunks = range(0, len(body), CHUNK_BYTES)
        for index, start in enumerate(chunks):
            self._checked(_WRITE, f"{group}:{index}", body[start : start + CHUNK_BYTES])
        self._names |= arrays.keys()
        digest = xxhash.xxh64_hexdigest(body)
        self._groups.append({"chunks": len(chunks), "bytes": len(body), "xxh64": digest})
        self.bytes += len(body)

    def commit(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Makes the snapshot the current one and returns the complete manifest. May be repeated.

        Args:
            manifest: JSON-able content: digest, spec digest, producer marks, fingerprint, metrics, ...

        Raises:
            ValueError: if `manifest` holds one of the names `RESERVED`, or is not JSON.
            Fenced: if another owner holds the partition.
            SnapshotReplaced: if this snapshot was aborted or another one begun.
            StoreUnavailable: if Redis cannot serve now.
        """
        clash = [name for name in RESERVED if name in manifest]
        if clash:
            raise ValueError(f"manifest: {clash} are set by the writer; accepted: any other names")
        written = {"format": FORMAT, "writer": _writer(), "position": self.position, "groups": self._groups}
        complete = {**manifest, **written}
        body = json.dumps(complete, allow_nan=False, separators=(",", ":"))
        self._checked(_COMMIT, body, self.position, extra=(self._retired,))
        return complete

    def abort(self) -> None:
        """Drops what was written; nothing happens if the snapshot is committed or replaced already.

        Raises:
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        self._partition._fenced(_ABORT, (self._partition.keys.snapshots, self._key), self._token)

    def _checked(self, script: Script, *args: Any, extra: tuple[str, ...] = ()) -> None:
        keys = (self._partition.keys.snapshots, self._key, *extra)
        if self._partition._fenced(script, keys, self._token, *args)[0] == -2:
            raise SnapshotReplaced(f"snapshot {self._key} is no longer the one being written")


class Snapshots(PartitionBase):
    """Writing and loading the snapshots of a partition."""

    def begin_snapshot(self, token: str, position: int) -> SnapshotWriter:
        """Begins a snapshot of the state at `position`; what an earlier writer left uncommitted is dropped.

        Rows written from now on until the commit are kept apart by `position` (see `rows`).

        Raises:
            ValueError: if a snapshot at a later position is committed.
            LogMismatch: if the log does not reach `position`.
            Fenced: if another owner holds the partition.
            StoreUnavailable: if Redis cannot serve now.
        """
        left, retired = self._fields("pending_key", "previous_key")
        key = self.keys.arrays(position, secrets.token_hex(4))
        keys = (self.keys.snapshots, self.keys.head, key, left or key)
        status, *found = self._fenced(_BEGIN, keys, token, position)
        if status == -2:
            raise LogMismatch(position, found[0], f"snapshot beyond the end of {self.keys.log}")
        if status == -3:
            raise ValueError(
                f"position: got {position}; accepted: {found[0]} (the committed snapshot) or more"
            )
        return SnapshotWriter(self, token, position, key, retired or key)

    def snapshot_position(self) -> int:
        """Returns the position of the committed snapshot, -1 if there is none."""
        return int(self._fields("position")[0] or -1)

    def oldest_snapshot_position(self) -> int:
        """Returns the position of the older snapshot kept, -1 if there is none: the log reaches to it."""
        position, previous = self._fields("position", "previous_position")
        return int(previous or position or -1)

    def load_snapshot(self, which: Literal["latest", "previous"] = "latest") -> Snapshot | None:
        """Loads a committed snapshot, or None if there is none.

        The keyed rows of the store belong to the latest one: `previous` has them only as far as they were not
        written since.

        Raises:
            SnapshotUnreadable: if it is incomplete, altered, or of an unknown format.
            StoreUnavailable: if Redis cannot serve now.
        """
        prefix = "" if which == "latest" else "previous_"
        body, key = self._fields(prefix + "manifest", prefix + "key")
        if body is None or key is None:
            return None
        manifest = json.loads(body)
        if manifest["format"] != FORMAT:
            raise SnapshotUnreadable(
                f"format: got {manifest['format']} written by {manifest['writer']}; accepted: {FORMAT}"
            )
        arrays: dict[str, np.ndarray] = {}
        for index, group in enumerate(manifest["groups"]):
            arrays.update(unpack(self._group(key, index, group)))
        return Snapshot(manifest["position"], manifest, arrays)

    def _group(self, key: str, index: int, group: dict[str, Any]) -> bytes:
        fields = [f"{index}:{chunk}" for chunk in range(group["chunks"])]
        chunks: list[bytes | None] = []
        for start in range(0, len(fields), LOAD_CHUNKS):
            chunks += self._command("HMGET", key, *fields[start : start + LOAD_CHUNKS])
        body = b"".join(chunk for chunk in chunks if chunk is not None)
        if xxhash.xxh64_hexdigest(body) != group["xxh64"]:
            raise SnapshotUnreadable(
                f"{key}: group {index} of {group['bytes']} bytes is incomplete or altered ({len(body)} bytes)"
            )
        return body

    def _fields(self, *names: str) -> list[str | None]:
        reply = self._command("HMGET", self.keys.snapshots, *names)
        return [None if value is None else value.decode() for value in reply]


def _writer() -> str:
    try:
        return f"continual {version('continual')}"
    except PackageNotFoundError:  # run from a checkout
        return "continual"
