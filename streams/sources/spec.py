"""What a spec says of a source: where it is, where reading starts, which field of a message is what."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from streams import librdkafka
from streams.connections import NAME_PATTERN, KafkaCluster, RedisServer, Strict
from streams.mapping import TimeUnit

TRANSPORT_KEY, TRANSPORT_TIME, TRANSPORT_ID = "$key", "$time", "$id"
TRANSPORT = frozenset((TRANSPORT_KEY, TRANSPORT_TIME, TRANSPORT_ID))
"""Names of what comes beside the payload; see `Fields`."""


def own_field(name: str) -> str:
    """The field that a key, time or id is read from: `$$key` is the field `$key`."""
    return name[1:] if name.startswith("$$") else name


class Fields(Strict):
    """Which field of a message is what.

    As key, time and id, `$key` (the message key, or the CloudEvents extension `partitionkey`), `$time` (CloudEvents
    `time`, else the time of the queue) and `$id` (CloudEvents `source` and `id`) name what comes beside the payload.
    Any other name is a field of the payload, and so is every name of a label or feature. A key, time or id that is a
    field called `$key` is named `$$key`: where two dollar signs begin such a name, the first does not count.
    """

    label: str | None = Field("label", description="Field of the label; null: every event is an observation.")
    key: str | None = Field(None, description="Field of the entity, `$key` for the message's own; null: one.")
    time: str | None = Field(None, description="Field of the event time, `$time` for the message's; null: no clock.")
    id: str | None = Field(None, description="Field of the event id, `$id` for that of a CloudEvent; null: no ids.")
    time_unit: TimeUnit = Field("us", description="Unit of a numeric time; RFC 3339 text needs none.")
    features: dict[str, str] = Field(
        default_factory=dict, description="Feature of the spec -> field, where the field has another name."
    )
    label_as: Literal["text", "integer"] = Field(
        "text", description="What a multi-class label is where fields have no types (a Redis entry without payload)."
    )


    def check_plain(self) -> None:
        """Refuses what stands beside a payload, where events are rows.

        Raises:
            ValueError: naming it.
        """
        beside = [name for name in (self.key, self.time, self.id) if name in TRANSPORT]
        if beside:
            raise ValueError(f"fields: {', '.join(map(str, beside))} come with messages, and a row has none")


class AtTime(Strict):
    """Start at the first message of this time or later."""

    time: datetime.datetime = Field(description="With a time zone.")

    @field_validator("time")
    @classmethod
    def _aware(cls, time: datetime.datetime) -> datetime.datetime:
        if time.tzinfo is None:
            raise ValueError("needs a time zone, such as 2024-05-01T12:00:00Z")
        return time


class AtPosition(Strict):
    """Start at a position of the source: the first one read."""

    position: int | str | dict[int, int] = Field(
        description="Kafka: an offset for every partition, or a mapping from partition to offset. Redis: an entry id."
    )


Start = Literal["earliest", "latest"] | AtTime | AtPosition


class SourceBase(Strict):
    """What all sources have."""

    name: str = Field(
        "",
        pattern=r"^$|" + NAME_PATTERN,
        description="Part of the identity of what is read. A new name reads from `start` again (a topic made anew).",
    )
    fields: Fields = Field(default_factory=Fields, description="Which field of a message or row is what.")
    batch: int = Field(2048, ge=1, le=16_384, description="Messages or rows read and sent together, at most.")
    in_flight: int = Field(8, ge=1, le=64, description="Batches that wait for their answer; then reading pauses.")
    dead_letters: int = Field(10_000, ge=1, le=1_000_000, description="Events that do not fit, kept; the oldest go.")


class QueueSource(SourceBase):
    """What all queues have."""

    envelope: Literal["auto", "plain", "cloudevents", "arrow"] = Field(
        "auto",
        description="`plain`: the payload is the event as a JSON object. `cloudevents`: it is a structured CloudEvent. "
        "`auto`: as the headers say (structured or binary CloudEvents), plain without any. `arrow`: it is many events, "
        "an Arrow IPC stream, taken whole or not at all.",
    )
    start: Start = Field(
        "earliest",
        description="Where the first reading starts; after that it goes on from what the log holds: `earliest`, "
        "`latest`, `time` or `position`.",
    )
    lost: Literal["error", "earliest", "latest"] = Field(
        "error",
        description="When what comes next is no longer retained: stop and say so, or go on from the first or last "
        "message that is, which is counted and reported.",
    )


    @model_validator(mode="after")
    def _rows_stand_alone(self) -> QueueSource:
        if self.envelope == "arrow":
            self.fields.check_plain()
        return self


class RedisStreamSource(RedisServer, QueueSource):
    """A Redis Stream, read plainly (XREAD), without a consumer group."""

    kind: Literal["redis_stream"] = "redis_stream"
    stream: str = Field(min_length=1, max_length=150, description="Key of the stream.")
    payload: str | None = Field(
        "data", description="Field of an entry that holds the JSON object; null: its own fields are the event's."
    )

    @property
    def producer(self) -> str:
        """Identity of what is read."""
        return f"redis:{self.name}:{self.stream}" if self.name else f"redis:{self.stream}"

    @model_validator(mode="after")
    def _sensible(self) -> RedisStreamSource:
        if isinstance(self.start, AtPosition):
            from streams.sources.redis_ids import number_of

            if not isinstance(self.start.position, str):
                raise ValueError(f"start.position must be an entry id such as '5-0', got {self.start.position}")
            number_of(self.start.position)
        if self.payload is None and self.envelope in ("cloudevents", "arrow"):
            raise ValueError("a structured CloudEvent, or an Arrow stream, needs a payload field")
        return self


class KafkaSource(KafkaCluster, QueueSource):
    """A Kafka topic: all its partitions, committed messages only, without consumer-group assignment."""

    accepted: ClassVar[Mapping[str, librdkafka.Kind]] = librdkafka.CONSUMER
    kind: Literal["kafka"] = "kafka"
    topic: str = Field(pattern=r"^[A-Za-z0-9._-]{1,200}$", description="Name of the topic.")

    @property
    def producer(self) -> str:
        """Identity of what is read; that of a partition is this, "/" and its number."""
        return f"kafka:{self.name}:{self.topic}" if self.name else f"kafka:{self.topic}"

    @model_validator(mode="after")
    def _sensible(self) -> KafkaSource:
        if isinstance(self.start, AtPosition) and isinstance(self.start.position, str):
            raise ValueError(f"start.position must be an offset, or one a partition, got {self.start.position!r}")
        return self


class FolderSource(SourceBase):
    """A folder that files of rows are put into: CSV, JSON Lines (also compressed) and Parquet, by their names."""

    kind: Literal["folder"] = "folder"
    path: str = Field(
        min_length=1,
        max_length=150,
        pattern=r"^/",
        description="Of the folder, where the source runs; absolute, and below a root that the operator names "
        "(`continual serve --folders`).",
    )
    pattern: str = Field("*", min_length=1, description="Names of the files to read, as a shell would match them.")
    start: Literal["earliest", "latest"] = Field(
        "earliest", description="`latest`: files that are there at the first reading are passed over."
    )
    lost: Literal["error", "earliest"] = Field(
        "error",
        description="When a file is gone or changed before it was read to its end: stop and say so, or go on with the "
        "next file, which is counted and reported.",
    )
    settle: float = Field(
        1.0, ge=0, le=3600, description="Seconds for which a new file must stay the same before it is read."
    )
    columns: tuple[str, ...] | None = Field(None, description="Names of the columns of CSV files without a header.")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="Of CSV files; null: a tab for .tsv, a comma for others."
    )

    @property
    def producer(self) -> str:
        """Identity of what is read."""
        return f"folder:{self.name}:{self.path}" if self.name else f"folder:{self.path}"

    @model_validator(mode="after")
    def _sensible(self) -> FolderSource:
        self.fields.check_plain()
        return self


Source = Annotated[RedisStreamSource | KafkaSource | FolderSource, Field(discriminator="kind")]
