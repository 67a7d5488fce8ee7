"""Ten thousand mutated requests over a real channel: no crash, no INTERNAL or UNKNOWN, no hang, no state in doubt."""

import json
import random
from collections import Counter

import grpc
import pytest
from shard_harness import FEATURES, columns, digest, events, fold, learn_requests, spec_of

from service.api import continual_v1_pb2 as pb
from service.client import Client
from service.errors import from_rpc_error, from_status
from service.shard.requests import decode_learn
from service.wire import Schema, decode_event

ROUNDS = 10_500
WINDOW = 50
KINDS = ("binary", "multiclass", "regression")
LABELS = {"binary": pb.Label(text="UP"), "multiclass": pb.Label(integer=7), "regression": pb.Label(number=0.5)}
ALLOWED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNAVAILABLE,
}


ENDS = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE)


def mutate_bytes(rng, raw):
    """A few bytes flipped, set, cut out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(data)) if data else 0
        how = rng.randrange(5)
        if how == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif how == 1 and data:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == 2:
            del data[at : at + rng.randrange(1, 9)]
        elif how == 3:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


NUMBERS = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, -(2**63), 2**64 - 1)
DOUBLES = (0.0, -0.0, 1e-320, 1e38, 3.5e38, 1e100, 1e300, float("inf"), float("-inf"), float("nan"))
TEXTS = ("", "a", "UP", "one", "x" * 300, "\U0001f600" * 70, "\0", "{}", "'; --")


def mutate_fields(rng, message):
    """One field somewhere set to a value that its type allows and nobody expects, emptied, or filled twice."""
    fields = [f for f in message.DESCRIPTOR.fields if rng.random() < 0.5] or list(message.DESCRIPTOR.fields)
    field = rng.choice(fields)
    value = getattr(message, field.name)
    if rng.random() < 0.1:
        message.ClearField(field.name)
    elif field.message_type and field.message_type.GetOptions().map_entry:
        value[rng.choice((*FEATURES, *TEXTS))] = rng.choice(DOUBLES)
    elif field.message_type and field.is_repeated:
        value.add().CopyFrom(rng.choice([*LABELS.values(), pb.Label(), *value]))
    elif field.message_type:
        mutate_fields(rng, value)
        value.SetInParent()
    elif field.cpp_type == field.CPPTYPE_STRING:
        raw = field.type == field.TYPE_BYTES
        now = mutate_bytes(rng, value) if raw and rng.random() < 0.7 else rng.choice(TEXTS)
        setattr(message, field.name, now.encode() if raw and isinstance(now, str) else now)
    elif field.cpp_type in (field.CPPTYPE_DOUBLE, field.CPPTYPE_FLOAT):
        setattr(message, field.name, rng.choice(DOUBLES))
    elif field.cpp_type == field.CPPTYPE_BOOL:
        setattr(message, field.name, not value)
    else:
        bits = 64 if field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else 32
        signed = field.cpp_type in (field.CPPTYPE_INT64, field.CPPTYPE_INT32)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, 2**bits)
        setattr(message, field.name, rng.choice([v for v in (*NUMBERS, value + 1) if low <= v < high]))


JSON = (None, True, 0, -1, 2**70, 1e300, "", "x", [], {}, [[]], {"kind": []}, {"kind": "sgd"}, ["a", "a"])


def mutate_json(rng, value):
    """A value somewhere in a spec replaced, taken out or added."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = mutate_json(rng, value[key])
        return value
    return rng.choice(JSON)


class Fuzz:
    """Sends requests, notes statuses and everything that was accepted, with its position."""

    def __init__(self, channel, specs):
        self.calls = {
            name: channel.unary_unary(f"/continual.v1.{name}")
            for name in ("OnlineLearning/Predict", "OnlineLearning/Update", "Models/Create")
        }
        self.learn = channel.stream_stream("/continual.v1.OnlineLearning/Learn")
        self.schemas = {spec.name: Schema.of(spec) for spec in specs}
        self.log = {spec.name: {} for spec in specs}
        self.codes = Counter()
        self.reasons = Counter()

    def note(self, refused, request):
        assert refused.code in ALLOWED, (refused, request)
        assert refused.reason != refused.code.name, (refused, request)
        assert refused.message
        self.codes[refused.code.name] += 1
        self.reasons[refused.reason] += 1

    def unary(self, requests):
        sent = [(name, raw, self.calls[name].future(raw, timeout=30)) for name, raw in requests]
        for name, raw, call in sent:
            if call.exception() is not None:
                self.note(from_rpc_error(call), (name, raw))
                continue
            self.codes["OK"] += 1
            if name == "OnlineLearning/Update":
                reply, request = pb.UpdateReply.FromString(call.result()), pb.UpdateRequest.FromString(raw)
                if not reply.duplicate:
                    self.accepted(request.model, reply.predictions, decode_event(request.event, self.of(request)))

    def of(self, request):
        return self.schemas[request.model]

    def accepted(self, model, predictions, batch):
        """The last rows of the batch: what lies before the producer's mark is not applied again."""
        rows = predictions.rows
        self.log[model][predictions.position] = batch.slice(len(batch) - rows, len(batch))

    def stream(self, requests):
        """One stream; it may end before all are answered, with a status that tells to begin another one."""
        answered = 0
        try:
            for raw, reply_raw in zip(requests, self.learn(iter(requests), timeout=30)):
                answered += 1
                reply = pb.LearnReply.FromString(reply_raw)
                if reply.WhichOneof("result") == "refused":
                    self.note(from_status(reply.refused), raw)
                    continue
                self.codes["OK"] += 1
                request = pb.LearnRequest.FromString(raw)
                if not reply.duplicate and reply.accepted.rows:  # a stamp has none
                    self.accepted(request.model, reply.accepted, decode_learn(request, self.of(request)))
        except grpc.RpcError as error:
            answered += 1
            refused = from_rpc_error(error)
            self.note(refused, requests[answered - 1])
            assert refused.code in ENDS
        assert answered
        return answered


