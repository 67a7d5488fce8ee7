"""From messages of a queue to a batch: plain JSON objects, CloudEvents in both modes, or fields without types.

Many messages are parsed in one call to Arrow; a message that does not fit is found by halving, so that no Python runs
for each of the others. What a message says does not depend on those beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from streams.batch import Batch
from streams.columns import events
from streams.files import check_utf8
from streams.mapping import BadRow, Mapping
from streams.sources.spec import TRANSPORT_ID, TRANSPORT_KEY, TRANSPORT_TIME

STRUCTURED = b"application/cloudevents+json"
_UTC = pa.timestamp("us", "UTC")
_ENVELOPE = {"specversion": pa.string(), "id": pa.string(), "source": pa.string(), "time": pa.string()}
_ENVELOPE_KEY = "partitionkey"


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
        mapping: which field is what.
        envelope: "auto", "plain" or "cloudevents"; see `streams.sources.spec.SourceBase`.
        label_as: what a multi-class label is in fields without types.
    """

    def __init__(self, mapping: Mapping, envelope: str = "auto", label_as: str = "text") -> None:
        self._mapping = mapping
        self._envelope = envelope
        self._label_as = label_as

    def parse(self, messages: Messages) -> Parsed:
        """The events among `messages`, and what is wrong with the others."""
        held = _Held(self._mapping, messages, self._envelope, self._label_as)
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


