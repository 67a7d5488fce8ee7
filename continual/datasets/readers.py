"""The files that images come in: idx (MNIST and its family), CIFAR's binary and Python formats.

Every reader checks sizes before it believes them: a file that ends early, goes on, or is something else is refused by
name with what was found.
"""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from continual.datasets.dataset import BadData

UBYTE = 0x08
"""The idx code of unsigned bytes, the only type that the family uses."""

IMAGE = 3 * 32 * 32
"""Bytes of a CIFAR image: three planes of 32 x 32, red, green, blue."""


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Says which file a damaged compression is in."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, tarfile.TarError) as damage:
        raise BadData(f"{path}: truncated or damaged: {damage}") from damage


def read_bytes(path: Path) -> bytes:
    """A file's content, unpacked where its name ends in .gz.

    Raises:
        BadData: the compressed data end early or are damaged.
    """
    if path.suffix != ".gz":
        return path.read_bytes()
    with _whole(path), gzip.open(path) as file:
        return file.read()


def idx(path: Path) -> np.ndarray:
    """An array in the idx format: two zero bytes, type, number of dimensions, sizes (big-endian), then the values.

    Returns:
        uint8, in the shape that the file says.

    Raises:
        BadData: the file is no idx of bytes, or has more or fewer values than it says.
    """
    raw = read_bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] != UBYTE or not 1 <= raw[3] <= 4:
        raise BadData(f"{path}: begins with {raw[:4].hex() or 'nothing'}, accepted: idx of bytes, 000008 and 01 to 04")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], ">u4").tolist()) if len(raw) >= start else ()
    expected = start + int(np.prod(shape, dtype=np.int64))
    if len(shape) != raw[3] or len(raw) != expected:
        raise BadData(f"{path}: {len(raw)} bytes, accepted: {expected} for an array of {shape or 'unread shape'}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def cifar_binary(path: Path, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of CIFAR's binary format: the label bytes (CIFAR-100: coarse, fine), then 3,072 bytes, plane by plane.

    Returns:
        uint8 [n, 3072] and uint8 [n, label_bytes].

    Raises:
        BadData: the file does not consist of whole records.
    """
    raw = read_bytes(path)
    record = label_bytes + IMAGE
    if not raw or len(raw) % record:
        raise BadData(f"{path}: {len(raw)} bytes, accepted: a multiple of {record}, the size of a record")
    rows = np.frombuffer(raw, np.uint8).reshape(-1, record)
    return rows[:, label_bytes:], rows[:, :label_bytes]


class _Arrays(pickle.Unpickler):
    """Loads arrays, numbers, texts and containers of them; whatever else a pickle asks for is refused."""

    ALLOWED = frozenset(
        [
            *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
            *((f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
            *[("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")],
        ]
    )

    def find_class(self, module: str, name: str) -> Any:
        """Only what an array is made of."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no data set needs")
        return super().find_class(module, name)


def unpickle(raw: bytes, path: Path) -> dict[Any, Any]:
    """The dictionary in a pickle of CIFAR's Python format; nothing in it is executed.

    Raises:
        BadData: it is damaged, holds something other than a dictionary, or names anything but arrays.
    """
    try:
        held = _Arrays(io.BytesIO(raw), encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as refused:
        raise BadData(f"{path}: not read as a pickled batch: {refused}") from refused
    if not isinstance(held, dict):
        raise BadData(f"{path}: a pickled {type(held).__name__}, accepted: a dictionary")
    return held


def cifar_python(raw: bytes, path: Path, label: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch in CIFAR's Python format.

    Args:
        raw: the pickle.
        path: named in errors.
        label: key of the labels (b"labels", b"fine_labels", b"coarse_labels").

    Returns:
        uint8 [n, 3072] and int64 [n].

    Raises:
        BadData: see `unpickle`; or images and labels do not fit each other.
    """
    held = unpickle(raw, path)
    missing = [key.decode() for key in (b"data", label) if key not in held]
    if missing:
        raise BadData(f"{path}: a batch without {missing}; it has {sorted(map(str, held))}")
    x, y = np.asarray(held[b"data"]), np.asarray(held[label])
    if x.dtype != np.uint8 or x.ndim != 2 or x.shape[1] != IMAGE or y.shape != (len(x),):
        raise BadData(f"{path}: images {x.dtype}{x.shape} and labels {y.shape}, accepted: uint8 (n, {IMAGE}) and (n,)")
    return x, y.astype(np.int64)


def members(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Files of a .tar.gz by the last part of their names; nothing is written to the disk.

    Raises:
        BadData: the archive is damaged, or has no such file.
    """
    held: dict[str, bytes] = {}
    with _whole(path), tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = Path(member.name).name
            file = archive.extractfile(member) if member.isfile() and name in names else None
            if file is not None:
                held[name] = file.read()
    missing = sorted(set(names) - set(held))
    if missing:
        raise BadData(f"{path}: no {', '.join(missing)} in the archive")
    return held
