"""Values, arrays, frames and batches -> messages: the inverse of `decode`, used by clients and sources.

Nothing here judges: what does not fit the spec is for admission to refuse. What cannot be expressed at all
(an array of the wrong shape, a label of an impossible type, text that is no time) raises `ValueError` or `TypeError`.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from service.api import continual_v1_pb2 as pb
from service.wire.clocks import time_of, times_of
from service.wire.labels import key_bytes, label_to_proto
from service.wire.schema import Schema, TargetSpec
from streams.batch import LABEL, LABELLED, OBSERVATION, Batch, Keys
from streams.labels import CLASS, class_of, is_nothing, target_of


def encode_columns(batch: Batch, target: TargetSpec, ids: Sequence[str] | None = None) -> pb.Columns:
    """A batch as columns; `decode_columns` gives the same batch back.

    Args:
        batch: n events.
        target: the target of the spec (the labels of a binary one are needed).
        ids: the n ids, "" for none; a batch holds only their hashes, so without them none are sent.

    Raises:
        ValueError: label rows without ids, or a number of ids that is not n.
    """
    rows = len(batch)
    columns = pb.Columns(rows=rows, x=_bytes(batch.x, "<f4"))
    of_kind = np.bincount(batch.kind, minlength=3).tolist()
    if of_kind[OBSERVATION] < rows:
        _put_labels(columns, batch, target)
    if max(of_kind[LABELLED], of_kind[OBSERVATION]) < rows:
        columns.kind = _bytes(batch.kind, "u1")
    _put_keys(columns, batch.key)
    if np.count_nonzero(batch.time):
        columns.time_us = _bytes(batch.time, "<i8")
    if ids is not None:
        _put_ids(columns, ids)
    elif of_kind[LABEL]:
        raise ValueError(
            "ids: none given; accepted: one for each row, since the batch has labels for earlier events"
        )
    return columns


def _put_labels(columns: pb.Columns, batch: Batch, target: TargetSpec) -> None:
    if target.kind == "regression":
        columns.y = _bytes(batch.y, "<f8")
        return
    classes: Sequence[int | str] = target.labels if target.kind == "binary" else batch.classes
    with np.errstate(invalid="ignore"):  # what NaN becomes is replaced
        code = batch.y.astype("<i4")
    code[batch.kind == OBSERVATION] = -1
    columns.code = code.tobytes()
    columns.labels.extend(_label_messages(tuple(classes)))


@lru_cache(maxsize=64)
def _label_messages(classes: tuple[int | str, ...]) -> tuple[pb.Label, ...]:
    """The label dictionary, to be copied: it is the same from batch to batch."""
    return tuple(map(label_to_proto, classes))


def _put_keys(columns: pb.Columns, key: Keys) -> None:
    if key.offsets[-1]:
        columns.key = key.data.tobytes()
        columns.key_length = _bytes(np.diff(key.offsets), "<u4")


def _put_ids(columns: pb.Columns, ids: Iterable[str]) -> None:
    encoded = [id.encode() if isinstance(id, str) else _key_or_none(id) for id in ids]
    if len(encoded) != columns.rows:
        raise ValueError(f"ids: got {len(encoded)}; accepted: one for each of {columns.rows} rows")
    columns.id = b"".join(encoded)
    columns.id_length = _bytes(np.fromiter(map(len, encoded), np.uint32, len(encoded)), "<u4")


def _bytes(array: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(array, dtype).tobytes()


def columns_from(
    x: Any = None,
    y: Any = None,
    *,
    target: TargetSpec | None = None,
    key: Any = None,
    time: Any = None,
    id: Sequence[str] | None = None,
    kind: Any = None,
) -> pb.Columns:
    """Arrays as columns.

    Args:
        x: [n, d] numbers in the order of the spec, NaN for a missing value; None if every row is a label.
        y: [n] labels; NaN, None or "" for a row without one; see `streams.labels`. None: no labels.
        target: the target of the spec. Without it floats are regression targets and anything else classes.
        key: [n] entities (text, bytes or integers; None for the empty one), or `Keys`. None: one entity.
        time: [n] times; see `service.wire.clocks`. None: no clock.
        id: [n] ids (text or integers), "" or None for none. None: no ids.
        kind: [n] of 0, 1, 2; see `streams.batch`. None: labelled where there is a label.

    Raises:
        ValueError: what is no number in x, no label or no time, with its row; or shapes that contradict each other.
        TypeError: labels, times or keys of an impossible type.
    """
    if x is not None:
        with np.errstate(over="ignore"):  # beyond float32 becomes infinity, which admission refuses
            x = _numbers(x)
        if x.ndim != 2:
            raise ValueError(f"x: got shape {x.shape}; accepted: [rows, features]")
    first = next((column for column in (x, y, id) if column is not None), None)
    if first is None:
        raise ValueError(
            "x, y, id: got none of them; accepted: at least one column that says how many rows there are"
        )
    columns = pb.Columns(rows=len(first), x=b"" if x is None else x.tobytes())
    labelled = np.zeros(columns.rows, bool) if y is None else _put_values(columns, y, target)
    if kind is not None:
        columns.kind = _bytes(_rows(np.asarray(kind), columns.rows, "kind"), "u1")
    elif y is not None and not labelled.all():
        columns.kind = _bytes(labelled, "u1")
    if key is not None:
        keys = key if isinstance(key, Keys) else pack_keys(key)
        _rows(keys, columns.rows, "key")
        _put_keys(columns, keys)
    if time is not None:
        columns.time_us = _bytes(_rows(times_of(time), columns.rows, "time"), "<i8")
    if id is not None:
        _put_ids(columns, id)
    return columns


def _rows(column: Any, rows: int, name: str) -> Any:
    if len(column) != rows:
        raise ValueError(f"{name}: got {len(column)} rows; accepted: {rows}, as the other columns have")
    return column


def _array(values: Any) -> np.ndarray:
    """Values as numpy has them; those of pandas' own types one by one, since numpy would round integers with gaps."""
    dtype = getattr(values, "dtype", None)
    if dtype is not None and not isinstance(dtype, np.dtype) and hasattr(values, "astype"):
        values = values.astype(object)
    return np.asarray(values)


