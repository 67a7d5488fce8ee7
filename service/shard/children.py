"""What takes the place of a partition that is split or merged: written beside it, swept away if nothing comes of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from learners.base import hash_shared
from service import errors
from service.shard.admission import Producers, UpdateWindow
from service.shard.partition import Partition
from service.shard.requests import keys_inside
from service.shard.statistics import Statistics
from service.store.catalog import Catalog
from service.store.errors import MapConflict
from service.store.ownership import OwnerRecord
from service.store.partition import Partition as Store
from service.store.partition_map import ModelMap, Range
from streams.batch import Keys

log = logging.getLogger(__name__)

COPY_KEYS = 512
"""Rows read and written at a time."""


def settle(catalog: Catalog, model: str, id: str, shard: str, record: OwnerRecord) -> bool:
    """Says whether a partition that was just taken is the shard's to serve; a change of it that was begun is given up.

    What that change may have left in the store is deleted.
    """
    while True:
        held = catalog.map_of(model)
        part = held.get(id) if held else None
        if held is None or part is None or part.shard != shard:
            return False
        change = held.changing(id)
        if change is None:
            break
        replace_map(catalog, model, held, held.give_up(change))
        log.warning("model %s: a change of partition %s was begun and not committed; it is given up", model, id)
    if held.dropped:
        sweep(catalog, model, held.dropped, record)
    return True


def replace_map(catalog: Catalog, model: str, before: ModelMap, after: ModelMap) -> bool:
    """Sets a map; False where another one came first."""
    try:
        catalog.set_map(model, before, after)
    except MapConflict:
        return False
    return True


def sweep(catalog: Catalog, model: str, ids: Sequence[str], record: OwnerRecord) -> None:
    """Deletes what changes that were given up left, and says so in the map."""
    for id in ids:
        store = Store(catalog.client, catalog.name, model, id)
        store.delete(store.acquire(record))
    while (held := catalog.map_of(model)) is not None and set(ids) & set(held.dropped):
        if replace_map(catalog, model, held, held.forget(ids)):
            return


@dataclass
class Child:
    """A partition in the making: its range, its keys in the store and the token that may write them."""

    part: Range
    store: Store
    token: str


def donor_of(parents: list[Partition], heads: list[int]) -> Partition:
    """The parent whose weights stay: that which has folded more events.

    Raises:
        service.errors.Refused: rows of the other one name classes by numbers that mean others there.
    """
    donor = parents[heads.index(max(heads))]
    classes = donor.learner.classes()
    for parent in parents:
        theirs = parent.learner.classes()
        if theirs != classes[: len(theirs)]:
            message = f"partitions {donor.part.id!r} and {parent.part.id!r} met their classes in another order"
            raise errors.failed_precondition("CLASSES_DIFFER", donor.spec.name, message)
    return donor


def copy_rows(source: Store, since: int, at: int, children: Sequence[Child]) -> int:
    """Copies rows that changed in (since, at], as they stood at `at`, to the children whose keys they are.

    Returns:
        How many.
    """
    keys = source.changed_keys(since, at)
    count = 0
    for start in range(0, len(keys), COPY_KEYS):
        names = keys[start : start + COPY_KEYS]
        found = [(name, *row) for name, row in zip(names, source.get_rows(names, at)) if row is not None]
        column = Keys.pack(name for name, _, _ in found)
        for child in children:
            inside = keys_inside(column, child.part.low, child.part.high)
            rows = [found[i] for i in np.flatnonzero(inside).tolist()]
            count += child.store.put_rows(child.token, rows, -1)[0]
    return count


def write_children(donor: Partition, parents: list[Partition], children: list[Child]) -> None:
    """The snapshots of the children, each at the position where its log begins, and gives them free.

    Counts and metrics of the past stay with the first child, so that the sums over partitions are those of the model.
    """
    snapshot = donor.store.load_snapshot()
    assert snapshot is not None
    assert snapshot.position == donor.head
    window = parents[0].window
    for parent in parents[1:]:
        window = UpdateWindow.united(window, parent.window)
    arrays = snapshot.arrays | window.arrays()
    kept = {name: snapshot.manifest[name] for name in ("spec_digest", "shared_digest", "fingerprint")}
    if donor.exchanger is not None:
        shared = donor.exchanger.apart(snapshot.arrays)
        arrays |= shared
        kept["shared_digest"] = hash_shared(shared).hexdigest()
    marks = united_marks([(parent.part, parent.producers) for parent in parents])
    past = Statistics.united([parent.statistics for parent in parents])
    for number, child in enumerate(children):
        statistics = past if number == 0 else Statistics(past.kind)
        manifest: dict[str, Any] = kept | {"statistics": statistics.to_dict()} | marks.to_dict()
        child.store.begin_log(child.token, child.part.start)
        writer = child.store.begin_snapshot(child.token, child.part.start)
        writer.write(arrays)
        writer.commit(manifest)
        child.store.release(child.token)


def united_marks(parts: Sequence[tuple[Range, Producers]]) -> Producers:
    """The marks of several partitions in one: the lowest, and for which keys the log holds more."""
    if len(parts) == 1:
        return parts[0][1]
    whole = Producers()
    for name in dict.fromkeys(name for _, held in parts for name in held.logged):
        marks = [(part, held.logged.get(name, 0), held.ahead.get(name, [])) for part, held in parts]
        whole.logged[name] = least = min(mark for _, mark, _ in marks)
        ahead = [(part.low, part.high, mark) for part, mark, _ in marks if mark > least]
        ahead += [one for _, _, more in marks for one in more]
        if ahead:
            whole.ahead[name] = ahead
    return whole
