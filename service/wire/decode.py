"""Admission: messages -> `Batch`, refusing whatever the spec alone can refuse.

What passes here can be folded: `step` is total on admitted events. No Python runs per row; the exceptions are
hashing of ids, and the label dictionary (once per distinct label).
"""

from __future__ import annotations

import difflib
import math
from array import array
from collections import Counter
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from service.api import continual_v1_pb2 as pb
from service.errors import MAX_VIOLATIONS, Violation, invalid, invalid_fields
from service.wire.labels import binary_of, class_of, hash_id, hash_ids, target_of
from service.wire.schema import MAX_ROWS, Schema
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys
from streams.mapping import MAX_ABS_TARGET, MAX_ID_BYTES, MAX_KEY_BYTES

_F4, _F8, _I4, _U4 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i4"), np.dtype("<u4")
_I8, _U1 = np.dtype("<i8"), np.dtype("u1")
_FLOAT = "a finite float32, or NaN where the feature may be missing"
_KINDS = "0 (observation), 1 (labelled) or 2 (label)"

GUESSED_NAMES, GUESSED_CHARACTERS = 200, 40
"""Features among which is looked for the one that was meant, and how long they may be."""

M = TypeVar("M", bound=Message)


def parse(kind: type[M], data: bytes) -> M:
    """Parses a message; use it as request deserializer to answer INVALID_ARGUMENT, not INTERNAL.

    Raises:
        Refused: NOT_A_MESSAGE.
    """
    try:
        return kind.FromString(data)
    except DecodeError as error:
        accepted = f"the bytes of a {kind.DESCRIPTOR.full_name}"
        raise invalid("request", f"{len(data)} bytes: {error}", accepted, "NOT_A_MESSAGE") from error


def decode_columns(columns: pb.Columns, schema: Schema) -> Batch:
    """Columns of a request -> a batch that can be folded.

    The arrays are views of the message's bytes where they can be (read-only), C-contiguous and aligned.

    Raises:
        Refused: INVALID_ARGUMENT, naming field, value and what is accepted.
    """
    rows = columns.rows
    if rows == 0:
        raise invalid("columns.rows", 0, f"1 to {MAX_ROWS}", "EMPTY_BATCH")
    if rows > MAX_ROWS:
        raise invalid("columns.rows", rows, f"1 to {MAX_ROWS}", "TOO_MANY_ROWS")
    y, classes, complete = _targets(columns, rows, schema)
    kind, has_label_rows = _kinds(columns.kind, y, rows, complete)
    x = _features(columns.x, kind, has_label_rows, rows, schema)
    key = _keys(columns.key, columns.key_length, rows)
    time = _times(columns.time_us, rows)
    id = _ids(columns.id, columns.id_length, kind if has_label_rows else None, rows)
    return Batch(x, kind, np.full(rows, np.nan) if y is None else y, key, time, id, classes)


def _array(raw: bytes, dtype: np.dtype, rows: int, field: str, width: int = 1) -> np.ndarray:
    """The bytes as [rows * width] numbers, a view unless they are unaligned."""
    if len(raw) != rows * width * dtype.itemsize:
        shape = f"{rows} x {width}" if width > 1 else f"{rows}"
        accepted = f"{rows * width * dtype.itemsize} bytes ({shape} of {dtype.name})"
        raise invalid(field, f"{len(raw)} bytes", accepted, "WRONG_LENGTH")
    read = np.frombuffer(raw, dtype)
    return read if read.flags.aligned else read.copy()


def _targets(
    columns: pb.Columns, rows: int, schema: Schema
) -> tuple[np.ndarray | None, tuple[int | str, ...], bool]:
    """The label column float64 [rows], its classes, and whether every row is known to have a label.

    NaN where a row has none; None in place of the column if no row has one.
    """
    y, code, labels = columns.y, columns.code, columns.labels
    if schema.kind == "regression":
        if code or labels:
            field = "columns.code" if code else "columns.labels"
            raise invalid(
                field, "a value", "nothing: the target is regression, use columns.y", "WRONG_LABEL_COLUMN"
            )
        return (_regression(y, rows) if y else None), (), False
    if y:
        accepted = f"nothing: the target is {schema.kind}, use columns.code and columns.labels"
        raise invalid("columns.y", f"{len(y)} bytes", accepted, "WRONG_LABEL_COLUMN")
    if not code:
        if labels:
            accepted = f"{4 * rows} bytes ({rows} of int32), since columns.labels is given"
            raise invalid("columns.code", "0 bytes", accepted, "WRONG_LENGTH")
        return None, (), False
    return _classes(code, labels, rows, schema)


