"""The least that a `grpc.aio` server can do: `python -m continual.bench._echo` prints its port and answers with bytes.

`/bench.Echo/N` replies with N bytes to whatever it gets.
"""

from __future__ import annotations

import asyncio

import grpc


class Echo(grpc.GenericRpcHandler):
    """Unary methods named by the size of their reply."""

    def __init__(self) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of `/bench.Echo/N`."""
        if details.method not in self._handlers:
            reply = bytes(int(details.method.rpartition("/")[2]))

            async def answer(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
                return reply

            self._handlers[details.method] = grpc.unary_unary_rpc_method_handler(answer)
        return self._handlers[details.method]


async def main() -> None:
    """Serves on a port of its own until the process is ended."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Echo(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
