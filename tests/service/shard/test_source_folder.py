"""Files that are put into a folder become the log of a model, every row once."""

import gzip
import json
import os
import shutil
from contextlib import ExitStack

import pyarrow as pa
import pyarrow.parquet
import pytest
from shard_harness import FEATURES, LocalShard, digest, fold, until
from source_harness import Running, log_of, logged, made_events, sourced

from continual.bench._streams_peers import json_messages
from service.client import Client
from service.errors import Refused
from streams.reach import CLOSED
from streams.sources.folder import ROW_BITS

ROWS = 300
MANY = 4000
"""Rows of a file that is not read to its end before the test has noticed its beginning."""


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr("streams.sources.folder.LOOK_SECONDS", 0.05)


@pytest.fixture
def running(shard, server):
    with ExitStack() as stack:
        yield lambda spec: stack.enter_context(Running(shard.target, spec, server.url))


@pytest.fixture
def held():
    batch = made_events(ROWS)
    return batch, json_messages(batch, FEATURES)


@pytest.fixture(scope="module")
def long():
    batch = made_events(MANY)
    return batch, json_messages(batch, FEATURES)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    return path


def spec_for(client, folder, name, **more):
    spec = sourced(name, {"kind": "folder", "path": str(folder), "settle": 0, **more})
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"labels": (0, 1)})})
    client.models.create(spec)
    return spec


def put(folder, name, values):
    """A file appears whole: it is written under another name first."""
    path = folder / f".{name}"
    rows = [] if name.endswith(".jsonl") else [json.loads(value) for value in values]
    if ".csv" in name:
        names = list(rows[0])
        text = "\n".join([",".join(names), *(",".join(str(row[n]) for n in names) for row in rows)])
        (gzip.open if name.endswith(".gz") else open)(path, "wb").write(text.encode())
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=17)
    else:
        path.write_bytes(b"\n".join(values))
    return path.rename(folder / name)


def same(client, server, spec, batch):
    got, numbers = log_of(server.url, spec)
    assert got.x[:, 0].tolist() == batch.x[:, 0].tolist()
    assert digest(client, spec.name) == fold(spec, got)[0].digest()
    return numbers


def test_every_row_is_logged_once_however_often_reading_starts(client, server, shard, folder, name, held):
    """Files of every kind in order of their names, then those that come; two readers at once, one of them a zombie."""
    batch, values = held
    spec = spec_for(client, folder, name, batch=16)
    files = [("b.parquet", 50, 120), ("a.jsonl", 0, 50), ("c.csv", 120, 200)]
    for file, first, last in files:
        put(folder, file, values[first:last])
    (folder / "_d.csv").write_text("still being written")
    (folder / "e.csv.tmp").write_text("still being written")
    (folder / "notes").write_text("no kind of file")
    for end in (0, 200, 200):
        with Running(shard.target, spec, server.url), Running(shard.target, spec, server.url):
            logged(client, spec, end)
    put(folder, "aa.csv.gz", values[200:])  # a name that comes before those that were read
    with Running(shard.target, spec, server.url), Running(shard.target, spec, server.url):
        logged(client, spec, ROWS)
        until(lambda: client.producer(name, f"folder:{folder}").next_sequence == 4 << ROW_BITS)
    same(client, server, spec, batch)


def test_a_reading_that_ends_amid_a_file_goes_on_there(client, server, shard, folder, name, long):
    batch, values = long
    spec = spec_for(client, folder, name, batch=7, in_flight=1)
    put(folder, "a.parquet", values)
    with Running(shard.target, spec, server.url):
        logged(client, spec, 20)
    assert client.models.get(name).position < MANY, "the test wants a stop amid the file"
    with Running(shard.target, spec, server.url):
        logged(client, spec, MANY)
    same(client, server, spec, batch)


def test_bad_rows_and_bad_files_are_kept_and_the_folder_goes_on(client, server, running, folder, name, held):
    batch, values = held
    spec = spec_for(client, folder, name, batch=32)
    put(folder, "a.jsonl", [b"{", *values[:100], b'{"a": "x"}', b"\xff"])
    (folder / "b.parquet").write_bytes(b"this is no Parquet file")
    (folder / "c.csv").write_text("z,y\n1,2\n")
    (folder / "d.csv").touch()
    put(folder, "e.csv", values[100:])
    run = running(spec)
    logged(client, spec, ROWS)
    same(client, server, spec, batch)
    until(lambda: client.producer(name, f"folder:{folder}").next_sequence == 5 << ROW_BITS)
    assert run.state.dead_letters == 6
    letters = client.models.dead_letters(name).letters
    assert [(one.number >> ROW_BITS, one.number % (1 << ROW_BITS)) for one in letters] == [
        (0, 0), (0, 101), (0, 102), (1, 0), (2, 0), (3, 0)
    ]  # fmt: skip
    assert [one.payload for one in letters] == [b"{\n", b'{"a": "x"}\n', b"\xff\n", b"b.parquet", b"c.csv", b"d.csv"]
    for one, said in zip(letters[3:], ("not a Parquet file", "no column", "the file is empty")):
        assert said in one.reason
    until(lambda: client.models.statistics(name).sources)
    assert dict(client.models.statistics(name).sources[0].lag) == {f"folder:{folder}": 0}


