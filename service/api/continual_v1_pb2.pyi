from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_LEARNED: _ClassVar[Outcome]
    OUTCOME_OBSERVED: _ClassVar[Outcome]
    OUTCOME_UNKNOWN_ID: _ClassVar[Outcome]
    OUTCOME_OUT_OF_ORDER: _ClassVar[Outcome]
    OUTCOME_NONFINITE: _ClassVar[Outcome]
    OUTCOME_CLASS_LIMIT: _ClassVar[Outcome]
    OUTCOME_QUARANTINED: _ClassVar[Outcome]
    OUTCOME_OUTLIER: _ClassVar[Outcome]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_LEARNED: Outcome
OUTCOME_OBSERVED: Outcome
OUTCOME_UNKNOWN_ID: Outcome
OUTCOME_OUT_OF_ORDER: Outcome
OUTCOME_NONFINITE: Outcome
OUTCOME_CLASS_LIMIT: Outcome
OUTCOME_QUARANTINED: Outcome
OUTCOME_OUTLIER: Outcome

class Route(_message.Message):
    __slots__ = ("deployment", "map_version")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    map_version: int
    def __init__(self, deployment: _Optional[str] = ..., map_version: _Optional[int] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("integer", "text", "number")
    INTEGER_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    integer: int
    text: str
    number: float
    def __init__(self, integer: _Optional[int] = ..., text: _Optional[str] = ..., number: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "key", "time_us", "features", "label")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    key: bytes
    time_us: int
    features: _containers.ScalarMap[str, float]
    label: Label
    def __init__(self, id: _Optional[str] = ..., key: _Optional[bytes] = ..., time_us: _Optional[int] = ..., features: _Optional[_Mapping[str, float]] = ..., label: _Optional[_Union[Label, _Mapping]] = ...) -> None: ...

class Columns(_message.Message):
    __slots__ = ("rows", "x", "kind", "y", "code", "labels", "key", "key_length", "time_us", "id", "id_length")
    ROWS_FIELD_NUMBER: _ClassVar[int]
    X_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    ID_LENGTH_FIELD_NUMBER: _ClassVar[int]
    rows: int
    x: bytes
    kind: bytes
    y: bytes
    code: bytes
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    key: bytes
    key_length: bytes
    time_us: bytes
    id: bytes
    id_length: bytes
    def __init__(self, rows: _Optional[int] = ..., x: _Optional[bytes] = ..., kind: _Optional[bytes] = ..., y: _Optional[bytes] = ..., code: _Optional[bytes] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., key: _Optional[bytes] = ..., key_length: _Optional[bytes] = ..., time_us: _Optional[bytes] = ..., id: _Optional[bytes] = ..., id_length: _Optional[bytes] = ...) -> None: ...

class PredictRequest(_message.Message):
    __slots__ = ("route", "model", "event", "columns", "probabilities", "uncertainty")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_FIELD_NUMBER: _ClassVar[int]
    route: Route
    model: str
    event: Event
    columns: Columns
    probabilities: bool
    uncertainty: bool
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., model: _Optional[str] = ..., event: _Optional[_Union[Event, _Mapping]] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ..., probabilities: _Optional[bool] = ..., uncertainty: _Optional[bool] = ...) -> None: ...

class PredictReply(_message.Message):
    __slots__ = ("predictions",)
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    predictions: Predictions
    def __init__(self, predictions: _Optional[_Union[Predictions, _Mapping]] = ...) -> None: ...

class Predictions(_message.Message):
    __slots__ = ("position", "rows", "value", "code", "labels", "probabilities", "outcome", "variance", "epistemic", "interval")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    EPISTEMIC_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    position: int
    rows: int
    value: bytes
    code: bytes
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    probabilities: bytes
    outcome: bytes
    variance: bytes
    epistemic: bytes
    interval: bytes
    def __init__(self, position: _Optional[int] = ..., rows: _Optional[int] = ..., value: _Optional[bytes] = ..., code: _Optional[bytes] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., probabilities: _Optional[bytes] = ..., outcome: _Optional[bytes] = ..., variance: _Optional[bytes] = ..., epistemic: _Optional[bytes] = ..., interval: _Optional[bytes] = ...) -> None: ...

class UpdateRequest(_message.Message):
    __slots__ = ("route", "model", "event")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    route: Route
    model: str
    event: Event
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., model: _Optional[str] = ..., event: _Optional[_Union[Event, _Mapping]] = ...) -> None: ...

