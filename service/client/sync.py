"""The synchronous client."""

from __future__ import annotations

import datetime
import queue
import threading
import time as clock
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc

from service import channels
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.client.core import (
    CREATE_SECONDS,
    DATA,
    HEALTH,
    MODELS,
    Attempt,
    Backoff,
    Core,
    Plan,
    labelled_event,
    late_label,
)
from service.client.lanes_sync import LaneStreams
from service.client.session import LearnResult, LearnSession, Packing, Restart, Several
from service.wire import PredictionBatch

T = TypeVar("T")
STUBS = {DATA: api.OnlineLearningStub, MODELS: api.ModelsStub, HEALTH: health_pb2_grpc.HealthStub}


class Client:
    """A client that blocks; safe to share between threads.

    It takes the partition map from `target` when it is first needed and goes straight to the owners of keys;
    an owner that cannot be reached is reached through `target`. Every call ends within its `timeout`, retries
    included, or raises `service.errors.Refused`.

    Args:
        target: host:port of any shard of the deployment.
        deployment: id of the deployment; another one refuses the client's requests. None: whichever is there.
    """

    def __init__(self, target: str, deployment: str | None = None) -> None:
        self.core = Core(target, deployment)
        self.models = Models(self)
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channels; calls that are under way end as cancelled."""
        for channel in self._channels.values():
            channel.close()

    def stub(self, address: str, service: str) -> Any:
        """The stub of a service at an address, over the one channel kept for it."""
        with self._lock:
            if address not in self._channels:
                self._channels[address] = grpc.insecure_channel(address, channels.CLIENT)
            if (address, service) not in self._stubs:
                self._stubs[address, service] = STUBS[service](self._channels[address])
            return self._stubs[address, service]

    def run(self, plan: Plan[T]) -> T:
        """Carries out a plan of `Core`."""
        try:
            action = next(plan)
            while True:
                if isinstance(action, Attempt):
                    method = getattr(self.stub(action.address, action.service), action.method)
                    try:
                        reply = method(action.request, timeout=action.timeout)
                    except grpc.RpcError as error:
                        action = plan.throw(error)
                    else:
                        action = plan.send(reply)
                else:
                    clock.sleep(action.seconds)
                    action = next(plan)
        except StopIteration as done:
            return done.value

    def predict(
        self,
        model: str,
        x: Any = None,
        *,
        event: Mapping[str, float | None] | None = None,
        frame: Any = None,
        key: Any = None,
        time: Any = None,
        probabilities: bool = False,
        uncertainty: bool = False,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """Predicts for one or more events and changes nothing.

        Args:
            model: name of the model.
            x: [n, d] or [d] numbers in the order of the spec, NaN for a missing value.
            event: one event, features by name.
            frame: a DataFrame, features by name; see `service.wire.columns_from_frame`.
            key: the entity of all events, or [n] of them; with a frame it is a column.
            time: microseconds since the epoch: [n] of them with `x`, one with `event`.
            probabilities: also return the probability of every class.
            uncertainty: also return variance, epistemic part and 90 % interval; None where the learner cannot tell.
            timeout: seconds, retries included.

        Returns:
            n predictions.

        Raises:
            Refused: by the server, or after the last retry.
            ValueError: none or several of `x`, `event`, `frame`; shapes that contradict each other.
        """
        given: dict[str, Any] = {"x": x, "event": event, "frame": frame, "key": key, "time": time}
        wanted: dict[str, Any] = {"probabilities": probabilities, "uncertainty": uncertainty}
        return self.run(self.core.predict(model, **given, **wanted, timeout=timeout))

    def update(
        self,
        model: str,
        features: Mapping[str, float | None],
        label: Any = None,
        *,
        key: str | bytes | int = "",
        time: int | datetime.datetime | None = None,
        id: str | None = None,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """Logs and folds one event: a labelled one, or an observation where `label` is None.

        Args:
            model: name of the model.
            features: by name; None or NaN is a missing value.
            label: an int or str for a class (1.0 and True are 1), a number for a regression target; None, NaN: none.
            key: the entity.
            time: microseconds since the epoch, a datetime (UTC without a zone), or text of RFC 3339.
            id: names the event, for a label to come and for retries; a UUID is made up where None.
            timeout: seconds, retries included; a retry is safe, since the id goes with it.

        Returns:
            The prediction made before learning (1 row), its outcome, and whether it was a duplicate.

        Raises:
            Refused: by the server, or after the last retry (then the event may have been applied).
        """
        return self.run(self.core.update(model, labelled_event(features, label, key, time, id), timeout))

    def label(
        self,
        model: str,
        id: str,
        key: str | bytes | int,
        label: Any,
        *,
        time: int | datetime.datetime | None = None,
        timeout: float = 10.0,
    ) -> PredictionBatch:
        """Brings the label of an earlier observation, named by its id and key; otherwise as `update`."""
        return self.run(self.core.update(model, late_label(id, key, label, time), timeout))

    def learn(
        self,
        model: str,
        batches: Iterable[Any],
        *,
        producer: str | None = None,
        first_sequence: int = 0,
        in_flight: int = 8,
        on_refused: Literal["raise", "yield"] = "raise",
        timeout: float = 60.0,
    ) -> LearnStream:
        """Logs and folds batches, in order, over one stream, many at a time.

        The window is filled before a reply is read, so a source that pauses holds back the replies to the
        batches before; `AsyncClient` with an async iterator does not.

        Args:
            model: name of the model.
            batches: of anything that `service.wire.columns_of` takes, or `Numbered`.
            producer: identity under which the batches are numbered; the same one must send the same events
                under the same numbers. None: a fresh one.
            first_sequence: number of the first event.
            in_flight: batches sent before the first of them is answered; with more of them, up to 64, small batches are
                learned faster.
            on_refused: what to do with a batch that is refused: raise it (iteration can go on after that), or
                yield it as a `LearnResult`. Later batches are not disturbed.
            timeout: seconds without an answer after which the stream is given up.

        Returns:
            An iterator of one `LearnResult` for each batch, in order.
        """
        options: dict[str, Any] = {"producer": producer, "first_sequence": first_sequence, "timeout": timeout}
        session = LearnSession(self.core, model, in_flight=in_flight, on_refused=on_refused, **options)
        return LearnStream(self, session, batches)

    def producer(self, model: str, name: str, timeout: float = 10.0) -> pb.Producer:
        """Where a producer goes on: what the log of a model expects next of it, and whether it is known at all.

        Of several partitions the lowest counts, 0 where one of them has nothing of the producer: what the others have
        is left out when it comes again. Waits until everything that was admitted from it before is in the log.
        """
        return self.run(self.core.producer(model, name, timeout))

    def partition_map(self, timeout: float = 10.0) -> pb.PartitionMap:
        """Who owns which partition."""
        return self.run(self.core.partition_map(timeout))

    def health(self, service: str = "", timeout: float = 5.0) -> str:
        """Health: "SERVING" or "NOT_SERVING"; raises `Refused` where nobody answers or nothing has that name."""
        return self.run(self.core.health(service, timeout))


class LearnStream(Iterator[LearnResult]):
    """The replies of `Client.learn`; close it (or use it in `with`) if it is not read to its end."""

    def __init__(self, client: Client, session: LearnSession, batches: Iterable[Any]) -> None:
        self.session = session
        self._client = client
        self._batches: Iterator[Any] | None = iter(batches)
        self._call: Any = None
        self._requests: queue.SimpleQueue[pb.LearnRequest | None] = queue.SimpleQueue()
        self._replies: deque[pb.LearnReply] = deque()  # read, not yet returned
        self._closed = threading.Event()
        self._lanes: LaneStreams | None = None

    def __enter__(self) -> LearnStream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __next__(self) -> LearnResult:
        if self._lanes is None:
            try:
                return self._next()
            except Several:
                self._drop()
                self._lanes = LaneStreams(self._client, self.session, self._batches)
        if self._closed.is_set():
            raise StopIteration
        return next(self._lanes)

    def _next(self) -> LearnResult:
        while not self._closed.is_set():
            self._fill()
            if not self.session.unanswered:
                break
            cause: grpc.RpcError | Restart | None = None
            try:
                if self._call is None:
                    self._open()
                reply = self._read()
                if reply is not None:
                    if (result := self.session.answer(reply)) is not None:
                        return result
                    continue
            except (grpc.RpcError, Restart) as error:
                cause = error
            self._drop()
            self._closed.wait(self.session.fault(cause))
        self.close()
        raise StopIteration

    def close(self) -> None:
        """Ends the stream; batches that are not answered may or may not have been applied."""
        self._closed.set()
        self._drop()
        if self._lanes is not None:
            self._lanes.close()

    def _fill(self) -> None:
        """Sends batches until the window is full."""
        if self.session.model not in self._client.core.schemas:
            self._client.run(self._client.core.schema(self.session.model, self.session.timeout))
        while self._batches is not None and self.session.room:
            try:
                batch = next(self._batches)
            except StopIteration:
                self._batches = None
                return
            for request in self.session.offer(batch):
                self._requests.put(request)

    def _open(self) -> None:
        self._client.run(self._client.core.need_map(Backoff(self.session.timeout)))
        requests = self._requests = queue.SimpleQueue()
        for request in self.session.connect():
            requests.put(request)
        self._call = self._client.stub(self.session.address, DATA).LearnMany(self._messages(requests))
        threading.Thread(target=self._watch, args=(self._call,), daemon=True).start()

    def _messages(self, requests: queue.SimpleQueue[pb.LearnRequest | None]) -> Iterator[pb.LearnRequests]:
        """What goes into the stream, in a thread of gRPC."""
        packing = Packing(requests.get_nowait, queue.Empty, self.session.together)
        while not packing.ended:
            request = packing.held or requests.get()
            if request is None:
                return
            yield packing.message(request)

    def _read(self) -> pb.LearnReply | None:
        """The next reply, None at the end of the stream."""
        while not self._replies:
            self.session.waiting(True)
            try:
                message = next(self._call, None)
            finally:
                self.session.waiting(False)
            if message is None:
                return None
            self._replies.extend(message.replies)
        return self._replies.popleft()

    def _watch(self, call: Any) -> None:
        """Cancels the call when its reply is overdue: a blocking read has no deadline of its own."""
        while call.is_active() and not self._closed.wait(min(0.5, self.session.timeout / 4)):
            if self.session.overdue():
                call.cancel()

    def _drop(self) -> None:
        if self._call is not None:
            self._requests.put(None)
            self._call.cancel()
            self._call = None
            self._replies.clear()


class Models:
    """Management of models: `client.models`. Every method raises `Refused`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create(self, spec: Any, exist_ok: bool = False, timeout: float = CREATE_SECONDS) -> pb.Model:
        """Creates a model from a `ModelSpec`, a mapping or JSON; `exist_ok`: the same one may be there.

        The first model of a kind on a machine waits for its kernels to be compiled, up to about a minute.
        """
        return self._client.run(self._client.core.create(spec, exist_ok, timeout))

    def get(self, name: str, timeout: float = 10.0) -> pb.Model:
        """The model's spec, position and state."""
        return self._client.run(self._client.core.model(pb.GetModelRequest(name=name), "Get", timeout))

    def list(self, timeout: float = 10.0) -> list[pb.Model]:
        """All models of the deployment."""
        request = pb.ListModelsRequest()
        return [*self._client.run(self._client.core.call(MODELS, "List", request, timeout)).models]

    def delete(self, name: str, timeout: float = 30.0) -> None:
        """Deletes a model with its log and its state."""
        self._client.run(self._client.core.delete(name, timeout))

    def snapshot(self, name: str, timeout: float = 60.0) -> pb.SnapshotReply:
        """Writes a snapshot and returns once it is committed."""
        return self._client.run(self._client.core.model(pb.SnapshotRequest(name=name), "Snapshot", timeout))

    def dead_letters(
        self, name: str, after: str = "", count: int = 100, timeout: float = 10.0
    ) -> pb.ListDeadLettersReply:
        """Events that do not fit, after the one with id `after`.

        First those that stopped the fold, by partition (also of one that was split or merged since), then messages of
        sources; each oldest first.
        """
        request = pb.ListDeadLettersRequest(name=name, after=after, count=count)
        return self._client.run(self._client.core.model(request, "ListDeadLetters", timeout))

    def drop_dead_letter(self, name: str, id: str, timeout: float = 10.0) -> bool:
        """Removes one; False if it is not there."""
        request = pb.DropDeadLetterRequest(name=name, id=id)
        return self._client.run(self._client.core.model(request, "DropDeadLetter", timeout)).dropped

    def statistics(self, name: str, digest: bool = False, timeout: float = 60.0) -> pb.Statistics:
        """Counts and prequential metrics; `digest`: also of the state, which reads every keyed row.

        Of several partitions: the sums, and each under `partitions`; a digest is that of one partition.
        """
        request = pb.GetStatisticsRequest(name=name, digest=digest)
        return self._client.run(self._client.core.model(request, "GetStatistics", timeout))

    def split(
        self, name: str, partition: str = "", into: int = 2, shards: Sequence[str] = (), timeout: float = 300.0
    ) -> pb.ReshardReply:
        """Cuts a partition (default: the widest) in pieces that learn on apart, from the same weights.

        Args:
            name: of the model.
            partition: id of the partition.
            into: how many pieces, equal ranges of key hashes.
            shards: that take the pieces in turn; none: the first piece stays, the others go where the fewest are.
            timeout: seconds; the change may come about after it.
        """
        request = pb.SplitRequest(name=name, partition=partition, into=into, shards=shards)
        return self._client.run(self._client.core.reshard(request, "Split", timeout))

    def move(
        self, name: str, partition: str, shard: str = "", timeout: float = 300.0
    ) -> pb.ReshardReply:
        """Gives a partition to another shard (default: the one with the fewest)."""
        request = pb.MoveRequest(name=name, partition=partition, shard=shard)
        return self._client.run(self._client.core.reshard(request, "Move", timeout))

    def merge(self, name: str, first: str, second: str, timeout: float = 300.0) -> pb.ReshardReply:
        """Makes one of two neighbours: the weights of the one that has folded more events, the keyed rows of both."""
        request = pb.MergeRequest(name=name, partitions=[first, second])
        return self._client.run(self._client.core.reshard(request, "Merge", timeout))

    def rebalance(self, name: str = "", timeout: float = 600.0) -> pb.ReshardReply:
        """Moves partitions (default: of all models) until no shard has two more than another."""
        request = pb.RebalanceRequest(name=name)
        return self._client.run(self._client.core.reshard(request, "Rebalance", timeout))
