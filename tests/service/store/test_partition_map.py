"""Maps of partitions: ranges without gap or overlap through any changes, and the moves that even out shards."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.store.partition_map import END, ModelMap, Range, moves

KINDS = st.sampled_from(["split", "merge", "move", "give up"])
CHANGES = st.lists(st.tuples(KINDS, st.integers(0, 99), st.integers(2, 5)))


def sound(held: ModelMap) -> None:
    """Every hash has exactly one partition, and no id is used twice."""
    assert [part.low for part in held.partitions] == [0, *(part.high for part in held.partitions[:-1])]
    assert held.partitions[-1].high == END
    ids = [*held.retired, *held.dropped, *(part.id for part in held.partitions)]
    assert len(set(ids)) == len(ids)
    assert all(int(id) < held.next for id in ids)


@given(CHANGES)
def test_ranges_cover_every_hash_once_whatever_is_done(changes: list[tuple[str, int, int]]) -> None:
    held = ModelMap.whole("shard-0")
    events = 0
    positions = {"0": 0}
    for what, choice, into in changes:
        part = held.partitions[choice % len(held.partitions)]
        positions[part.id] += 10
        events += 10
        before = held
        if what == "move":
            held = held.with_owner(part.id, f"shard-{into}-of-{held.version}")
        elif what == "merge" and len(held.partitions) > 1:
            first, second = held.partitions[choice % (len(held.partitions) - 1) :][:2]
            held, change = held.prepare([first.id, second.id], 1)
            start = max(positions[first.id], positions[second.id])
            counted = first.events(positions[first.id]) + second.events(positions[second.id])
            child = Range(change.children[0], first.low, second.high, first.shard, start, counted)
            held = held.commit(change, [child])
            positions[child.id] = start
        else:
            held, change = held.prepare([part.id], into)
            if what == "give up":
                held = held.give_up(change)
            else:
                at = positions[part.id]
                cuts = part.pieces(into)
                counted = [part.events(at), *[0] * (into - 1)]
                listed = zip(change.children, cuts, counted)
                children = [Range(id, low, high, part.shard, at, n) for id, (low, high), n in listed]
                held = held.commit(change, children)
                positions |= dict.fromkeys(change.children, at)
        sound(held)
        assert held.version == before.version + (held.partitions != before.partitions)
        assert ModelMap.from_json(held.to_json()) == held
        assert sum(part.events(positions[part.id]) for part in held.partitions) == events


@given(st.integers(0, END - 1), st.integers(2, 7))
def test_a_hash_is_in_the_partition_that_at_names(hash: int, into: int) -> None:
    held, change = ModelMap.whole("s").prepare(["0"], into)
    cuts = held.partitions[0].pieces(into)
    held = held.commit(change, [Range(id, *cut, "s") for id, cut in zip(change.children, cuts)])
    part = held.at(hash)
    assert part.low <= hash < part.high
    widths = [high - low for low, high in cuts]
    assert max(widths) - min(widths) <= 1


def test_children_that_do_not_cover_their_parent_are_refused() -> None:
    held, change = ModelMap.whole("s").prepare(["0"], 2)
    low, high = (Range(id, *cut, "s") for id, cut in zip(change.children, held.partitions[0].pieces(2)))
    with pytest.raises(ValueError, match="cover"):
        held.commit(change, [low, Range(high.id, high.low + 1, high.high, "s")])
    with pytest.raises(ValueError, match="prepared"):
        ModelMap.whole("s").commit(change, [low, high])
    assert held.commit(change, [low, high]).retired == ("0",)


@pytest.mark.parametrize("into", [0, 1, 257])
def test_a_range_is_cut_in_2_to_256(into: int) -> None:
    with pytest.raises(ValueError, match=f"got {into}"):
        Range("0").pieces(into)


@given(st.dictionaries(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), st.integers(0, 5)), st.integers(1, 4))
def test_moves_leave_no_shard_with_two_more_than_another(owners: dict, live: int) -> None:
    shards = [f"shard-{i}" for i in range(live)]
    held = {(model, str(id)): f"shard-{shard}" for (model, id), shard in owners.items()}
    before = dict(held)
    found = moves(held, shards)
    assert held == before
    for place, shard in found:
        assert held[place] != shard
        held[place] = shard
    load = Counter(dict.fromkeys(shards, 0))
    load.update(held.values())
    assert set(load) == set(shards)
    assert max(load.values()) - min(load.values()) <= 1
    assert len(found) == len({place for place, _ in found})