def seeds(specs):
    """Valid requests of every kind."""
    for kind, spec in zip(KINDS, specs):
        event = pb.Event(id="one", key=b"k", time_us=5, features=dict.fromkeys(FEATURES, 0.5), label=LABELS[kind])
        yield "OnlineLearning/Update", pb.UpdateRequest(model=spec.name, event=event)
        yield "OnlineLearning/Predict", pb.PredictRequest(model=spec.name, event=event, probabilities=True)
        given = columns(spec, events(kind, 6, by_id=True) | {"time": range(6)})
        yield "OnlineLearning/Predict", pb.PredictRequest(model=spec.name, columns=given, probabilities=True)


def mutated(rng, message):
    if rng.random() < 0.5:
        return mutate_bytes(rng, message.SerializeToString())
    copy = type(message)()
    copy.CopyFrom(message)
    for _ in range(rng.choice((1, 1, 2))):
        mutate_fields(rng, copy)
    if isinstance(copy, pb.UpdateRequest) and rng.random() < 0.5:
        copy.event.id = f"e{rng.random()}"
    return copy.SerializeToString()


def spec_request(rng, spec, count):
    given = json.loads(spec.to_json()) | {"name": f"fuzzed-{count}"}
    if rng.random() < 0.3:
        return mutate_bytes(rng, pb.CreateModelRequest(spec_json=json.dumps(given)).SerializeToString())
    text = json.dumps(mutate_json(rng, given))
    return pb.CreateModelRequest(spec_json=text, exist_ok=rng.random() < 0.5).SerializeToString()


@pytest.mark.timeout(180)
def test_ten_thousand_mutated_requests(local):
    rng = random.Random(20260101)
    specs = [spec_of(f"model-{kind}", kind, labels={"pending": 2}, slots=50, snapshot_every=500) for kind in KINDS]
    with Client(local.target) as client, grpc.insecure_channel(local.target) as channel:
        for spec in specs:
            client.models.create(spec)
        fuzz = Fuzz(channel, specs)
        valid = list(seeds(specs))
        streams = [learn_requests(spec, events(k, 300, by_id=True), [6] * 50) for k, spec in zip(KINDS, specs)]
        sent = creates = 0
        while sent < ROUNDS:
            unary = [(name, mutated(rng, message)) for name, message in rng.choices(valid, k=WINDOW)]
            if creates < 500:
                spec = rng.choice(specs)
                unary += [("Models/Create", spec_request(rng, spec, creates + i)) for i in range(3)]
                creates += 3
            fuzz.unary(unary)
            batches = [mutated(rng, m) if rng.random() < 0.7 else m.SerializeToString() for m in rng.choice(streams)]
            sent += len(unary)
            at = rng.randrange(len(batches) - 20)
            sent += fuzz.stream(batches[at : at + 20])
        assert not local.failures
        print(fuzz.codes, fuzz.reasons)
        assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "ABORTED"} <= fuzz.codes.keys()
        assert len(fuzz.reasons) > 20
        for kind, spec in zip(KINDS, specs):
            client.update(spec.name, dict.fromkeys(FEATURES, 0.25), _label(kind), id="last")
            position = client.models.get(spec.name).position - 1
            log = [batch for _, batch in sorted(fuzz.log[spec.name].items())]
            assert position == sum(map(len, log)) > 100
            last = pb.Event(id="last", features=dict.fromkeys(FEATURES, 0.25), label=LABELS[kind])
            log.append(decode_event(last, Schema.of(spec)))
            assert digest(client, spec.name) == fold(spec, *log)[0].digest()


def _label(kind):
    label = LABELS[kind]
    return getattr(label, label.WhichOneof("value"))
