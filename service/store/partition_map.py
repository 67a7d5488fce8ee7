"""The partition map of a model: which range of key hashes is which partition, and which shard owns it.

Ranges of the 64-bit hash of a key (`service.wire.key_hash`) that follow one another without gap from 0 to 2^64. The id
of a partition names its keys in the store and stands for one range for ever: whoever splits or merges makes new
partitions under new ids. A map is a value; every change is a new map with the next version, and replaces the one before
by compare-and-set (`Catalog.set_map`).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

END = 2**64
"""The hash after the last one."""


@dataclass(frozen=True, slots=True)
class Range:
    """One partition.

    Attributes:
        id: its name, a number as text.
        low: first hash.
        high: hash after the last one.
        shard: name of the shard that owns it.
        start: position at which its log begins.
        counted: events before `start` that count as this partition's, where events of the model are counted: each event
            of a common past counts once.
    """

    id: str
    low: int = 0
    high: int = END
    shard: str = ""
    start: int = 0
    counted: int = 0

    @property
    def whole(self) -> bool:
        """Whether every key belongs to it."""
        return self.low == 0 and self.high == END

    def events(self, position: int) -> int:
        """Events of the model that this partition accounts for, its log being at `position`."""
        return self.counted + position - self.start

    def pieces(self, into: int) -> list[tuple[int, int]]:
        """The range cut in `into` ranges that are equal to one hash.

        Raises:
            ValueError: there are not that many hashes, or less than two pieces are wanted.
        """
        width = self.high - self.low
        if not 2 <= into <= min(width, 256):
            raise ValueError(f"into: got {into}; accepted: 2 to {min(width, 256)}")
        cuts = [self.low + width * i // into for i in range(into + 1)]
        return list(pairwise(cuts))


@dataclass(frozen=True, slots=True)
class Prepared:
    """A change that was begun and not committed.

    Attributes:
        parents: ids of the partitions that it replaces.
        children: ids under which it writes what replaces them; nobody reads them before the commit.
    """

    parents: tuple[str, ...]
    children: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelMap:
    """The partitions of a model.

    Attributes:
        version: rises by one with every change of ranges or owners.
        next: number of the next id.
        partitions: by range, in order.
        retired: ids whose logs are kept, read-only: what became of them is in other partitions.
        prepared: the changes under way.
        dropped: ids that a change which was given up may have left in the store.
        birth: tells the model from others that had its name.
    """

    version: int
    next: int
    partitions: tuple[Range, ...]
    retired: tuple[str, ...] = ()
    prepared: tuple[Prepared, ...] = ()
    dropped: tuple[str, ...] = ()
    birth: str = ""

    @classmethod
    def whole(cls, shard: str) -> ModelMap:
        """The map of a new model: one partition, "0"."""
        return cls(1, 1, (Range("0", shard=shard),), birth=secrets.token_hex(8))

    def to_json(self) -> bytes:
        """The map as it stands in the catalog; equal maps give equal bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, body: bytes) -> ModelMap:
        """The inverse of `to_json`."""
        held: dict[str, Any] = json.loads(body)
        held["partitions"] = tuple(Range(**one) for one in held["partitions"])
        held["prepared"] = tuple(Prepared(tuple(p["parents"]), tuple(p["children"])) for p in held["prepared"])
        return cls(**held | {name: tuple(held[name]) for name in ("retired", "dropped")})

    def at(self, hash: int) -> Range:
        """The partition of a key hash."""
        for part in self.partitions:
            if hash < part.high:
                return part
        raise ValueError(f"hash: got {hash}; accepted: below 2**64")

    def get(self, id: str) -> Range | None:
        """The partition with this id, None if it is not (or no longer) one."""
        return next((part for part in self.partitions if part.id == id), None)

    def changing(self, id: str) -> Prepared | None:
        """The change under way that would replace a partition."""
        return next((change for change in self.prepared if id in change.parents), None)

    @property
    def past(self) -> bool:
        """Whether any partition was ever split, merged or moved."""
        return self.version > 1

    # Every change is a new map

    def with_owner(self, id: str, shard: str) -> ModelMap:
        """The partition belongs to another shard."""
        parts = tuple(replace(part, shard=shard) if part.id == id else part for part in self.partitions)
        return replace(self, version=self.version + 1, partitions=parts)

    def prepare(self, parents: Sequence[str], children: int) -> tuple[ModelMap, Prepared]:
        """A change of `parents` begins, and gets ids for its children."""
        ids = tuple(str(self.next + i) for i in range(children))
        change = Prepared(tuple(parents), ids)
        return replace(self, next=self.next + children, prepared=(*self.prepared, change)), change

    def give_up(self, change: Prepared) -> ModelMap:
        """The change does not take place."""
        return replace(self, prepared=self._without(change), dropped=(*self.dropped, *change.children))

    def _without(self, change: Prepared) -> tuple[Prepared, ...]:
        return tuple(one for one in self.prepared if one != change)

    def hand_over(self, change: Prepared, shard: str) -> ModelMap:
        """The one partition of a change without children belongs to another shard."""
        return replace(self.with_owner(change.parents[0], shard), prepared=self._without(change))

    def forget(self, dropped: Sequence[str]) -> ModelMap:
        """What changes that were given up had left in the store is gone."""
        return replace(self, dropped=tuple(id for id in self.dropped if id not in dropped))

    def commit(self, change: Prepared, children: Sequence[Range]) -> ModelMap:
        """The children take the place of their parents.

        Raises:
            ValueError: they do not cover the same hashes, or the change was not prepared in this map.
        """
        if change not in self.prepared or tuple(child.id for child in children) != change.children:
            raise ValueError(f"children: got {children}; accepted: those of a prepared change, {self.prepared}")
        kept = [part for part in self.partitions if part.id not in change.parents]
        parts = tuple(sorted([*kept, *children], key=lambda part: part.low))
        bounds = [0, *(part.high for part in parts)]
        if bounds[-1] != END or any(part.low != low for part, low in zip(parts, bounds)):
            raise ValueError(f"children: got {children}; accepted: ranges that cover those of {change.parents}")
        retired = (*self.retired, *change.parents)
        prepared, version = self._without(change), self.version + 1
        return replace(self, version=version, partitions=parts, prepared=prepared, retired=retired)


def moves(owners: dict[tuple[str, str], str], shards: Sequence[str]) -> list[tuple[tuple[str, str], str]]:
    """Which partitions to give to which shard, so that no shard has two more than another; few of them.

    Args:
        owners: shard of each partition, by (model, id).
        shards: all that may own one.

    Returns:
        (partition, new owner), in the order in which to move.
    """
    held: dict[str, list[tuple[str, str]]] = {shard: [] for shard in shards}
    for place, shard in sorted(owners.items()):
        held.setdefault(shard, []).append(place)
    found: list[tuple[tuple[str, str], str]] = []
    while True:
        gone = [shard for shard in held if shard not in shards and held[shard]]
        most = gone[0] if gone else max(shards, key=lambda shard: len(held[shard]))
        least = min(shards, key=lambda shard: len(held[shard]))
        if not gone and len(held[most]) - len(held[least]) < 2:
            return found
        # Of a model that has several partitions here one goes, so that its load is spread.
        models = [model for model, _ in held[most]]
        place = max(held[most], key=lambda place: models.count(place[0]))
        held[most].remove(place)
        held[least].append(place)
        found.append((place, least))
