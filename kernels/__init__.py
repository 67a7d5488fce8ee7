"""Fused numerics: each operation as a PyTorch reference (`kernels.reference`) and a compiled CPU form (`kernels.cpu`).

Importing this package points numba's on-disk cache at a folder named by a digest of the kernel sources, so that a
changed kernel never meets a stale compilation (numba itself looks only at the file of the outermost function).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numba


def sources_digest() -> str:
    """SHA-256 (hex, 16 digits) over the sources of the compiled kernels and numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    root = Path(__file__).parent
    for path in sorted(root.glob("cpu/**/*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


KERNEL_VERSION = sources_digest()
"""Part of the numerics fingerprint of every snapshot."""

if not os.environ.get("NUMBA_CACHE_DIR"):
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "continual"
    numba.config.CACHE_DIR = str(cache / f"kernels-{KERNEL_VERSION}")  # type: ignore[attr-defined]
