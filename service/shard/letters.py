"""The dead letters of a model as the API shows them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.config import DEPLOYMENT
from service.shard.shard import Shard
from service.store.letters import Letter
from service.store.partition import Partition as Store
from service.store.poison import DeadLetter

QUARANTINED = "q"
"""Begins the id of an event that was set aside, as its fold failed: `q<partition>:<id in its stream>`."""

MOST = 1000
AT_ONCE = 8
"""Letters that are read from the store together: each may be as large as a request."""

LISTED_BYTES = 8 << 20
"""Letters travel together until they are as large; whoever wants the others asks for those after the last one."""

L = TypeVar("L", Letter, DeadLetter)
_ID = re.compile(rf"(?:{QUARANTINED}(?P<partition>\d+):)?(?P<place>\d+-\d+)\Z")


async def list_letters(shard: Shard, request: pb.ListDeadLettersRequest, raw: bytes) -> pb.ListDeadLettersReply:
    """Events that were set aside first, then messages of sources.

    The former by partition, those that were split or merged since among them: each keeps its own. Each oldest first.

    Raises:
        service.errors.Refused: there is no such model, or `after` is no id.
    """
    after = _checked("after", request.after) if request.after else None
    count = min(request.count or 100, MOST)
    shard.check_there(request.name, shard.find(request.name).id)
    held = shard.maps.of(request.name)
    ids = sorted([*held.retired, *(part.id for part in held.partitions)] if held else ["0"], key=int)
    return await asyncio.to_thread(_listed, shard, request.name, ids, after, count)


def _store(shard: Shard, model: str, partition: str = "0") -> Store:
    """A partition's keys; those of "0" are where the messages of sources are, whatever became of the partition."""
    return Store(shard.client, DEPLOYMENT, model, partition)


def _listed(
    shard: Shard, model: str, ids: list[str], after: re.Match[str] | None, count: int
) -> pb.ListDeadLettersReply:
    of_sources = _store(shard, model)
    reply = pb.ListDeadLettersReply(total=of_sources.count_letters())
    begin = after["partition"] if after else "0"  # of a message: None, as every partition comes before it
    room = LISTED_BYTES
    for id in ids:
        store = _store(shard, model, id)
        reply.total += len(store.quarantined())
        if begin is None or int(id) < int(begin):
            continue
        for dead in _in_turn(store.dead_letters, after["place"] if after and id == begin else "", count, reply, room):
            reply.letters.add(
                id=f"{QUARANTINED}{id}:{dead.id}",
                number=dead.position,
                reason=dead.reason,
                payload=dead.payload,
                partition=id,
            )
    for letter in _in_turn(of_sources.letters, after["place"] if after and begin is None else "", count, reply, room):
        reply.letters.add(
            id=letter.id,
            producer=letter.producer,
            number=letter.number,
            reason=letter.reason,
            payload=letter.payload,
            beside=letter.beside,
        )
    return reply


def _in_turn(
    read: Callable[[str, int], list[L]], after: str, count: int, reply: pb.ListDeadLettersReply, room: int
) -> Iterator[L]:
    """What `read` gives, few at a time, until the reply has `count` letters or is as large as it may be."""
    size = reply.ByteSize()  # which costs as much as writing the reply: from here on it is counted
    while (left := min(AT_ONCE, count - len(reply.letters))) > 0 and size < room:
        found = read(after, left)
        if not found:
            return
        after = found[-1].id
        for letter in found:
            if size >= room:
                return
            yield letter
            size += reply.letters[-1].ByteSize()  # the caller has put it there


async def drop_letter(shard: Shard, request: pb.DropDeadLetterRequest, raw: bytes) -> pb.DropDeadLetterReply:
    """Removes a message of a source. An event that was set aside stays: every replay has to pass over it.

    Raises:
        service.errors.Refused: there is no such model, or the id is none of a message.
    """
    if _checked("id", request.id)["partition"]:
        raise errors.invalid("id", request.id, "a message of a source; an event that was set aside is kept")
    shard.check_there(request.name, shard.find(request.name).id)
    dropped = await asyncio.to_thread(_store(shard, request.name).drop_letter, request.id)
    return pb.DropDeadLetterReply(dropped=dropped)


def _checked(field: str, id: str) -> re.Match[str]:
    found = _ID.match(id)
    if found is None:
        raise errors.invalid(field, id, "the id of a dead letter, such as 1526919030474-0 or q0:1526919030474-0")
    return found
