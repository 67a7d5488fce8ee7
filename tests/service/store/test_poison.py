from __future__ import annotations

from service.store.partition import Partition


def test_only_starts_that_stop_at_an_entry_count_for_it(partition: Partition, token: str) -> None:
    for start in (1, 2, 3):
        assert partition.record_attempt(token, 100) == 1  # got past it every time
        assert partition.record_attempt(token, 200) == start
    partition.clear_attempts(token)
    assert partition.record_attempt(token, 200) == 1


def test_quarantine_keeps_reason_and_bytes(partition: Partition, token: str) -> None:
    partition.record_attempt(token, 200)
    assert partition.quarantine(token, 200, "fold crashed", b"\x00\xff") is True
    assert partition.quarantine(token, 200, "again", b"other") is False
    assert partition.quarantine(token, 7, "bad", b"x") is True
    assert partition.quarantined() == {200: "fold crashed", 7: "bad"}
    first, second = partition.dead_letters()
    assert (first.position, first.reason, first.payload) == (200, "fold crashed", b"\x00\xff")
    assert partition.dead_letters(first.id) == [second]
    assert partition.dead_letters(count=1) == [first]
    assert partition.record_attempt(token, 200) == 1
