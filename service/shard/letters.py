"""The dead letters of a model as the API shows them."""

from __future__ import annotations

import asyncio
import re

from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.shard import DEPLOYMENT, Shard
from service.store.partition import Partition as Store

QUARANTINED = "q"
"""Begins the id of an event that stopped the fold; after it comes the id in its stream."""

MOST = 1000
_ID = re.compile(rf"{QUARANTINED}?\d+-\d+\Z")


async def list_letters(shard: Shard, request: pb.ListDeadLettersRequest, raw: bytes) -> pb.ListDeadLettersReply:
    """Events that stopped the fold first, then messages of sources, each oldest first.

    Raises:
        service.errors.Refused: there is no such model, or `after` is no id.
    """
    _checked("after", request.after, empty=True)
    count = min(request.count or 100, MOST)
    part = shard.find(request.name, 0, request.partition)
    stores = shard.owned(request.name, part.id).store, _of_sources(shard, request.name)
    return await asyncio.to_thread(_listed, *stores, request.after, count)


def _of_sources(shard: Shard, model: str) -> Store:
    """Where the messages of sources are kept, whatever became of the partition."""
    return Store(shard.client, DEPLOYMENT, model, "0")


def _listed(store: Store, of_sources: Store, after: str, count: int) -> pb.ListDeadLettersReply:
    reply = pb.ListDeadLettersReply(total=len(store.quarantined()) + of_sources.count_letters())
    if not after or after.startswith(QUARANTINED):
        for dead in store.dead_letters(after.removeprefix(QUARANTINED), count):
            reply.letters.add(
                id=QUARANTINED + dead.id, number=dead.position, reason=dead.reason, payload=dead.payload
            )
        after = ""
    for letter in of_sources.letters(after, count - len(reply.letters)) if len(reply.letters) < count else ():
        reply.letters.add(
            id=letter.id,
            producer=letter.producer,
            number=letter.number,
            reason=letter.reason,
            payload=letter.payload,
            beside=letter.beside,
        )
    return reply


async def drop_letter(shard: Shard, request: pb.DropDeadLetterRequest, raw: bytes) -> pb.DropDeadLetterReply:
    """Removes a message of a source. What stopped the fold stays: every replay has to pass over it.

    Raises:
        service.errors.Refused: there is no such model, or the id is none of a message.
    """
    _checked("id", request.id)
    if request.id.startswith(QUARANTINED):
        raise errors.invalid("id", request.id, "a message of a source; an event that stopped the fold is kept")
    shard.owned(request.name, shard.find(request.name).id)
    dropped = await asyncio.to_thread(_of_sources(shard, request.name).drop_letter, request.id)
    return pb.DropDeadLetterReply(dropped=dropped)


def _checked(field: str, id: str, empty: bool = False) -> None:
    if not _ID.match(id) and not (empty and not id):
        raise errors.invalid(field, id, "the id of a dead letter, such as 1526919030474-0")
