"""Bad input: status, reason, the field with value and what is accepted; the state stays as it was."""

import threading
import time

import grpc
import numpy as np
import pytest
from shard_harness import (
    FEATURES,
    batch_of,
    columns,
    digest,
    events,
    fold,
    learn_requests,
    one_loop,
    refused_by,
    spec_of,
)

from learners.spec import ModelSpec
from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api
from service.channels import MAX_MESSAGE_BYTES
from service.client import Client
from service.errors import Refused, from_status

INVALID = grpc.StatusCode.INVALID_ARGUMENT
X = dict(zip(FEATURES, (0.5, -0.25, 1.0)))


def good(kind="binary"):
    label = {"binary": pb.Label(text="UP"), "regression": pb.Label(number=1.0)}.get(kind, pb.Label(integer=7))
    return pb.Event(id="one", key=b"k", features=X, label=label)


@pytest.fixture
def models(client, name):
    """A model of every kind that has learned a little; nothing may change them."""
    specs = {kind: spec_of(f"{name}-{kind}", kind) for kind in ("binary", "multiclass", "regression")}
    for kind, spec in specs.items():
        client.models.create(spec)
        list(client.learn(spec.name, [columns(spec, events(kind, 50))]))
    before = {kind: digest(client, spec.name) for kind, spec in specs.items()}
    yield specs
    assert {kind: digest(client, spec.name) for kind, spec in specs.items()} == before
    assert {kind: client.models.get(spec.name).position for kind, spec in specs.items()} == dict.fromkeys(specs, 50)


def change(kind="binary", **fields):
    """A change of the good event: fields replaced (features merged, None removed)."""

    def apply():
        event = good(kind)
        for field, value in fields.items():
            if field == "features":
                event.ClearField("features")
                event.features.update({k: v for k, v in (X | value).items() if v is not None})
            elif field == "label":
                event.ClearField("label")
                if value is not None:
                    event.label.CopyFrom(value)
            else:
                setattr(event, field, value)
        return kind, event

    return apply


NUMBER, TEXT, EMPTY = pb.Label(number=1.5), pb.Label(text="SIDEWAYS"), pb.Label()
EVENTS = {
    "NaN": (change(features={"a": float("nan")}), "MISSING_VALUE", "event.features.a", "none", "finite float32"),
    "missing": (change(features={"b": None}), "MISSING_VALUE", "event.features.b", "none", "finite float32"),
    "infinity": (change(features={"a": float("inf")}), "NOT_FINITE", "event.features.a", "inf", "finite float32"),
    "beyond-float32": (change(features={"a": 1e39}), "NOT_FINITE", "event.features.a", "1e+39", "finite float32"),
    "unknown-feature": (
        change(features={"aa": 1.0}),
        "UNKNOWN_FEATURE",
        "event.features.aa",
        "unknown",
        "did you mean 'a'",
    ),
    "nothing": (change(features=dict.fromkeys(X), label=None), "NO_FEATURES", "event.features", "none", "a, b, c"),
    "label-number": (change(label=NUMBER), "LABEL_TYPE", "event.label", "1.5", "an integer or text"),
    "label-number-multiclass": (change("multiclass", label=NUMBER), "LABEL_TYPE", "event.label", "1.5", "integer"),
    "label-text-regression": (change("regression", label=TEXT), "LABEL_TYPE", "event.label", "SIDEWAYS", "a number"),
    "label-empty": (change(label=EMPTY), "LABEL_TYPE", "event.label", "an empty label", "integer or text"),
    "label-unknown": (change(label=TEXT), "LABEL_UNKNOWN", "event.label", "'SIDEWAYS'", "'DOWN' or 'UP'"),
    "label-long": (
        change("multiclass", label=pb.Label(text="x" * 257)),
        "LABEL_TOO_LONG",
        "event.label",
        "257 bytes",
        "at most 256",
    ),
    "target-nan": (
        change("regression", label=pb.Label(number=float("nan"))),
        "TARGET_OUT_OF_RANGE",
        "event.label",
        "nan",
        "1e+100",
    ),
    "target-huge": (
        change("regression", label=pb.Label(number=-1e101)),
        "TARGET_OUT_OF_RANGE",
        "event.label",
        "-1e+101",
        "at most 1e+100",
    ),
    "key-long": (change(key=b"k" * 1025), "KEY_TOO_LONG", "event.key", "1025 bytes", "at most 1024 bytes"),
    "id-long": (change(id="i" * 257), "ID_TOO_LONG", "event.id", "257 bytes", "at most 256 bytes"),
    "id-none": (change(id=""), "INVALID_FIELD", "event.id", "", "1 to 256 bytes"),
    "time-negative": (change(time_us=-1), "NEGATIVE_TIME", "event.time_us", "-1", "microseconds since the epoch"),
}


