"""Ports for servers on this machine that are stopped and started again."""

from __future__ import annotations

import random
import socket

FIRST, LAST = 20_000, 32_000
"""Below the ports that Linux hands out to outgoing connections, from 32,768: none of them takes the port meanwhile."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, and that stays free while a server on it is replaced."""
    while True:
        port = random.randrange(FIRST, LAST)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
