"""A store that lost its tail: a stream that goes on is told so, however many partitions the model has."""

import signal

import pytest
from reshard_harness import all_ids, batches
from shard_harness import spec_of

from service.client import Client
from service.errors import Refused

ROWS, SIZE = 480, 40
KEPT, LOST_AT = 4, 8


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_stream_does_not_go_on_over_acknowledged_events_that_the_store_has_lost(
    own_server, start_shard, name, pieces
):
    """Power is lost under `everysec`: what the log holds ends at an earlier moment, and no process is left."""
    shard = start_shard()
    given = batches(ROWS, SIZE)
    spec = spec_of(name)
    answered = 0

    def source():
        for number, batch in enumerate(given):
            if number == KEPT:
                kept.append(log.stat().st_size)
            if number == LOST_AT:
                shard.end(signal.SIGKILL)
                own_server.stop()
                with log.open("r+b") as file:
                    file.truncate(kept[0])
                own_server.start()
                shard.start()
            yield batch

    with Client(shard.target) as client:
        client.models.create(spec)
        if pieces > 1:
            client.models.split(name, into=pieces)
        kept: list[int] = []
        log = max(own_server.data_dir.rglob("*.aof"), key=lambda file: file.stat().st_mtime)
        with pytest.raises(Refused) as caught:  # noqa: PT012 (the answers before the refusal count)
            for _ in client.learn(name, source(), producer="p", in_flight=1, timeout=30):
                answered += 1
        assert (answered, caught.value.reason) == (LOST_AT, "SEQUENCE_GAP")
        assert "those between are not in the log" in caught.value.message
        mark = client.producer(name, "p").next_sequence
        assert mark <= KEPT * SIZE
        again = client.learn(name, given[mark // SIZE :], producer="p", first_sequence=mark // SIZE * SIZE)
        assert sum(result.rows for result in again) == ROWS - mark // SIZE * SIZE
        assert sorted(all_ids(own_server.url, spec)) == sorted(id for batch in given for id in batch["id"])
