from __future__ import annotations

import asyncio
import threading

import pytest
from client_harness import Awaiting, Blocking, Running, Server


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


@pytest.fixture
def servers(loop):
    running = []

    def start(servicer):
        running.append(Running(servicer, loop))
        return running[-1]

    yield start
    for server in running:
        server.kill()


@pytest.fixture
def service(servers):
    return servers(Server())


@pytest.fixture(params=[Blocking, Awaiting])
def connect(request):
    clients = []

    def connect(target, deployment=None):
        clients.append(request.param(target, deployment))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(service, connect):
    return connect(service.address)
