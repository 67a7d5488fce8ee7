"""What the synchronous and the asyncio client share: requests, routing, retries, replies; no I/O.

A call is a generator (`Plan`) that yields what it wants done, an `Attempt` or a `Pause`, and is sent the
reply or thrown the `grpc.RpcError`. The two clients differ only in how they carry that out.
"""

from __future__ import annotations

import datetime
import json
import random
import time as clock
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
from grpc_health.v1 import health_pb2

from service.api import continual_v1_pb2 as pb
from service.client.cutting import check_size, fits, pieces, taken
from service.client.routing import Resplit, Routes, hashes_of, united
from service.errors import Refused, from_rpc_error
from service.wire import (
    PredictionBatch,
    Schema,
    columns_from,
    columns_from_frame,
    event_from,
    first_key,
    key_bytes,
    key_hash,
    predictions_from_proto,
    take_columns,
)
from streams.labels import is_nothing

CREATE_SECONDS = 300.0
"""Deadline of creating a model: the first of its kind on a machine waits for its kernels to be compiled."""

NOT_CONNECTED = "failed to connect"
"""In what gRPC says of a call that never left: it may be made again, whatever it does."""

FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 2.0
SHUN_SECONDS = 15.0
DATA, MODELS, HEALTH = "OnlineLearning", "Models", "Health"

T = TypeVar("T")
Plan = Generator["Attempt | Pause", Any, T]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One unary call: which method of which service, at which address, with which deadline."""

    address: str
    service: str
    method: str
    request: Any
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for so many seconds."""

    seconds: float


class Backoff:
    """How long to wait before the next attempt, until a deadline.

    Args:
        timeout: seconds from now.

    Attributes:
        deadline: of `time.monotonic`.
    """

    def __init__(self, timeout: float) -> None:
        self.deadline = clock.monotonic() + timeout
        self._next = FIRST_BACKOFF

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - clock.monotonic()

    def after(self, refused: Refused) -> float:
        """Seconds to wait: doubled each time, jittered, and never less than the server asked for.

        Raises:
            Refused: the one given, if the wait would pass the deadline.
        """
        delay = max(self._next * random.uniform(0.5, 1.0), refused.retry_seconds or 0.0)
        self._next = min(self._next * 2, LONGEST_BACKOFF)
        if delay >= self.left():
            raise refused
        return delay


