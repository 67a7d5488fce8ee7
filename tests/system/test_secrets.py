"""The password of a Redis is told to nobody: not on terminals, in files, in logs, or in lists of processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from test_ray_lost import SPEC, Serving

from continual.bench._helpers import until
from service.client import Client
from service.serve import REDIS_PASSWORD, ServeOptions, store_url
from service.store.connect import connect
from service.store.embedded import EmbeddedRedis
from streams.redis_client import redis_client

WORD = "pa55-of-the-store"


def ray_session(serving: Serving) -> Path:
    """The folder that Ray writes into."""
    (folder,) = [part for part in serving.find("raylet").cmdline() if part.startswith("--session_dir=")]
    return Path(folder.partition("=")[2])


def files_with(word: str, folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".aof", ".out"))]
    return [path for path in paths if word.encode() in path.read_bytes()]


@pytest.mark.timeout(180)
def test_a_password_in_a_url_goes_no_further(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as store:
        with connect(store.url) as client:
            client.config_set("requirepass", WORD)
        url = store.url.replace("unix://", f"unix://:{WORD}@")
        serving = Serving(tmp_path / "data", "--redis", url).ready()
        session = ray_session(serving)
        with Client(serving.address) as client:
            queues = {"sources": [{"kind": "redis_stream", "stream": "events", "payload": "data"}]}
            queues["sinks"] = [{"kind": "redis_stream", "stream": "out"}]
            client.models.create({"name": "m", **SPEC, "deployment": SPEC["deployment"] | queues})
            with redis_client(store.url, password=WORD) as queue:
                queue.xadd("events", {"data": json.dumps({"a": 0.0, "b": 0.0, "c": 0.0})})
                until(lambda: queue.xlen("out") == 1, 60, "an event of the source, answered into the sink")
        told = json.loads((tmp_path / "data" / "serve.json").read_text())
        assert told["redis"].endswith(f"?password_env={REDIS_PASSWORD}")
        for process in serving.watched.children(recursive=True):
            assert WORD not in " ".join(process.cmdline()), process
        assert serving.end() == 0
        assert WORD not in serving.said
        assert "the list of processes shows the password of --redis" in serving.said
        assert files_with(WORD, tmp_path / "data") == []
        assert files_with(WORD, session) == []


@pytest.mark.timeout(120)
def test_a_wrong_password_is_refused_without_being_said(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as store:
        with connect(store.url) as client:
            client.config_set("requirepass", WORD)
        serving = Serving(tmp_path / "data", "--redis", store.url, env={REDIS_PASSWORD: "wr0ng-word"})
        assert serving.process.wait(60) == 1
        assert "AUTH" in serving.said
        assert "wr0ng-word" not in serving.said


def test_where_a_password_may_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_PASSWORD, "")
    url = f"redis://me:{WORD}@h:1/0"
    word = tmp_path / "word"
    word.write_text(f"{WORD}\n")

    def password(**options: object) -> object:
        found = store_url(ServeOptions(**options))  # type: ignore[arg-type]
        assert WORD not in found
        return redis_client(found).get_connection_kwargs().get("password")

    assert password(redis="redis://h:1/0") is None
    assert password(redis="redis://h:1/0", redis_password_file=word) == WORD
    assert password(redis=url) == WORD
    assert os.environ[REDIS_PASSWORD] == WORD  # for the processes of a local Ray
    assert password(redis="redis://h:1/0") == WORD
    assert password(redis=url, ray="auto") == WORD  # every node is to have it, as this one does
    monkeypatch.setenv(REDIS_PASSWORD, "another")
    with pytest.raises(ValueError, match=r"not sent through a Ray cluster; set CONTINUAL_REDIS_PASSWORD") as refused:
        store_url(ServeOptions(redis=url, ray="auto"))
    assert WORD not in str(refused.value)
    with pytest.raises(ValueError, match="ssl_password does not belong in a URL"):
        store_url(ServeOptions(redis=f"rediss://h:1?ssl_password={WORD}"))
