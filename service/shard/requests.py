"""What a logged request says: its kind, its events, and how its producer counts them."""

from __future__ import annotations

import numpy as np

from kernels.cpu.layout import plain
from service import errors
from service.api import continual_v1_pb2 as pb
from service.wire import Schema, decode_columns, take_columns
from streams.batch import Batch, Keys

MAX_SEQUENCE = 2**62
"""Of a producer's first row: the numbers after it are exact and fit everywhere."""

UPDATE, LEARN, PREPARED, EXCHANGED = b"U", b"L", b"P", b"X"
"""First byte of a message in the log: what kind of request follows; or that no more do, as the partition is about to be
split, merged or moved (if that is given up, more do); or that what follows is what other partitions have learned
(`learners.exchange.combine`, as safetensors), in an entry of its own."""

NO_EVENTS = Batch.of(np.zeros((0, 1), np.float32))


def numbers_of(request: pb.LearnRequest, end: int) -> np.ndarray:
    """int64 [rows]: the producer's number of every row.

    Raises:
        service.errors.Refused: they are not told, not as many as the rows, out of order, or outside the batch.
    """
    rows, first = request.columns.rows, request.sequence
    if not request.number:
        if end != first + rows and rows:
            accepted = "the number of every row, where numbers are left out or shared and some rows may be in the log"
            raise errors.invalid("number", "nothing", accepted)
        return np.arange(first, first + rows)
    if len(request.number) != 8 * rows:
        raise errors.invalid("number", f"{len(request.number)} bytes", f"{8 * rows} bytes ({rows} of uint64)")
    numbers = np.frombuffer(request.number, "<u8")
    if rows and not (first <= numbers[0] and numbers[-1] < end and (numbers[1:] >= numbers[:-1]).all()):
        accepted = f"numbers in order from {first} to below {end}"
        raise errors.invalid("number", f"{numbers[0]} to {numbers[-1]}", accepted)
    return numbers.astype(np.int64)


def end_of(request: pb.LearnRequest) -> int:
    """The producer's number after a batch.

    Raises:
        service.errors.Refused: `next_sequence` contradicts the rows.
    """
    if not request.HasField("next_sequence"):
        return request.sequence + request.columns.rows
    least = request.sequence + min(1, request.columns.rows)
    if not least <= request.next_sequence <= MAX_SEQUENCE:
        accepted = f"from {least} (sequence, and one more where there are rows) to {MAX_SEQUENCE}"
        raise errors.invalid("next_sequence", request.next_sequence, accepted)
    return request.next_sequence


def decode_learn(request: pb.LearnRequest, schema: Schema) -> Batch:
    """The events of a request; none for a stamp.

    Raises:
        service.errors.Refused: they do not fit the spec.
    """
    if request.columns.rows == 0 and request.HasField("next_sequence"):
        return Batch.of(np.zeros((0, schema.width), np.float32))
    return decode_columns(request.columns, schema)


def hashes_of(keys: Keys) -> np.ndarray:
    """uint64 [n]: the hash of every key; see `service.wire.key_hash`."""
    out = np.empty(len(keys), np.uint64)
    from kernels.cpu.keys import hashes  # here: a shard without models need not hold the compiler

    hashes(plain(keys.offsets), plain(keys.data), out)
    return out


def keys_inside(keys: Keys, low: int, high: int) -> np.ndarray:
    """Whether (bool [n]) the hash of each key is in [low, high)."""
    found = hashes_of(keys)
    return (found >= np.uint64(low)) & (found <= np.uint64(high - 1))


def rows_of(request: pb.LearnRequest, rows: np.ndarray, numbers: np.ndarray, end: int) -> pb.LearnRequest:
    """The request with some of its rows; it says the same of all other numbers.

    Args:
        request: of a producer.
        rows: int64 [m], which rows; where there are none it becomes a stamp.
        numbers: int64, those of all rows.
        end: the producer's number after the batch.
    """
    return pb.LearnRequest(
        model=request.model,
        producer=request.producer,
        sequence=request.sequence,
        columns=take_columns(request.columns, rows) if len(rows) else None,
        next_sequence=end,
        partition=request.partition,
        number=numbers[rows].astype("<u8").tobytes(),
    )
