"""The table of keys against a dictionary."""

from __future__ import annotations

import numpy as np
import pytest

from kernels.cpu import keys
from kernels.cpu.bound import Bound

# From the specification of XXH64, seed 0.
KNOWN = {
    b"": 0xEF46DB3751D8E999,
    b"a": 0xD24EC4F1A98C6E5B,
    b"abc": 0x44BC2CF5AD770999,
    b"Nobody inspects the spammish repetition": 0xFBCEA83C8A378BF1,
}


def column(names: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.zeros(len(names) + 1, np.int64)
    np.cumsum([len(name) for name in names], out=offsets[1:])
    return offsets, np.array(bytearray(b"".join(names)), np.uint8)


@pytest.mark.parametrize("text", KNOWN)
def test_hash_of_known_texts(text) -> None:
    data = np.array(bytearray(b"##" + text + b"##"), np.uint8)
    assert int(keys.xxh64(data, 2, 2 + len(text))) == KNOWN[text]


def look_up(table, names: list[bytes]) -> tuple[list[int], int]:
    offsets, data = column(names)
    slots = np.empty(len(names), np.int64)
    absent = keys.lookup(Bound(table), offsets, data, slots)
    return slots.tolist(), absent


@pytest.mark.parametrize("seed", range(8))
def test_table_is_a_dictionary(seed) -> None:
    """Random insertions, deletions and look-ups in a table at its fullest, with keys that share their first cells."""
    rng = np.random.default_rng(seed)
    capacity = int(rng.choice([4, 8, 32]))
    cells = np.zeros(2 * capacity, np.int64)
    arena = np.zeros(8 * capacity, np.uint8)
    fields = (np.zeros(capacity, dtype) for dtype in (np.uint64, np.int64, np.int64))
    table = keys.Table(cells, *fields, arena)
    names = [b"", *(bytes(rng.integers(0, 3, rng.integers(1, 8)).astype(np.uint8)) for _ in range(60))]
    model: dict[bytes, int] = {}
    free = list(range(capacity))
    for _ in range(1500):
        name = names[rng.integers(len(names))]
        if name in model:
            if rng.random() < 0.5:
                keys.remove(table, model[name])
                free.append(model.pop(name))
        elif free:
            slot = free.pop(int(rng.integers(len(free))))
            data = np.array(bytearray(name), np.uint8)
            arena[8 * slot : 8 * slot + len(name)] = data
            keys.insert(table, slot, data, 8 * slot)
            model[name] = slot
        asked = [names[i] for i in rng.integers(0, len(names), 5)]
        slots, absent = look_up(table, asked * 2)
        assert slots == [model.get(name, -1) for name in asked * 2]
        assert absent == slots.count(-1)
        assert np.count_nonzero(cells) == len(model)
    used = np.zeros(capacity, bool)
    used[list(model.values())] = True
    cells[:] = 0
    keys.rebuild(table, used)
    assert look_up(table, names)[0] == [model.get(name, -1) for name in names]


def test_runs_of_one_key_are_found_and_not_confused_with_their_neighbours() -> None:
    fields = (np.zeros(2, dtype) for dtype in (np.uint64, np.int64, np.int64))
    table = keys.Table(np.zeros(8, np.int64), *fields, np.zeros(8, np.uint8))
    table.arena[:2] = [1, 2]
    keys.insert(table, 0, np.array([1], np.uint8), 0)
    keys.insert(table, 1, np.array([2], np.uint8), 1)
    slots, absent = look_up(table, [b"\1", b"\1", b"\2", b"\2", b"\3", b"\3", b"\1"])
    assert slots == [0, 0, 1, 1, -1, -1, 0]
    assert absent == 2