def assert_says(refused, code, reason, field, value, accepted):
    assert (refused.code, refused.reason) == (code, reason)
    (violation,) = refused.violations
    assert violation.field == field
    assert value in violation.value
    assert accepted in violation.accepted
    assert field in refused.message


@pytest.mark.parametrize("case", EVENTS)
def test_an_event_that_does_not_fit(channel, models, case):
    make, reason, field, value, accepted = EVENTS[case]
    kind, event = make()
    stub = api.OnlineLearningStub(channel)
    update = pb.UpdateRequest(model=models[kind].name, event=event)
    assert_says(refused_by(lambda: stub.Update(update)), INVALID, reason, field, value, accepted)
    if case not in ("id-none", "nothing"):
        predict = pb.PredictRequest(model=models[kind].name, event=event)
        assert_says(refused_by(lambda: stub.Predict(predict)), INVALID, reason, field, value, accepted)


def test_a_key_and_an_id_as_long_as_they_may_be(client, name):
    client.models.create(spec_of(name))
    assert client.update(name, X, "UP", key=b"k" * 1024, id="i" * 256).position == 0
    assert client.predict(name, event=X, key=b"k" * 1024).position == 1


def numbers(values, dtype):
    return np.array(values, dtype).tobytes()


def change_columns(model="binary", **fields):
    def apply(models):
        spec = models[model]
        message = columns(spec, events(model, 4, by_id=True) | {"time": np.arange(4)})
        for field, value in fields.items():
            if field == "labels":
                del message.labels[:]
                message.labels.extend(value)
            else:
                setattr(message, field, value(getattr(message, field)) if callable(value) else value)
        return spec, message

    return apply


def put(dtype, at, value):
    def apply(raw):
        array = np.frombuffer(raw, dtype).copy()
        array[at] = value
        return array.tobytes()

    return apply


