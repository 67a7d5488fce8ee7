"""Clients of Redis: the one place that makes them, so that each states its timeouts and never repeats a command.

redis-py repeats by default (8.1: up to ten times, EVAL and XADD included, after 5 s of silence). A hidden repeat could
put an old write behind a newer one, or write twice; whoever calls repeats, and says what is expected.

A URL need not hold the password: `?password_env=NAME` and `?password_file=PATH` say where it is. Such a URL may be
printed, stored and handed to other processes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

SOCKET_TIMEOUT = 5.0
"""Seconds that a server may be silent, beyond what a command itself asks it to wait."""

SCHEMES = ("redis", "rediss", "unix")
HIDDEN = "***"

_ENV, _FILE = "password_env", "password_file"


def redis_client(url: str, *, password: str | None = None, waits: float = 0.0) -> redis.Redis:
    """A client that never repeats a command by itself, and returns bytes. Nothing is sent yet.

    Args:
        url: `redis://`, `rediss://` or `unix://`; see the module's docstring for where its password may be.
        password: instead of one in the URL.
        waits: the longest that a command blocks on the server (XREAD BLOCK), in seconds.

    Raises:
        ValueError: the scheme is not one of the three, or the password is not where the URL says.
        OSError: the file with the password cannot be read.
    """
    plain, options = _settings(url, password)
    return redis.Redis.from_url(
        plain, socket_timeout=SOCKET_TIMEOUT + waits, retry=Retry(NoBackoff(), 0), retry_on_timeout=False, **options
    )


def redis_connection(url: str) -> redis.asyncio.Connection:
    """One asyncio connection that never repeats, without a timeout of its own: the caller bounds every call.

    Raises:
        ValueError, OSError: see `redis_client`.
    """
    plain, options = _settings(url, None)
    pool = redis.asyncio.ConnectionPool.from_url(
        plain, socket_timeout=None, retry=AsyncRetry(NoBackoff(), 0), retry_on_timeout=False, **options
    )
    return pool.make_connection()


def _settings(url: str, password: str | None) -> tuple[str, dict[str, Any]]:
    """A URL that redis-py understands, and what every client has in common."""
    if urlsplit(url).scheme not in SCHEMES:
        raise ValueError(f"redis: got {shown(url)!r}; accepted: a URL that begins with redis://, rediss:// or unix://")
    plain, found = _resolved(url)
    options: dict[str, Any] = {
        "decode_responses": False,
        "protocol": 2,
        "socket_connect_timeout": SOCKET_TIMEOUT,
        "retry_on_error": [],
    }
    secret = found if password is None else password
    return plain, options | ({} if secret is None else {"password": secret})


def _resolved(url: str) -> tuple[str, str | None]:
    """The URL without its reference to a password, and that password."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    name, path = query.pop(_ENV, ""), query.pop(_FILE, "")
    if not name and not path:
        return url, None
    if name:
        password = os.environ.get(name, "")
        if not password:
            raise ValueError(f"redis: the password of {shown(url)} should be in the variable {name}, which is not set")
    else:
        password = Path(path).read_text().strip()
        if not password:
            raise ValueError(f"redis: the password of {shown(url)} should be in the file {path}, which is empty")
    return _joined(parts, parts.netloc, urlencode(query)), password


def refer_to_password(url: str, *, env: str = "", file: str = "") -> str:
    """The URL with a reference to where its password is, and without any that it holds."""
    bare, _ = split_password(url)
    parts = urlsplit(bare)
    query = dict(parse_qsl(parts.query, keep_blank_values=True)) | ({_ENV: env} if env else {_FILE: file})
    return _joined(parts, parts.netloc, urlencode(query, safe="/"))


def split_password(url: str) -> tuple[str, str | None]:
    """The URL without the password that it holds, and that password (None: it holds none)."""
    parts = urlsplit(url)
    query = parse_qsl(parts.query, keep_blank_values=True)
    held = next((value for key, value in query if key == "password"), None)
    password = held if parts.password is None else unquote(parts.password)
    rest = urlencode([(key, value) for key, value in query if key != "password"], safe="/")
    netloc = parts.netloc
    if parts.password is not None:
        user, host = parts.username or "", netloc.rpartition("@")[2]
        netloc = f"{quote(unquote(user), safe='')}@{host}" if user else host
    return _joined(parts, netloc, rest), password


def shown(url: str) -> str:
    """The URL as it may be printed: whatever in it is secret is hidden."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # not a URL at all: what it holds cannot be told
        return HIDDEN
    secret = {key for key, _ in query if "password" in key and key not in (_ENV, _FILE)}
    if parts.password is None and not secret:
        return url
    netloc = f"{parts.netloc.rpartition('@')[0].partition(':')[0]}:{HIDDEN}@{parts.netloc.rpartition('@')[2]}"
    rest = urlencode([(key, HIDDEN if key in secret else value) for key, value in query], safe="/*")
    return _joined(parts, parts.netloc if parts.password is None else netloc, rest)


def _joined(parts: SplitResult, netloc: str, query: str) -> str:
    # `urlunsplit` would leave the slashes out of unix:///path.
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}"