def _regression(raw: bytes, rows: int) -> np.ndarray:
    y = _array(raw, _F8, rows, "columns.y")
    beyond = np.abs(y) > MAX_ABS_TARGET
    if np.count_nonzero(beyond):
        row = int(beyond.argmax())
        accepted = f"a finite number of at most {MAX_ABS_TARGET:g} in magnitude"
        raise invalid(f"columns.y[{row}]", y[row], accepted, "TARGET_OUT_OF_RANGE")
    return y


def _classes(
    raw: bytes, labels: object, rows: int, schema: Schema
) -> tuple[np.ndarray, tuple[int | str, ...], bool]:
    code = _array(raw, _I4, rows, "columns.code")
    count = len(labels)  # type: ignore[arg-type]
    if count > MAX_ROWS:
        raise invalid("columns.labels", f"{count} labels", f"at most {MAX_ROWS}", "TOO_MANY_LABELS")
    complete = bool(np.maximum.reduce(code.view(_U4)) < count)  # without sign, -1 is the largest
    if not complete and (code.min() < -1 or code.max() >= count):
        row = int(((code < -1) | (code >= count)).argmax())
        accepted = f"an index into the {count} of columns.labels, or -1 for none"
        raise invalid(f"columns.code[{row}]", code[row], accepted, "CODE_OUT_OF_RANGE")
    if schema.kind == "binary":
        fields = enumerate(labels)  # type: ignore[arg-type, var-annotated]
        values = [binary_of(label, f"columns.labels[{i}]", schema) for i, label in fields]
        return np.array([*values, np.nan]).take(code), (), complete  # code -1 is the NaN at the end
    classes = tuple(class_of(label, f"columns.labels[{i}]") for i, label in enumerate(labels))  # type: ignore[arg-type, var-annotated]
    if len(set(classes)) != count:
        again = Counter(classes).most_common(1)[0][0]
        raise invalid("columns.labels", f"{again!r} twice", "every label once", "DUPLICATE_LABEL")
    y = code.astype(np.float64)
    if not complete:
        y[code < 0] = np.nan
    return y, classes, complete


def _kinds(raw: bytes, y: np.ndarray | None, rows: int, complete: bool) -> tuple[np.ndarray, bool]:
    """The kind column, checked against the labels, and whether any row is a LABEL."""
    if not raw:
        if y is None:
            return np.zeros(rows, np.uint8), False
        kind = np.full(rows, LABELLED, np.uint8)
        if complete:
            return kind, False
        highest = LABELLED
    else:
        kind = _array(raw, _U1, rows, "columns.kind")
        highest = int(kind.max())
        if highest > LABEL:
            row = int((kind > LABEL).argmax())
            raise invalid(f"columns.kind[{row}]", kind[row], _KINDS, "UNKNOWN_KIND")
    wrong = kind != OBSERVATION if y is None else (kind == OBSERVATION) != np.isnan(y)
    if np.count_nonzero(wrong):
        row = int(wrong.argmax())
        if kind[row] == OBSERVATION:
            raise invalid(
                f"columns.kind[{row}]", "0 (observation) with a label", "no label", "LABEL_UNEXPECTED"
            )
        raise invalid(f"columns.kind[{row}]", f"{kind[row]} without a label", "a label", "LABEL_REQUIRED")
    return kind, highest == LABEL


def _features(raw: bytes, kind: np.ndarray, has_label_rows: bool, rows: int, schema: Schema) -> np.ndarray:
    width = schema.width
    if not raw:
        if has_label_rows and (kind == LABEL).all():
            return np.zeros((rows, width), np.float32)
        accepted = (
            f"{4 * rows * width} bytes ({rows} x {width} of float32); none only if every row is a label"
        )
        raise invalid("columns.x", "0 bytes", accepted, "NO_FEATURES")
    x = _array(raw, _F4, rows, "columns.x", width).reshape(rows, width)
    if has_label_rows:
        x = x.copy()
        x[kind == LABEL] = 0
    if np.count_nonzero(np.isfinite(x)) != x.size:
        _check_missing(x, schema)
    return x


