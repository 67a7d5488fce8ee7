"""The shard: the partitions that one process owns, and what it knows of the others.

A plain class on an asyncio loop; `service.shard.actor` puts it into a Ray actor. Model number h belongs to shard
h modulo the number of shards, h the 64-bit hash of its name.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import numpy as np
from pydantic import ValidationError

from learners.fingerprint import fingerprint
from learners.river import signing
from learners.spec import ModelSpec
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.partition import Partition
from service.shard.recovery import Recovery
from service.shard.snapshots import Snapshotter, Written
from service.shard.statistics import Statistics
from service.store.catalog import Catalog
from service.store.connect import RANK, connect, connect_async, durability
from service.store.errors import MapConflict, ModelExists, StoreError, StoreUnavailable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store
from service.wire import key_hash
from streams.batch import Batch

log = logging.getLogger(__name__)

DEPLOYMENT = "continual"

FORWARDING = [("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
"""The owner has judged the size of its reply, and the caller knows what may be sent again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShardConfig:
    """What a shard needs to know.

    Attributes:
        redis: URL of the store.
        index: number of this shard.
        shards: how many there are.
        host: interface that its ports are bound on.
        port: the node's public port, shared by its shards.
        advertise: host under which others reach this shard.
        log: file that its log goes to; "": standard error.
        signing_key: file with the key for pickled state; "": what `learners.river.signing.VARIABLE` holds, if anything.
    """

    redis: str
    index: int = 0
    shards: int = 1
    host: str = "127.0.0.1"
    port: int = 50051
    advertise: str = "127.0.0.1"
    log: str = ""
    signing_key: str = ""

    @property
    def name(self) -> str:
        """Name of the shard."""
        return f"shard-{self.index}"


