"""Connections that go silent, as behind a router that forgot them: given up and replaced, and no ping is too many."""

import contextlib
import select
import socket
import threading
import time

import pytest
from client_harness import Server, applied, batches

from service import channels

PING, PONG = 1000, 1000


class Swallowing:
    """A TCP proxy: what comes over connections that were there at `swallow` is taken and goes nowhere.

    Attributes:
        address: host:port.
        opened: connections so far.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.opened = 0
        self._silent: set[int] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow(self) -> None:
        self._silent = set(range(self.opened))

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._carry, args=(self.opened, near, far), daemon=True).start()
                self.opened += 1

    def _carry(self, number: int, near: socket.socket, far: socket.socket) -> None:
        with near, far, contextlib.suppress(OSError):
            while True:
                for one in select.select([near, far], [], [])[0]:
                    data = one.recv(1 << 16)
                    if not data:
                        return
                    if number not in self._silent:
                        (far if one is near else near).sendall(data)


@pytest.fixture
def proxied(servers, monkeypatch):
    """A service that clients reach through a proxy; both ends are impatient, in the proportions that they have."""
    for name in ("CLIENT", "SERVER"):
        monkeypatch.setattr(channels, name, [*dict([*getattr(channels, name), *channels.silence(PING, PONG)]).items()])
    service = servers(Server())
    proxy = Swallowing(service.port)
    service.servicer.address = service.servicer.map.partitions[0].address = proxy.address
    yield service.servicer, proxy
    proxy.close()


def test_learn_goes_on_after_its_connection_went_silent(proxied, connect):
    servicer, proxy = proxied
    client = connect(proxy.address)

    def source():
        for number, batch in enumerate(batches(20)):
            if number == 10:
                proxy.swallow()
            yield batch

    got = client.collect("m", source(), in_flight=4, timeout=60)
    assert [one.sequence for one in got] == [3 * i for i in range(20)]
    assert applied(servicer) == list(range(60))
    assert servicer.calls.count("Learn") == 2
    assert proxy.opened == 2


def test_an_update_is_repeated_after_its_connection_went_silent(proxied, connect):
    servicer, proxy = proxied
    client = connect(proxy.address)
    client.update("m", {"a": 1.0}, 2.0)
    proxy.swallow()
    client.update("m", {"a": 2.0}, 3.0, timeout=60)
    assert applied(servicer) == [2.0, 3.0]


def test_a_stream_that_is_quiet_for_many_pings_is_not_ended(proxied, connect):
    servicer, proxy = proxied
    client = connect(proxy.address)

    def source():
        for number, batch in enumerate(batches(4)):
            if number == 2:
                time.sleep(8 * PING / 1000)
            yield batch

    got = client.collect("m", source(), in_flight=1, timeout=60)
    assert len(got) == 4
    assert (servicer.calls.count("Learn"), proxy.opened) == (1, 1)


def test_every_end_has_the_same_patience():
    for options in (channels.CLIENT, channels.FORWARDING, channels.SERVER):
        held = dict(options)
        assert held["grpc.http2.ping_timeout_ms"] == held["grpc.keepalive_timeout_ms"] == channels.PONG_MILLISECONDS
        assert held["grpc.http2.min_ping_interval_without_data_ms"] < held["grpc.keepalive_time_ms"]
