"""What a spec says of a sink: where records of predictions go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from streams import librdkafka
from streams.connections import NAME_PATTERN, KafkaCluster, RedisServer, Strict


class SinkBase(Strict):
    """What all sinks have."""

    name: str = Field(
        "", pattern=r"^$|" + NAME_PATTERN, description="Part of the identity of the sink, where one is not enough."
    )
    behind: int = Field(
        1_000_000,
        ge=1000,
        le=1_000_000_000,
        description="Events for which log and answers wait for a sink that does not take them; the oldest go then.",
    )
    lost: Literal["error", "earliest"] = Field(
        "error",
        description="When what comes next is no longer retained: stop and say so, or go on from the first event that "
        "is, which is counted and reported.",
    )


class RedisStreamSink(RedisServer, SinkBase):
    """A Redis Stream: one entry per event, whose id is `<position>-1`."""

    kind: Literal["redis_stream"] = "redis_stream"
    stream: str = Field(min_length=1, max_length=150, description="Key of the stream; no one else may write there.")
    keep: int | None = Field(None, ge=1, description="Entries to keep there, about; null: all.")

    @property
    def identity(self) -> str:
        """Which sink this is."""
        return f"redis:{self.name}:{self.stream}" if self.name else f"redis:{self.stream}"


class KafkaSink(KafkaCluster, SinkBase):
    """A Kafka topic: one message per event, events of a key in one partition, written in transactions."""

    accepted: ClassVar[Mapping[str, librdkafka.Kind]] = librdkafka.PRODUCER
    kind: Literal["kafka"] = "kafka"
    topic: str = Field(
        pattern=r"^[A-Za-z0-9._-]{1,200}$", description="Name of the topic; it must exist, and be this sink's own."
    )
    envelope: Literal["plain", "cloudevents"] = Field(
        "plain", description="`cloudevents`: every message has the headers of a CloudEvent in binary mode."
    )

    @property
    def identity(self) -> str:
        """Which sink this is."""
        return f"kafka:{self.name}:{self.topic}" if self.name else f"kafka:{self.topic}"


Sink = Annotated[RedisStreamSink | KafkaSink, Field(discriminator="kind")]