class UpdateReply(_message.Message):
    __slots__ = ("predictions", "duplicate")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    predictions: Predictions
    duplicate: bool
    def __init__(self, predictions: _Optional[_Union[Predictions, _Mapping]] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class LearnRequest(_message.Message):
    __slots__ = ("route", "model", "producer", "sequence", "columns", "next_sequence", "partition", "number", "acknowledged")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    route: Route
    model: str
    producer: str
    sequence: int
    columns: Columns
    next_sequence: int
    partition: str
    number: bytes
    acknowledged: int
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., model: _Optional[str] = ..., producer: _Optional[str] = ..., sequence: _Optional[int] = ..., columns: _Optional[_Union[Columns, _Mapping]] = ..., next_sequence: _Optional[int] = ..., partition: _Optional[str] = ..., number: _Optional[bytes] = ..., acknowledged: _Optional[int] = ...) -> None: ...

class LearnRequests(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, requests: _Optional[_Iterable[bytes]] = ...) -> None: ...

class LearnReplies(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[LearnReply]
    def __init__(self, replies: _Optional[_Iterable[_Union[LearnReply, _Mapping]]] = ...) -> None: ...

class GetProducerRequest(_message.Message):
    __slots__ = ("route", "model", "producer", "partition")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    route: Route
    model: str
    producer: str
    partition: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., model: _Optional[str] = ..., producer: _Optional[str] = ..., partition: _Optional[str] = ...) -> None: ...

class Producer(_message.Message):
    __slots__ = ("known", "next_sequence")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    known: bool
    next_sequence: int
    def __init__(self, known: _Optional[bool] = ..., next_sequence: _Optional[int] = ...) -> None: ...

class LearnReply(_message.Message):
    __slots__ = ("sequence", "accepted", "refused", "next_sequence", "duplicate")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NEXT_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    accepted: Predictions
    refused: _status_pb2.Status
    next_sequence: int
    duplicate: bool
    def __init__(self, sequence: _Optional[int] = ..., accepted: _Optional[_Union[Predictions, _Mapping]] = ..., refused: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., next_sequence: _Optional[int] = ..., duplicate: _Optional[bool] = ...) -> None: ...

class GetPartitionMapRequest(_message.Message):
    __slots__ = ("model", "version", "make_ready")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MAKE_READY_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: int
    make_ready: bool
    def __init__(self, model: _Optional[str] = ..., version: _Optional[int] = ..., make_ready: _Optional[bool] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ("model", "first_hash", "last_hash", "shard", "address", "state", "id", "map_version", "start", "position", "snapshot_position", "reason")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FIRST_HASH_FIELD_NUMBER: _ClassVar[int]
    LAST_HASH_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    MAP_VERSION_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_POSITION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    model: str
    first_hash: int
    last_hash: int
    shard: str
    address: str
    state: str
    id: str
    map_version: int
    start: int
    position: int
    snapshot_position: int
    reason: str
    def __init__(self, model: _Optional[str] = ..., first_hash: _Optional[int] = ..., last_hash: _Optional[int] = ..., shard: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., id: _Optional[str] = ..., map_version: _Optional[int] = ..., start: _Optional[int] = ..., position: _Optional[int] = ..., snapshot_position: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class PartitionMap(_message.Message):
    __slots__ = ("deployment", "version", "partitions")
    DEPLOYMENT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    deployment: str
    version: int
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    def __init__(self, deployment: _Optional[str] = ..., version: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ...) -> None: ...

class CreateModelRequest(_message.Message):
    __slots__ = ("route", "spec_json", "exist_ok")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    EXIST_OK_FIELD_NUMBER: _ClassVar[int]
    route: Route
    spec_json: str
    exist_ok: bool
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., spec_json: _Optional[str] = ..., exist_ok: _Optional[bool] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "spec_json", "position", "snapshot_position", "state", "partitions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_POSITION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    spec_json: str
    position: int
    snapshot_position: int
    state: str
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    def __init__(self, name: _Optional[str] = ..., spec_json: _Optional[str] = ..., position: _Optional[int] = ..., snapshot_position: _Optional[int] = ..., state: _Optional[str] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("route", "name", "partition")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partition: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsReply(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class DeleteModelRequest(_message.Message):
    __slots__ = ("route", "name", "partition")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partition: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ...) -> None: ...

class SplitRequest(_message.Message):
    __slots__ = ("route", "name", "partition", "into", "shards")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    INTO_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partition: str
    into: int
    shards: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ..., into: _Optional[int] = ..., shards: _Optional[_Iterable[str]] = ...) -> None: ...

class MoveRequest(_message.Message):
    __slots__ = ("route", "name", "partition", "shard")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partition: str
    shard: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ..., shard: _Optional[str] = ...) -> None: ...

class MergeRequest(_message.Message):
    __slots__ = ("route", "name", "partitions")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partitions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partitions: _Optional[_Iterable[str]] = ...) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("route", "name")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ...) -> None: ...