COLUMNS = {
    "NaN": (change_columns(x=put("<f4", 4, np.nan)), "MISSING_VALUE", "columns.x[1].b", "NaN", "finite"),
    "infinity": (change_columns(x=put("<f4", 6, -np.inf)), "NOT_FINITE", "columns.x[2].a", "-inf", "finite float32"),
    "narrow": (change_columns(x=lambda x: x[:32]), "WRONG_LENGTH", "columns.x", "32 bytes", "48 bytes (4 x 3"),
    "wide": (change_columns(x=lambda x: x + x[:16]), "WRONG_LENGTH", "columns.x", "64 bytes", "48 bytes"),
    "no-rows": (change_columns(rows=0), "EMPTY_BATCH", "columns.rows", "0", "1 to 65536"),
    "too-many-rows": (change_columns(rows=65_537), "TOO_MANY_ROWS", "columns.rows", "65537", "1 to 65536"),
    "other-rows": (change_columns(rows=5), "WRONG_LENGTH", "columns.code", "16 bytes", "20 bytes"),
    "no-features": (change_columns(x=b""), "NO_FEATURES", "columns.x", "0 bytes", "48 bytes"),
    "code-range": (change_columns(code=put("<i4", 2, 9)), "CODE_OUT_OF_RANGE", "columns.code[2]", "9", "the 2 of"),
    "code-negative": (change_columns(code=put("<i4", 1, -2)), "CODE_OUT_OF_RANGE", "columns.code[1]", "-2", "-1 for"),
    "label-number": (change_columns(labels=[NUMBER, NUMBER]), "LABEL_TYPE", "columns.labels[0]", "1.5", "integer"),
    "label-unknown": (change_columns(labels=[TEXT, TEXT]), "LABEL_UNKNOWN", "columns.labels[0]", "SIDE", "'UP'"),
    "label-twice": (
        change_columns("multiclass", labels=[TEXT] * 2),
        "DUPLICATE_LABEL",
        "columns.labels",
        "'SIDEWAYS' twice",
        "once",
    ),
    "y-for-classes": (change_columns(y=bytes(32)), "WRONG_LABEL_COLUMN", "columns.y", "32 bytes", "columns.code"),
    "code-for-regression": (
        change_columns("regression", code=bytes(16)),
        "WRONG_LABEL_COLUMN",
        "columns.code",
        "a value",
        "columns.y",
    ),
    "target-too-large": (
        change_columns("regression", y=put("<f8", 3, 1e200)),
        "TARGET_OUT_OF_RANGE",
        "columns.y[3]",
        "1e+200",
        "1e+100",
    ),
    "kind": (change_columns(kind=b"\1\1\3\1"), "UNKNOWN_KIND", "columns.kind[2]", "3", "0 (observation)"),
    "label-expected": (
        change_columns(code=put("<i4", 0, -1), kind=b"\1\1\1\1"),
        "LABEL_REQUIRED",
        "columns.kind[0]",
        "1 without a label",
        "a label",
    ),
    "label-unexpected": (
        change_columns(kind=b"\1\0\1\1"),
        "LABEL_UNEXPECTED",
        "columns.kind[1]",
        "with a label",
        "no label",
    ),
    "label-without-id": (
        change_columns(kind=b"\1\2\1\1", id=b"", id_length=b""),
        "ID_REQUIRED",
        "columns.id[1]",
        "no id",
        "the id of the observation",
    ),
    "key-long": (
        change_columns(key=b"k" * 1028, key_length=numbers([1025, 1, 1, 1], "<u4")),
        "KEY_TOO_LONG",
        "columns.key[0]",
        "1025 bytes",
        "at most 1024",
    ),
    "keys-short": (change_columns(key=b"k"), "WRONG_LENGTH", "columns.key", "1 bytes", "8 bytes"),
    "id-long": (
        change_columns(id=b"i" * 260, id_length=numbers([1, 257, 1, 1], "<u4")),
        "ID_TOO_LONG",
        "columns.id[1]",
        "257 bytes",
        "at most 256",
    ),
    "id-not-utf8": (
        change_columns(id=b"ab\xffd", id_length=numbers([1, 1, 1, 1], "<u4")),
        "ID_NOT_UTF8",
        "columns.id[2]",
        "xff",
        "UTF-8",
    ),
    "time-negative": (change_columns(time_us=put("<i8", 1, -5)), "NEGATIVE_TIME", "columns.time_us[1]", "-5", "micro"),
    "time-short": (change_columns(time_us=bytes(9)), "WRONG_LENGTH", "columns.time_us", "9 bytes", "32 bytes"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_do_not_fit(channel, models, case):
    make, reason, field, value, accepted = COLUMNS[case]
    spec, message = make(models)
    stub = api.OnlineLearningStub(channel)
    request = pb.LearnRequest(model=spec.name, producer="bad", sequence=0, columns=message)
    (reply,) = stub.Learn(iter([request]), timeout=10)
    assert reply.WhichOneof("result") == "refused"
    assert_says(from_status(reply.refused), INVALID, reason, field, value, accepted)
    predict = pb.PredictRequest(model=spec.name, columns=message)
    assert_says(refused_by(lambda: stub.Predict(predict)), INVALID, reason, field, value, accepted)


def test_a_refused_batch_does_not_disturb_the_others(client, channel, name):
    """All or nothing: not even the good rows before the bad one are taken."""
    spec = spec_of(name)
    client.models.create(spec)
    given = events("binary", 300)
    requests = learn_requests(spec, given, [60] * 5)
    bad = np.frombuffer(requests[2].columns.x, "<f4").copy()
    bad[-1 - 2] = np.inf
    requests[2].columns.x = bad.tobytes()
    replies = list(api.OnlineLearningStub(channel).Learn(iter(requests), timeout=10))
    assert [reply.WhichOneof("result") for reply in replies] == ["accepted"] * 2 + ["refused"] + ["accepted"] * 2
    assert [reply.sequence for reply in replies] == [0, 60, 120, 180, 240]
    assert from_status(replies[2].refused).violations[0].field == "columns.x[59].a"
    kept = {field: [*column[:120], *column[180:]] for field, column in given.items()}
    assert digest(client, name) == fold(spec, batch_of(spec, kept))[0].digest()
    # The client can hand the refusal over and go on.
    again = [columns(spec, {f: c[i : i + 60] for f, c in given.items()}) for i in range(0, 300, 60)]
    again[2].x = bad.tobytes()
    results = list(client.learn(name, again, producer="other", on_refused="yield"))
    assert [result.refused is None for result in results] == [True, True, False, True, True]
    assert client.models.get(name).position == 480


@pytest.mark.parametrize("producer", ["", "p" * 257, "\u00e9" * 129])
def test_a_producer_that_does_not_fit(channel, models, producer):
    request = learn_requests(models["binary"], events("binary", 4), [4], producer)[0]
    (reply,) = api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10)
    refused = from_status(reply.refused)
    assert (refused.code, refused.violations[0].field) == (INVALID, "producer")
    assert refused.violations[0].accepted == "1 to 256 bytes of UTF-8"


@pytest.mark.parametrize("sequence", [2**64 - 1, 2**63])
def test_a_sequence_that_could_not_be_counted_on(channel, models, sequence):
    request = learn_requests(models["binary"], events("binary", 4), [4], "far")[0]
    request.sequence = sequence
    (reply,) = api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10)
    refused = from_status(reply.refused)
    assert (refused.code, refused.violations[0].field) == (INVALID, "sequence")
    assert str(sequence) in refused.violations[0].value


