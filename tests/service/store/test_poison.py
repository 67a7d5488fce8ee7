from __future__ import annotations

import redis

from service.store.partition import Partition


def test_a_replay_under_way_leaves_a_mark_until_it_is_over(partition: Partition, token: str) -> None:
    assert not partition.suspect()
    for _ in range(2):
        partition.mark_replay(token)
        assert partition.suspect()
    partition.clear_replay(token)
    assert not partition.suspect()


def test_counts_of_an_earlier_build_are_a_mark(partition: Partition, token: str, client: redis.Redis) -> None:
    client.hset(partition.keys.attempts, "4711", "2")
    assert partition.suspect()
    partition.clear_replay(token)
    assert not partition.suspect()


def test_quarantine_keeps_reason_and_bytes(partition: Partition, token: str) -> None:
    assert partition.quarantine(token, 200, "fold crashed", b"\x00\xff") is True
    assert partition.quarantine(token, 200, "again", b"other") is False
    assert partition.quarantine(token, 7, "bad", b"x") is True
    assert partition.quarantined() == {200: "fold crashed", 7: "bad"}
    first, second = partition.dead_letters()
    assert (first.position, first.reason, first.payload) == (200, "fold crashed", b"\x00\xff")
    assert partition.dead_letters(first.id) == [second]
    assert partition.dead_letters(count=1) == [first]
