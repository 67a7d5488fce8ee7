"""Messages that each hold many events as an Arrow stream (IPC): taken whole or not at all, under one number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from streams.batch import Batch
from streams.columns import events
from streams.mapping import BadRow, Mapping
from streams.sources.messages import Messages, payload_bytes
from streams.sources.reader import Rows
from streams.tables import TableParser

MOST_ROWS = 16_384
MOST_BYTES = 8 << 20
"""Of one message: its events in one request must fit a message of gRPC."""


class ArrowParser:
    """Parses the messages of one source.

    Args:
        mapping: which column is what; see `streams.tables.TableParser` for the types that are taken.
        rows: events that go together, about; a message is never cut.
    """

    def __init__(self, mapping: Mapping, rows: int) -> None:
        self._mapping = mapping
        self._rows = rows

    def parse(self, messages: Messages) -> list[Rows]:
        """The events among `messages`, in pieces that follow each other, and what is wrong with the others."""
        pieces: list[Rows] = []
        batches: list[Batch] = []
        ids: list[str] | None = None if self._mapping.id is None else []
        bad: list[tuple[int, BadRow, str]] = []
        numbers: list[np.ndarray] = [np.zeros(0, np.uint64)]
        first = messages.first

        def end_at(number: int) -> None:
            nonlocal first, batches, ids, bad, numbers
            whole = Batch.concat(batches) if batches else None
            pieces.append(Rows(messages.producer, first, number, whole, ids, bad, np.concatenate(numbers)))
            first, batches, ids, bad, numbers = number, [], None if ids is None else [], [], numbers[:1]

        for index, (number, value) in enumerate(zip(messages.numbers, messages.values)):
            held = self._events(messages.producer, number, value)
            if isinstance(held, BadRow):
                bad.append((number, held, messages.beside(index)))
                continue
            batch, names = held
            if batches and sum(map(len, batches)) + len(batch) > self._rows:
                end_at(number)
            if len(batch):
                batches.append(batch)
                numbers.append(np.full(len(batch), number, np.uint64))
                if ids is not None:
                    ids += names
        end_at(messages.end)
        return pieces

    def _events(self, producer: str, number: int, value: Any) -> tuple[Batch, list[str]] | BadRow:
        """The events of a message; what is wrong with it if any of its rows is no event."""
        original = payload_bytes(value)
        try:
            table = _table(original)
            parser = TableParser(producer, self._mapping, table)
        except (ValueError, OSError, pa.ArrowException) as error:
            accepted = f"an Arrow IPC stream with the columns of the spec ({str(error).splitlines()[0]})"
            shown = original[:100].decode(errors="backslashreplace")
            return BadRow(producer, number, "", value=shown, accepted=accepted, original=original)
        batches: list[Batch] = []
        ids: list[str] = []
        for item in events(parser, table.select(self._mapping.columns), 0):
            if isinstance(item, BadRow):
                accepted = f"{item.accepted}; of a message with such a row none is taken"
                name = f"{producer}, message {number}"
                return BadRow(name, item.row, item.column, value=item.value, accepted=accepted, original=original)
            batches.append(item.batch)
            ids += [] if item.ids is None else item.ids.to_pylist()
        if not batches:
            return Batch.of(np.zeros((0, len(self._mapping.features)))), ids
        return Batch.concat(batches), ids


def _table(value: bytes) -> pa.Table:
    """The table of an IPC stream, checked: it may come from anyone.

    Raises:
        pa.ArrowInvalid: it is none, or too large.
    """
    if len(value) > MOST_BYTES:
        raise pa.ArrowInvalid(f"{len(value)} bytes; accepted: at most {MOST_BYTES}")
    batches, rows, size = [], 0, 0
    with pa.ipc.open_stream(value) as stream:
        for batch in stream:
            batch.validate(full=True)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows > MOST_ROWS or size > MOST_BYTES:
                raise pa.ArrowInvalid(f"more than {MOST_ROWS} rows or {MOST_BYTES} bytes in one message")
            batches.append(batch)
        return pa.Table.from_batches(batches, stream.schema)