def test_latest_passes_over_what_is_there(client, server, shard, folder, name, held):
    batch, values = held
    put(folder, "a.jsonl", values[:100])
    spec = spec_for(client, folder, name, start="latest")
    with Running(shard.target, spec, server.url):
        until(lambda: client.producer(name, f"folder:{folder}").known)
    put(folder, "b.jsonl", values[100:])
    with Running(shard.target, spec, server.url):
        logged(client, spec, ROWS - 100)
    same(client, server, spec, batch.slice(100, ROWS))


def test_a_file_that_changes_after_it_was_read_is_said_and_not_read_again(client, server, running, folder, name, held):
    batch, values = held
    spec = spec_for(client, folder, name)
    path = put(folder, "a.jsonl", values[:100])
    run = running(spec)
    logged(client, spec, 100)
    os.utime(path)  # touched, and the same
    put(folder, "b.jsonl", values[100:200])
    logged(client, spec, 200)
    assert run.consumer._reader.trouble() == ""
    with path.open("ab") as file:
        file.write(b"\n" + values[0])
    until(lambda: "changed after being read, which is not read again: a.jsonl" in run.consumer._reader.trouble())
    until(lambda: [one.state for one in client.models.statistics(name).sources] == ["waiting"])
    put(folder, "c.jsonl", values[200:])
    logged(client, spec, ROWS)
    same(client, server, spec, batch)


@pytest.mark.parametrize("what", ["gone", "changed"])
@pytest.mark.parametrize("lost", ["error", "earliest"])
def test_a_file_that_goes_or_changes_before_its_end(client, server, shard, folder, name, long, what, lost):
    _, values = long
    spec = spec_for(client, folder, name, batch=7, in_flight=1, lost=lost)
    path = put(folder, "a.jsonl", values)
    with Running(shard.target, spec, server.url):
        logged(client, spec, 20)
    before = client.models.get(name).position
    assert before < MANY
    if what == "gone":
        path.unlink()
    else:
        path.write_bytes(b"\n".join(values[::-1]))
    put(folder, "b.jsonl", values[:10])
    with Running(shard.target, spec, server.url) as run:
        if lost == "error":
            until(lambda: run.state.state == "lost")
            assert f"rows from {before} on were not read" in run.state.detail
            assert client.models.get(name).position == before
        else:
            logged(client, spec, before + 10)
            assert run.state.lost == 1


def test_a_folder_that_is_not_open_is_refused_and_one_that_is_no_longer_waits(
    client, server, shard, folder, name, held, own_server
):
    """The model of a spec that was stored before is served; its source says what to do, and goes on once it is done."""
    _, values = held
    closed = LocalShard(own_server.url, reach=CLOSED)
    try:
        with Client(closed.target) as other, pytest.raises(Refused, match="--folders PATH") as refused:
            spec_for(other, folder, name)
    finally:
        closed.stop()
    assert refused.value.reason == "OUT_OF_REACH"
    spec = spec_for(client, folder, name)
    put(folder, "a.jsonl", values)
    with Running(shard.target, spec, server.url, reach=CLOSED) as run:
        until(lambda: run.state.state == "waiting" and "--folders PATH`: none so far" in run.state.detail)
        assert client.models.get(name).position == 0
    with Running(shard.target, spec, server.url):
        logged(client, spec, ROWS)


def test_a_folder_that_comes_later_and_one_that_settles(client, server, running, folder, name, held):
    batch, values = held
    spec = spec_for(client, folder, name, settle=0.3)
    shutil.rmtree(folder)
    run = running(spec)
    until(lambda: run.state.state == "waiting" and "No such file" in run.state.detail)
    folder.mkdir()
    with (folder / "a.jsonl").open("wb", buffering=0) as file:
        for value in values:  # in one go, and slower than it is looked at
            file.write(value + b"\n")
    logged(client, spec, ROWS)
    same(client, server, spec, batch)
