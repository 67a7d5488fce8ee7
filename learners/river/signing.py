"""The key under which pickled state is signed: HMAC-SHA256 (RFC 2104), one key per process.

A pickle can run any code when it is loaded, so whoever can write the store could otherwise take over the shards. The
key therefore lives outside the store. A process that was given none signs with random bytes of its own: folds in
process work, and nothing that it wrote is accepted elsewhere.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

VARIABLE = "CONTINUAL_SIGNING_KEY"
"""Environment variable that may hold the key."""

FILE = "signing.key"
"""Name of the key's file in the data folder of an embedded store."""

LEAST_BYTES = 32

HOW = f"give the shards a key: `continual serve --signing-key FILE`, or the environment variable {VARIABLE}"


class Unsigned(ValueError):  # noqa: N818 (says what is the case)
    """State that is not signed with this process' key: it was not unpickled, and nothing was changed."""


_key = secrets.token_bytes(LEAST_BYTES)
_given = False


def set_key(key: bytes) -> None:
    """Signs and verifies with `key` from now on, in the whole process.

    Raises:
        ValueError: it has less than 32 bytes.
    """
    global _key, _given
    check_key(key)
    _key, _given = key, True


def check_key(key: bytes | None) -> None:
    """Refuses a key that could be guessed; None is no key.

    Raises:
        ValueError: it has less than 32 bytes.
    """
    if key is not None and len(key) < LEAST_BYTES:
        raise ValueError(
            f"signing key: got {len(key)} bytes; accepted: {LEAST_BYTES} random bytes or more, in any form"
        )


def has_key() -> bool:
    """Whether this process was given a key, so that others can read what it signs."""
    return _given


def find_key(path: str = "") -> bytes | None:
    """The key in a file, or where there is no `path` in the environment, without white space around; None if none.

    Raises:
        OSError: the file cannot be read.
        ValueError: the variable holds the path of a file instead of a key.
    """
    if path:
        return Path(path).read_bytes().strip() or None
    text = os.environ.get(VARIABLE, "").strip()
    if text.startswith(("/", ".", "~")) or (os.sep in text and Path(text).exists()):
        raise ValueError(
            f"{VARIABLE} holds what looks like the path of a file; accepted: the key itself (`openssl rand -hex 32` "
            "makes one). To have a file read, give `continual serve --signing-key FILE`"
        )
    return text.encode() or None


def make_key(folder: Path) -> Path:
    """The key file of a data folder, readable by its owner only; made of 32 random bytes where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    if not path.exists():
        made = folder / f"{FILE}.{os.getpid()}"  # linked when complete: a crash leaves no half of a key
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(LEAST_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(made, path)
        except FileExistsError:  # another process was faster: its key holds
            pass
        finally:
            made.unlink()
        entry = os.open(folder, os.O_RDONLY)
        os.fsync(entry)  # what is signed from now on must not outlive its key
        os.close(entry)
    return path


def sign(purpose: bytes, data: bytes) -> bytes:
    """The signature [32 bytes] of `data` for one purpose; it is valid for no other."""
    return hmac.digest(_key, len(purpose).to_bytes(8, "little") + purpose + data, "sha256")


def verify(purposes: Iterable[bytes], data: bytes, signature: bytes) -> None:
    """Checks a signature of `sign` for one of `purposes`.

    Raises:
        Unsigned: it is not that of this data and key, for any of them.
    """
    if not any(hmac.compare_digest(sign(purpose, data), signature) for purpose in purposes):
        how = "" if _given else f"; this process was given no key: {HOW}"
        raise Unsigned(f"the state is not signed with this deployment's key and was not read{how}")
