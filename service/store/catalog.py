"""The models of a deployment, its partition map and its identity."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import redis

from service.store.errors import MapConflict, ModelExists, translated
from service.store.keys import DeploymentKeys
from service.store.scripting import Script

_CREATE = Script("""
local spec = redis.call('HGET', KEYS[1], ARGV[1])
if not spec then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return 1 end
if spec == ARGV[2] then return 0 else return -1 end
""")
_DELETE = Script("""
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
""")
_SET_MAP = Script("""
local version = redis.call('HGET', KEYS[1], 'version') or '0'
if version ~= ARGV[1] then return {0, version} end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'body', ARGV[3])
return {1, ARGV[2]}
""")


@dataclass(frozen=True, slots=True)
class MapRecord:
    """The partition map.

    Attributes:
        version: 0 before the first was set, then rising by one.
        body: as the setter gave it; empty at version 0.
    """

    version: int
    body: bytes


class Catalog:
    """What a deployment knows of itself.

    Args:
        client: returns bytes; see `connect`.
        deployment: name of the deployment.

    Raises:
        ValueError: if the name cannot be part of a key.
    """

    def __init__(self, client: redis.Redis, deployment: str) -> None:
        self.client = client
        self.keys = DeploymentKeys(deployment)

    def deployment_id(self) -> str:
        """Returns the random identity of the deployment, made at the first call ever.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        self._command("SET", self.keys.id, secrets.token_hex(8), "NX")
        return self._command("GET", self.keys.id).decode()

    def create(self, name: str, spec: str) -> bool:
        """Records a model; returns whether it is new (False: it exists with the same spec).

        Args:
            name: of the model.
            spec: its complete spec as JSON, compared byte by byte.

        Raises:
            ModelExists: if it exists with another spec.
            StoreUnavailable: if Redis cannot serve now.
        """
        status = _CREATE.run(self.client, (self.keys.models,), (name, spec))
        if status == -1:
            raise ModelExists(f"model {name!r} exists with another spec; delete it or choose another name")
        return status == 1

    def get(self, name: str) -> str | None:
        """Returns the spec of a model as JSON, or None."""
        spec = self._command("HGET", self.keys.models, name)
        return None if spec is None else spec.decode()

    def list(self) -> dict[str, str]:
        """Returns every model's spec as JSON, by name in order."""
        reply = iter(self._command(b"HGETALL", self.keys.models))
        return dict(sorted((name.decode(), spec.decode()) for name, spec in zip(reply, reply)))

    def delete(self, name: str, spec: str = "") -> bool:
        """Forgets a model (only if it has this spec, where one is given); returns whether it was there.

        Delete its partitions first: this removes the name only.
        """
        return _DELETE.run(self.client, (self.keys.models,), (name, spec)) == 1

    def partition_map(self) -> MapRecord:
        """Returns the current partition map."""
        version, body = self._command("HMGET", self.keys.map, "version", "body")
        return MapRecord(int(version or 0), body or b"")

    def set_partition_map(self, expected: int, body: bytes) -> int:
        """Replaces the map if its version is still `expected`; returns the new version.

        Raises:
            MapConflict: if the map is at another version: read it, merge, try again.
            StoreUnavailable: if Redis cannot serve now.
        """
        done, found = _SET_MAP.run(self.client, (self.keys.map,), (expected, expected + 1, body))
        if not done:
            raise MapConflict(expected, int(found))
        return int(found)

    def _command(self, *args: Any) -> Any:
        try:
            return self.client.execute_command(*args)
        except redis.RedisError as error:
            raise translated(error) from error
