"""Data sets: files of every format, whole and damaged; fetching from a real server that breaks off."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

from continual.cli import main
from continual.data import NoData
from continual.datasets import catalog, fetch, pictures, readers, sources, tables
from continual.datasets.dataset import BadData, Dataset, Part
from continual.datasets.sources import SOURCES, File, Source

RNG = np.random.default_rng(3)


# Formats


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_is_read_packed_and_plain(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (5, 4, 3), np.uint8)
    (tmp_path / "a").write_bytes(idx_bytes(images))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx_bytes(images)))
    for name in ("a", "a.gz"):
        np.testing.assert_array_equal(readers.idx(tmp_path / name), images)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG and so on", "accepted: idx of bytes"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], "17 bytes, accepted: 18"),
        (idx_bytes(np.zeros((2, 3), np.uint8)) + b"x", "19 bytes, accepted: 18"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:7], "unread shape"),
    ],
)
def test_what_is_no_idx_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(BadData, match=said) as refused:
        readers.idx(tmp_path / "bad")
    assert "bad" in str(refused.value)


def test_a_packed_file_that_ends_early_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(idx_bytes(RNG.integers(0, 256, (50, 28, 28), np.uint8)))
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "no.gz").write_bytes(b"not packed at all")
    for name in ("cut.gz", "no.gz"):
        with pytest.raises(BadData, match=f"{name}: truncated or damaged"):
            readers.idx(tmp_path / name)


def test_cifar_binary_has_whole_records(tmp_path: Path) -> None:
    records = RNG.integers(0, 100, (4, 3074), np.uint8)
    (tmp_path / "train.bin").write_bytes(records.tobytes())
    x, y = readers.cifar_binary(tmp_path / "train.bin", 2)
    np.testing.assert_array_equal(x, records[:, 2:])
    np.testing.assert_array_equal(y, records[:, :2])
    (tmp_path / "train.bin").write_bytes(records.tobytes()[:-1])
    with pytest.raises(BadData, match="a multiple of 3074"):
        readers.cifar_binary(tmp_path / "train.bin", 2)


def tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"folder/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def cifar_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **replaced: bytes) -> Path:
    """A data folder with a small CIFAR-100 in the Python format, as Python 2 pickled it: keys are bytes."""

    def batch(rows: int) -> bytes:
        held = {b"data": RNG.integers(0, 256, (rows, 3072), np.uint8), b"fine_labels": [k % 100 for k in range(rows)]}
        return pickle.dumps(held, protocol=2)

    names = {b"fine_label_names": [b"kind%d" % k for k in range(100)]}
    files = {"train": batch(200), "test": batch(100), "meta": pickle.dumps(names, protocol=2)} | replaced
    (tmp_path / "cifar100").mkdir()
    tar(tmp_path / "cifar100" / "cifar-100-python.tar.gz", files)
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path))
    return tmp_path / "cifar100" / "cifar-100-python.tar.gz"


def test_cifar_python_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar_folder(tmp_path, monkeypatch)
    held = catalog.cifar100()
    assert (len(held.train), len(held.test), held.classes, held.shape) == (200, 100, 100, (3, 32, 32))
    assert held.labels[7] == "kind7"
    assert held.train.y[123] == 23


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("echo executed > executed",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (pickle.dumps({b"data": Evil(), b"fine_labels": []}), "which no data set needs"),
        (pickle.dumps([1, 2]), "a pickled list, accepted: a dictionary"),
        (pickle.dumps({b"data": 1}), r"a batch without \['fine_labels'\]"),
        (pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"fine_labels": [1, 2]}), "accepted: uint8"),
        (b"\x80\x02garbage", "not read as a pickled batch"),
    ],
)
def test_a_pickle_runs_nothing_and_must_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    cifar_folder(tmp_path, monkeypatch, train=content)
    with pytest.raises(BadData, match=said):
        catalog.cifar100()
    assert not (tmp_path / "executed").exists()


def test_an_archive_that_is_cut_off_or_lacks_a_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cifar_folder(tmp_path, monkeypatch)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadData, match="truncated or damaged"):
        catalog.cifar100()
    tar(path, {"train": b"", "test": b""})
    with pytest.raises(BadData, match="no meta in the archive"):
        catalog.cifar100()


def png(value: np.ndarray, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(value).save(out, form)
    return out.getvalue()


def test_omniglot_is_read_from_its_zip(tmp_path: Path) -> None:
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for alphabet in ("Greek", "Latin"):
            for character in ("character01", "character02"):
                for drawer in range(20):
                    white = np.full((105, 105), 255, np.uint8)
                    white[:50] = 0
                    archive.writestr(f"small/{alphabet}/{character}/{drawer:02}.png", png(white))
    held = pictures.omniglot("small", [path])
    assert (len(held.train), len(held.test), held.classes, held.domains) == (60, 20, 4, 2)
    assert held.labels[0] == "Greek/character01"
    first = held.train.x[0].reshape(28, 28)
    assert first[0].min() == 255  # black ink is high
    assert first[-1].max() == 0
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadData, match="truncated or damaged"):
        pictures.omniglot("small", [path])
    with pytest.raises(BadData, match="no pictures"):
        pictures.omniglot("small", [tmp_path / "nothing"] if (tmp_path / "nothing").mkdir() is None else [])


def test_tiny_imagenet_is_read_from_a_folder(tmp_path: Path) -> None:
    lines = []
    for k, label in enumerate(("n01", "n02")):
        (tmp_path / "train" / label / "images").mkdir(parents=True)
        for number in range(3):
            grey = np.full((64, 64, 3), 40 * (k + 1), np.uint8)
            (tmp_path / "train" / label / "images" / f"{label}_{number}.JPEG").write_bytes(png(grey, "JPEG"))
        (tmp_path / "val" / "images").mkdir(parents=True, exist_ok=True)
        (tmp_path / "val" / "images" / f"val_{k}.JPEG").write_bytes(png(np.zeros((64, 64), np.uint8), "JPEG"))
        lines.append(f"val_{k}.JPEG\t{label}\t0\t0\t62\t62")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    held = pictures.tiny_imagenet("tiny", tmp_path)
    assert (len(held.train), len(held.test), held.labels, held.shape) == (6, 2, ("n01", "n02"), (3, 64, 64))
    assert abs(int(held.train.x[4].mean()) - 80) <= 2
    (tmp_path / "val" / "val_annotations.txt").write_text(lines[0])
    with pytest.raises(BadData, match="with a line for each"):
        pictures.tiny_imagenet("tiny", tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines))
    (tmp_path / "val" / "images" / "val_0.JPEG").write_bytes(b"no picture")
    with pytest.raises(BadData, match="no picture"):
        pictures.tiny_imagenet("tiny", tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        ([0, 1, 1], [0, 1, 2], "1 classes without a training example, the first: 2 \\(c\\)"),
        ([0, 1, 2], [0, 1, 1], "without a test example"),
        ([0, 1, 3], [0, 1, 2], "labels from 0 to 3, accepted: 0 to 2"),
        ([0, 1], [0, 1, 2], "accepted: \\(2, 2\\)"),
    ],
)
def test_a_data_set_that_is_not_whole_is_refused(train: list[int], test: list[int], said: str) -> None:
    x = np.zeros((3, 2), np.uint8)
    with pytest.raises(BadData, match=said):
        Dataset("d", Part(x, np.array(train)), Part(x, np.array(test)), ("a", "b", "c"), (2,))


@pytest.mark.parametrize(("name", "rows", "classes"), [("digits", 1797, 10), ("segments", 2310, 7)])
def test_what_ships_is_split_by_class(name: str, rows: int, classes: int) -> None:
    held = catalog.load(name)
    assert len(held.train) + len(held.test) == rows
    assert held.classes == classes
    share = np.bincount(held.test.y) / (np.bincount(held.test.y) + np.bincount(held.train.y))
    assert (abs(share - 0.2) < 0.01).all()


def test_what_is_not_there_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTINUAL_DATA", str(tmp_path))
    with pytest.raises(NoData, match="`continual data fetch mnist` fetches it"):
        catalog.mnist()
    with pytest.raises(NoData) as unpublished:
        catalog.cifar100_sub()
    assert "fetch" not in str(unpublished.value)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_file_of_ones_own_is_a_stream(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"own.{form}"
    columns = {"a": [1.5, 2.0, 3.25], "kind": ["x", "y", "x"], "note": ["p", "q", "r"], "b": [1, 2, 3]}
    if form == "csv":
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values()))]
        path.write_text("\n".join(lines) + "\n")
    elif form == "jsonl":
        path.write_text("".join(json.dumps(dict(zip(columns, row))) + "\n" for row in zip(*columns.values())))
    else:
        pyarrow.parquet.write_table(pa.table(columns), path)
    mapping, batch = tables.read(path, "kind")
    assert (mapping.features, mapping.target, mapping.labels) == (("a", "b"), "binary", ("x", "y"))
    np.testing.assert_array_equal(batch.x, [[1.5, 1], [2.0, 2], [3.25, 3]])
    np.testing.assert_array_equal(batch.y, [0, 1, 0])
    assert tables.read(path, "a")[0].target == "regression"
    with pytest.raises(BadData, match=r"no column named \['c'\]; columns: a, kind, note, b"):
        tables.read(path, "c")


def test_tables_that_cannot_be_learned_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,y\n1,\n2,1\n3,0\n")
    with pytest.raises(BadData, match="1 rows have no label"):
        tables.read(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("t,y\np,0\nq,1\n")
    with pytest.raises(BadData, match="no numeric columns are left"):
        tables.read(tmp_path / "b.csv")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(BadData, match=r"c\.parquet: cannot be read"):
        tables.read(tmp_path / "c.parquet")


# Fetching

CONTENT = RNG.integers(0, 256, 3_000_000, np.uint8).tobytes()


class Handler(BaseHTTPRequestHandler):
    """Serves `CONTENT` at any path; /cut breaks off midway on the first call, /whole knows no ranges."""

    calls: list[tuple[str, str]]
    cut: set[str]

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.calls.append((self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.path != "/whole" else 0
        if self.path == "/missing":
            self.send_error(404)
            return
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start:]
        if self.path == "/cut" and self.path not in self.cut:
            self.cut.add(self.path)
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    Handler.calls, Handler.cut = [], set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def file(server: str, path: str, digest: str = "") -> File:
    right = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    return File("set/one.bin", f"{server}/{path}", digest or right, size=len(CONTENT))


def test_a_file_is_fetched_checked_and_not_fetched_twice(tmp_path: Path, server: str) -> None:
    told: list[tuple[int, int]] = []
    path = fetch.fetch(file(server, "plain"), tmp_path, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert fetch.fetch(file(server, "plain"), tmp_path) == path
    assert len(Handler.calls) == 1
    path.write_bytes(b"changed")
    with pytest.raises(fetch.FetchError, match="is there and is another file"):
        fetch.fetch(file(server, "plain"), tmp_path)


def test_what_broke_off_goes_on_where_it_stopped(tmp_path: Path, server: str) -> None:
    with pytest.raises(fetch.FetchError, match="1,500,000 bytes are kept"):
        fetch.fetch(file(server, "cut"), tmp_path)
    assert fetch.fetch(file(server, "cut"), tmp_path).read_bytes() == CONTENT
    assert Handler.calls == [("/cut", ""), ("/cut", "bytes=1500000-")]
    assert not list(tmp_path.rglob("*.part"))


def test_a_server_without_ranges_is_read_from_the_beginning(tmp_path: Path, server: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one.bin.part").write_bytes(b"something else that came before")
    assert fetch.fetch(file(server, "whole"), tmp_path).read_bytes() == CONTENT


def test_a_part_that_was_whole_is_only_checked(tmp_path: Path, server: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one.bin.part").write_bytes(CONTENT)
    assert fetch.fetch(file(server, "plain"), tmp_path).read_bytes() == CONTENT


def test_what_has_another_checksum_is_not_kept(tmp_path: Path, server: str) -> None:
    with pytest.raises(fetch.FetchError, match="it was removed"):
        fetch.fetch(file(server, "plain", "md5:0123"), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nobody_there_no_such_file_and_no_place(tmp_path: Path, server: str) -> None:
    with pytest.raises(fetch.FetchError, match="404"):
        fetch.fetch(file(server, "missing"), tmp_path)
    with pytest.raises(fetch.FetchError, match="refused"):
        fetch.fetch(file("http://127.0.0.1:9", "x"), tmp_path)
    with pytest.raises(fetch.FetchError, match="no place to fetch it from"):
        fetch.fetch(File("set/two.bin"), tmp_path)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, server: str) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "one.bin.part").symlink_to("/dev/full")
    with pytest.raises(fetch.FetchError, match="the disk is full"):
        fetch.fetch(file(server, "plain"), tmp_path)


def test_the_digest_of_a_packed_file_may_be_that_of_its_content(tmp_path: Path) -> None:
    wanted = File("a.gz", digest=f"md5:{hashlib.md5(b'content', usedforsecurity=False).hexdigest()}", unpacked=True)
    for level in (1, 9):
        (tmp_path / "a.gz").write_bytes(gzip.compress(b"content", level))
        assert fetch.problem(tmp_path / "a.gz", wanted) == ""
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"other"))
    assert "accepted: md5" in fetch.problem(tmp_path / "a.gz", wanted)
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    assert "cannot be read" in fetch.problem(tmp_path / "a.gz", wanted)


def test_the_command_lists_fetches_and_verifies(tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "mnist", Source("mnist", "a test", "none", (file(server, "plain"),)))
    folder = ["--data", str(tmp_path), "--json"]

    def call(*words: str, code: int = 0) -> list[dict]:
        done = CliRunner().invoke(main, ["data", *words, *folder])
        assert done.exit_code == code, done.output
        found = json.loads(done.output[: done.output.rindex("]" if words[0] != "list" else "}") + 1])
        return found["datasets"] if words[0] == "list" else found

    assert call("list")[0]["state"] == "-"
    assert call("fetch", "mnist")[0]["state"] == "checked"
    assert call("list")[0]["state"] == "there"
    assert call("verify", "mnist") == [{"file": "set/one.bin", "state": "right"}]
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(CONTENT).hexdigest()}  set/one.bin\n{'0' * 64}  gone\nx\n")
    states = [row["state"] for row in call("verify", code=1)]
    assert states[:2] == ["right", "right"]
    assert "missing" in states[2]
    assert "64 hexadecimal digits" in states[3]
    (tmp_path / "set" / "one.bin").write_bytes(b"changed")
    assert "accepted: sha256" in call("verify", "mnist", code=1)[0]["state"]


def test_the_table_is_whole() -> None:
    for source in sources.SOURCES.values():
        for one in source.files:
            assert one.digest.partition(":")[0] in ("", "md5", "sha256")
            assert bool(one.url) == bool(one.digest)
            assert one.url.startswith("http") or not one.url


def test_what_is_in_the_data_folder_is_read() -> None:
    for name, rows in (("mnist", 60_000), ("cifar100_sub", 15_000), ("cifar20_sub", 15_000), ("omniglot_small1", 2040)):
        try:
            held = catalog.DATASETS[name]()
        except NoData as reason:
            pytest.skip(str(reason))
        assert len(held.train) == rows
        assert (np.bincount(held.train.y, minlength=held.classes) > 0).all()