def _put_values(columns: pb.Columns, y: Any, target: TargetSpec | None) -> np.ndarray:
    """Writes the label column and returns bool [n], whether the row has a label."""
    values = _array(y)
    if values.dtype.kind == "U" and not isinstance(y, np.ndarray):
        values = np.asarray(y, object)  # numpy has turned the integers among texts into text
    _rows(values, columns.rows, "y")
    if values.ndim != 1:
        raise ValueError(f"y: got shape {values.shape}; accepted: [rows]")
    if values.dtype.kind == "f" and not isinstance(y, np.ndarray) and (np.abs(values) >= 2**53).any():
        values = np.asarray([*y], object)  # numpy may have rounded integers among the floats
    kind = target.kind if target else ("regression" if values.dtype.kind == "f" else "classes")
    if kind == "regression":
        numbers = _targets(values)
        labelled = ~np.isnan(numbers)
        if labelled.any():
            columns.y = _bytes(numbers, "<f8")
        return labelled
    code, classes = _factorize(values)
    if classes:
        columns.code = _bytes(code, "<i4")
        columns.labels.extend(label_to_proto(value) for value in classes)
    return code >= 0


def _targets(values: np.ndarray) -> np.ndarray:
    """float64 [n], NaN for no label."""
    if values.dtype.kind in "fiub":
        return values.astype(np.float64)
    told = [_of_row(row, target_of, value) for row, value in enumerate(values.tolist())]
    return np.array([np.nan if number is None else number for number in told])