@dataclass
class Core:
    """The state of a client: the partition map, the owners that could not be reached, the schemas.

    Attributes:
        target: host:port given by the user; any shard of the deployment.
        deployment: id that every request carries; taken from the first map where None.
        map: the partition map, None until it is needed.
    """

    target: str
    deployment: str | None = None
    map: pb.PartitionMap | None = None
    schemas: dict[str, Schema] = field(default_factory=dict)
    _shunned: dict[str, float] = field(default_factory=dict)
    _newest: pb.PartitionMap | None = None

    def route(self, model: str = "") -> pb.Route:
        """The deployment, and the version of the map of a model, as the client believes them."""
        current = self.map  # another thread may drop it
        partitions = current.partitions if current is not None else ()
        version = next((part.map_version for part in partitions if part.model == model), 0)
        return pb.Route(deployment=self.deployment or "", map_version=version)

    def adopt(self, current: pb.PartitionMap) -> None:
        """Takes over a map; a deployment that the user named is kept, so that a stranger is refused.

        A shard may not have heard of the latest change yet: of two maps of a deployment the newer one counts.
        """
        newest = self._newest
        if newest is not None and newest.deployment == current.deployment and newest.version > current.version:
            current = newest
        self.map = self._newest = current
        if self.deployment is None:
            self.deployment = current.deployment

    def owner(self, model: str, key: bytes, id: str = "") -> str:
        """Address of the owner of a key or a partition; the target while it is unknown or could not be reached."""
        hashed, current = key_hash(key), self.map
        for partition in current.partitions if current else ():
            inside = partition.id == id if id else partition.first_hash <= hashed <= partition.last_hash
            if partition.model == model and inside:
                if partition.address and self._shunned.get(partition.address, 0.0) <= clock.monotonic():
                    return partition.address
                break
        return self.target

    def shun(self, address: str) -> None:
        """Goes through the target for a while instead of an owner that could not be reached."""
        if address != self.target:
            self._shunned[address] = clock.monotonic() + SHUN_SECONDS

    def learn_from(self, refused: Refused, address: str) -> bool:
        """Takes from a refusal what it says about the map; True if the call should be made again at once."""
        if refused.reason in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):  # gRPC's own: nobody answered there
            self.shun(address)
        if refused.code is grpc.StatusCode.UNAVAILABLE:
            self.map = None
        if refused.reason == "NO_PARTITION":
            self.map = None
        if refused.reason != "WRONG_MAP":
            return False
        current = refused.detail(pb.PartitionMap)
        self.map = None
        self._shunned.clear()  # a stream goes nowhere but to the owner
        if current is not None:
            if self.deployment not in (None, current.deployment):
                raise refused
            self.adopt(current)
        return True

    def need_map(self, backoff: Backoff) -> Plan[None]:
        """Asks for the partition map if the client has none."""
        if self.map is None:
            request = pb.GetPartitionMapRequest()
            self.adopt(
                (yield Attempt(self.target, DATA, "GetPartitionMap", request, max(backoff.left(), 0.001)))
            )

    def routes(self, model: str, backoff: Backoff) -> Plan[Routes]:
        """The partitions of a model; none where the map cannot be had now: a call for these finds the others."""
        if not Routes(self.map, model).ids:
            self.map = None  # the model may be newer than the map
        with suppress(grpc.RpcError):
            yield from self.need_map(backoff)
        return Routes(self.map, model)

    def call(self, service: str, method: str, request: Any, timeout: float, **how: Any) -> Plan[Any]:
        """One unary call with its retries.

        Args:
            service: one of DATA, MODELS, HEALTH.
            method: of the service.
            request: its message; a `route`, where it has one, is filled before every attempt.
            timeout: seconds for all attempts together.
            **how: `model` and `key` or `partition` for a call that the owner answers; `retry`: the codes after which
                the same request may be sent again; `routes`: those that the request was made for.

        Raises:
            Refused: whatever the last attempt ended with.
            Resplit: the partitions are not those of `routes` any more.
        """
        backoff, codes = Backoff(timeout), how.get("retry", (grpc.StatusCode.UNAVAILABLE,))
        at_once = 3
        while True:
            address = self.target
            try:
                if "model" in how:
                    yield from self.need_map(backoff)
                    if "routes" in how and Routes(self.map, how["model"]).ids != how["routes"].ids:
                        raise Resplit
                    address = self.owner(how["model"], how.get("key", b""), how.get("partition", ""))
                if "route" in request.DESCRIPTOR.fields_by_name:
                    request.route.CopyFrom(self.route(how.get("model", "")))
                return (yield Attempt(address, service, method, request, self._limit(backoff, codes)))
            except grpc.RpcError as error:
                refused = from_rpc_error(error)
            if self.learn_from(refused, address) and at_once:
                at_once -= 1
                continue
            if refused.reason == "NO_PARTITION" and "routes" in how:
                raise Resplit
            unsent = NOT_CONNECTED in refused.message and service != HEALTH
            if refused.code not in codes and refused.reason != "WRONG_MAP" and not unsent:
                raise refused
            yield Pause(backoff.after(refused))

    def _limit(self, backoff: Backoff, codes: Sequence[grpc.StatusCode]) -> float:
        """Deadline of one attempt: a share of what is left where another may follow a silent one."""
        left = max(backoff.left(), 0.001)
        return max(left / 3, min(left, 0.5)) if grpc.StatusCode.DEADLINE_EXCEEDED in codes else left

    def predict(
        self,
        model: str,
        *,
        x: Any,
        event: Mapping[str, float | None] | None,
        frame: Any,
        key: Any,
        time: Any,
        probabilities: bool,
        uncertainty: bool,
        timeout: float,
    ) -> Plan[PredictionBatch]:
        """See `Client.predict`."""
        if sum(given is not None for given in (x, event, frame)) != 1:
            raise ValueError("x, event, frame: got none or several; accepted: exactly one of them")
        if frame is not None and not (key is None and time is None):
            raise ValueError("key, time: got one beside a frame; accepted: columns `key` and `time` of the frame")
        request = pb.PredictRequest(model=model, probabilities=probabilities, uncertainty=uncertainty)
        if event is not None:
            request.event.CopyFrom(event_from(event, None, "" if key is None else key, time))
        elif frame is not None:
            schema = yield from self.schema(model, timeout)
            request.columns.CopyFrom(columns_from_frame(frame, schema))
        else:
            x = np.asarray(x)
            keys = [key] * (len(x) if x.ndim == 2 else 1) if isinstance(key, (str, bytes, int)) else key
            request.columns.CopyFrom(columns_from(x if x.ndim == 2 else x[None], key=keys, time=time))
        backoff = Backoff(timeout)
        while True:
            try:
                return (yield from self._predict(model, request, backoff))
            except Resplit:
                continue

    def _predict(self, model: str, request: pb.PredictRequest, backoff: Backoff) -> Plan[PredictionBatch]:
        """One request, or one after the other to every partition that has rows of it."""
        how: dict[str, Any] = {"model": model}
        routes = yield from self.routes(model, backoff)
        if request.WhichOneof("events") == "columns":
            how["routes"] = routes
        if routes.whole or "routes" not in how:
            return (yield from self._predict_rows(request, backoff, how | {"key": first_key(request)}))
        parts = []
        for id, rows in routes.rows(hashes_of(request.columns)):
            asked = pb.PredictRequest(model=model, columns=take_columns(request.columns, rows))
            asked.probabilities, asked.uncertainty = request.probabilities, request.uncertainty
            parts.append((rows, (yield from self._predict_rows(asked, backoff, how | {"partition": id}))))
        return united(parts, request.columns.rows)

    def _predict_rows(
        self, request: pb.PredictRequest, backoff: Backoff, how: dict[str, Any]
    ) -> Plan[PredictionBatch]:
        """One request, or several where it, or the table of probabilities, is larger than a message."""
        rows = request.columns.rows
        if request.WhichOneof("events") == "event":
            check_size("event", request.ByteSize())
        elif rows and not fits(request.columns):
            return (yield from self._predict_pieces(request, pieces(request.columns), backoff, how))
        try:
            reply = yield from self.call(DATA, "Predict", request, max(backoff.left(), 0.001), **how)
        except Refused as refused:
            if refused.reason != "TOO_MANY_PROBABILITIES" or rows < 2:
                raise
            halves = [slice(0, rows // 2), slice(rows // 2, rows)]
            return (yield from self._predict_pieces(request, halves, backoff, how))
        return predictions_from_proto(reply.predictions)

    def _predict_pieces(
        self, request: pb.PredictRequest, cut: list[slice], backoff: Backoff, how: dict[str, Any]
    ) -> Plan[PredictionBatch]:
        parts = []
        for rows in cut:
            asked = pb.PredictRequest(model=request.model, columns=taken(request.columns, rows))
            asked.probabilities, asked.uncertainty = request.probabilities, request.uncertainty
            parts.append((np.arange(rows.start, rows.stop), (yield from self._predict_rows(asked, backoff, how))))
        return united(parts, request.columns.rows)

    def update(self, model: str, event: pb.Event, timeout: float) -> Plan[PredictionBatch]:
        """Sends one event; its id makes every repetition safe, so one is filled in if it has none."""
        event.id = event.id or str(uuid.uuid4())
        request = pb.UpdateRequest(model=model, event=event)
        check_size("event", request.ByteSize())
        codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        reply = yield from self.call(
            DATA, "Update", request, timeout, model=model, key=event.key, retry=codes
        )
        return predictions_from_proto(reply.predictions, reply.duplicate)

    def schema(self, model: str, timeout: float) -> Plan[Schema]:
        """The schema of a model, asked for once."""
        if model not in self.schemas:
            reply = yield from self.model(pb.GetModelRequest(name=model), "Get", timeout)
            self.schemas[model] = Schema.from_json(reply.spec_json)
        return self.schemas[model]

    def producer(self, model: str, name: str, timeout: float) -> Plan[pb.Producer]:
        """Where a producer goes on: the lowest that any partition expects, known if all know it, else 0."""
        backoff = Backoff(timeout)
        while True:
            try:
                return (yield from self._producer(model, name, backoff))
            except Resplit:
                continue

    def _producer(self, model: str, name: str, backoff: Backoff) -> Plan[pb.Producer]:
        routes = yield from self.routes(model, backoff)
        marks = []
        for id in routes.ids or [""]:
            request = pb.GetProducerRequest(model=model, producer=name, partition=id)
            how: dict[str, Any] = {"model": model, "partition": id, "routes": routes}
            marks.append((yield from self.call(DATA, "GetProducer", request, max(backoff.left(), 0.001), **how)))
        # One that knows nothing of it may have missed the first of its events: what the others have is left out there.
        known = all(mark.known for mark in marks)
        return pb.Producer(known=known, next_sequence=min(mark.next_sequence for mark in marks) if known else 0)

    def model(self, request: Any, method: str, timeout: float, again: bool = True) -> Plan[Any]:
        """A call about one model, made to the owner of its first partition; `again`: it may be repeated."""
        codes = (grpc.StatusCode.UNAVAILABLE,) if again else ()
        return (yield from self.call(MODELS, method, request, timeout, model=request.name, retry=codes))

    def reshard(self, request: Any, method: str, timeout: float) -> Plan[pb.ReshardReply]:
        """A change of partitions; not repeated, as the first attempt may have brought it about."""
        if request.name:
            reply = yield from self.model(request, method, timeout, again=False)
        else:
            reply = yield from self.call(MODELS, method, request, timeout, retry=())
        self.map = None
        return reply

    def create(self, spec: Any, exist_ok: bool, timeout: float) -> Plan[pb.Model]:
        """Creates a model; repeated only where an existing one is no error."""
        request = pb.CreateModelRequest(spec_json=spec_json(spec), exist_ok=exist_ok)
        check_size("spec", request.ByteSize())
        codes = (grpc.StatusCode.UNAVAILABLE,) if exist_ok else ()
        reply = yield from self.call(MODELS, "Create", request, timeout, retry=codes)
        self.map = None
        return reply

    def delete(self, name: str, timeout: float) -> Plan[None]:
        """Deletes a model, and forgets what the client knew of it."""
        yield from self.model(pb.DeleteModelRequest(name=name), "Delete", timeout, again=False)
        self.schemas.pop(name, None)
        self.map = None

    def partition_map(self, timeout: float) -> Plan[pb.PartitionMap]:
        """Asks for the partition map, and keeps it."""
        current = yield from self.call(DATA, "GetPartitionMap", pb.GetPartitionMapRequest(), timeout)
        self.adopt(current)
        return current

    def have_map(self, timeout: float) -> Plan[None]:
        """Asks for the partition map if the client has none, as often as it takes."""
        if self.map is None:
            yield from self.partition_map(timeout)

    def health(self, service: str, timeout: float) -> Plan[str]:
        """The health of a service, not repeated: unreachable is an answer too."""
        request = health_pb2.HealthCheckRequest(service=service)
        reply = yield from self.call(HEALTH, "Check", request, timeout, retry=())
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def spec_json(spec: Any) -> str:
    """A spec as JSON: a `ModelSpec`, a mapping, or the text itself."""
    if isinstance(spec, str):
        return spec
    return json.dumps(spec) if isinstance(spec, Mapping) else spec.to_json()


def labelled_event(
    features: Mapping[str, float | None],
    label: Any,
    key: Any,
    time: int | datetime.datetime | None,
    id: str | None,
) -> pb.Event:
    """The event of an update."""
    if not features:
        raise ValueError("features: got none; accepted: at least one (a late label is sent by `label`)")
    return event_from(features, label, key, time, id or "")


def late_label(id: str, key: Any, label: Any, time: int | datetime.datetime | None) -> pb.Event:
    """The event that brings the label of an earlier observation."""
    if not id or is_nothing(label) or label == "":
        raise ValueError(
            f"id, label: got {id!r}, {label!r}; accepted: the id of an observation, and its label"
        )
    return event_from(None, label, key_bytes(key), time, id)
