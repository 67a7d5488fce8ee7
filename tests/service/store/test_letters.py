from __future__ import annotations

import pytest

from service.store.letters import MAX_PAYLOAD
from service.store.partition import Partition


def letters(*numbers: int) -> list[tuple[int, str, bytes, str]]:
    return [(number, f"reason {number}", b"bytes \xff %d" % number, "{}") for number in numbers]


@pytest.mark.parametrize("base", [0, 2**53 - 3, 2**61])
def test_a_letter_is_kept_once_however_often_it_is_read(partition: Partition, token: str, base: int) -> None:
    """Also where a number is larger than what a double can tell from its neighbour."""
    numbers = [base + offset for offset in (0, 1, 2, 9, 10, 11)]
    assert partition.keep("p", 100, letters(*numbers[:3])) == 3
    assert partition.keep("p", 100, letters(*numbers[:5])) == 2
    assert partition.keep("p", 100, letters(*numbers)) == 1
    assert partition.keep("q", 100, letters(numbers[0])) == 1
    kept = partition.letters()
    assert [(one.producer, one.number) for one in kept] == [*(("p", n) for n in numbers), ("q", numbers[0])]
    assert kept[0].payload == b"bytes \xff %d" % numbers[0]
    assert partition.letter(kept[3].id) == kept[3]
    assert [one.id for one in partition.letters(kept[4].id)] == [one.id for one in kept[5:]]


def test_letters_are_bounded_and_dropped(partition: Partition, token: str) -> None:
    assert partition.keep("p", 5000, letters(*range(1200))) == 1200
    assert partition.count_letters() == 1200
    partition.keep("p", 100, letters(*range(1200, 1201)))
    assert partition.count_letters() < 300
    last = partition.letters(count=10_000)[-1]
    assert last.number == 1200
    assert partition.drop_letter(last.id)
    assert not partition.drop_letter(last.id)
    assert partition.letter(last.id) is None
    assert partition.keep("p", 100, letters(1200)) == 0  # dealt with is dealt with
    partition.keep("p", 100, [(1201, "large", bytes(2 * MAX_PAYLOAD), "{}")])
    assert len(partition.letters(count=10_000)[-1].payload) == MAX_PAYLOAD


def test_nothing_is_left_of_a_model_that_is_gone(partition: Partition, token: str) -> None:
    partition.say("kafka:t", {"state": "reading"})
    assert partition.said() == {"kafka:t": {"state": "reading"}}
    partition.keep("p", 100, letters(1))
    partition.delete(token)
    partition.say("kafka:t", {"state": "reading"})
    assert partition.keep("p", 100, letters(2)) == 0
    assert (partition.said(), partition.letters()) == ({}, [])
