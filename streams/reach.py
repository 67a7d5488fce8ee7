"""What the sources and sinks of a spec may reach: what the operator of the service says, not whoever creates a model.

Checked when a model is created, and again wherever a source or sink opens something: a spec that was created under
another rule waits, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import urlsplit

RESERVED = "continual:"
"""Keys of Redis that begin so are the service's own, in whatever Redis: no source reads and no sink writes them."""

ANY_PORT = ""


class OutOfReach(ValueError):  # noqa: N818 (says what is the case)
    """A source or sink names what the operator has not opened to specs.

    Attributes:
        field: of the source or sink.
        value: what it names.
        accepted: what would be accepted, and how more would be.
    """

    def __init__(self, field: str, value: str, accepted: str) -> None:
        super().__init__(f"{field}: got {value!r}; accepted: {accepted}")
        self.field, self.value, self.accepted = field, value, accepted


@dataclass(frozen=True, slots=True)
class Reach:
    """What is open to specs.

    Attributes:
        folders: absolute paths; folders below them may be sources. None: no folder may.
        hosts: `host` or `host:port` of brokers and Redis servers, and `unix:///path` of a Redis; none: every host, and
            no socket. The deployment's own store needs no mention.
        secrets: environment variables that `password_env` may name.
    """

    folders: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    @classmethod
    def of(cls, given: Any) -> Self:
        """From a mapping of lists, as it comes back from JSON."""
        return cls(**{name: tuple(values) for name, values in given.items()})

    def check(self, one: Any) -> None:
        """Refuses a source or sink that names what is not open.

        Raises:
            OutOfReach: naming the field.
        """
        # Here: `serve` and the processes that it starts carry this module, and specs may be far from them.
        from streams.connections import KafkaCluster, RedisServer
        from streams.sources.spec import FolderSource

        if isinstance(one, FolderSource):
            self.real_folder(one.path)
            return
        if one.password_env and one.password_env not in self.secrets:
            accepted = _named(self.secrets, "variables", "--source-secret NAME")
            raise OutOfReach("password_env", one.password_env, accepted)
        if isinstance(one, KafkaCluster):
            for broker in one.bootstrap.split(","):
                self._check_host("bootstrap", broker.strip(), broker.strip().rpartition("://")[2])
        elif isinstance(one, RedisServer):
            if one.stream.startswith(RESERVED):  # type: ignore[attr-defined] # every source and sink of Redis has one
                accepted = f"keys that do not begin with {RESERVED!r}, as the service's own do"
                raise OutOfReach("stream", one.stream, accepted)  # type: ignore[attr-defined]
            if one.url:
                self._check_url(one.url)

    def _check_url(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            if f"unix://{parts.path}" not in self.hosts:
                raise OutOfReach("url", url, _named([h for h in self.hosts if "/" in h], "sockets", ALLOW))
            return
        try:
            name = parts.hostname or "localhost"
            host = f"{f'[{name}]' if ':' in name else name}:{parts.port or 6379}"
        except ValueError as error:
            raise OutOfReach("url", url, f"a port from 1 to 65535 ({error})") from error
        self._check_host("url", url, host)

    def _check_host(self, field: str, value: str, address: str) -> None:
        if not self.hosts:
            return
        host, _, port = address.rpartition(":") if _has_port(address) else (address, "", ANY_PORT)
        host = host.strip("[]").lower()
        for allowed in self.hosts:
            name, _, only = allowed.rpartition(":") if _has_port(allowed) else (allowed, "", ANY_PORT)
            if name.strip("[]").lower() == host and only in (ANY_PORT, port):
                return
        raise OutOfReach(field, value, _named(self.hosts, "servers", ALLOW))

    def real_folder(self, path: str) -> str:
        """Where a folder really is, once every symbolic link is followed.

        Raises:
            OutOfReach: that is not below a root.
        """
        real = os.path.realpath(path)
        self.check_inside("path", path, real)
        return real

    def check_inside(self, field: str, value: str, real: str) -> None:
        """Refuses a path, free of symbolic links, that is not below a root.

        Raises:
            OutOfReach: naming the roots.
        """
        roots = [os.path.realpath(root) for root in self.folders]
        if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in roots):
            raise OutOfReach(field, value, _named(self.folders, "folders below those", "--folders PATH"))


CLOSED = Reach()
"""What is open where the operator says nothing."""

ALLOW = "--sources-allow HOST[:PORT]"


def _has_port(address: str) -> bool:
    """Whether what follows the last colon is a port: an IPv6 address without brackets has none."""
    return address.rpartition(":")[2].isdecimal() and (address.count(":") == 1 or "]:" in address)


def _named(names: Sequence[str], what: str, option: str) -> str:
    held = ", ".join(names) or "none so far"
    return f"{what} that the operator names with `continual serve {option}`: {held}"
