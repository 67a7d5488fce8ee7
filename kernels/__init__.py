"""Fused numerics: each operation as a PyTorch reference (`kernels.reference`) and a compiled CPU form (`kernels.cpu`).

The step-wise recurrence is in Triton kernels too (`kernels.cuda`).

Importing this package points numba's on-disk cache at a folder named by a digest of the kernel sources, so that a
changed kernel never meets a stale compilation (numba itself looks only at the file of the outermost function). It does
not import numba: that is some 80 MB of a process which may never fold.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.metadata import version
from pathlib import Path


def sources_digest() -> str:
    """SHA-256 (hex, 16 digits) over the sources of the compiled kernels and numba's version."""
    digest = hashlib.sha256(version("numba").encode())
    root = Path(__file__).parent
    for path in sorted(root.glob("cpu/**/*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


KERNEL_VERSION = sources_digest()
"""Part of the numerics fingerprint of every snapshot."""

_OURS = "CONTINUAL_KERNEL_CACHE"
"""Says to a child process that its `NUMBA_CACHE_DIR` is our choice and not the user's: its kernels may be others."""

if os.environ.get("NUMBA_CACHE_DIR", "") in ("", os.environ.get(_OURS)):
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "continual" / f"kernels-{KERNEL_VERSION}"
    os.environ["NUMBA_CACHE_DIR"] = os.environ[_OURS] = str(cache)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(cache)
