"""The wire format: messages <-> columns of events and predictions, and admission.

`Schema` is compiled once per model; `decode_columns` and `decode_event` admit events into a `Batch` or raise
`service.errors.Refused`; the rest builds messages from values and reads them back.
"""

from service.wire.decode import decode_columns, decode_event, parse
from service.wire.encode import (
    columns_from,
    columns_from_frame,
    columns_of,
    encode_columns,
    event_from,
    first_key,
    keys_of,
    pack_keys,
    slice_columns,
    take_columns,
)
from service.wire.hashing import key_hash, key_hashes
from service.wire.labels import hash_id, key_bytes, label_from_proto, label_to_proto
from service.wire.predictions import UNCERTAIN, PredictionBatch, predictions_from_proto, predictions_to_proto
from service.wire.schema import MAX_ROWS, Schema

__all__ = [
    "MAX_ROWS",
    "UNCERTAIN",
    "PredictionBatch",
    "Schema",
    "columns_from",
    "columns_from_frame",
    "columns_of",
    "decode_columns",
    "decode_event",
    "encode_columns",
    "event_from",
    "first_key",
    "hash_id",
    "key_bytes",
    "key_hash",
    "key_hashes",
    "keys_of",
    "label_from_proto",
    "label_to_proto",
    "pack_keys",
    "parse",
    "predictions_from_proto",
    "predictions_to_proto",
    "slice_columns",
    "take_columns",
]
