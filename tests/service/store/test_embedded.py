from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import redis

from service.store.connect import connect
from service.store.embedded import (
    MAX_SOCKET_PATH,
    AlreadySupervisedError,
    EmbeddedRedis,
    EmbeddedRedisError,
    OrphanError,
    find_server,
)
from service.store.errors import StoreUnavailable
from service.store.ownership import OwnerRecord
from service.store.partition import Partition

HERE = OwnerRecord.here("shard", "localhost:1")
ROOT = Path(__file__).resolve().parents[3]


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def supervise_and_hang(data_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """Starts a supervisor in another process; returns it and the pid of its redis-server."""
    code = f"""
        from pathlib import Path
        from service.store.embedded import EmbeddedRedis
        server = EmbeddedRedis(Path({str(data_dir)!r}))
        server.start()
        print(server.pid, flush=True)
        input()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_settings_are_those_of_the_design(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server:
        client = connect(server.url)
        found = client.config_get("*")
        expected = {
            "appendonly": "yes",
            "appendfsync": "always",
            "no-appendfsync-on-rewrite": "no",
            "save": "",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "dir": str(data_dir),
        }
        assert {name: found[name] for name in expected} == expected
        assert (data_dir / "redis.pid").read_text() == f"{server.pid}\n"
        assert os.stat(server.socket).st_mode & 0o077 == 0
        assert os.getsid(server.pid) == server.pid
        assert not server.adopted
        pid = server.pid
    assert not psutil.pid_exists(pid)
    with EmbeddedRedis(data_dir, appendfsync="everysec") as server:
        assert connect(server.url).config_get("appendfsync") == {"appendfsync": "everysec"}
    with pytest.raises(ValueError, match="accepted: always"):
        EmbeddedRedis(data_dir, appendfsync="sometimes")  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is of Linux")
def test_the_environment_reaches_the_server(data_dir: Path) -> None:
    for env, loaded in ((None, False), ({"LD_PRELOAD": "libresolv.so.2"}, True)):
        with EmbeddedRedis(data_dir, env=env) as server:
            assert ("libresolv" in Path(f"/proc/{server.pid}/maps").read_text()) is loaded


def test_one_supervisor_for_a_folder(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server:
        with pytest.raises(AlreadySupervisedError, match=str(os.getpid())):
            EmbeddedRedis(data_dir).start()
        with pytest.raises(AlreadySupervisedError):
            server.start()
        connect(server.url).ping()
    other, _ = supervise_and_hang(data_dir)
    try:
        with pytest.raises(AlreadySupervisedError, match=str(other.pid)):
            EmbeddedRedis(data_dir).start()
    finally:
        kill(other)
        with EmbeddedRedis(data_dir):
            pass


def test_a_killed_server_comes_back_with_all_that_was_acknowledged(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server:
        partition = Partition(connect(server.url), "test", "m")
        token = partition.acquire(HERE)
        acknowledged, restarts = 0, 0
        for position in range(60):
            if position % 20 == 10:
                restarts += 1
                os.kill(server.pid, signal.SIGKILL)
            while True:
                try:
                    acknowledged = partition.append(token, position, 1, [b"%d" % position])
                    break
                except StoreUnavailable:
                    time.sleep(0.01)
        until(lambda: server.restarts == restarts)
        assert acknowledged == 60
        assert [entry.messages for entry in partition.read(0)] == [[b"%d" % index] for index in range(60)]
        assert (data_dir / "redis.pid").read_text() == f"{server.pid}\n"


def test_scripts_work_on_a_restarted_server(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server:
        client = connect(server.url)
        partition = Partition(client, "test", "m")
        token = partition.acquire(HERE)
        partition.append(token, 0, 1, [b"x"])
        os.kill(server.pid, signal.SIGKILL)
        until(lambda: server.restarts == 1)
        assert client.info("memory")["number_of_cached_scripts"] == 0
        assert partition.append(token, 1, 1, [b"y"]) == 2
        assert partition.owner() == (token, HERE)


def test_an_orphan_is_adopted_and_watched(data_dir: Path) -> None:
    supervisor, pid = supervise_and_hang(data_dir)
    kill(supervisor)
    assert psutil.pid_exists(pid)
    with EmbeddedRedis(data_dir, appendfsync="everysec") as server:
        client = connect(server.url)
        assert (server.pid, server.adopted) == (pid, True)
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        client.set("kept", 1)
        client.config_set("appendfsync", "always")
        client.set("kept", 2)
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.restarts == 1)
        assert (server.pid != pid, server.adopted) == (True, False)
        assert client.get("kept") == b"2"
    supervisor, pid = supervise_and_hang(data_dir)
    kill(supervisor)
    with EmbeddedRedis(data_dir) as server:
        assert server.pid == pid
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


def test_an_orphan_that_does_not_answer_is_named(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.embedded.LOCK_WAIT_SECONDS", 0.2)
    supervisor, pid = supervise_and_hang(data_dir)
    kill(supervisor)
    (data_dir / "redis.sock").unlink()
    try:
        with pytest.raises(OrphanError, match=str(pid)):
            EmbeddedRedis(data_dir).start()
        assert psutil.pid_exists(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    with EmbeddedRedis(data_dir) as server:
        assert not server.adopted


def test_a_folder_with_a_long_path(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long " * 20) / ("folder" * 15)
    with EmbeddedRedis(data_dir) as server:
        assert len(os.fsencode(server.socket)) <= MAX_SOCKET_PATH
        client = connect(server.url)
        client.set("a", 1)
        assert client.config_get("dir") == {"dir": str(data_dir)}
    assert (data_dir / "appendonly.aof").exists() or (data_dir / "appendonlydir").exists()


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server:
        connect(server.url).set("a", 1)
    files = [path for path in data_dir.rglob("*.aof") if path.is_file()]
    for path in files:
        path.write_bytes(b"*1\r\n$7\r\nnothing\r\n" + path.read_bytes())
    server = EmbeddedRedis(data_dir)
    with pytest.raises(EmbeddedRedisError, match="redis-server ended with status"):
        server.start()


@pytest.mark.skipif(find_server()[1] >= (7,), reason="the server here reads newer folders")
def test_an_older_server_does_not_start_empty_on_a_newer_folder(data_dir: Path) -> None:
    (data_dir / "appendonlydir").mkdir(parents=True)
    with pytest.raises(EmbeddedRedisError, match="would start empty"):
        EmbeddedRedis(data_dir).start()


def test_starting_and_stopping_again(data_dir: Path) -> None:
    server = EmbeddedRedis(data_dir)
    for expected in (None, b"0"):
        server.start()
        client = connect(server.url)
        assert client.get("a") == expected
        client.set("a", 0)
        server.stop()
        server.stop()
    with pytest.raises(redis.exceptions.ConnectionError):
        connect(server.url).ping()
