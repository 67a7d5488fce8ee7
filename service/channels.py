"""Options of gRPC channels and servers: sizes of messages, and how soon a connection that went silent is given up."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 16 << 20
"""Of a request: clients cut what is larger, servers refuse it."""

MAX_REPLY_BYTES = 4 * MAX_MESSAGE_BYTES

PING_MILLISECONDS = 10_000
"""A connection with calls under way is pinged whenever it was silent for as long."""

PONG_MILLISECONDS = 10_000
"""A ping, or data, that is not acknowledged for as long ends the connection, and with it the calls."""



def silence(ping: int = PING_MILLISECONDS, pong: int = PONG_MILLISECONDS) -> list[tuple[str, int]]:
    """Options for either end: when it pings, and when it gives up."""
    return [
        ("grpc.keepalive_time_ms", ping),
        ("grpc.keepalive_timeout_ms", pong),
        # gRPC waits as long for the answer to a ping, whatever the timeout of keepalive says; by default for 60 s.
        ("grpc.http2.ping_timeout_ms", pong),
        ("grpc.http2.max_pings_without_data", 0),  # a stream may be quiet for long: no bound
        # By default gRPC ends a connection whose peer pings more often than every 5 minutes while nothing is sent.
        # (gRPC knows the option by this name; others, such as that of its constant, are passed over without a word.)
        ("grpc.http2.min_ping_interval_without_data_ms", ping // 2),
    ]


CLIENT = [
    ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
    ("grpc.max_send_message_length", MAX_REPLY_BYTES),
    *silence(),
    ("grpc.enable_retries", 0),  # the client retries itself: it knows what is safe
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # in effect the limit on connecting to one address
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
"""From a client to a shard."""

FORWARDING = [
    ("grpc.max_receive_message_length", -1),  # the owner has judged the size of its reply
    *silence(),
    ("grpc.enable_retries", 0),  # the caller knows what may be sent again
]
"""From one shard to another."""

SERVER = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_REPLY_BYTES),
    *silence(),  # of a client that went silent
]
"""Of a shard."""
