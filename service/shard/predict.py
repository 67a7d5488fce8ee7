"""Predictions between two folds."""

from __future__ import annotations

import asyncio

from learners.base import Predicted
from service import errors
from service.api import continual_v1_pb2 as pb
from service.shard.partition import Partition
from service.shard.writer import RETRY_SECONDS
from service.store.ownership import LEASE_SECONDS
from service.wire import decode_columns, decode_event
from streams.batch import LABEL, Batch

MAX_PROBABILITIES = 8 << 20
"""Of one reply: its bytes fit a message, and its predictions do not keep the fold waiting for seconds."""

_LABEL = bytes([LABEL])

Said = tuple[int, Predicted, tuple[int | str, ...]]


async def predict(partition: Partition, request: pb.PredictRequest) -> Said:
    """Predicts between two folds. Returns the position, the predictions and the classes.

    Raises:
        service.errors.Refused: the events do not fit the spec, or cannot be served now.
    """
    partition.check_serving(writing=False)
    if request.WhichOneof("events") == "event":
        batch = partition.decoded(decode_event, request.event)
    else:
        batch = partition.decoded(decode_columns, request.columns)
    partition.check_keys(batch)
    if _LABEL in batch.kind.tobytes():
        raise errors.invalid("kind", LABEL, "observations or labelled events: a label alone has no prediction")
    table = len(batch) * len(partition.learner.classes())
    if request.probabilities and table > MAX_PROBABILITIES:
        accepted = f"at most {MAX_PROBABILITIES} probabilities in one reply: ask for fewer rows"
        raise errors.invalid("probabilities", f"{table} ({len(batch)} rows)", accepted, "TOO_MANY_PROBABILITIES")
    if partition.sequencer.small(batch):
        return _predicted(partition, batch, request.probabilities)
    try:
        visit = partition.sequencer.visit(_predicted, partition, batch, request.probabilities)
        answer = await asyncio.wait_for(visit, LEASE_SECONDS)
    except TimeoutError as error:
        message = f"no turn for {LEASE_SECONDS:g} s; nothing was lost"
        raise errors.unavailable("PARTITION_BUSY", message, RETRY_SECONDS) from error
    partition.check_serving(writing=False)
    return answer


def _predicted(partition: Partition, batch: Batch, probabilities: bool) -> Said:
    learner = partition.learner
    predicted = learner.predict(batch, probabilities)
    return learner.position, predicted, learner.classes()