class _Held:
    """Messages as a `streams.columns.Parser`: a block is a range of their indices."""

    def __init__(self, mapping: Mapping, messages: Messages, envelope: str, label_as: str) -> None:
        self.name = messages.producer
        self.mapping = mapping
        self._m = messages
        self._label_as = label_as
        self._modes = _modes(messages, envelope)
        self._found: tuple[int, dict[str, Any]] = (-1, {})
        fixed = {name: pa.float32() for name in mapping.features}
        free = {name: pa.string() for name in (mapping.label, mapping.key, mapping.time, mapping.id) if name}
        self.schema = pa.schema(list((free | fixed).items()))

    # What `events` asks for

    def table(self, block: range, schema: pa.Schema) -> pa.Table:
        """The messages of a block as columns; the types of label, key, time and id are those found there."""
        modes = self._modes
        mode = modes if isinstance(modes, str) else modes[block[0]]
        if not isinstance(modes, str) and any(modes[index] != mode for index in block):
            raise pa.ArrowInvalid("messages of several kinds")
        if mode == "fields":
            return self._from_fields(block, schema)
        if mode == "binary" and any(self._header(index, "ce_specversion") != b"1.0" for index in block):
            raise pa.ArrowInvalid("ce_specversion is not 1.0")
        own = [one for one in schema if not one.name.startswith("$")]
        sample = self._sample(block[0])
        typed = [pa.field(one.name, self._type(one, sample.get(one.name))) for one in own]
        joined = _joined([self._m.values[index] for index in block])
        if mode == "structured":
            table = _structured(joined, typed, len(block))
        else:
            table = _read(joined, pa.schema(typed), len(block))
        for one in schema:
            if one.name.startswith("$"):
                table = table.append_column(one.name, self._beside(one.name, block, mode, table))
        return table.select(schema.names)

    def split(self, block: range) -> list[range]:
        """The messages of a block, each a block of its own."""
        return [range(index, index + 1) for index in block]

    def join(self, blocks: list[range]) -> range:
        """The inverse of `split`."""
        return range(blocks[0][0], blocks[-1][-1] + 1)

    def found(self, row: range, column: str) -> Any:
        """What a message holds in a column; with "" the message as a whole."""
        if not column:
            value = self._m.values[row[0]]
            return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        if column.startswith("$"):
            headers = self._m.headers[row[0]] if self._m.headers else {}
            return {k: v.decode(errors="backslashreplace") for k, v in headers.items()} or None
        return self._sample(row[0]).get(column)

    def original(self, row: range) -> bytes:
        """The bytes of a message."""
        return payload_bytes(self._m.values[row[0]])

    # How

    def _sample(self, index: int) -> dict[str, Any]:
        """The fields of one message, empty where they cannot be read."""
        if self._found[0] != index:
            self._found = (index, self._fields(index))
        return self._found[1]

    def _fields(self, index: int) -> dict[str, Any]:
        value = self._m.values[index]
        if not isinstance(value, bytes):
            names = (self.schema.names, value or {})
            return {name: _text(names[1].get(name.encode())) for name in names[0]}
        try:
            held = json.loads(value)
        except (ValueError, RecursionError):
            return {}
        mode = self._modes if isinstance(self._modes, str) else self._modes[index]
        if mode == "structured" and isinstance(held, dict):
            held = held.get("data")
        return held if isinstance(held, dict) else {}

    def _type(self, one: pa.Field, value: Any) -> pa.DataType:
        """The type of a column, by the role that it has and by what the first message of the block holds."""
        mapping, name = self.mapping, one.name
        is_label = name == mapping.label
        held: pa.DataType = pa.string()
        if name in mapping.features:
            held = one.type
        elif is_label and mapping.target == "regression":
            held = pa.float64()
        elif isinstance(value, bool):
            held = pa.bool_() if is_label else pa.string()
        elif isinstance(value, int):
            held = pa.int64()
        elif name == mapping.time:
            held = _time_type(value) if isinstance(value, str) else pa.float64() if value is not None else pa.int64()
        elif is_label and mapping.target == "binary" and value is None and not _has_texts(mapping):
            held = pa.int64()
        return held

    def _from_fields(self, block: range, schema: pa.Schema) -> pa.Table:
        """Entries whose own fields are the event's, all of them text."""
        columns = []
        for one in schema:
            if one.name.startswith("$"):
                columns.append(self._beside(one.name, block, "fields", None))
                continue
            name = one.name.encode()
            held = pa.array([self._m.values[index].get(name) for index in block], pa.binary()).cast(pa.string())
            held = pc.if_else(pc.equal(held, ""), pa.scalar(None, pa.string()), held)
            columns.append(held.cast(self._field_type(one, held)))
        return pa.table(columns, names=schema.names)

    def _field_type(self, one: pa.Field, held: pa.Array) -> pa.DataType:
        mapping = self.mapping
        if one.name in mapping.features:
            return pa.float32()
        if one.name == mapping.label:
            if mapping.target == "regression":
                return pa.float64()
            whole = not _has_texts(mapping) if mapping.target == "binary" else self._label_as == "integer"
            return pa.int64() if whole else pa.string()
        if one.name == mapping.time:
            first = next((value for value in held.to_pylist() if value), "0")
            return pa.int64() if first.isdecimal() else _time_type(first)
        return pa.string()

    def _beside(self, name: str, block: range, mode: str, table: pa.Table | None) -> pa.Array:
        """A column of what comes with the messages."""
        if mode == "structured" and table is not None:
            return _of_envelope(name, table, self._transport(name, block))
        if mode == "binary":
            return self._of_headers(name, block)
        return self._transport(name, block)

    def _transport(self, name: str, block: range) -> pa.Array:
        """What the queue says of its messages."""
        if name == TRANSPORT_TIME and self._m.times is not None:
            return pa.array([self._m.times[index] for index in block], pa.int64())
        if name == TRANSPORT_KEY and self._m.keys is not None:
            return pa.array([self._m.keys[index] for index in block], pa.binary()).cast(pa.string())
        return pa.nulls(len(block), pa.int64() if name == TRANSPORT_TIME else pa.string())

    def _header(self, index: int, name: str) -> bytes | None:
        return self._m.headers[index].get(name) if self._m.headers else None

    def _of_headers(self, name: str, block: range) -> pa.Array:
        """What the headers of CloudEvents in binary mode say."""
        assert self._m.headers is not None
        headers = [self._m.headers[index] for index in block]
        if name == TRANSPORT_ID:
            if any(not held.get("ce_id") or not held.get("ce_source") for held in headers):
                raise pa.ArrowInvalid("ce_id or ce_source is missing")
            joined = [held["ce_source"] + b"#" + held["ce_id"] for held in headers]
            return pa.array(joined, pa.binary()).cast(pa.string())
        attribute = "ce_time" if name == TRANSPORT_TIME else "ce_partitionkey"
        given = pa.array([held.get(attribute) for held in headers], pa.binary()).cast(pa.string())
        if name == TRANSPORT_TIME:
            given = given.cast(_UTC).cast(pa.int64())
        return pc.coalesce(given, self._transport(name, block))