def _check_missing(x: np.ndarray, schema: Schema) -> None:
    """Refuses infinity anywhere and NaN where the spec does."""
    infinite = np.isinf(x)
    if infinite.any():
        row, column = divmod(int(infinite.argmax()), schema.width)
        raise invalid(f"columns.x[{row}].{schema.features[column]}", x[row, column], _FLOAT, "NOT_FINITE")
    if not schema.any_required:
        return
    missing = np.isnan(x) & schema.required
    if missing.any():
        row, column = divmod(int(missing.argmax()), schema.width)
        field = f"columns.x[{row}].{schema.features[column]}"
        raise invalid(field, "NaN", "a finite float32: the spec refuses missing values here", "MISSING_VALUE")


def _offsets(data: bytes, raw: bytes, rows: int, name: str, most: int) -> np.ndarray:
    """Row boundaries int64 [rows + 1] of a column of byte strings."""
    length = _array(raw, _U4, rows, f"columns.{name}_length")
    if length.max() > most:
        row = int((length > most).argmax())
        reason = f"{name.upper()}_TOO_LONG"
        raise invalid(f"columns.{name}[{row}]", f"{length[row]} bytes", f"at most {most} bytes", reason)
    offsets = np.zeros(rows + 1, np.int64)
    np.add.accumulate(length, out=offsets[1:])
    if offsets.item(-1) != len(data):
        accepted = f"{offsets[-1]} bytes (the sum of columns.{name}_length)"
        raise invalid(f"columns.{name}", f"{len(data)} bytes", accepted, "WRONG_LENGTH")
    return offsets


def _keys(data: bytes, raw: bytes, rows: int) -> Keys:
    if not raw and not data:
        return Keys.empty(rows)
    return Keys(_offsets(data, raw, rows, "key", MAX_KEY_BYTES), np.frombuffer(data, np.uint8))


def _times(raw: bytes, rows: int) -> np.ndarray:
    if not raw:
        return np.zeros(rows, np.int64)
    time = _array(raw, _I8, rows, "columns.time_us")
    if time.min() < 0:
        row = int((time < 0).argmax())
        accepted = "microseconds since the epoch, 0 for none"
        raise invalid(f"columns.time_us[{row}]", time[row], accepted, "NEGATIVE_TIME")
    return time


def _ids(data: bytes, raw: bytes, kind: np.ndarray | None, rows: int) -> np.ndarray:
    """Hashes of the ids, uint64 [rows, 2]; `kind` is given where some row is a LABEL and so must have one."""
    if not raw and not data:
        if kind is not None:
            raise _id_required(int((kind == LABEL).argmax()))
        return np.zeros((rows, 2), np.uint64)
    offsets = _offsets(data, raw, rows, "id", MAX_ID_BYTES)
    _check_utf8(data, offsets)
    if kind is not None:
        without = (kind == LABEL) & (offsets[1:] == offsets[:-1])
        if without.any():
            raise _id_required(int(without.argmax()))
    return hash_ids(data, offsets.tolist())


def _id_required(row: int) -> Exception:
    return invalid(
        f"columns.id[{row}]", "no id", "the id of the observation that the label is for", "ID_REQUIRED"
    )


def _check_utf8(data: bytes, offsets: np.ndarray) -> None:
    """The ids are UTF-8 each if all of them together are, and none starts inside a character."""
    at = -1
    try:
        data.decode()
    except UnicodeDecodeError as error:
        at = error.start
    starts = offsets[:-1][offsets[:-1] < len(data)]
    inside = (np.frombuffer(data, np.uint8)[starts] & 0xC0) == 0x80
    if at < 0 and inside.any():
        at = int(starts[inside.argmax()]) - 1
    if at >= 0:
        row = int(np.searchsorted(offsets, at, side="right")) - 1
        value = data[offsets[row] : offsets[row + 1]]
        raise invalid(f"columns.id[{row}]", repr(value), "UTF-8", "ID_NOT_UTF8")


