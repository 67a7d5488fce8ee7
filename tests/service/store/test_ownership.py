from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time

import psutil
import pytest
import redis

from service.store.errors import Fenced, OwnedElsewhere
from service.store.ownership import OwnerRecord
from service.store.partition import Partition

HERE = OwnerRecord.here("shard", "localhost:1")
ELSEWHERE = dataclasses.replace(HERE, host="another-host", shard="other")


def lease_left(client: redis.Redis, partition: Partition, seconds: float) -> None:
    """Moves the last confirmation `seconds` into the past."""
    confirmed = int(client.hget(partition.keys.owner, "confirmed") or 0)
    client.hset(partition.keys.owner, "confirmed", str(confirmed - int(seconds * 1e6)))


def test_tokens_are_random_beside_a_rising_counter(partition: Partition) -> None:
    tokens = [partition.acquire(HERE, lease=0) for _ in range(3)]
    assert [int(token.split("-")[0]) for token in tokens] == [1, 2, 3]
    assert len({token.split("-")[1] for token in tokens}) == 3
    assert partition.owner() == (tokens[-1], HERE)


def test_a_released_partition_is_free_and_the_counter_goes_on(partition: Partition) -> None:
    partition.release(partition.acquire(ELSEWHERE))
    assert partition.owner() is None
    assert partition.acquire(HERE, timeout=0).startswith("2-")


def test_a_live_owner_keeps_the_partition(partition: Partition) -> None:
    token = partition.acquire(ELSEWHERE)
    stop = threading.Event()

    def confirm() -> None:
        while not stop.wait(0.05):
            partition.confirm(token)

    keeper = threading.Thread(target=confirm)
    keeper.start()
    with pytest.raises(OwnedElsewhere, match="another-host"):
        partition.acquire(HERE, timeout=1.5)
    stop.set()
    keeper.join()
    assert partition.owner() == (token, ELSEWHERE)


def test_the_lease_runs_from_the_last_confirmation(partition: Partition, client: redis.Redis) -> None:
    token = partition.acquire(ELSEWHERE)
    lease_left(client, partition, 60)
    partition.confirm(token)
    with pytest.raises(OwnedElsewhere):
        partition.acquire(HERE, timeout=0, lease=30)
    lease_left(client, partition, 31)
    assert partition.acquire(HERE, timeout=0, lease=30) != token
    with pytest.raises(Fenced):
        partition.confirm(token)


def test_a_clock_that_went_back_costs_one_lease(partition: Partition, client: redis.Redis) -> None:
    partition.acquire(ELSEWHERE)
    lease_left(client, partition, -3600)
    with pytest.raises(OwnedElsewhere):
        partition.acquire(HERE, timeout=0)
    partition.acquire(HERE, timeout=30)


def test_a_dead_process_of_this_host_is_replaced_at_once(partition: Partition) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = dataclasses.replace(HERE, pid=process.pid, started=psutil.Process(process.pid).create_time())
    first = partition.acquire(record)
    assert not record.dead_here()
    with pytest.raises(OwnedElsewhere):
        partition.acquire(HERE, timeout=0, lease=60)
    process.kill()
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert record.dead_here()  # killed and not yet reaped
    process.communicate()
    assert record.dead_here()
    assert partition.acquire(HERE, timeout=0, lease=60) != first


def test_a_reused_process_id_is_not_the_owner() -> None:
    assert dataclasses.replace(HERE, started=HERE.started - 100).dead_here()
    assert not dataclasses.replace(HERE, host="another-host", started=0.0).dead_here()
    assert not HERE.dead_here()
