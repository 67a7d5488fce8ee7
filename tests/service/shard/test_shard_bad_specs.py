"""Specs that do not fit are refused: status, reason, the field with value and what is accepted."""

import json

import grpc
import pytest
from shard_harness import refused_by, spec_of

from service.api import continual_v1_pb2 as pb
from service.api import continual_v1_pb2_grpc as api

INVALID = grpc.StatusCode.INVALID_ARGUMENT


def spec_with(**changes):
    spec = json.loads(spec_of("never-made").to_json())
    for path, value in changes.items():
        at = spec
        *parents, last = path.split("__")
        for parent in parents:
            at = at[parent]
        at[last] = value
    return spec


SPECS = {
    "unknown-field": ({"colour": "red"}, "spec.colour", "red", "`continual models schema` lists"),
    "unknown-nested": ({"deployment__slot": 5}, "spec.deployment.slot", "5", "`continual models schema` lists"),
    "unknown-learner": ({"learner": {"kind": "oracle"}}, "spec.learner", "oracle", "known: "),
    "learner-of-no-kind": ({"learner": {"kind": []}}, "spec.learner", "[]", "known: "),
    "learner-not-a-mapping": ({"learner": 5}, "spec.learner", "5", "mapping"),
    "units-range": ({"learner__cell__units": 0}, "spec.learner.cell.units", "0", "greater than or equal to 1"),
    "rate-range": ({"learner__optimizer": {"kind": "sgd", "rate": -1}}, "rate", "-1", "greater than 0"),
    "slots-range": ({"deployment__slots": 0}, "spec.deployment.slots", "0", "greater than or equal to 1"),
    "durability": ({"deployment__durability": "hope"}, "spec.deployment.durability", "hope", "'fsync'"),
    "name": ({"name": "no/slash"}, "spec.name", "no/slash", "match pattern"),
    "no-features": ({"features": []}, "spec.features", "[]", "at least 1"),
    "same-feature": ({"features": ["a", "a"]}, "spec", "a", "unique"),
    "target": ({"target": {"kind": "ternary"}}, "spec.target", "ternary", "'binary'"),
    "same-labels": ({"target": {"kind": "binary", "labels": ["a", "a"]}}, "spec.target.binary", "a", "differ"),
    "label-over-int64": (
        {"target": {"kind": "binary", "labels": [0, 2**70]}},
        "spec.target.binary",
        str(2**70),
        "64 bits",
    ),
    "label-too-long": (
        {"target": {"kind": "binary", "labels": ["a", "x" * 257]}},
        "spec.target.binary",
        "xxx",
        "256 bytes",
    ),
    "too-large": (
        {"features": [f"f{i}" for i in range(20_000)], "learner__cell__units": 65_536},
        "spec",
        "f1",
        "bytes of weights, at most 268435456 are accepted",
    ),
    "delayed-without-room": ({"labels": {"arrive": "delayed"}}, "spec.labels", "delayed", "pending >= 1"),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_spec_that_does_not_fit(client, channel, case):
    changes, field, value, accepted = SPECS[case]
    request = pb.CreateModelRequest(spec_json=json.dumps(spec_with(**changes)))
    refused = refused_by(lambda: api.ModelsStub(channel).Create(request))
    assert (refused.code, refused.reason) == (INVALID, "INVALID_SPEC")
    (violation,) = refused.violations
    assert field in violation.field
    assert value in violation.value
    assert accepted in violation.accepted
    assert "never-made" not in {model.name for model in client.models.list()}


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "a"}', "\0", '{"name": NaN}', "[" * 5000])
def test_a_spec_that_is_no_spec(channel, text):
    refused = refused_by(lambda: api.ModelsStub(channel).Create(pb.CreateModelRequest(spec_json=text)))
    assert (refused.code, refused.reason) == (INVALID, "INVALID_SPEC")
    for violation in refused.violations:
        assert violation.field.startswith("spec")
        assert not violation.field.endswith(".")
        assert violation.accepted