class ReshardReply(_message.Message):
    __slots__ = ("partitions", "seconds")
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    seconds: float
    def __init__(self, partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ..., seconds: _Optional[float] = ...) -> None: ...

class DeleteModelReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("route", "name", "partition")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    partition: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., partition: _Optional[str] = ...) -> None: ...

class SnapshotReply(_message.Message):
    __slots__ = ("position", "digest", "rows", "bytes")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    position: int
    digest: str
    rows: int
    bytes: int
    def __init__(self, position: _Optional[int] = ..., digest: _Optional[str] = ..., rows: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = ("route", "name", "digest", "partition")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    digest: bool
    partition: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., digest: _Optional[bool] = ..., partition: _Optional[str] = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("name", "position", "snapshot_position", "counts", "metrics", "keys_resident", "digest", "fingerprint", "sources", "sinks", "partition", "partitions", "sums")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_POSITION_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    KEYS_RESIDENT_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SINKS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: int
    snapshot_position: int
    counts: _containers.ScalarMap[str, int]
    metrics: _containers.ScalarMap[str, float]
    keys_resident: int
    digest: str
    fingerprint: str
    sources: _containers.RepeatedCompositeFieldContainer[SourceState]
    sinks: _containers.RepeatedCompositeFieldContainer[SinkState]
    partition: str
    partitions: _containers.RepeatedCompositeFieldContainer[Statistics]
    sums: str
    def __init__(self, name: _Optional[str] = ..., position: _Optional[int] = ..., snapshot_position: _Optional[int] = ..., counts: _Optional[_Mapping[str, int]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., keys_resident: _Optional[int] = ..., digest: _Optional[str] = ..., fingerprint: _Optional[str] = ..., sources: _Optional[_Iterable[_Union[SourceState, _Mapping]]] = ..., sinks: _Optional[_Iterable[_Union[SinkState, _Mapping]]] = ..., partition: _Optional[str] = ..., partitions: _Optional[_Iterable[_Union[Statistics, _Mapping]]] = ..., sums: _Optional[str] = ...) -> None: ...

class SinkState(_message.Message):
    __slots__ = ("name", "state", "detail", "position", "lag", "records", "lost", "time_us")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    detail: str
    position: int
    lag: int
    records: int
    lost: int
    time_us: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., detail: _Optional[str] = ..., position: _Optional[int] = ..., lag: _Optional[int] = ..., records: _Optional[int] = ..., lost: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class SourceState(_message.Message):
    __slots__ = ("name", "state", "detail", "lag", "next", "events", "dead_letters", "lost", "time_us")
    class LagEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class NextEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    TIME_US_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    detail: str
    lag: _containers.ScalarMap[str, int]
    next: _containers.ScalarMap[str, int]
    events: int
    dead_letters: int
    lost: int
    time_us: int
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., detail: _Optional[str] = ..., lag: _Optional[_Mapping[str, int]] = ..., next: _Optional[_Mapping[str, int]] = ..., events: _Optional[int] = ..., dead_letters: _Optional[int] = ..., lost: _Optional[int] = ..., time_us: _Optional[int] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("id", "producer", "number", "reason", "payload", "beside", "partition")
    ID_FIELD_NUMBER: _ClassVar[int]
    PRODUCER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    BESIDE_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    id: str
    producer: str
    number: int
    reason: str
    payload: bytes
    beside: str
    partition: str
    def __init__(self, id: _Optional[str] = ..., producer: _Optional[str] = ..., number: _Optional[int] = ..., reason: _Optional[str] = ..., payload: _Optional[bytes] = ..., beside: _Optional[str] = ..., partition: _Optional[str] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("route", "name", "after", "count")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    after: str
    count: int
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., after: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class ListDeadLettersReply(_message.Message):
    __slots__ = ("letters", "total")
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    total: int
    def __init__(self, letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., total: _Optional[int] = ...) -> None: ...

class DropDeadLetterRequest(_message.Message):
    __slots__ = ("route", "name", "id")
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    route: Route
    name: str
    id: str
    def __init__(self, route: _Optional[_Union[Route, _Mapping]] = ..., name: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DropDeadLetterReply(_message.Message):
    __slots__ = ("dropped",)
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    dropped: bool
    def __init__(self, dropped: _Optional[bool] = ...) -> None: ...
