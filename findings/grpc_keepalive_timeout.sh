#!/usr/bin/env bash
# grpcio 1.85.1: `grpc.keepalive_timeout_ms` does not decide when a peer that has gone silent is given up. With a
# keepalive every 5 s and a timeout of 3 s, a waiting call on a connection that swallows everything ended after 60 s,
# the default of another option, `grpc.http2.ping_timeout_ms`. With that set to 3 s as well it ended after 3 to 8 s.
# Expected: 8 s at most from keepalive_timeout_ms alone ("wait for the acknowledgement of a keepalive ping for so
# long").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grpcio==1.85.1
"$folder/venv/bin/python" - <<'PY'
import os
import socket
import threading
import time
from concurrent import futures

import grpc


class Waiting(grpc.GenericRpcHandler):
    """Sends one message, then nothing."""

    def service(self, details):
        def stream(request, context):
            yield b"first"
            time.sleep(120)

        return grpc.unary_stream_rpc_method_handler(stream)


server = grpc.server(futures.ThreadPoolExecutor(4), [Waiting()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
silent = threading.Event()


def pump(source, target):
    while data := source.recv(65536):
        if not silent.is_set():
            target.sendall(data)


def accept(listener):
    while True:
        client, _ = listener.accept()
        peer = socket.create_connection(("127.0.0.1", port))
        for pair in ((client, peer), (peer, client)):
            threading.Thread(target=pump, args=pair, daemon=True).start()


listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, args=(listener,), daemon=True).start()


def seconds(*options):
    """Until a waiting call ends, after its connection went silent."""
    silent.clear()
    all_options = [("grpc.keepalive_time_ms", 5000), ("grpc.keepalive_timeout_ms", 3000), *options]
    with grpc.insecure_channel(f"127.0.0.1:{listener.getsockname()[1]}", all_options) as channel:
        call = channel.unary_stream("/peer/Wait")(b"")
        assert next(call) == b"first"
        silent.set()
        start = time.monotonic()
        try:
            next(call)
        except grpc.RpcError as error:
            spent = time.monotonic() - start
            print(f"grpcio {grpc.__version__} {dict(options) or ''}: {spent:.0f} s, {error.details()}", flush=True)
            return spent


assert seconds() > 50
assert seconds(("grpc.http2.ping_timeout_ms", 3000)) < 15
os._exit(0)
PY
