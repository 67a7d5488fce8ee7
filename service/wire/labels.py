"""Labels, ids and keys: values <-> bytes on the wire, and their hashes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from service.api import continual_v1_pb2 as pb
from service.errors import invalid
from service.wire.schema import Schema
from streams import labels
from streams.batch import LabelValue
from streams.labels import INT64, plain
from streams.mapping import MAX_ABS_TARGET, MAX_LABEL_BYTES


def label_to_proto(value: Any) -> pb.Label:
    """A label as a message: whole numbers of 64 bits and truth values as `integer`, text as `text`, others as `number`.

    Raises:
        TypeError: the value is none of these.
        ValueError: the value is no label: None or NaN.
    """
    if isinstance(value, str):
        return pb.Label(text=value)  # the empty text too: logs of older versions have it as a class
    try:
        held = plain(value)
    except TypeError as error:
        raise TypeError(f"label: {error}") from error
    if held is None:
        raise ValueError(f"label: got {value!r}, which is no label; accepted: a number or text")
    if isinstance(held, int) and held in INT64:
        return pb.Label(integer=held)
    return pb.Label(number=float(held))


def label_from_proto(label: pb.Label) -> LabelValue | None:
    """The value of a label message, None if it has none."""
    member = label.WhichOneof("value")
    return None if member is None else getattr(label, member)


def class_of(label: pb.Label, field: str) -> int | str:
    """The class that a label names; a whole number is an integer.

    Raises:
        Refused: LABEL_TYPE for a number that is not whole or not of 64 bits and for an empty label, LABEL_TOO_LONG for
            text over 256 bytes.
    """
    member = label.WhichOneof("value")
    if member == "integer":
        return label.integer
    if member != "text":
        number = label.number
        if member == "number" and number.is_integer() and int(number) in INT64:
            return int(number)
        value = "an empty label" if member is None else f"the number {number}"
        raise invalid(field, value, "an integer or text (a number must be whole, and of 64 bits)", "LABEL_TYPE")
    text = label.text
    if len(text) > MAX_LABEL_BYTES // 4 and (size := len(text.encode())) > MAX_LABEL_BYTES:
        raise invalid(field, f"{size} bytes", f"text of at most {MAX_LABEL_BYTES} bytes", "LABEL_TOO_LONG")
    return text


def binary_of(label: pb.Label, field: str, schema: Schema) -> float:
    """0.0 or 1.0 for a label of a binary target; see `streams.labels.binary_of`.

    Raises:
        Refused: LABEL_TYPE, LABEL_TOO_LONG, or LABEL_UNKNOWN for a class that the spec does not name.
    """
    value = class_of(label, field)
    index = schema.binary.get(value)
    try:
        index = labels.binary_of(value, tuple(schema.binary)) if index is None else index
    except ValueError:
        index = None
    if index is None:
        first, second = schema.binary
        raise invalid(field, repr(value), f"{first!r} or {second!r}", "LABEL_UNKNOWN")
    return index


def target_of(label: pb.Label, field: str) -> float:
    """The value of a label of a regression target; an integer is taken as a number, and so is text that is one.

    Raises:
        Refused: LABEL_TYPE for other text or an empty label, TARGET_OUT_OF_RANGE beyond 1e100 or not finite.
    """
    value = label_from_proto(label)
    if value is None or value == "":
        raise invalid(field, "an empty label", "a number", "LABEL_TYPE")
    try:
        number = labels.target_of(value)
    except ValueError:
        number = None
    if number is not None:
        return number
    if isinstance(value, str):
        raise invalid(field, repr(value), "a number", "LABEL_TYPE")
    accepted = f"a finite number of at most {MAX_ABS_TARGET:g} in magnitude"
    raise invalid(field, value, accepted, "TARGET_OUT_OF_RANGE")


def hash_ids(data: bytes, offsets: list[int]) -> np.ndarray:
    """128-bit hashes of the ids `data[offsets[i]:offsets[i + 1]]`, zeros for an empty id.

    Returns:
        uint64 [n, 2], high word first.
    """
    digest = xxhash.xxh3_128_digest
    none = bytes(16)
    digests = [digest(data[a:b]) if b > a else none for a, b in pairwise(offsets)]
    hashes = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2)
    if none in digests:  # zeros mean "no id": an id that hashes there moves by one
        lengths = np.diff(offsets)
        hashes[(lengths > 0) & ~hashes.any(axis=1), 1] = 1
    return hashes


def hash_id(id: str) -> np.ndarray:
    """The 128-bit hash of one id as it stands in `Batch.id`: uint64 [2], zeros for an empty id."""
    hash = (xxhash.xxh3_128_intdigest(id.encode()) or 1) if id else 0  # see `hash_ids`
    return np.array(divmod(hash, 1 << 64), np.uint64)


def key_bytes(key: str | bytes | int) -> bytes:
    """A key as bytes: text as UTF-8, an integer as its decimal digits.

    Raises:
        TypeError: any other type.
    """
    if isinstance(key, bytes):
        return key
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return str(int(key)).encode()
    raise TypeError(f"key: got {key!r} of type {type(key).__name__}; accepted: str, bytes or int")
