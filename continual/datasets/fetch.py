"""Fetching files over http(s): resumed where it stopped, checked before it counts."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

from continual.datasets.sources import File

PIECE = 1 << 20
"""Bytes read at a time."""
SECONDS = 60.0
"""Without an answer, after which a server is given up."""
AGENT = {"User-Agent": "continual"}

Progress = Callable[[int, int], None]
"""Told the bytes that are there, and those that there will be (0: not known)."""


class FetchError(RuntimeError):
    """A file could not be fetched; what has arrived is kept, and the next attempt goes on from there."""


def digest(path: Path, kind: str, unpacked: bool = False) -> str:
    """A file's digest in the form of the table, "sha256:..." or "md5:...".

    Raises:
        OSError, EOFError, zlib.error: it is to be unpacked, and is no whole gzip.
    """
    sha = hashlib.new(kind, usedforsecurity=False)
    with gzip.open(path) if unpacked else path.open("rb") as file:
        while piece := file.read(PIECE):
            sha.update(piece)
    return f"{kind}:{sha.hexdigest()}"


def problem(path: Path, file: File) -> str:
    """What is wrong with a file that is there; "" if nothing, or if no digest is known."""
    if not file.digest:
        return ""
    try:
        found = digest(path, file.digest.partition(":")[0], file.unpacked)
    except (OSError, EOFError, zlib.error) as damage:
        return f"cannot be read: {damage}"
    return "" if found == file.digest else f"{found}, accepted: {file.digest}"


def fetch(file: File, folder: Path, progress: Progress = lambda done, total: None) -> Path:
    """Fetches a file into the data folder, unless a right one is there.

    What arrives is written to `<name>.part`, which takes the name only once the checksum is right. A server that does
    not know ranges is read from the beginning again.

    Args:
        file: with a url.
        folder: the data folder; folders are made as needed.
        progress: is told how far it is.

    Raises:
        FetchError: nobody answers, the connection ends early, the disk is full, or the checksum is another one; all
            but the last leave what arrived for the next attempt.
    """
    target = folder / file.path
    if target.exists():
        wrong = problem(target, file)
        if not wrong:
            return target
        raise FetchError(f"{target} is there and is another file: {wrong}; remove it to fetch it")
    if not file.url:
        raise FetchError(f"{file.path}: no place to fetch it from is known; put it into {folder}")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(file.url, part, progress)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as fault:
        raise FetchError(f"{file.url}: {fault}; {_kept(part)}") from fault
    except OSError as fault:
        what = "the disk is full" if fault.errno in (errno.ENOSPC, errno.EDQUOT) else str(fault)
        raise FetchError(f"{part}: {what}; {_kept(part)}") from fault
    wrong = problem(part, file)
    if wrong:
        part.unlink()
        raise FetchError(f"{file.url}: what came has {wrong}; it was removed")
    part.replace(target)
    return target


def _kept(part: Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f"{size:,} bytes are kept, the next attempt goes on from there"


def _download(url: str, part: Path, progress: Progress) -> None:
    """Appends to `part` what it lacks."""
    held = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={**AGENT, **({"Range": f"bytes={held}-"} if held else {})})
    try:
        reply = urllib.request.urlopen(request, timeout=SECONDS)
    except urllib.error.HTTPError as status:
        with status:
            if status.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not held:
                raise
        progress(held, held)  # all of it is there: the checksum will tell
        return
    with reply, part.open("ab") as out:
        if held and reply.status != http.client.PARTIAL_CONTENT:
            out.truncate(0)
            held = 0
        length = reply.headers.get("Content-Length")
        total = held + int(length) if length is not None else 0
        free = shutil.disk_usage(part.parent).free
        if length is not None and int(length) > free:
            raise OSError(errno.ENOSPC, f"{int(length):,} bytes are to come, {free:,} are free")
        while piece := reply.read(PIECE):
            out.write(piece)
            held += len(piece)
            progress(held, total)
        out.flush()
        os.fsync(out.fileno())
        if total and held < total:
            raise http.client.IncompleteRead(b"", total - held)
