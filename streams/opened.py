"""Files that are opened first and judged then, so that no link that is put in their place leads elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.reach import OutOfReach, Reach


class OpenFile(str):
    """A path whose file is open already, and is read whatever the path leads to by now.

    Attributes:
        descriptor: of the file; it must stay open for as long as it is read.
    """

    __slots__ = ("descriptor",)
    descriptor: int

    def __new__(cls, path: str, descriptor: int) -> OpenFile:
        """The path is what messages name, and what says the kind of file."""
        made = super().__new__(cls, path)
        made.descriptor = descriptor
        return made

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self.descriptor)


def opened(path: str | Path) -> str:
    """What to open to read a file; each opening begins at its first byte."""
    return f"/proc/self/fd/{path.descriptor}" if isinstance(path, OpenFile) else str(path)


@contextmanager
def open_folder(path: str, reach: Reach) -> Iterator[int]:
    """A descriptor of a folder, wherever links led to it.

    Raises:
        OutOfReach: that is not below a root.
        OSError: there is no such folder, or it may not be read.
    """
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reach.check_inside("path", path, where(folder))
        yield folder
    finally:
        os.close(folder)


def open_file(folder: int, name: str, path: str, reach: Reach) -> OpenFile:
    """Opens a file of a folder for reading.

    It is first taken hold of without being opened (O_PATH), which does nothing to a pipe or a device; what is then
    opened is what was judged.

    Args:
        folder: descriptor of the folder.
        name: of the file in it.
        path: what messages are to name.
        reach: what may be opened.

    Raises:
        OutOfReach: it is no regular file, or a link leads to what is not below a root.
        OSError: there is no such file, or it may not be read.
    """
    held = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    try:
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise OutOfReach("path", path, "regular files: no pipe, device or folder")
        reach.check_inside("path", path, where(held))
        return OpenFile(path, os.open(f"/proc/self/fd/{held}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.close(held)


def where(descriptor: int) -> str:
    """The path of what a descriptor holds, without links."""
    return os.readlink(f"/proc/self/fd/{descriptor}")
