"""Clients of Redis: none repeats a command, a quiet stream is not silence, and no password is printed."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from streams.redis_client import SOCKET_TIMEOUT, redis_client, refer_to_password, shown, split_password
from streams.sources.redis_stream import RedisReader
from streams.sources.spec import RedisStreamSource

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "streams" / "redis_client.py"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


def said(url: str) -> tuple[int, int]:
    """How often XREAD was called, and how many connections there ever were."""
    with connect(url) as client:
        calls = client.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"]
        return int(calls), int(client.info("stats")["total_connections_received"])


@pytest.mark.parametrize("quiet", [SOCKET_TIMEOUT + 2, pytest.param(120.0, marks=pytest.mark.long)])
def test_a_command_that_waits_longer_than_the_timeout_is_sent_once(server: EmbeddedRedis, quiet: float) -> None:
    before, connections = said(server.url)
    with redis_client(server.url, waits=quiet) as client:
        began = time.monotonic()
        assert not client.execute_command(b"XREAD", b"BLOCK", int(quiet * 1000), b"STREAMS", b"quiet", b"0-0")
        assert time.monotonic() - began >= quiet
    calls, now = said(server.url)
    assert (calls - before, now - connections) == (1, 2)


@pytest.mark.parametrize("quiet", [SOCKET_TIMEOUT + 2, pytest.param(120.0, marks=pytest.mark.long)])
def test_a_source_on_a_quiet_stream_keeps_its_one_connection(server: EmbeddedRedis, quiet: float) -> None:
    with connect(server.url) as client:
        client.xadd("calm", {"a": 1})
    source = RedisStreamSource(kind="redis_stream", stream="calm", payload=None, start="latest")
    reader = RedisReader(source, 10, server.url, set())
    (producer,) = reader.producers()
    reader.seek(producer, reader.begin(producer))
    reader.read()
    before, connections = said(server.url)
    reads, began = 0, time.monotonic()
    while time.monotonic() - began < quiet:
        assert reader.read() == []
        reads += 1
    calls, now = said(server.url)
    assert (calls - before, now - connections) == (2 * reads, 1)  # a look and a wait each; the connection is `said`'s
    reader.close()


def test_clients_are_made_in_one_place() -> None:
    """Every other call of redis-py's constructors would have its timeout and its repeats from redis-py."""
    makers = {"Redis", "StrictRedis", "from_url", "ConnectionPool", "BlockingConnectionPool", "RedisCluster"}
    for package in ("continual", "service", "streams", "learners"):
        for path in (ROOT / package).rglob("*.py"):
            if path == OWN:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                made = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in makers
                assert not made, f"{path.relative_to(ROOT)}:{node.lineno} makes a client; use streams.redis_client"


@pytest.mark.parametrize(
    ("url", "bare", "password", "printed"),
    [
        ("redis://h:1/0", "redis://h:1/0", None, "redis://h:1/0"),
        ("redis://:p%40ss@h:1/0", "redis://h:1/0", "p@ss", "redis://:***@h:1/0"),
        ("rediss://me:s3cret@h:1", "rediss://me@h:1", "s3cret", "rediss://me:***@h:1"),
        ("redis://h:1?password=s3cret&db=2", "redis://h:1?db=2", "s3cret", "redis://h:1?password=***&db=2"),
        ("unix://me:s3cret@/a/b.sock", "unix://me@/a/b.sock", "s3cret", "unix://me:***@/a/b.sock"),
    ],
)
def test_a_password_is_taken_out_of_a_url(url: str, bare: str, password: str | None, printed: str) -> None:
    assert split_password(url) == (bare, password)
    assert shown(url) == printed


def test_a_url_says_where_the_password_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "word").write_text("from-a-file\n")
    monkeypatch.setenv("WORD", "from-a-variable")
    by_file = refer_to_password("redis://me:old@h:1/3", file=str(tmp_path / "word"))
    by_name = refer_to_password("redis://me:old@h:1/3", env="WORD")
    for url, word in ((by_file, "from-a-file"), (by_name, "from-a-variable")):
        assert "old" not in url
        assert shown(url) == url
        held = redis_client(url).get_connection_kwargs()
        assert (held["host"], held["db"], held["username"], held["password"]) == ("h", 3, "me", word)
    monkeypatch.delenv("WORD")
    with pytest.raises(ValueError, match=r"should be in the variable WORD, which is not set"):
        redis_client(by_name)
    (tmp_path / "word").write_text("")
    with pytest.raises(ValueError, match=r"word, which is empty"):
        redis_client(by_file)


def test_what_is_not_a_url_of_redis_is_refused_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"accepted: a URL that begins with redis://") as refused:
        redis_client("http://me:s3cret@h")
    assert "s3cret" not in str(refused.value)


def test_the_password_of_a_reference_is_used(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect(server.url) as client:
        client.config_set("requirepass", "s3cret")
    try:
        monkeypatch.setenv("WORD", "s3cret")
        assert redis_client(refer_to_password(server.url, env="WORD")).ping()
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis_client(server.url).ping()
    finally:
        redis_client(server.url, password="s3cret").config_set("requirepass", "")


@pytest.mark.parametrize("where", ["password_env=HOME", "password_file=/etc/hostname"])
def test_a_spec_cannot_send_what_is_on_the_machine_as_a_password(where: str) -> None:
    """Whoever may create a model chooses the server that the password goes to."""
    with pytest.raises(ValueError, match=r"nothing after the path but \?db=NUMBER"):
        RedisStreamSource(kind="redis_stream", stream="s", payload=None, url=f"redis://127.0.0.1:1/0?{where}")
