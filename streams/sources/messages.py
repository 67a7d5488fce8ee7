"""From messages of a queue to a batch: plain JSON objects, CloudEvents in both modes, or fields without types.

Many messages are parsed in one call to Arrow; a message that does not fit is found by halving, so that no Python runs
for each of the others. What a message says does not depend on those beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from streams.batch import Batch
from streams.columns import JSON, events
from streams.labels import MISSING_CELLS, Cells
from streams.mapping import BadRow, Mapping
from streams.objects import fields_of, object_schema, read_inside, read_objects
from streams.sources.spec import TRANSPORT, TRANSPORT_ID, TRANSPORT_KEY, TRANSPORT_TIME, own_field
from streams.times import microseconds

STRUCTURED = b"application/cloudevents+json"
_ATTRIBUTES = {TRANSPORT_KEY: "partitionkey", TRANSPORT_TIME: "time", TRANSPORT_ID: "id"}
_HEADERS = {what: f"ce_{name}" for what, name in _ATTRIBUTES.items()}
_ENVELOPE = [pa.field(name, pa.string()) for name in ("specversion", "id", "source", "time", "partitionkey")]
_MISSING = pa.array(sorted(MISSING_CELLS))


@dataclass(slots=True)
class Messages:
    """Consecutive messages of one partition of a source.

    Attributes:
        producer: the partition's identity.
        first: the number that it goes on with before these.
        end: the one after them.
        numbers: of each message, rising, in [first, end).
        values: payloads; None where there is none. Or, of a Redis entry without payload, its fields.
        headers: of each message, by lower-case name; None: no message has any.
        keys: the messages' own keys; None: none has one.
        times: int64 [n], microseconds since the epoch, as the queue says; None: it does not.
    """

    producer: str
    first: int
    end: int
    numbers: Sequence[int]
    values: Sequence[Any]
    headers: Sequence[Dict[str, bytes]] | None = None
    keys: Sequence[bytes | None] | None = None
    times: Sequence[int] | None = None

    def beside(self, index: int) -> str:
        """What came with one message, as JSON; `single` takes it back."""
        held: dict[str, Any] = {}
        if self.keys is not None and self.keys[index] is not None:
            held["key"] = _text(self.keys[index])
        if self.times is not None:
            held["time"] = self.times[index]
        if self.headers is not None and self.headers[index]:
            held["headers"] = {name: _text(value) for name, value in self.headers[index].items()}
        return json.dumps(held)

    @classmethod
    def single(cls, value: Any, beside: str = "{}") -> Messages:
        """One message, as `beside` tells it."""
        held = json.loads(beside)
        headers = {name: text.encode() for name, text in held.get("headers", {}).items()}
        keys = [held["key"].encode()] if "key" in held else None
        times = [held["time"]] if "time" in held else None
        return cls("letters", 0, 1, [0], [value], [headers] if headers else None, keys, times)


@dataclass(slots=True)
class Parsed:
    """What messages hold.

    Attributes:
        batch: the events, in order; None where no message is one.
        ids: the id of each event, "" for none; None where the mapping has no ids.
        bad: (index of the message, what is wrong with it).
    """

    batch: Batch | None
    ids: list[str] | None
    bad: list[tuple[int, BadRow]] = field(default_factory=list)


class MessageParser:
    """Parses the messages of one source.

    Args:
        mapping: which field is what; as key, time and id it may name what comes beside the payload (see
            `streams.sources.spec.Fields`).
        envelope: "auto", "plain" or "cloudevents"; see `streams.sources.spec.SourceBase`.
        label_as: what a multi-class label is in fields without types, "text" or "integer".
    """

    def __init__(self, mapping: Mapping, envelope: str = "auto", label_as: Cells = "text") -> None:
        self._mapping, self._outside = _told_apart(mapping)
        self._envelope = envelope
        self._label_as = label_as
        self._schema = object_schema(self._mapping)

    def parse(self, messages: Messages) -> Parsed:
        """The events among `messages`, and what is wrong with the others."""
        modes = _modes(messages, self._envelope)
        cells = self._label_as if modes == "fields" else "typed"
        held = _Held(self._mapping, self._outside, self._schema, messages, modes, cells)
        parsed = Parsed(None, None if self._mapping.id is None else [])
        batches = []
        for item in events(held, range(len(messages.values)), 0):
            if isinstance(item, BadRow):
                parsed.bad.append((item.row, item))
                continue
            batches.append(item.batch)
            if parsed.ids is not None and item.ids is not None:
                parsed.ids += item.ids.to_pylist()
        if batches:
            parsed.batch = Batch.concat(batches)
        return parsed


def _told_apart(mapping: Mapping) -> tuple[Mapping, dict[str, str]]:
    """The mapping with names that are either fields of the payload, or stand for what comes beside it.

    Returns:
        The mapping; and of each name that is no field what it stands for.
    """
    own = {*mapping.features, mapping.label}
    own |= {own_field(name) for name in (mapping.key, mapping.time, mapping.id) if name and name not in TRANSPORT}
    outside: dict[str, str] = {}

    def alone(name: str | None) -> str | None:
        if name is None or name not in TRANSPORT:
            return name and own_field(name)
        what = name
        while name in own:
            name += "'"
        outside[name] = what
        return name

    key, time, id = map(alone, (mapping.key, mapping.time, mapping.id))
    unit = "us" if time in outside else mapping.time_unit
    return replace(mapping, key=key, time=time, id=id, time_unit=unit), outside


@dataclass
class _Held:
    """Messages as a `streams.columns.Parser`: a block is a range of their indices."""

    mapping: Mapping
    outside: dict[str, str]
    schema: pa.Schema
    messages: Messages
    modes: str | list[str]
    cells: Cells

    def __post_init__(self) -> None:
        self.name = self.messages.producer
        self._found: tuple[int, dict[str, Any]] = (-1, {})

    # What `events` asks for

    def table(self, block: range, schema: pa.Schema) -> pa.Table:
        """The messages of a block as columns."""
        mode = self._mode(block[0])
        if not isinstance(self.modes, str) and any(self.modes[index] != mode for index in block):
            raise pa.ArrowInvalid("messages of several kinds")
        if mode == "fields":
            return self._from_fields(block, schema)
        if mode == "binary" and any(self._header(index, "ce_specversion") != b"1.0" for index in block):
            raise pa.ArrowInvalid("ce_specversion is not 1.0")
        own = pa.schema([one for one in schema if one.name not in self.outside])
        lines = _joined([self.messages.values[index] for index in block])
        envelope = None
        if mode == "structured":
            table, envelope = read_inside(lines, own, self.mapping, "data", _ENVELOPE)
            if not pc.all(pc.fill_null(pc.equal(envelope.column("specversion"), "1.0"), False)).as_py():
                raise pa.ArrowInvalid("specversion is not 1.0")
        else:
            table = read_objects(lines, own, self.mapping)
        for name, what in self.outside.items():
            if name in schema.names:
                table = table.append_column(name, self._beside(what, block, mode, envelope))
        return table.select(schema.names)

    def split(self, block: range) -> list[range]:
        """The messages of a block, each a block of its own."""
        return [range(index, index + 1) for index in block]

    def join(self, blocks: list[range]) -> range:
        """The inverse of `split`."""
        return range(blocks[0][0], blocks[-1][-1] + 1)

    def found(self, row: range, column: str) -> Any:
        """What a message holds in a column; with "" the message as a whole."""
        index = row[0]
        if not column:
            value = self.messages.values[index]
            return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        if column in self.outside:
            return self._found_beside(index, self.outside[column])
        if self._found[0] != index:
            self._found = (index, self._fields(index))
        return self._found[1].get(column)

    def original(self, row: range) -> bytes:
        """The bytes of a message."""
        return payload_bytes(self.messages.values[row[0]])

    # How

    def _mode(self, index: int) -> str:
        return self.modes if isinstance(self.modes, str) else self.modes[index]

    def _fields(self, index: int) -> dict[str, Any]:
        """The fields of one message, empty where they cannot be read."""
        value = self.messages.values[index]
        if isinstance(value, bytes):
            return fields_of(value, "data" if self._mode(index) == "structured" else "")
        return {str(_text(name)): _text(content) for name, content in (value or {}).items()}

    def _found_beside(self, index: int, what: str) -> Any:
        """What comes with one message, as far as it can be read."""
        if self._mode(index) == "binary":
            return _text(self._header(index, _HEADERS[what]))
        if self._mode(index) == "structured":
            return fields_of(self.messages.values[index]).get(_ATTRIBUTES[what])
        return _text(self.messages.keys[index]) if what == TRANSPORT_KEY and self.messages.keys is not None else None

    def _from_fields(self, block: range, schema: pa.Schema) -> pa.Table:
        """Entries whose own fields are the event's, all of them text."""
        columns = {}
        for one in schema:
            if one.name in self.outside:
                columns[one.name] = self._transport(self.outside[one.name], block)
                continue
            name = one.name.encode()
            values = [self.messages.values[index].get(name) for index in block]
            held = pa.array(values, pa.binary()).cast(pa.string())
            is_target = one.name == self.mapping.label and self.mapping.target == "regression"
            if one.type == JSON and not is_target:
                columns[one.name] = pc.if_else(pc.equal(held, ""), pa.scalar(None, pa.string()), held)
            else:
                held = pc.if_else(pc.is_in(held, value_set=_MISSING), pa.scalar(None, pa.string()), held)
                columns[one.name] = held.cast(pa.float64() if is_target else one.type)
        return pa.table(columns)

    def _beside(self, what: str, block: range, mode: str, envelope: pa.Table | None) -> pa.Array:
        """A column of what comes with the messages."""
        if envelope is not None:
            return _of_envelope(what, envelope, self._transport(what, block))
        return self._of_headers(what, block) if mode == "binary" else self._transport(what, block)

    def _transport(self, what: str, block: range) -> pa.Array:
        """What the queue says of its messages."""
        if what == TRANSPORT_TIME and self.messages.times is not None:
            return pa.array([self.messages.times[index] for index in block], pa.int64())
        if what == TRANSPORT_KEY and self.messages.keys is not None:
            return pa.array([self.messages.keys[index] for index in block], pa.binary()).cast(pa.string())
        return pa.nulls(len(block), pa.int64() if what == TRANSPORT_TIME else pa.string())

    def _header(self, index: int, name: str) -> bytes | None:
        return self.messages.headers[index].get(name) if self.messages.headers else None

    def _of_headers(self, what: str, block: range) -> pa.Array:
        """What the headers of CloudEvents in binary mode say."""
        assert self.messages.headers is not None
        headers = [self.messages.headers[index] for index in block]
        if what == TRANSPORT_ID:
            if any(not held.get("ce_id") or not held.get("ce_source") for held in headers):
                raise pa.ArrowInvalid("ce_id or ce_source is missing")
            joined = [held["ce_source"] + b"#" + held["ce_id"] for held in headers]
            return pa.array(joined, pa.binary()).cast(pa.string())
        given = pa.array([held.get(_HEADERS[what]) for held in headers], pa.binary()).cast(pa.string())
        return _first_of(what, given, self._transport(what, block))


