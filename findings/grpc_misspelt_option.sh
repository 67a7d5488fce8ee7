#!/usr/bin/env bash
# grpcio 1.85.1: a channel or server option with a name that gRPC does not know is ignored without a word, and one name
# cannot be guessed. The C constant GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS is spelt
# `grpc.http2.min_ping_interval_without_data_ms`; a server that is given
# `grpc.http2.min_recv_ping_interval_without_data_ms` keeps its default of five minutes and ends a quiet stream whose
# client pings every second with "too many pings". Expected: a warning for an unknown `grpc.http2.` option.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grpcio==1.85.1
"$folder/venv/bin/python" - <<'PY'
import os
import time
from concurrent import futures

import grpc

QUIET = 8.0


class Quiet(grpc.GenericRpcHandler):
    """Sends one message, and another one after a quiet time."""

    def service(self, details):
        def stream(request, context):
            yield b"first"
            time.sleep(QUIET)
            yield b"second"

        return grpc.unary_stream_rpc_method_handler(stream)


def outcome(option):
    server = grpc.server(futures.ThreadPoolExecutor(2), [Quiet()], options=[(option, 500)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    pings = [("grpc.keepalive_time_ms", 1000), ("grpc.http2.max_pings_without_data", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", pings) as channel:
        try:
            said = b" ".join(channel.unary_stream("/quiet/Wait")(b"")).decode()
        except grpc.RpcError as error:
            said = f"{error.code().name}: {error.details()}"
    print(f"grpcio {grpc.__version__} {option}: {said}", flush=True)
    return said


assert outcome("grpc.http2.min_ping_interval_without_data_ms") == "first second"
assert "too many pings" in outcome("grpc.http2.min_recv_ping_interval_without_data_ms").lower()
os._exit(0)
PY