def _has_texts(mapping: Mapping) -> bool:
    return any(isinstance(label, str) for label in mapping.labels)


def _time_type(text: str) -> pa.DataType:
    """Of ISO 8601 text: with the zone that it names, if it names one."""
    return _UTC if text[-1:] in "zZ" or "+" in text or text.count("-") > 2 else pa.timestamp("us")


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
    """Messages as lines, each certain to be one object and no more if as many rows are read.

    A line that begins with "{" and ends with "}" cannot be finished by the next one, so two messages never make one
    row between them, and none can make up for the rows of another.

    Raises:
        pa.ArrowInvalid: a message is no JSON object, or not UTF-8.
    """
    if any(value is None for value in values):
        raise pa.ArrowInvalid("no payload")
    lines: Sequence[bytes] = values  # type: ignore[assignment]
    joined = b"\n".join(lines) + b"\n"
    if joined.count(b"\n") != len(lines):  # a line feed inside JSON is mere space
        lines = [line.replace(b"\n", b" ") for line in lines]
        joined = b"\n".join(lines) + b"\n"
    text = np.frombuffer(joined, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    if (starts == ends).any() or (text[starts] != ord("{")).any() or (text[ends - 1] != ord("}")).any():
        lines = [line.strip() for line in lines]
        if any(line[:1] != b"{" or line[-1:] != b"}" for line in lines):
            raise pa.ArrowInvalid("no JSON object")
        joined = b"\n".join(lines) + b"\n"
    check_utf8(joined)
    return joined


def _read(joined: bytes, schema: pa.Schema, rows: int) -> pa.Table:
    options = pyarrow.json.ReadOptions(use_threads=False, block_size=len(joined) + 1)
    parsing = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    table = pyarrow.json.read_json(pa.BufferReader(joined), options, parsing)
    if table.num_rows != rows:
        raise pa.ArrowInvalid(f"{rows} messages hold {table.num_rows} objects; one message must be one object")
    return table


def _structured(joined: bytes, typed: list[pa.Field], rows: int) -> pa.Table:
    """Structured CloudEvents: the fields of `data` as columns, then the attributes under "ce " and their name."""
    fields = [pa.field("data", pa.struct(typed))] if typed else []
    fields += [pa.field(name, type_) for name, type_ in _ENVELOPE.items()]
    table = _read(joined, pa.schema([*fields, pa.field(_ENVELOPE_KEY, pa.string())]), rows)
    if not pc.all(pc.fill_null(pc.equal(table.column("specversion"), "1.0"), False)).as_py():
        raise pa.ArrowInvalid("specversion is not 1.0")
    if typed and table.column("data").null_count:
        raise pa.ArrowInvalid("data is missing; accepted: a JSON object")
    columns = {one.name: pc.struct_field(table.column("data"), one.name) for one in typed}
    columns |= {f"ce {name}": table.column(name) for name in [*_ENVELOPE, _ENVELOPE_KEY]}
    return pa.table(columns)


def _of_envelope(name: str, table: pa.Table, transport: pa.Array) -> pa.Array:
    if name == TRANSPORT_ID:
        source, id = table.column("ce source"), table.column("ce id")
        if source.null_count or id.null_count:
            raise pa.ArrowInvalid("source or id is missing")
        return pc.binary_join_element_wise(source, id, "#").combine_chunks()
    if name == TRANSPORT_TIME:
        given = table.column("ce time").combine_chunks().cast(_UTC).cast(pa.int64())
    else:
        given = table.column("ce " + _ENVELOPE_KEY).combine_chunks()
    return pc.coalesce(given, transport)
