"""The settings of librdkafka that a spec may give, with their types and ranges; every other one is refused.

Many of the others name files, programs or libraries on the machine that reads or writes the topic
(`ssl.ca.location`, `sasl.kerberos.kinit.cmd`, `plugin.library.paths`), or what would break the promises of a source or
sink (`auto.offset.reset`, `transactional.id`). The names and their meaning are librdkafka's (its CONFIGURATION.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]

    def fits(self, value: Value) -> bool:
        """Whether a value is accepted."""
        return isinstance(value, str) and value in self.words

    def __str__(self) -> str:
        return ", ".join(self.words)


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, also as text, between two bounds."""

    least: int
    most: int

    def fits(self, value: Value) -> bool:
        """Whether a value is accepted."""
        if isinstance(value, str) and value.removeprefix("-").isdecimal() and value.isascii() and len(value) < 20:
            value = int(value)
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false, also as text."""

    def fits(self, value: Value) -> bool:
        """Whether a value is accepted."""
        return isinstance(value, bool) or value in ("true", "false")

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class Text:
    """Printable text of a bounded length; line breaks only where the value has lines."""

    longest: int = 255
    lines: bool = False

    def fits(self, value: Value) -> bool:
        """Whether a value is accepted."""
        if not isinstance(value, str) or not 0 < len(value) <= self.longest:
            return False
        return (value.replace("\n", "").replace("\r", "") if self.lines else value).isprintable()

    def __str__(self) -> str:
        return f"printable text of 1 to {self.longest} characters"


Kind = Choice | Whole | Flag | Text
MILLISECONDS = Whole(1, 3_600_000)

COMMON: dict[str, Kind] = {
    "security.protocol": Choice(("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")),
    "sasl.mechanism": Choice(("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    "sasl.mechanisms": Choice(("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    "sasl.username": Text(),
    "ssl.ca.pem": Text(65_536, lines=True),
    "ssl.endpoint.identification.algorithm": Choice(("https", "none")),
    "enable.ssl.certificate.verification": Flag(),
    "client.id": Text(),
    "client.dns.lookup": Choice(("use_all_dns_ips", "resolve_canonical_bootstrap_servers_only")),
    "broker.address.family": Choice(("any", "v4", "v6")),
    "broker.address.ttl": MILLISECONDS,
    "socket.timeout.ms": Whole(10, 300_000),
    "socket.connection.setup.timeout.ms": Whole(1000, 300_000),
    "socket.keepalive.enable": Flag(),
    "socket.nagle.disable": Flag(),
    "socket.send.buffer.bytes": Whole(0, 100_000_000),
    "socket.receive.buffer.bytes": Whole(0, 100_000_000),
    "connections.max.idle.ms": Whole(0, 3_600_000),
    "reconnect.backoff.ms": Whole(0, 3_600_000),
    "reconnect.backoff.max.ms": Whole(0, 3_600_000),
    "retry.backoff.ms": Whole(1, 300_000),
    "metadata.max.age.ms": Whole(1, 86_400_000),
    "topic.metadata.refresh.interval.ms": Whole(-1, 3_600_000),
    "receive.message.max.bytes": Whole(1000, 1_000_000_000),
    "message.max.bytes": Whole(1000, 1_000_000_000),
}
"""Of sources and sinks."""

CONSUMER: dict[str, Kind] = COMMON | {
    "group.id": Text(),
    "client.rack": Text(),
    "isolation.level": Choice(("read_committed", "read_uncommitted")),
    "check.crcs": Flag(),
    "fetch.wait.max.ms": Whole(0, 300_000),
    "fetch.min.bytes": Whole(1, 100_000_000),
    "fetch.max.bytes": Whole(1, 1_000_000_000),
    "fetch.message.max.bytes": Whole(1, 1_000_000_000),
    "max.partition.fetch.bytes": Whole(1, 1_000_000_000),
    "fetch.error.backoff.ms": Whole(0, 300_000),
    "fetch.queue.backoff.ms": Whole(0, 300_000),
    "queued.min.messages": Whole(1, 10_000_000),
    "queued.max.messages.kbytes": Whole(1, 1_048_576),
}

PRODUCER: dict[str, Kind] = COMMON | {
    "compression.type": Choice(("none", "gzip", "snappy", "lz4", "zstd")),
    "compression.codec": Choice(("none", "gzip", "snappy", "lz4", "zstd")),
    "compression.level": Whole(-1, 12),
    "batch.size": Whole(1, 100_000_000),
    "batch.num.messages": Whole(1, 1_000_000),
    "queue.buffering.max.messages": Whole(1, 10_000_000),
    "queue.buffering.max.kbytes": Whole(1, 1_048_576),
    "request.timeout.ms": Whole(1, 900_000),
    "message.timeout.ms": Whole(1, 3_600_000),
    "delivery.timeout.ms": Whole(1, 3_600_000),
    "transaction.timeout.ms": Whole(1000, 2_147_483_647),
}


def check(options: Mapping[str, Value], accepted: Mapping[str, Kind]) -> None:
    """Refuses options that are not accepted.

    Raises:
        ValueError: naming the option, its value, and what is accepted.
    """
    for name, value in options.items():
        if name == "sasl.password":
            raise ValueError("options: sasl.password does not belong in a spec; name a variable with password_env")
        if name not in accepted:
            raise ValueError(f"options: {name[:100]!r} is not accepted; accepted: {', '.join(sorted(accepted))}")
        if not accepted[name].fits(value):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise ValueError(f"options: {name}: got {shown}; accepted: {accepted[name]}")