def _of_envelope(what: str, envelope: pa.Table, transport: pa.Array) -> pa.Array:
    """What the attributes of structured CloudEvents say."""
    if what == TRANSPORT_ID:
        source, id = envelope.column("source"), envelope.column("id")
        if source.null_count or id.null_count:
            raise pa.ArrowInvalid("source or id is missing")
        return pc.binary_join_element_wise(source, id, "#").combine_chunks()
    return _first_of(what, envelope.column(_ATTRIBUTES[what]).combine_chunks(), transport)


def _first_of(what: str, given: pa.Array, transport: pa.Array) -> pa.Array:
    """What an event says of itself, else what the queue says of it; times in microseconds.

    Raises:
        pa.ArrowInvalid: a time is none.
    """
    if what != TRANSPORT_TIME:
        return pc.coalesce(given, transport)
    time, said = microseconds(given, "us"), given.is_valid()
    if (said.to_numpy(zero_copy_only=False) & (time < 0)).any():
        raise pa.ArrowInvalid("the time of the event is none of RFC 3339, from 1970 to 9999")
    return pc.if_else(said, pa.array(time), transport)


def payload_bytes(value: Any) -> bytes:
    """The bytes of a payload as a dead letter keeps them: as they came; fields without payload as a JSON object."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    return json.dumps({_text(name): _text(content) for name, content in value.items()}).encode()


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _modes(messages: Messages, envelope: str) -> str | list[str]:
    """How each message is packed; one word where it is the same for all."""
    fields = [not isinstance(value, bytes) and value is not None for value in messages.values]
    if all(fields) and fields:
        return "fields"
    if envelope == "plain" or (envelope == "auto" and messages.headers is None):
        return "plain"
    if envelope == "cloudevents":
        return "structured"
    assert messages.headers is not None
    modes = [
        "structured"
        if held.get("content-type", b"").startswith(STRUCTURED)
        else "binary"
        if "ce_specversion" in held
        else "plain"
        for held in messages.headers
    ]
    return modes[0] if len(set(modes)) == 1 else modes


def _joined(values: Sequence[bytes | None]) -> bytes:
    """Messages as lines.

    Raises:
        pa.ArrowInvalid: a message has no payload.
    """
    if any(value is None for value in values):
        raise pa.ArrowInvalid("no payload")
    lines: Sequence[bytes] = values  # type: ignore[assignment]
    joined = b"\n".join(lines) + b"\n"
    if joined.count(b"\n") == len(lines):
        return joined
    return b"\n".join(line.replace(b"\n", b" ") for line in lines) + b"\n"  # inside JSON it is mere space