def unary_calls(channel, model):
    data, control = api.OnlineLearningStub(channel), api.ModelsStub(channel)
    route = pb.Route()
    return {
        "Predict": lambda: data.Predict(pb.PredictRequest(route=route, model=model, event=good())),
        "Update": lambda: data.Update(pb.UpdateRequest(route=route, model=model, event=good())),
        "Get": lambda: control.Get(pb.GetModelRequest(route=route, name=model)),
        "Delete": lambda: control.Delete(pb.DeleteModelRequest(route=route, name=model)),
        "Snapshot": lambda: control.Snapshot(pb.SnapshotRequest(route=route, name=model)),
        "GetStatistics": lambda: control.GetStatistics(pb.GetStatisticsRequest(route=route, name=model)),
    }, route


@pytest.mark.parametrize("model", ["nobody", "", "\U0001f600" * 300, "a/b{c}\n"])
def test_a_model_that_does_not_exist(channel, models, model):
    calls, _ = unary_calls(channel, model)
    for call in calls.values():
        refused = refused_by(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
        assert refused.details[0].resource_type == "model"
    request = learn_requests(models["binary"], events("binary", 4), [4])[0]
    request.model = model
    (reply,) = api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10)
    assert from_status(reply.refused).reason == "MODEL_NOT_FOUND"


@pytest.mark.parametrize("route", [{"deployment": "another"}, {"map_version": 10**6}])
def test_another_deployment_or_map(local, name, route):
    with Client(local.target) as client, grpc.insecure_channel(local.target) as channel:
        client.models.create(spec_of(name))
        calls, given = unary_calls(channel, name)
        given.MergeFrom(pb.Route(**route))
        current = client.partition_map()
        refusals = [refused_by(call) for call in calls.values()]
        request = learn_requests(spec_of(name), events("binary", 4), [4])[0]
        request.route.CopyFrom(given)
        refusals.append(refused_by(lambda: list(api.OnlineLearningStub(channel).Learn(iter([request]), timeout=10))))
        for refused in refusals:
            assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_MAP")
            assert refused.detail(pb.PartitionMap) == current
        assert [(p.model, p.shard, p.state) for p in current.partitions] == [(name, "shard-0", "serving")]
        assert client.models.get(name).position == 0
    with Client(local.target, deployment="another") as stranger, pytest.raises(Refused, match="WRONG_MAP"):
        stranger.predict(name, event=X)


