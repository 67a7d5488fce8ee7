"""Reading a folder: every file that is put into it, row by row, in order of the names that are there.

The first time that a file is met it is entered in a table, with the next number, its size and its digest; row r of file
n has number n * 2^32 + r. The table is written before the first row is logged, so whoever reads on from a number knows
which file it is of.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streams.batch import Batch
from streams.columns import Events
from streams.files import digest_of, format_of, read_rows
from streams.mapping import BadRow, Mapping
from streams.opened import OpenFile, open_file, open_folder
from streams.reach import OutOfReach, Reach
from streams.sources.reader import READ_SECONDS, Lost, Rows, Unavailable
from streams.sources.spec import FolderSource

log = logging.getLogger(__name__)

ROW_BITS = 32
LOOK_SECONDS = 0.5
"""Between two looks at what is in the folder."""

PASSED_OVER = (".", "_")
PASSED_OVER_ENDS = (".tmp", ".part", ".partial", ".crdownload")
"""Names of files that are still being written, by custom."""


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was when it was first met: its number, name, bytes and digest."""

    number: int
    name: str
    size: int
    digest: str


class FileTable(Protocol):
    """Which file of a folder has which number; outlives every reader."""

    def files(self, producer: str) -> list[Known]:
        """Every file of a producer."""

    def enter(self, producer: str, name: str, size: int, digest: str) -> Known:
        """Gives a file the next number; what was entered under that name before is returned as it is."""


@dataclass(frozen=True, slots=True)
class _Stat:
    """By what a change of a file is noticed."""

    size: int
    modified_ns: int
    inode: int


