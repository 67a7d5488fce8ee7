"""Data sets that come as folders of pictures, or as a zip of such folders: Omniglot, Tiny-ImageNet."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from continual.datasets.dataset import BadData, Dataset, Part

OMNIGLOT_SIDE = 28
DRAWERS_FOR_TEST = 5
"""Of the twenty who drew each character; the rest are for training."""

TINY_SIDE = 64


def files(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Name and content of every file in a folder or a zip, in order of name.

    Raises:
        BadData: the zip is damaged.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(archive.namelist()):
                if not name.endswith("/"):
                    yield PurePosixPath(name), archive.read(name)
    except (zipfile.BadZipFile, zlib.error, EOFError) as damage:
        raise BadData(f"{path}: truncated or damaged: {damage}") from damage


def picture(content: bytes, where: str, mode: str, side: int) -> np.ndarray:
    """A picture as uint8 [side, side] (mode "L") or [3, side, side] (mode "RGB"), resized by averaging areas.

    Raises:
        BadData: it is no picture, or cut off.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            plain = image.convert(mode)
            if plain.size != (side, side):
                plain = plain.resize((side, side), Image.Resampling.BOX)
    except (UnidentifiedImageError, OSError, SyntaxError) as damage:
        raise BadData(f"{where}: no picture: {damage}") from damage
    values = np.asarray(plain)
    return values if mode == "L" else np.ascontiguousarray(values.transpose(2, 0, 1))


def omniglot(name: str, paths: list[Path]) -> Dataset:
    """Characters drawn by twenty people each: alphabet/character/picture, black on white, here 28 x 28 and inverted.

    A character is a class, its alphabet its domain. The last five drawers of each are the test.

    Raises:
        BadData: a file is damaged, or a folder is not what it should be.
    """
    drawn: dict[str, list[np.ndarray]] = {}
    for path in paths:
        for file, content in files(path):
            if file.suffix == ".png" and len(file.parts) >= 3:
                where = "/".join(file.parts[-3:-1])
                drawn.setdefault(where, []).append(255 - picture(content, f"{path}: {file}", "L", OMNIGLOT_SIDE))
    few = [where for where, pictures in drawn.items() if len(pictures) <= DRAWERS_FOR_TEST]
    if not drawn or few:
        found = f"{len(few)} characters with {DRAWERS_FOR_TEST} pictures or fewer" if few else "no pictures"
        raise BadData(f"{', '.join(map(str, paths))}: {found}; accepted: alphabet/character/*.png, twenty each")
    alphabets = list(dict.fromkeys(where.split("/")[0] for where in drawn))
    x: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    y: tuple[list[int], list[int]] = ([], [])
    for label, pictures in enumerate(drawn.values()):
        for number, one in enumerate(pictures):
            test = number >= len(pictures) - DRAWERS_FOR_TEST
            x[test].append(one.ravel())
            y[test].append(label)
    domain = np.array([alphabets.index(where.split("/")[0]) for where in drawn])
    train, held = (Part(np.stack(x[k]), np.array(y[k], np.int64), domain[y[k]]) for k in (0, 1))
    return Dataset(name, train, held, tuple(drawn), (OMNIGLOT_SIDE, OMNIGLOT_SIDE), 1 / 255)


def tiny_imagenet(name: str, path: Path) -> Dataset:
    """Tiny-ImageNet: train/<class>/images/*.JPEG, val/images/*.JPEG with val/val_annotations.txt as the test.

    Raises:
        BadData: a file is damaged, or the annotations do not fit the pictures.
    """
    train: list[tuple[str, np.ndarray]] = []
    held: dict[str, np.ndarray] = {}
    annotations = ""
    for file, content in files(path):
        parts = file.parts
        if file.name == "val_annotations.txt":
            annotations = content.decode()
        elif file.suffix == ".JPEG" and "train" in parts:
            train.append((parts[parts.index("train") + 1], picture(content, f"{path}: {file}", "RGB", TINY_SIDE)))
        elif file.suffix == ".JPEG" and "val" in parts:
            held[file.name] = picture(content, f"{path}: {file}", "RGB", TINY_SIDE)
    of = dict(line.split("\t")[:2] for line in annotations.splitlines() if line.count("\t"))
    if not train or not held or set(held) - set(of):
        raise BadData(
            f"{path}: {len(train)} pictures of training, {len(held)} of validation, {len(of)} annotations; accepted: "
            "train/<class>/images, val/images and val/val_annotations.txt with a line for each"
        )
    labels = tuple(sorted({label for label, _ in train}))
    unknown = sorted({of[file] for file in held} - set(labels))
    if unknown:
        raise BadData(f"{path}: val_annotations.txt names classes without training: {', '.join(unknown[:5])}")
    code = {label: index for index, label in enumerate(labels)}
    test = Part(np.stack([one.ravel() for one in held.values()]), np.array([code[of[file]] for file in held]))
    rows = Part(np.stack([one.ravel() for _, one in train]), np.array([code[label] for label, _ in train]))
    return Dataset(name, rows, test, labels, (3, TINY_SIDE, TINY_SIDE), 1 / 255)