def _factorize(values: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """Codes [n] (-1 for no label) and the distinct labels, by the rule of `streams.labels`."""
    if values.dtype.kind not in "fiubUO":
        raise TypeError(f"y: got an array of {values.dtype}; accepted: {CLASS}")
    if values.dtype.kind == "O":
        distinct: dict[Any, int] = {}
        try:
            places = np.array([distinct.setdefault(value, len(distinct)) for value in values.tolist()], np.int64)
        except TypeError as error:  # an array or a mapping among them
            raise TypeError(f"y: {error}; accepted: {CLASS}") from error
        first = list(distinct)
    else:
        unique, places = np.unique(values, return_inverse=True)
        first = unique.tolist()
    index: dict[Any, int] = {}
    codes = np.empty(len(first), np.int64)
    for place, value in enumerate(first):
        try:
            held = class_of(value)
        except (TypeError, ValueError) as error:
            row = int((places == place).argmax())
            raise type(error)(f"y[{row}]: {error}") from error
        codes[place] = -1 if held is None else index.setdefault(held, len(index))
    return codes[places] if len(first) else np.zeros(0, np.int64), list(index)


def _of_row(row: int, rule: Callable[[Any], Any], value: Any) -> Any:
    try:
        return rule(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"y[{row}]: {error}") from error


def pack_keys(values: Any) -> Keys:
    """Keys [n] of text, bytes or integers (as decimal digits) as one column of byte strings.

    Raises:
        TypeError: a value of another type.
    """
    array = _array(values)
    if array.dtype.kind in "iuU":
        import pyarrow as pa

        packed = pa.array(array.tolist() if array.dtype.kind == "U" else array).cast(pa.large_string())
        _, offsets, data = packed.buffers()
        bounds = np.frombuffer(offsets, np.int64)[: len(array) + 1]
        return Keys(bounds, np.frombuffer(data or b"", np.uint8)[: bounds[-1]])
    return Keys.pack(map(_key_or_none, array.tolist() if array.dtype.kind == "O" else values))


def _key_or_none(value: Any) -> bytes:
    return b"" if is_nothing(value) else key_bytes(value)


def _numbers(x: Any) -> np.ndarray:
    try:
        if isinstance(getattr(x, "dtypes", None), Iterable):  # a frame: the gaps of pandas' own types are NaN
            x = x.to_numpy(np.float64, na_value=np.nan)
        return np.ascontiguousarray(x, "<f4")
    except (TypeError, ValueError) as error:
        raise ValueError(f"x: got {error}; accepted: numbers [rows, features]") from error


def columns_from_frame(
    frame: Any,
    schema: Schema,
    *,
    label: str = "label",
    key: str = "key",
    time: str = "time",
    id: str = "id",
    kind: str = "kind",
) -> pb.Columns:
    """A pandas DataFrame as columns: features by name, the other columns by the names given, where there.

    A column that is a feature of the spec is only that.

    Raises:
        ValueError: a feature is absent that the spec requires, or holds what is no number; or a column is neither
            feature nor named.
    """
    if not frame.columns.is_unique:
        twice = sorted(set(map(str, frame.columns[frame.columns.duplicated()])))
        raise ValueError(f"frame: got the columns {twice[:10]} twice; accepted: every column once")
    roles = {"y": label, "key": key, "time": time, "id": id, "kind": kind}
    roles = {role: name for role, name in roles.items() if name in frame and name not in schema.column}
    unknown = [name for name in frame if name not in schema.column and name not in roles.values()]
    absent = [
        n for n, needed in zip(schema.features, schema.required, strict=True) if needed and n not in frame
    ]
    if unknown or absent:
        problem = (
            f"unknown columns {unknown[:10]}" if unknown else f"no column for the features {absent[:10]}"
        )
        accepted = f"features {list(schema.features[:20])} and {label!r}, {key!r}, {time!r}, {id!r}, {kind!r}"
        raise ValueError(f"frame: got {problem}; accepted: {accepted}")
    inputs = frame.reindex(columns=list(schema.features))
    clocks = [name for name, held in inputs.dtypes.items() if held.kind in "mM"]
    if clocks:
        raise ValueError(f"frame: got times in the features {clocks[:10]}; accepted: numbers")
    try:
        x = inputs.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        text = [name for name in schema.features if name in frame and frame[name].dtype.kind not in "biuf"]
        raise ValueError(f"frame: got {error} in the features {text[:10]}; accepted: numbers") from error
    rest = {role: frame[name] for role, name in roles.items()}
    return columns_from(x, target=schema.target, **rest)


_COLUMNS = {"x", "y", "key", "time", "id", "kind"}


def columns_of(batch: Any, schema: Schema) -> pb.Columns:
    """Whatever a client may send as a batch, as columns.

    Args:
        batch: `Columns`, a `Batch`, a mapping of arguments of `columns_from`, an array `x`, or a DataFrame.
        schema: of the model it is for.

    Raises:
        TypeError: anything else.
        ValueError: see `columns_from` and `columns_from_frame`.
    """
    if isinstance(batch, pb.Columns):
        return batch
    if isinstance(batch, Batch):
        return encode_columns(batch, schema.target)
    if isinstance(batch, Mapping):
        if unknown := sorted(set(batch) - _COLUMNS):
            raise ValueError(f"batch: got unknown columns {unknown}; accepted: {', '.join(sorted(_COLUMNS))}")
        return columns_from(**batch, target=schema.target)
    if isinstance(batch, np.ndarray):
        return columns_from(batch)
    if hasattr(batch, "reindex") and hasattr(batch, "columns"):
        return columns_from_frame(batch, schema)
    accepted = "Columns, Batch, a mapping with x, y, key, time, id, kind, an array, or a DataFrame"
    raise TypeError(f"batch: got {type(batch).__name__}; accepted: {accepted}")


def event_from(
    features: Mapping[str, float | None] | None = None,
    label: Any = None,
    key: str | bytes | int = "",
    time: int | float | str | datetime.datetime | None = None,
    id: str = "",
) -> pb.Event:
    """One event in row form.

    Args:
        features: by name; None or NaN is a missing value. None or empty: a label for an earlier observation.
        label: see `streams.labels`; None, NaN or "" for an observation.
        key: the entity.
        time: see `service.wire.clocks`; None: no clock.
        id: "" for none.

    Raises:
        TypeError: a feature, label, time or key of an impossible type.
        ValueError: text that is no time, or a time after the year 9999.
    """
    event = pb.Event(id=id, key=key_bytes(key), time_us=time_of(time))
    for name, value in (features or {}).items():
        if value is not None:
            try:
                event.features[name] = value
            except TypeError as error:
                raise TypeError(f"features.{name}: got {value!r}; accepted: a number, or None") from error
    if not is_nothing(label) and label != "":
        event.label.CopyFrom(label_to_proto(label))
    return event


def slice_columns(columns: pb.Columns, start: int, schema: Schema) -> pb.Columns:
    """The rows from `start` on as columns of their own, for what is left of a batch that was applied in part.

    Args:
        columns: that passed `decode_columns`.
        start: first row to keep, in [0, rows].
        schema: of the model.
    """
    if start == 0:
        return columns
    rest = pb.Columns(
        rows=columns.rows - start,
        x=columns.x[start * schema.width * 4 :],
        kind=columns.kind[start:],
        y=columns.y[start * 8 :],
        code=columns.code[start * 4 :],
        key_length=columns.key_length[start * 4 :],
        time_us=columns.time_us[start * 8 :],
        id_length=columns.id_length[start * 4 :],
    )
    rest.key = columns.key[int(np.frombuffer(columns.key_length, "<u4")[:start].sum()) :]
    rest.id = columns.id[int(np.frombuffer(columns.id_length, "<u4")[:start].sum()) :]
    rest.labels.extend(columns.labels)
    return rest


def keys_of(columns: pb.Columns) -> Keys:
    """The key column.

    Raises:
        ValueError: lengths that contradict the rows or the bytes.
    """
    if not columns.key_length:
        return Keys.empty(columns.rows)
    offsets = np.zeros(columns.rows + 1, np.int64)
    lengths = np.frombuffer(columns.key_length, "<u4")
    if len(lengths) == columns.rows:
        np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] != len(columns.key):
        raise ValueError(f"key: got {len(lengths)} lengths, {len(columns.key)} bytes; accepted: {columns.rows} keys")
    return Keys(offsets, np.frombuffer(columns.key, np.uint8))