class FolderReader:
    """See `streams.sources.reader.Reader`."""

    def __init__(self, source: FolderSource, rows: int, mapping: Mapping, table: FileTable, reach: Reach) -> None:
        self._source = source
        self._reach = reach
        self._rows = rows
        self._mapping = mapping
        self._table = table
        self._next = 0
        self._known: dict[str, Known] | None = None
        self._stats: dict[str, tuple[_Stat, float]] = {}  # as it was first seen like this, and when
        self._proven: dict[str, _Stat] = {}  # files whose content is the one that was entered
        self._changed: set[str] = set()
        self._outside: set[str] = set()  # links that lead to what may not be read
        self._reading: tuple[Known, Iterator[Events | BadRow]] | None = None
        self._file: OpenFile | None = None
        self._there: dict[str, _Stat] = {}
        self._looked = 0.0

    def producers(self) -> list[str]:
        """See `Reader`."""
        self._look()
        return [self._source.producer]

    def bounds(self, producer: str) -> tuple[int, int]:
        """See `Reader`."""
        return 0, len(self._files()) << ROW_BITS

    def begin(self, producer: str) -> int:
        """See `Reader`; what is there at the first reading is entered, and passed over, if the spec says `latest`."""
        if self._source.start == "latest":
            for name in sorted(self._look()):
                self._enter(name)
            return len(self._files()) << ROW_BITS
        return 0

    def seek(self, producer: str, number: int) -> None:
        """See `Reader`."""
        self._leave()
        self._next, self._known = number, None
        end = len(self._files()) << ROW_BITS
        if number > end:
            raise Lost(producer, number, 0, end)
        if number < end:
            self._unchanged(self._numbered(number >> ROW_BITS))

    def read(self) -> list[Rows]:
        """See `Reader`."""
        if self._reading is None:
            known = self._upcoming()
            if known is None:
                time.sleep(READ_SECONDS)
                return []
            self._open(known)
        assert self._reading is not None
        known, items = self._reading
        batches: list[Batch] = []
        ids: list[str] | None = None if self._mapping.id is None else []
        bad: list[tuple[int, BadRow, str]] = []
        numbers = [np.zeros(0, np.uint64)]
        first = at = self._next
        base = known.number << ROW_BITS
        while at - first < self._rows:
            try:
                item = next(items, None)
            except (ValueError, OSError) as error:
                item = self._unreadable(known, at - base, error)
                bad.append((at, item, "{}"))
                item = None
            if item is None:
                at = (known.number + 1) << ROW_BITS
                self._leave()
                break
            if isinstance(item, BadRow):
                bad.append((base + item.row, item, "{}"))
                at = base + item.row + 1
                continue
            batches.append(item.batch)
            if ids is not None and item.ids is not None:
                ids += item.ids.to_pylist()
            at = base + item.end
            numbers.append(np.arange(at - len(item.batch), at, dtype=np.uint64))
        self._unchanged(known)
        self._next = at
        batch = Batch.concat(batches) if batches else None
        return [Rows(self._source.producer, first, at, batch, ids, bad, np.concatenate(numbers))]

    def _unreadable(self, known: Known, row: int, error: Exception) -> BadRow:
        """What is said of a file that cannot be read on; it is no event from there to its end.

        Raises:
            Unavailable: the system refuses for now.
            Lost: the file is gone.
        """
        if isinstance(error, FileNotFoundError):
            raise self._lost(known, "is not there any more") from error
        if isinstance(error, OSError) and error.errno is not None:
            raise Unavailable(str(error)) from error
        accepted = f"a file that can be read ({error})"
        return BadRow(known.name, row, "", value=known.name, accepted=accepted, original=known.name.encode())

    # Which file

    def _files(self) -> dict[str, Known]:
        if self._known is None:
            self._known = {known.name: known for known in self._table.files(self._source.producer)}
        return self._known

    def _upcoming(self) -> Known | None:
        """The file that comes next, entered if it was not; None while there is none."""
        number = self._next >> ROW_BITS
        while number >= len(self._files()):
            new = [name for name in self._recent() if name not in self._files() and self._settled(name)]
            if not new:
                return None
            self._enter(min(new))
        return self._numbered(number)

    def _numbered(self, number: int) -> Known:
        return next(known for known in self._files().values() if known.number == number)

    def _enter(self, name: str) -> None:
        before = self._stat(name)
        try:
            digest = self._digest(name)
        except OSError as error:
            raise Unavailable(str(error)) from error
        if before is None or before != self._stat(name):
            self._there.pop(name, None)  # it changes, or went: not before the next look
            return
        known = self._table.enter(self._source.producer, name, before.size, digest)
        if known.digest == digest:
            self._proven[name] = before
        self._known = None  # another reader may have entered files too

    def _settled(self, name: str) -> bool:
        """Whether a file has been the same for long enough, at the last look."""
        stat, now = self._there[name], self._looked
        seen, since = self._stats.get(name, (None, now))
        if seen != stat:
            self._stats[name] = (stat, now)
            return self._source.settle == 0
        return now - since >= self._source.settle

    def _look(self) -> dict[str, _Stat]:
        """The files of the folder that the pattern names; those that were entered are looked at for changes."""
        stats: dict[str, _Stat | None] = {}
        outside: set[str] = set()
        try:
            with self._folder() as folder, os.scandir(folder) as entries:
                for entry in entries:
                    if not (self._taken(entry.name) and entry.is_file()):
                        continue
                    if entry.is_symlink() and self._leads_out(folder, entry.name):
                        outside.add(entry.name)
                        continue
                    stats[entry.name] = _stat_of(folder, entry.name)
        except OSError as error:
            raise Unavailable(f"{self._source.producer}: {error}") from error
        for name in outside - self._outside:
            log.warning("%s: %s leads to what may not be read, and is passed over", self._source.producer, name)
        self._outside = outside
        there = {name: stat for name, stat in stats.items() if stat is not None}
        for name, stat in there.items():
            if name in self._files():
                self._note_change(name, stat)
        self._there, self._looked = there, time.monotonic()
        return there

    def _recent(self) -> dict[str, _Stat]:
        """What the last look found, unless that is too long ago."""
        return self._there if time.monotonic() - self._looked < LOOK_SECONDS else self._look()

    def _taken(self, name: str) -> bool:
        if name.startswith(PASSED_OVER) or name.endswith(PASSED_OVER_ENDS):
            return False
        if not fnmatch.fnmatchcase(name, self._source.pattern):
            return False
        try:
            format_of(name)
        except ValueError:
            return False
        return True

    def _stat(self, name: str) -> _Stat | None:
        try:
            with self._folder() as folder:
                return _stat_of(folder, name)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(str(error)) from error

    @contextmanager
    def _folder(self) -> Iterator[int]:
        """A descriptor of the folder as it is now.

        Raises:
            Unavailable: it is not where a source may read.
            OSError: it is not there.
        """
        try:
            with open_folder(self._source.path, self._reach) as folder:
                yield folder
        except OutOfReach as error:
            raise Unavailable(f"{self._source.producer}: {error}") from error

    def _open_file(self, name: str) -> OpenFile:
        """A file of the folder, open; raises as `_folder` does."""
        with self._folder() as folder:
            return open_file(folder, name, f"{self._source.path}/{name}", self._reach)

    def _digest(self, name: str) -> str:
        file = self._open_file(name)
        try:
            return digest_of(file)
        finally:
            file.close()

    def _leads_out(self, folder: int, name: str) -> bool:
        """Whether a link of the folder leads to what may not be read."""
        try:
            open_file(folder, name, name, self._reach).close()
        except OutOfReach:
            return True
        except OSError:
            return False  # it went, or cannot be read: that is said where it is to be read
        return False

    # What became of it

    def _note_change(self, name: str, stat: _Stat) -> None:
        """Whether a file that was entered is still the same; a change is said, and read by nobody."""
        if self._proven.get(name) == stat:
            return
        known = self._files()[name]
        try:
            same = stat.size == known.size and self._digest(name) == known.digest
        except OSError:
            return  # it went; the next look will tell
        self._proven[name] = stat
        if same:
            self._changed.discard(name)
        elif name not in self._changed:
            self._changed.add(name)
            log.warning("%s: %s was changed after it was met; the change is not read", self._source.producer, name)

    def _open(self, known: Known) -> None:
        row = self._next - (known.number << ROW_BITS)
        self._proven.pop(known.name, None)  # whatever it was at the last look
        self._unchanged(known)
        form = (self._source.columns, self._source.delimiter)
        try:
            self._file = self._open_file(known.name)
        except OSError as error:
            raise Unavailable(str(error)) from error
        self._reading = (known, read_rows(self._file, self._mapping, self._rows, row, *form))

    def _leave(self) -> None:
        """Reads no further in the file that is open."""
        self._reading = None
        if self._file is not None:
            self._file.close()
            self._file = None

    def _fault(self, known: Known) -> str:
        """Why a file that was entered cannot be read as it was then; "" if it can."""
        stat = self._stat(known.name)
        if stat is None:
            return "is not there any more"
        self._note_change(known.name, stat)
        return "was changed" if known.name in self._changed else ""

    def _unchanged(self, known: Known) -> None:
        """Raises `Lost` if a file that is being read is not the one that was entered."""
        if why := self._fault(known):
            raise self._lost(known, why)

    def _lost(self, known: Known, why: str) -> Lost:
        """What is said of a file that cannot be read on; what comes next is the first one after it that can."""
        self._leave()
        later = known.number + 1
        while later < len(self._files()) and self._fault(self._numbered(later)):
            later += 1
        row = self._next - (known.number << ROW_BITS)
        said = f"{self._source.producer}: {known.name} {why}, and its rows from {row} on were not read"
        if later > known.number + 1:
            said += f", nor {later - known.number - 1} files after it"
        first, end = later << ROW_BITS, len(self._files()) << ROW_BITS
        missed = later - known.number
        return Lost(self._source.producer, self._next, first, end, why=f"{said}; `lost` says what to do", missed=missed)

    def lag(self) -> dict[str, int]:
        """See `Reader`; files that are not read to their end."""
        done, files = self._next >> ROW_BITS, self._files()
        left = [name for name in self._recent() if name not in files or files[name].number >= done]
        return {self._source.producer: len(left)}

    def acknowledged(self, producer: str, number: int) -> None:
        """See `Reader`; a folder is left as it is."""

    def tails(self) -> dict[str, list[int]]:
        """See `Reader`; numbers are never given again."""
        return {}

    def recall(self, tails: dict[str, list[int]]) -> None:
        """See `Reader`."""

    def trouble(self) -> str:
        """See `Reader`."""
        troubles = (
            ("changed after being read, which is not read again", self._changed),
            ("leads to what may not be read", self._outside),
        )
        return "; ".join(f"{what}: {_some(names)}" for what, names in troubles if names)

    def close(self) -> None:
        """See `Reader`."""
        self._leave()


def _stat_of(folder: int, name: str) -> _Stat | None:
    try:
        found = os.stat(name, dir_fd=folder)
    except FileNotFoundError:
        return None
    return _Stat(found.st_size, found.st_mtime_ns, found.st_ino)


def _some(names: set[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more
