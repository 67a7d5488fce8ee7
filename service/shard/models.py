"""The control plane: models as the API shows them, over all of their partitions, and changes of the partitions.

A call without a partition comes to the owner of the first one, which asks the owners of the others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from learners.fingerprint import fingerprint
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.answers import sinks_of
from service.shard.aside import YIELDING, aside
from service.shard.config import DEPLOYMENT
from service.shard.shard import Shard
from service.shard.statistics import Statistics
from service.store.partition import Partition as Store
from service.store.partition_map import ModelMap, Range, moves

PATH = "/continual.v1.Models/"

LISTED_SPEC_BYTES = 8 << 20
"""Of the specs in a list of models; `Get` gives the others."""

M = TypeVar("M", bound=Message)


async def _each(
    shard: Shard, method: str, request: Any, reply: type[M], here: Callable[[Range], Awaitable[M]]
) -> list[tuple[Range, M]]:
    """What the owner of each partition answers to a request, by range; `request.partition` may name one.

    Raises:
        service.errors.Refused: by one of them.
    """
    held = _map_of(shard, request.name)
    parts = [part for part in held.partitions if request.partition in ("", part.id)]

    async def one(part: Range) -> M:
        if shard.maps.is_mine(part):
            return await here(part)
        asked = type(request)()
        asked.CopyFrom(request)
        asked.partition = part.id
        asked.ClearField("route")
        return await shard.ask(part.shard, PATH + method, asked, reply)

    return list(zip(parts, await asyncio.gather(*map(one, parts))))


def _map_of(shard: Shard, model: str) -> ModelMap:
    held = shard.maps.of(model)
    if held is None:
        shard.owned(model, "0")  # there is none, or the shard has only just begun
        raise errors.model_not_found(model)
    return held


# Models


async def create(shard: Shard, request: pb.CreateModelRequest, raw: bytes) -> pb.Model:
    """Creates a model; see `Shard.create`."""
    spec = await shard.create(request.spec_json, request.exist_ok)
    return await get(shard, pb.GetModelRequest(name=spec.name), b"")


async def get(shard: Shard, request: pb.GetModelRequest, raw: bytes) -> pb.Model:
    """A model with the state of its partitions."""

    async def here(part: Range) -> pb.Model:
        if (request.name, part.id) in shard.broken:
            return await _broken(shard, request.name, part)
        return _described(shard, request.name, part)

    return _model(await _each(shard, "Get", request, pb.Model, here))


def _source_state(name: str, said: dict[str, Any]) -> pb.SourceState:
    """What a source said of itself, without what it keeps for its next run."""
    return pb.SourceState(name=name, **{part: value for part, value in said.items() if part != "tails"})
async def _broken(shard: Shard, model: str, part: Range) -> pb.Model:
    """A model as a partition that could not be opened shows it."""
    shown = shard.maps.described(model, _map_of(shard, model), part)
    shown.reason = shard.broken[model, part.id]
    spec_json = await asyncio.to_thread(shard.catalog.get, model)
    return pb.Model(name=model, spec_json=spec_json or "", state="failed", partitions=[shown])


def _described(shard: Shard, model: str, part: Range) -> pb.Model:
    """A model as one of its partitions knows it."""
    partition = shard.owned(model, part.id)
    shown = shard.maps.described(model, _map_of(shard, model), part)
    shown.position, shown.snapshot_position = partition.head, max(0, partition.snapshot_position)
    shown.reason = partition.reason
    # A partition that is being opened knows neither, and began where those that it came from ended.
    events = [part.events(max(at, part.start)) for at in (shown.position, shown.snapshot_position)]
    return pb.Model(
        name=model,
        spec_json=shard.texts[model],
        position=events[0],
        snapshot_position=events[1],
        state=partition.state,
        partitions=[shown],
    )


def _model(answers: list[tuple[Range, pb.Model]]) -> pb.Model:
    whole = pb.Model()
    whole.CopyFrom(answers[0][1])
    for _, other in answers[1:]:
        whole.position += other.position
        whole.snapshot_position += other.snapshot_position
        whole.partitions.extend(other.partitions)
        if whole.state == "serving":
            whole.state = other.state
    return whole


async def list_models(shard: Shard, request: pb.ListModelsRequest, raw: bytes) -> pb.ListModelsReply:
    """All models of the deployment, in detail those that this shard has as a whole; specs as there is room for."""
    models = await aside(shard.catalog.list)
    reply = pb.ListModelsReply()
    room = LISTED_SPEC_BYTES
    for name, spec in models.items():
        held = shard.maps.of(name)
        here = held is not None and all((name, part.id) in shard.partitions for part in held.partitions)
        if held is not None and here:
            reply.models.append(_model([(part, _described(shard, name, part)) for part in held.partitions]))
        else:
            reply.models.add(name=name, spec_json=spec)
        room -= len(reply.models[-1].spec_json.encode())
        if room < 0:
            reply.models[-1].ClearField("spec_json")
    return reply


async def delete(shard: Shard, request: pb.DeleteModelRequest, raw: bytes) -> pb.DeleteModelReply:
    """Deletes a model, or for the shard that does so one of its partitions."""
    if request.partition:
        async with shard.resharding.lock:
            await shard.drop(request.name, request.partition)
    else:
        await shard.delete(request.name)
    return pb.DeleteModelReply()


async def snapshot(shard: Shard, request: pb.SnapshotRequest, raw: bytes) -> pb.SnapshotReply:
    """Writes a snapshot of every partition."""

    async def here(part: Range) -> pb.SnapshotReply:
        partition = shard.owned(request.name, part.id)
        partition.check_serving()
        written = await shard.snapshots[request.name, part.id].take()
        return pb.SnapshotReply(
            position=part.events(written.position), digest=written.digest, rows=written.rows, bytes=written.bytes
        )

    answers = [one for _, one in await _each(shard, "Snapshot", request, pb.SnapshotReply, here)]
    if len(answers) == 1:
        return answers[0]
    totals = {name: sum(getattr(one, name) for one in answers) for name in ("position", "rows", "bytes")}
    return pb.SnapshotReply(**totals)


# Statistics


async def statistics(shard: Shard, request: pb.GetStatisticsRequest, raw: bytes) -> pb.Statistics:
    """Counts, metrics and, when asked for, the digest of every partition; of several also the sums."""

    async def here(part: Range) -> pb.Statistics:
        return await _statistics(shard, request.name, part, request.digest)

    answers = await _each(shard, "GetStatistics", request, pb.Statistics, here)
    if len(answers) == 1:
        return answers[0][1]
    kind = shard.owned(request.name, answers[0][0].id).spec.target.kind
    sums = Statistics.united([Statistics.from_dict(kind, json.loads(one.sums)) for _, one in answers])
    counts = sums.counts()
    for name in answers[0][1].counts.keys() - counts.keys():
        counts[name] = sum(one.counts[name] for _, one in answers)
    return pb.Statistics(
        name=request.name,
        position=sum(part.events(one.position) for part, one in answers),
        snapshot_position=sum(part.events(max(part.start, one.snapshot_position)) for part, one in answers),
        counts=counts,
        metrics=sums.metrics(),
        keys_resident=sum(one.keys_resident for _, one in answers),
        fingerprint=answers[0][1].fingerprint,
        sources=answers[0][1].sources,
        partitions=[one for _, one in answers],
    )


async def _statistics(shard: Shard, model: str, part: Range, digest: bool) -> pb.Statistics:
    partition = shard.owned(model, part.id)
    partition.check_started()
    if digest:
        partition.check_serving()

    def read() -> tuple[int, dict[str, int], dict[str, float], int, str, str]:
        learner, sums = partition.learner, partition.statistics
        value = learner.digest() if digest else ""
        raw = "" if part.whole else json.dumps(sums.to_dict())
        return learner.position, sums.counts(), sums.metrics(), learner.resident_keys(), value, raw

    said = {}
    if partition.spec.deployment.sources:
        said = await asyncio.to_thread(Store(shard.client, DEPLOYMENT, model, "0").said)
    sinks = await asyncio.to_thread(sinks_of, partition.store) if partition.outbox else []
    exchanged = partition.exchanger.counts() if partition.exchanger else {}
    with YIELDING:
        position, counts, metrics, resident, value, raw = await partition.sequencer.visit(read)
    return pb.Statistics(
        name=model,
        position=position,
        snapshot_position=max(0, partition.snapshot_position),
        counts=counts
        | {"duplicates": partition.duplicates, "refused": partition.refused, "rebuilds": partition.rebuilds}
        | exchanged,
        metrics=metrics,
        keys_resident=resident,
        digest=value,
        fingerprint=json.dumps(fingerprint(partition.spec)),
        sources=[_source_state(name, state) for name, state in said.items()],
        sinks=sinks,
        partition=part.id,
        sums=raw,
    )


# Changes of the partitions


def widest(shard: Shard, model: str) -> Range:
    """The partition with the widest range; of a model without a map see `Maps.find`."""
    held = shard.maps.of(model)
    return max(held.partitions, key=lambda part: part.high - part.low) if held else shard.find(model)


async def split(shard: Shard, request: pb.SplitRequest, raw: bytes) -> pb.ReshardReply:
    """Cuts a partition; without shards named its pieces go, but for the first, where the fewest partitions are."""
    await shard.maps.look()
    part = shard.find(request.name, 0, request.partition) if request.partition else widest(shard, request.name)
    into = request.into or 2
    targets = list(request.shards)
    if not targets:
        load = _load(shard)
        targets = [part.shard]
        for _ in range(min(into, len(load) * len(load)) - 1):
            targets.append(min(load, key=load.__getitem__))
            load[targets[-1]] += 1
    seconds = await shard.resharding.split(request.name, part.id, into, targets)
    return _reshaped(shard, request.name, seconds)


async def move(shard: Shard, request: pb.MoveRequest, raw: bytes) -> pb.ReshardReply:
    """Gives a partition to another shard, by default the one with the fewest."""
    await shard.maps.look()
    part = shard.find(request.name, 0, request.partition)
    load = _load(shard)
    target = request.shard or min(load, key=lambda name: (load[name], name == part.shard))
    seconds = await shard.resharding.move(request.name, part.id, target)
    return _reshaped(shard, request.name, seconds)


async def merge(shard: Shard, request: pb.MergeRequest, raw: bytes) -> pb.ReshardReply:
    """Makes one of two neighbours; the second comes to the shard of the first before that."""
    await shard.maps.look()
    if len(set(request.partitions)) != 2:
        raise errors.invalid("partitions", ", ".join(request.partitions) or "none", "two neighbours")
    first, second = (shard.find(request.name, 0, id) for id in request.partitions)
    if first.high != second.low and second.high != first.low:
        raise errors.invalid("partitions", ", ".join(request.partitions), "two neighbours")
    seconds = 0.0
    if second.shard != first.shard:
        asked = pb.MoveRequest(name=request.name, partition=second.id, shard=first.shard)
        seconds = (await shard.ask(second.shard, PATH + "Move", asked, pb.ReshardReply)).seconds
        await shard.maps.look()
        await shard.serving(request.name, second.id)
    seconds = max(seconds, await shard.resharding.merge(request.name, list(request.partitions)))
    return _reshaped(shard, request.name, seconds)


async def rebalance(shard: Shard, request: pb.RebalanceRequest, raw: bytes) -> pb.ReshardReply:
    """Deals out the partitions of a model, or of all, so that no shard has two more than another.

    Any shard does it. A move that fails ends it; those before it stay.
    """
    await shard.maps.look()
    if request.name:
        await shard.maps.check(request.route, request.name)
        _map_of(shard, request.name)
    maps = {name: held for name, held in shard.maps.maps.items() if request.name in ("", name)}
    owners = {(name, part.id): part.shard for name, held in maps.items() for part in held.partitions}
    reply = pb.ReshardReply()
    for (name, id), target in moves(owners, shard.maps.live()):
        asked = pb.MoveRequest(name=name, partition=id, shard=target)
        owner = shard.find(name, 0, id).shard
        if owner == shard.config.name:
            done = await move(shard, asked, b"")
        else:
            done = await shard.ask(owner, PATH + "Move", asked, pb.ReshardReply)
        await shard.maps.look()
        reply.partitions.extend(part for part in done.partitions if part.id == id)
        reply.seconds = max(reply.seconds, done.seconds)
    return reply


def _load(shard: Shard) -> dict[str, int]:
    """Partitions by shard."""
    load = dict.fromkeys(shard.maps.live(), 0)
    for held in shard.maps.maps.values():
        for part in held.partitions:
            load[part.shard] = load.get(part.shard, 0) + 1
    return {name: load[name] for name in shard.maps.live()}


def _reshaped(shard: Shard, model: str, seconds: float) -> pb.ReshardReply:
    held = _map_of(shard, model)
    shown = [shard.maps.described(model, held, part) for part in held.partitions]
    return pb.ReshardReply(partitions=shown, seconds=seconds)