class Shard:
    """See the module's docstring.

    Args:
        config: see `ShardConfig`.
        exit: called with a cause when the process must end (default: `os._exit(1)`, after logging it).
    """

    def __init__(self, config: ShardConfig, exit: Callable[[BaseException], None] | None = None) -> None:
        self.config = config
        self.address = ""
        self.client = connect(config.redis)
        self.catalog = Catalog(self.client, DEPLOYMENT)
        self.partitions: dict[str, Partition] = {}
        self.snapshots: dict[str, Snapshotter] = {}
        self.deployment = ""
        self.on_health: Callable[[bool], None] = lambda serving: None
        self._map = pb.PartitionMap()
        self._exit = exit or _exit
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._tasks: set[asyncio.Task] = set()
        self._creating = asyncio.Lock()
        self._listed = False  # whether the catalog was read: before that no model is known to be missing
        self._opening: set[str] = set()  # in the catalog or about to be, not yet in `partitions`

    # Life

    async def start(self, address: str) -> None:
        """Opens every partition of this shard and publishes where it answers.

        Args:
            address: host:port of this shard's own server.
        """
        self.address = address
        if key := signing.find_key(self.config.signing_key):
            signing.set_key(key)
        self.deployment = await asyncio.to_thread(until_served, self.catalog.deployment_id)
        await asyncio.to_thread(self._publish)
        models = await asyncio.to_thread(self.catalog.list)
        mine = [ModelSpec.model_validate_json(spec) for name, spec in models.items() if self._is_mine(name)]
        self._opening.update(spec.name for spec in mine)
        self._listed = True
        await asyncio.gather(*(self._open(spec) for spec in mine))
        await asyncio.to_thread(self._publish)
        self.on_health(True)
        self._spawn(self._refresh_map())

    async def stop(self) -> None:
        """Answers what was admitted, writes a last snapshot, gives ownership up."""
        self.on_health(False)
        for task in self._tasks:
            task.cancel()
        for name, partition in list(self.partitions.items()):
            serving = partition.state == "serving"
            await partition.stop()
            if serving:
                try:
                    await self.snapshots[name].take()
                    await asyncio.to_thread(partition.store.release, partition.token)
                except StoreError as error:
                    log.warning("model %s: no last snapshot: %s", name, error)
            if serving:
                await partition.close()
        for channel in self._channels.values():
            await channel.close()

    def _is_mine(self, name: str) -> bool:
        return key_hash(name.encode()) % self.config.shards == self.config.index

    def _spawn(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _fail(self, cause: BaseException) -> None:
        self.on_health(False)
        self._exit(cause)

    # Partitions

    async def _open(self, spec: ModelSpec) -> Partition:
        """Takes ownership, recovers, serves."""
        check_signing(spec)
        await asyncio.to_thread(_compile, spec)
        store = Store(self.client, DEPLOYMENT, spec.name)
        record = OwnerRecord.here(self.config.name, self.address)
        token = await asyncio.to_thread(store.acquire, record)
        partition = Partition(spec, store, token, connect_async(self.config.redis), self._fail)
        self.partitions[spec.name] = partition
        self._opening.discard(spec.name)
        snapshotter = self.snapshots[spec.name] = Snapshotter(partition)
        partition.on_progress = lambda: self._snapshot_if_due(partition, snapshotter)
        recovery = Recovery(partition)
        try:
            head = await asyncio.to_thread(recovery.run)
        except BaseException as cause:
            log.exception("model %s: recovery failed", spec.name)
            self._fail(cause)
            raise
        partition.start(head)
        log.info(
            "model %s: serving at position %d, %d events replayed in %.3f s, snapshot loaded in %.3f s",
            *(spec.name, head, recovery.replayed, recovery.replay_seconds, recovery.load_seconds),
        )
        if partition.snapshot_position < 0 or not recovery.same_numerics:
            await snapshotter.take()
        return partition

    def _snapshot_if_due(self, partition: Partition, snapshotter: Snapshotter) -> None:
        since = partition.learner.position - max(0, partition.snapshot_position)
        if since >= partition.spec.deployment.snapshot_every and not snapshotter.running:
            self._spawn(self._snapshot(partition, snapshotter))

    async def _snapshot(self, partition: Partition, snapshotter: Snapshotter) -> None:
        try:
            await snapshotter.take()
        except (StoreUnavailable, errors.Refused) as error:
            log.warning("model %s: snapshot put off: %s", partition.spec.name, error)
        except StoreError as error:
            if partition.state == "serving":  # a model that was deleted meanwhile refuses its last snapshot
                self._fail(error)

    # The partition map

    def _publish(self) -> None:
        """Puts this shard's part of the map in place of its former part."""
        while True:
            record = self.catalog.partition_map()
            parts = json.loads(record.body) if record.body else {"shards": {}, "partitions": {}}
            parts["shards"][self.config.name] = self.address
            kept = {n: p for n, p in parts["partitions"].items() if p["shard"] != self.config.name}
            mine = {n: {"shard": self.config.name, "address": self.address} for n in self.partitions}
            parts["partitions"] = kept | mine
            try:
                version = self.catalog.set_partition_map(record.version, json.dumps(parts, sort_keys=True).encode())
            except MapConflict:
                continue
            self._take_map(version, parts)
            return

    def _take_map(self, version: int, parts: dict) -> None:
        message = pb.PartitionMap(deployment=self.deployment, version=version)
        for name, part in parts["partitions"].items():
            partition = self.partitions.get(name)
            message.partitions.add(
                model=name,
                first_hash=0,
                last_hash=2**64 - 1,
                shard=part["shard"],
                address=part["address"],
                state=partition.state if partition else "serving",
            )
        self._map = message
        self._shards = parts["shards"]

    async def _refresh_map(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            try:
                record = await asyncio.to_thread(self.catalog.partition_map)
            except StoreUnavailable:
                continue
            if record.body and record.version != self._map.version:
                self._take_map(record.version, json.loads(record.body))

    @property
    def map(self) -> pb.PartitionMap:
        """Who owns which partition, as this shard knows it."""
        for entry in self._map.partitions:
            partition = self.partitions.get(entry.model)
            if partition:
                entry.state = partition.state
        return self._map

    def check_route(self, route: pb.Route) -> None:
        """Raises FAILED_PRECONDITION with the map for a caller with another deployment or map in mind."""
        if route.deployment and route.deployment != self.deployment:
            raise errors.wrong_map(self.map, f"this is deployment {self.deployment}, not {route.deployment}")
        if route.map_version and route.map_version != self._map.version:
            raise errors.wrong_map(self.map)

    def owns(self, model: str) -> bool:
        """Whether a model, existing or not, belongs to this shard."""
        return model in self.partitions or self._is_mine(model)

    def owned(self, model: str) -> Partition:
        """The partition of a model that belongs to this shard.

        Raises:
            service.errors.Refused: there is no such model.
        """
        if not self._listed or model in self._opening:
            raise errors.unavailable("PARTITION_STARTING", f"model {model!r} is being opened", 0.2)
        if model not in self.partitions:
            raise errors.model_not_found(model)
        return self.partitions[model]

    def channel_to(self, model: str) -> grpc.aio.Channel:
        """A channel to the shard that owns (or would own) a model.

        Raises:
            service.errors.Refused: that shard has not published its address yet.
        """
        name = f"shard-{key_hash(model.encode()) % self.config.shards}"
        address = self._shards.get(name)
        if address is None:
            raise errors.unavailable("SHARD_STARTING", f"{name} is starting", 0.5)
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address, FORWARDING)
        return self._channels[address]

    # Models

    async def create(self, spec_json: str, exist_ok: bool) -> Partition:
        """Creates a model and serves it.

        Raises:
            service.errors.Refused: the spec does not validate, the model exists, the store promises too little, or
                there is no key to sign with.
        """
        spec = await asyncio.to_thread(parse_spec, spec_json)  # a learner may try out what it is told to build
        check_signing(spec)
        async with self._creating:
            offered = await asyncio.to_thread(durability, self.client)
            if RANK[offered] < RANK[spec.deployment.durability]:
                raise errors.invalid(
                    "deployment.durability", spec.deployment.durability, f"at most {offered!r}, which the store offers"
                )
            if spec.name not in self.partitions:
                self._opening.add(spec.name)
            try:
                return await self._created(spec, exist_ok)
            finally:
                self._opening.discard(spec.name)

    async def _created(self, spec: ModelSpec, exist_ok: bool) -> Partition:
        try:
            created = await asyncio.to_thread(self.catalog.create, spec.name, spec.to_json())
        except ModelExists as error:
            raise errors.model_exists(spec.name) from error
        if not created and not exist_ok:
            raise errors.model_exists(spec.name)
        if spec.name not in self.partitions:
            await self._open(spec)
            await asyncio.to_thread(self._publish)
        return self.partitions[spec.name]

    async def delete(self, name: str) -> None:
        """Deletes a model with its log and state.

        Raises:
            service.errors.Refused: there is no such model.
        """
        async with self._creating:
            partition = self.owned(name)
            del self.partitions[name]
            del self.snapshots[name]
            await partition.stop()
            await partition.close()
            await asyncio.to_thread(partition.store.delete, partition.token)
            await asyncio.to_thread(self.catalog.delete, name)
            await asyncio.to_thread(self._publish)

    async def snapshot(self, name: str) -> Written:
        """Writes a snapshot now."""
        partition = self.owned(name)
        partition.check_serving()
        return await self.snapshots[name].take()

    async def statistics(self, name: str, digest: bool) -> pb.Statistics:
        """Counts, metrics and, when asked for, the digest of a model."""
        partition = self.owned(name)
        partition.check_started()
        if digest:
            partition.check_serving()

        def read() -> tuple[int, dict[str, int], dict[str, float], int, str]:
            learner, sums = partition.learner, partition.statistics
            value = learner.digest() if digest else ""
            return learner.position, sums.counts(), sums.metrics(), learner.resident_keys(), value

        said = await asyncio.to_thread(partition.store.said) if partition.spec.deployment.sources else {}
        position, counts, metrics, resident, value = await partition.sequencer.visit(read)
        return pb.Statistics(
            name=name,
            position=position,
            snapshot_position=max(0, partition.snapshot_position),
            counts=counts | {"duplicates": partition.duplicates, "refused": partition.refused},
            metrics=metrics,
            keys_resident=resident,
            digest=value,
            fingerprint=json.dumps(fingerprint(partition.spec)),
            sources=[pb.SourceState(name=name, **state) for name, state in said.items()],
        )

    def describe(self, partition: Partition) -> pb.Model:
        """A model as the API shows it."""
        return pb.Model(
            name=partition.spec.name,
            spec_json=partition.spec.to_json(),
            position=partition.head,
            snapshot_position=max(0, partition.snapshot_position),
            state=partition.state,
        )


def parse_spec(spec_json: str) -> ModelSpec:
    """A spec from JSON.

    Raises:
        service.errors.Refused: with a violation for every field that does not fit.
    """
    try:
        return ModelSpec.model_validate_json(spec_json)
    except ValidationError as error:
        violations = [
            errors.Violation(
                ".".join(map(str, ("spec", *item["loc"]))), errors.shorten(item.get("input")), item["msg"]
            )
            for item in error.errors(include_url=False, include_context=False)
        ]
        raise errors.invalid_fields(violations, "INVALID_SPEC") from error


def check_signing(spec: ModelSpec) -> None:
    """Refuses a learner whose state must be signed where this process was given no key.

    Raises:
        service.errors.Refused: saying how to give one.
    """
    if spec.learner.signed and not signing.has_key():
        kind = f"{spec.learner.kind!r}, whose state is a pickle that must be signed"
        raise errors.invalid("spec.learner.kind", kind, f"it, once there is a key: {signing.HOW}", "NO_SIGNING_KEY")


def _compile(spec: ModelSpec) -> None:
    """Folds and predicts with a learner to be thrown away: what is compiled now stalls no request later."""
    fingerprint(spec)
    small = spec.model_copy(update={"deployment": spec.deployment.model_copy(update={"slots": 1})})
    learner = spec.learner.build(small)
    classes = (0,) if spec.target.kind == "multiclass" else ()
    rows = spec.learner.rehearsal()
    events = Batch.of(np.zeros((rows, len(spec.features))), np.zeros(rows), classes=classes)
    learner.predict(events.slice(0, 1), probabilities=True)
    Statistics(spec.target.kind).update(learner.fold(events))


def until_served(function: Callable[[], T], seconds: float = 10.0) -> T:
    """Repeats a first call to a store that is still starting.

    Raises:
        service.store.errors.StoreUnavailable: it did not answer within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return function()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _exit(cause: BaseException) -> None:
    log.critical("this shard stops: %s: %s", type(cause).__name__, cause, exc_info=cause)
    logging.shutdown()
    os._exit(1)