def first_key(request: Any) -> bytes:
    """The key of the first event of a request with `columns` or `event`; empty where lengths do not fit."""
    if "event" in request.DESCRIPTOR.fields_by_name and request.HasField("event"):
        return request.event.key
    raw = request.columns.key_length
    return request.columns.key[: int.from_bytes(raw[:4], "little")] if raw else b""


def take_columns(columns: pb.Columns, rows: np.ndarray) -> pb.Columns:
    """Some rows as columns of their own.

    Args:
        columns: that can be decoded.
        rows: int64 [m], which rows, in the order wanted.
    """
    out = pb.Columns(rows=len(rows), labels=columns.labels)
    for name in ("x", "kind", "y", "code", "time_us"):
        if raw := getattr(columns, name):
            table = np.frombuffer(raw, np.uint8).reshape(columns.rows, -1)
            setattr(out, name, table[rows].tobytes())
    for name in ("key", "id"):
        if raw := getattr(columns, name + "_length"):
            lengths = np.frombuffer(raw, "<u4")
            ends = np.cumsum(lengths.astype(np.int64))
            taken = lengths[rows]
            setattr(out, name + "_length", taken.tobytes())
            setattr(out, name, _taken(getattr(columns, name), (ends - lengths)[rows], taken))
    return out


def _taken(data: bytes, starts: np.ndarray, lengths: np.ndarray) -> bytes:
    """The stretches of `data` that begin at `starts`, one after the other."""
    ends = np.cumsum(lengths.astype(np.int64))
    if not len(ends):
        return b""
    places = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return np.frombuffer(data, np.uint8)[places].tobytes()
