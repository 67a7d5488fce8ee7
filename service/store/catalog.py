"""The models of a deployment, their partition maps, the addresses of its shards, and its identity."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import redis

from service.store.connect import Link, socket_of
from service.store.errors import MapConflict, ModelExists, translated
from service.store.keys import DeploymentKeys
from service.store.partition_map import ModelMap
from service.store.scripting import Script

_CREATE = Script("""
local spec = redis.call('HGET', KEYS[1], ARGV[1])
if not spec then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) return 1 end
if spec == ARGV[2] then return 0 else return -1 end
""")
_DELETE = Script("""
if ARGV[2] ~= '' and redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('INCR', KEYS[3])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")
_SET_MAP = Script("""
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
if held ~= ARGV[2] then return {0, held} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return {1, redis.call('INCR', KEYS[2])}
""")
_ANNOUNCE = Script("""
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return redis.call('INCR', KEYS[2])
""")
_ROUTING = Script("""
local generation = redis.call('GET', KEYS[1]) or '0'
if generation == ARGV[1] then return {generation} end
return {generation, redis.call('HGETALL', KEYS[2]), redis.call('HGETALL', KEYS[3])}
""")


_PULSE = Script("""
return redis.call('HSET', KEYS[1], ARGV[1], redis.call('TIME')[1])
""")


@dataclass(frozen=True, slots=True)
class Routing:
    """Who owns what, and where.

    Attributes:
        generation: rises with every change of what follows.
        maps: of every model, by name.
        shards: address by shard; some may be gone.
    """

    generation: int = 0
    maps: dict[str, ModelMap] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)


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
        self.name = deployment
        self.keys = DeploymentKeys(deployment)

    def deployment_id(self) -> str:
        """Returns the random identity of the deployment, made at the first call ever.

        Raises:
            StoreUnavailable: if Redis cannot serve now.
        """
        self._command("SET", self.keys.id, secrets.token_hex(8), "NX")
        return self._command("GET", self.keys.id).decode()

    async def pulse(self, link: Link, shard: str) -> None:
        """Writes something small, to see that the store takes writes.

        Raises:
            StoreUnavailable: if it does not, and why.
        """
        await _PULSE.run_async(link, (self.keys.pulse,), (shard,))

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
        """Forgets a model and its map (only if it has this spec, where one is given); returns whether it was there.

        Delete its partitions first: this removes what names them.
        """
        keys = (self.keys.models, self.keys.maps, self.keys.generation)
        return _DELETE.run(self.client, keys, (name, spec)) == 1

    def map_of(self, model: str) -> ModelMap | None:
        """Returns the partition map of a model, None if it has none."""
        body = self._command("HGET", self.keys.maps, model)
        return None if body is None else ModelMap.from_json(body)

    def set_map(self, model: str, before: ModelMap | None, after: ModelMap) -> None:
        """Puts a map in the place of `before` (None: of none), if that is still there.

        Raises:
            MapConflict: another map is: read it and think again. It may be `after`, if a reply was lost.
            StoreUnavailable: if Redis cannot serve now; it may have been set.
        """
        args = (model, b"" if before is None else before.to_json(), after.to_json())
        done, held = _SET_MAP.run(self.client, (self.keys.maps, self.keys.generation), args)
        if not done and held != after.to_json():
            found = ModelMap.from_json(held).version if held else 0
            raise MapConflict(0 if before is None else before.version, found)

    def announce(self, shard: str, address: str) -> None:
        """Makes known where a shard answers."""
        _ANNOUNCE.run(self.client, (self.keys.shards, self.keys.generation), (shard, address))

    def routing(self, known: int = -1) -> Routing | None:
        """Returns all maps and addresses, None if nothing changed since the generation `known`."""
        keys = (self.keys.generation, self.keys.maps, self.keys.shards)
        generation, *held = _ROUTING.run(self.client, keys, (known,))
        if not held:
            return None
        maps, shards = (dict(zip(reply[::2], reply[1::2])) for reply in held)
        return Routing(
            int(generation),
            {name.decode(): ModelMap.from_json(body) for name, body in sorted(maps.items())},
            {name.decode(): address.decode() for name, address in shards.items()},
        )

    def _command(self, *args: Any) -> Any:
        try:
            return self.client.execute_command(*args)
        except redis.RedisError as error:
            raise translated(error, socket_of(self.client)) from error
