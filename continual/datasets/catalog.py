"""Data sets by name: what scikit-learn and River ship works at once, the rest is read from the data folder."""

from __future__ import annotations

import csv
import importlib.resources
import io
import os
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np

from continual import data
from continual.datasets import pictures, readers
from continual.datasets.dataset import BadData, Dataset, Part, split
from continual.datasets.sources import SOURCES


def paths(name: str) -> list[Path]:
    """Where the files of a source are, in the order of the table.

    Raises:
        continual.data.NoData: one is not in the data folder.
    """
    try:
        return [data.find(file.path) for file in SOURCES[name].files]
    except data.NoData as missing:
        fetched = all(file.url for file in SOURCES[name].files)
        raise data.NoData(f"{missing}; `continual data fetch {name}` fetches it" if fetched else str(missing)) from None


def digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8 x 8 pixels with values from 0 to 16.

    Raises:
        continual.data.NoData: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as missing:
        raise data.NoData("digits: scikit-learn ships them and is not installed: pip install scikit-learn") from missing
    held = load_digits()
    x = held.data.astype(np.float32)
    return split("digits", x, held.target, tuple(map(str, range(10))), (8, 8), scale=1 / 16)


def segments() -> Dataset:
    """River's 2,310 image segments: 18 numbers of a patch, 7 kinds of surface; each column scaled to deviation 1.

    The scaling is that of the whole table and fixed: learners that scale for themselves lose nothing by it.
    """
    with (
        importlib.resources.as_file(importlib.resources.files("river.datasets") / "segment.csv.zip") as path,
        zipfile.ZipFile(path) as archive,
    ):
        rows = list(csv.reader(io.StringIO(archive.read(archive.namelist()[0]).decode())))
    place = rows[0].index("category")
    names = [row[place] for row in rows[1:]]
    labels = tuple(dict.fromkeys(names))
    x = np.array([[float(value) for k, value in enumerate(row) if k != place] for row in rows[1:]])
    x = ((x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9)).astype(np.float32)
    return split("segments", x, np.array([labels.index(name) for name in names]), labels, (x.shape[1],))


def shuttle() -> Dataset:
    """River's Shuttle: 49,097 readings of 9 sensors, two classes: nothing, and an anomaly (7 %); deviation 1."""
    batch = data.shuttle()
    x = (batch.x - batch.x.mean(axis=0)) / batch.x.std(axis=0)
    return split("shuttle", x.astype(np.float32), batch.y.astype(np.int64), ("normal", "anomaly"), (x.shape[1],))


def mnist() -> Dataset:
    """MNIST's 60,000 + 10,000 digits."""
    train, train_labels, test, test_labels = paths("mnist")

    def part(images: Path, labels: Path) -> Part:
        x, y = readers.idx(images), readers.idx(labels)
        if x.ndim != 3 or y.shape != (len(x),):
            raise BadData(f"{images} holds {x.shape}, {labels} {y.shape}: accepted: as many labels as images")
        return Part(x.reshape(len(x), -1), y.astype(np.int64))

    digits = tuple(map(str, range(10)))
    return Dataset("mnist", part(train, train_labels), part(test, test_labels), digits, (28, 28), 1 / 255)


def cifar10() -> Dataset:
    """CIFAR-10 in the Python format."""
    (path,) = paths("cifar10")
    names = tuple(f"data_batch_{number}" for number in range(1, 6))
    held = readers.members(path, (*names, "test_batch", "batches.meta"))
    batches = {name: readers.cifar_python(held[name], path, b"labels") for name in (*names, "test_batch")}
    train = Part(*(np.concatenate(column) for column in zip(*(batches[name] for name in names))))
    labels = _names(readers.unpickle(held["batches.meta"], path), b"label_names", path)
    return Dataset("cifar10", train, Part(*batches["test_batch"]), labels, (3, 32, 32), 1 / 255)


def cifar100() -> Dataset:
    """CIFAR-100 in the Python format, fine labels."""
    (path,) = paths("cifar100")
    held = readers.members(path, ("train", "test", "meta"))
    train, test = (Part(*readers.cifar_python(held[name], path, b"fine_labels")) for name in ("train", "test"))
    labels = _names(readers.unpickle(held["meta"], path), b"fine_label_names", path)
    return Dataset("cifar100", train, test, labels, (3, 32, 32), 1 / 255)


def cifar100_sub() -> Dataset:
    """CIFAR-100 in the binary format, of each class 150 + 30 images; fine labels."""
    *files, fine, _ = paths("cifar100_sub")
    held = (readers.cifar_binary(path, 2) for path in files)
    train, test = (Part(np.ascontiguousarray(x), y[:, 1].astype(np.int64)) for x, y in held)
    return Dataset("cifar100_sub", train, test, _lines(fine), (3, 32, 32), 1 / 255)


def cifar20_sub() -> Dataset:
    """The same images by their 20 coarse labels; the five kinds of each (by number) are five domains."""
    *files, _, coarse = paths("cifar100_sub")
    held = [readers.cifar_binary(path, 2) for path in files]
    kinds = np.unique(held[0][1], axis=0)  # pairs (coarse, fine), in order
    place = np.zeros(256, np.int64)
    for label in np.unique(kinds[:, 0]):
        fine = kinds[kinds[:, 0] == label, 1]
        place[fine] = np.arange(len(fine))
    train, test = (Part(np.ascontiguousarray(x), y[:, 0].astype(np.int64), place[y[:, 1]]) for x, y in held)
    return Dataset("cifar20_sub", train, test, _lines(coarse), (3, 32, 32), 1 / 255)


def omniglot_small1() -> Dataset:
    """Omniglot's first small background set: 136 characters of 5 alphabets."""
    return pictures.omniglot("omniglot_small1", paths("omniglot_small1"))


def omniglot() -> Dataset:
    """All of Omniglot: 1,623 characters of 50 alphabets."""
    return pictures.omniglot("omniglot", paths("omniglot"))


def tinyimagenet() -> Dataset:
    """Tiny-ImageNet: 200 classes, 500 + 50 pictures each; about 1.4 GB in memory."""
    (path,) = paths("tinyimagenet")
    return pictures.tiny_imagenet("tinyimagenet", path)


def _names(held: dict, key: bytes, path: Path) -> tuple[str, ...]:
    if key not in held:
        raise BadData(f"{path}: the names of the classes have no {key.decode()!r}")
    return tuple(name.decode() for name in held[key])


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text().split())


DATASETS: dict[str, Callable[[], Dataset]] = {
    loader.__name__: loader
    for loader in (
        *(digits, segments, shuttle, mnist, cifar10, cifar100, cifar100_sub, cifar20_sub),
        *(omniglot_small1, omniglot, tinyimagenet),
    )
}


def load(name: str) -> Dataset:
    """A data set by name; kept, since every method of a bench needs the same.

    Raises:
        continual.data.NoData: its files are not there.
        BadData: they are not what they should be.
    """
    return _load(name, os.environ.get("CONTINUAL_DATA", ""))


@lru_cache(maxsize=2)
def _load(name: str, folder: str) -> Dataset:
    return DATASETS[name]()