def decode_event(event: pb.Event, schema: Schema) -> Batch:
    """One event in row form -> a batch of one row.

    Features and a label make a labelled event, features alone an observation, a label alone (with the id) a
    label for an earlier observation.

    Raises:
        Refused: INVALID_ARGUMENT, naming field, value and what is accepted.
    """
    features, has_label = event.features, event.HasField("label")
    key, id, time = event.key, event.id, event.time_us
    if len(key) > MAX_KEY_BYTES:
        raise invalid("event.key", f"{len(key)} bytes", f"at most {MAX_KEY_BYTES} bytes", "KEY_TOO_LONG")
    if len(id) > MAX_ID_BYTES // 4 and (size := len(id.encode())) > MAX_ID_BYTES:
        raise invalid("event.id", f"{size} bytes", f"at most {MAX_ID_BYTES} bytes", "ID_TOO_LONG")
    if time < 0:
        raise invalid("event.time_us", time, "microseconds since the epoch, 0 for none", "NEGATIVE_TIME")
    y, classes = _label(event.label, schema) if has_label else (np.nan, ())
    if features:
        kind, x = (LABELLED if has_label else OBSERVATION), _row(event, schema)
    elif not has_label:
        raise invalid("event.features", "none", f"features of the spec: {_some(schema)}", "NO_FEATURES")
    elif not id:
        accepted = "the id of the observation that the label is for, or features"
        raise invalid("event.id", "no id", accepted, "ID_REQUIRED")
    else:
        kind, x = LABEL, np.zeros((1, schema.width), np.float32)
    return Batch(
        x,
        np.array([kind], np.uint8),
        np.array([y]),
        Keys(np.array([0, len(key)], np.int64), np.frombuffer(key, np.uint8)),
        np.array([time], np.int64),
        hash_id(id).reshape(1, 2),
        classes,
    )


def _label(label: pb.Label, schema: Schema) -> tuple[float, tuple[int | str, ...]]:
    if schema.kind == "regression":
        return target_of(label, "event.label"), ()
    if schema.kind == "binary":
        return binary_of(label, "event.label", schema), ()
    return 0.0, (class_of(label, "event.label"),)


def _row(event: pb.Event, schema: Schema) -> np.ndarray:
    """The features of one event as float32 [1, d]."""
    column, features = schema.column, event.features
    values = array("f", (math.nan,)) * schema.width
    for name in features:
        if (at := column.get(name)) is None:
            raise invalid_fields(_unknown(event, schema), "UNKNOWN_FEATURE")
        values[at] = features[name]  # beyond float32 becomes infinity, which is refused
    x = np.frombuffer(values, np.float32).reshape(1, -1)
    if math.isfinite(sum(values)):
        return x
    infinite = np.isinf(x[0])
    if infinite.any():
        name = schema.features[int(infinite.argmax())]
        raise invalid(f"event.features.{name}", features[name], _FLOAT, "NOT_FINITE")
    missing = np.flatnonzero(np.isnan(x[0]) & schema.required)
    if len(missing):
        names = [schema.features[i] for i in missing[:MAX_VIOLATIONS]]
        accepted = "a finite float32: the spec refuses missing values here"
        raise invalid_fields(
            [Violation(f"event.features.{n}", "none", accepted) for n in names], "MISSING_VALUE"
        )
    return x


def _unknown(event: pb.Event, schema: Schema) -> list[Violation]:
    names = sorted(name for name in event.features if name not in schema.column)[:MAX_VIOLATIONS]
    violations = []
    for number, name in enumerate(names):
        # Its time grows with the square of the lengths: only for one name, and what is of a usual length.
        near = number == 0 and len(name) <= GUESSED_CHARACTERS
        among = [one for one in schema.features[:GUESSED_NAMES] if len(one) <= GUESSED_CHARACTERS] if near else []
        close = difflib.get_close_matches(name, among, n=1)
        accepted = f"did you mean {close[0]!r}?" if close else f"features of the spec: {_some(schema)}"
        violations.append(Violation(f"event.features.{name}", "an unknown feature", accepted))
    return violations


def _some(schema: Schema) -> str:
    names = ", ".join(schema.features[:20])
    return names if schema.width <= 20 else f"{names}, ... ({schema.width} in all)"
