#!/usr/bin/env bash
# grpcio 1.85.1: an error whose text or trailing metadata is longer than about 8 to 16 KB arrives as another error. A
# server aborts with INVALID_ARGUMENT and 40,000 characters of text, or with as many bytes of detail: the client sees
# RESOURCE_EXHAUSTED "received metadata size exceeds hard limit". Expected: a truncated text, or an error at the server that tries to send it. A client that repeats
# RESOURCE_EXHAUSTED repeats a call that can never succeed. Way out: bound texts and details of errors at the sender, to
# 8 KB together.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet grpcio==1.85.1
"$folder/venv/bin/python" - <<'PY'
from concurrent import futures

import grpc


class Refusing(grpc.GenericRpcHandler):
    """Aborts with as long a text, or as much metadata, as the request says."""

    def service(self, details):
        def refuse(request, context):
            size = int(request)
            if details.method == "/errors/Metadata":
                context.set_trailing_metadata((("detail-bin", bytes(size)),))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "x" * size if details.method == "/errors/Text" else "no")

        return grpc.unary_unary_rpc_method_handler(refuse)


server = grpc.server(futures.ThreadPoolExecutor(2), [Refusing()])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    for method in ("Text", "Metadata"):
        for size, expected in ((4_000, "INVALID_ARGUMENT"), (40_000, "RESOURCE_EXHAUSTED")):
            try:
                channel.unary_unary(f"/errors/{method}")(b"%d" % size)
            except grpc.RpcError as error:
                print(f"grpcio {grpc.__version__} {method} of {size}: {error.code().name}, {error.details()[:60]}")
                assert error.code().name == expected
server.stop(0)
PY
