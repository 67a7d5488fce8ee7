"""The page on limits says what the code does."""

from pathlib import Path

import pytest

from learners import spec
from learners.compiled import MAX_READ_OUT_BYTES, MAX_ROW_BYTES
from service import channels, errors
from service.client import cutting
from service.shard import admission, checker, letters, models, predict, stream, writer
from service.store.letters import MAX_PAYLOAD
from service.wire.schema import MAX_ROWS
from streams import mapping

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text()
MIB = 1 << 20
SAID = {
    "a request": f"{channels.MAX_MESSAGE_BYTES // MIB} MiB",
    "rows of a batch": f"{MAX_ROWS:,}",
    "one row,": f"{channels.MAX_MESSAGE_BYTES - cutting.BESIDE_BYTES:,} bytes",
    "a reply": f"{channels.MAX_REPLY_BYTES // MIB} MiB",
    "probabilities in a reply": f"{predict.MAX_PROBABILITIES:,}",
    "specs in a list": f"{models.LISTED_SPEC_BYTES // MIB} MiB",
    "dead letters in a list": f"{letters.MOST:,}, or {letters.LISTED_BYTES // MIB} MiB",
    "payload kept": f"{MAX_PAYLOAD // MIB} MiB",
    "texts of a refusal": f"{errors.MAX_MESSAGE:,} characters, {errors.MAX_VIOLATIONS} violations",
    "a new spec": f"{spec.MAX_SPEC_BYTES // MIB} MiB",
    "labels, ids, keys": f"{mapping.MAX_LABEL_BYTES}, {mapping.MAX_ID_BYTES}, {mapping.MAX_KEY_BYTES:,} bytes",
    "state of a key": f"{MAX_ROW_BYTES // MIB} MiB",
    "read-out": f"{MAX_READ_OUT_BYTES // MIB} MiB",
    "seconds of processor time": f"{checker.CHECK_SECONDS}",
    "the same for building": f"{checker.COMPILE_SECONDS}",
    "memory for both": f"{checker.MEMORY_BYTES >> 30} GiB",
    "specs that wait": f"{checker.WAITING}",
    "events that wait": f"{writer.WAITING_ROWS:,}",
    "batches of a stream": f"{stream.IN_FLIGHT}",
    "producers": f"{admission.MAX_PRODUCERS:,}",
    "seconds of silence": f"{(channels.PING_MILLISECONDS + channels.PONG_MILLISECONDS) // 1000}",
}


@pytest.mark.parametrize("what", SAID)
def test_a_limit_is_what_the_page_says(what: str) -> None:
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {what}")]
    assert line.split("|")[2].strip().startswith(SAID[what])