def test_a_message_over_the_limit(channel, models):
    event = good()
    event.features["x" * (MAX_MESSAGE_BYTES + 1)] = 1.0
    stub = api.OnlineLearningStub(channel)
    refused = refused_by(lambda: stub.Update(pb.UpdateRequest(model=models["binary"].name, event=event)))
    assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(MAX_MESSAGE_BYTES) in refused.message
    request = pb.LearnRequest(model=models["binary"].name, producer="p")
    request.columns.x = bytes(MAX_MESSAGE_BYTES + 1)
    assert refused_by(lambda: list(stub.Learn(iter([request])))).code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_message_as_long_as_it_may_be(client, channel, models, name):
    wide = spec_of(name).model_dump(mode="json")
    wide["features"] = [f"f{i}" for i in range(62)]
    client.models.create(ModelSpec.model_validate(wide))
    request = pb.LearnRequest(model=name, producer="p")
    request.columns.CopyFrom(columns(spec_of(name), {"x": np.zeros((65_536, 62), np.float32), "y": ["UP"] * 65_536}))
    assert 15.5 * 2**20 < request.ByteSize() < MAX_MESSAGE_BYTES
    (reply,) = api.OnlineLearningStub(channel).Learn(iter([request]), timeout=60)
    assert reply.accepted.rows == 65_536


def test_bytes_that_are_no_message(channel, models):
    for path in ("OnlineLearning/Predict", "OnlineLearning/Update", "Models/Create", "Models/Get"):
        call = channel.unary_unary(f"/continual.v1.{path}")
        refused = refused_by(lambda: call(b"\xff\xff\xff"))  # noqa: B023
        assert (refused.code, refused.reason) == (INVALID, "NOT_A_MESSAGE")
        assert refused.violations[0].field == "request"
    stream = channel.stream_stream("/continual.v1.OnlineLearning/Learn")
    good_one = learn_requests(models["binary"], {k: v[:1] for k, v in events("binary", 1).items()}, [1])[0]
    good_one.columns.rows = 0
    replies = [pb.LearnReply.FromString(raw) for raw in stream(iter([b"\xff", good_one.SerializeToString()]))]
    assert [from_status(reply.refused).reason for reply in replies] == ["NOT_A_MESSAGE", "EMPTY_BATCH"]


def test_a_label_alone_has_no_prediction(channel, models):
    stub = api.OnlineLearningStub(channel)
    event = pb.Event(id="one", label=pb.Label(text="UP"))
    refused = refused_by(lambda: stub.Predict(pb.PredictRequest(model=models["binary"].name, event=event)))
    assert (refused.code, refused.violations[0].field) == (INVALID, "kind")
    refused = refused_by(lambda: stub.Predict(pb.PredictRequest(model=models["binary"].name)))
    assert refused.code is INVALID


def test_an_event_whose_deadline_has_passed_is_not_applied(client, channel, models):
    """It arrives while the shard is busy; the model stays as it was (checked by the fixture)."""
    busy = threading.Event()

    def block():
        busy.set()
        time.sleep(0.3)

    stub = api.OnlineLearningStub(channel)
    stub.Predict(pb.PredictRequest(model=models["binary"].name, event=good()))
    one_loop().call_soon_threadsafe(block)
    busy.wait()
    update = pb.UpdateRequest(model=models["binary"].name, event=good())
    assert refused_by(lambda: stub.Update(update, timeout=0.1)).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert client.models.get(models["binary"].name).position == 50


def test_more_probabilities_than_a_reply_holds(client, channel, name):
    spec = spec_of(name, "multiclass", units=1)
    client.models.create(spec)
    list(client.learn(name, [columns(spec, {"x": [[0.0] * 3] * 200, "y": list(range(200))})]))
    before = digest(client, name)
    many = columns(spec, {"x": np.zeros((65_536, 3), np.float32)})
    request = pb.PredictRequest(model=name, columns=many, probabilities=True)
    refused = refused_by(lambda: api.OnlineLearningStub(channel).Predict(request))
    assert_says(refused, INVALID, "TOO_MANY_PROBABILITIES", "probabilities", "65536 rows", "at most 8388608")
    request.probabilities = False
    assert api.OnlineLearningStub(channel).Predict(request).predictions.rows == 65_536
    assert digest(client, name) == before
