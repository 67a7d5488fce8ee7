"""Refusals on the wire."""


from urllib.parse import quote

import grpc
from google.rpc import error_details_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from service import errors
from service.api import continual_v1_pb2 as pb


@given(
    st.lists(
        st.builds(errors.Violation, st.text(max_size=20), st.text(max_size=60), st.text(max_size=60)),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=50, deadline=None)
def test_a_refusal_survives_the_wire_and_fits_trailers(violations):
    refused = errors.invalid_fields(violations, "MISSING_VALUE")
    status = refused.to_status()
    assert len(status.SerializeToString()) < 8000
    back = errors.from_status(status)
    assert (back.code, back.reason, back.message) == (refused.code, refused.reason, refused.message)
    assert back.violations == refused.violations[: len(back.violations)]
    assert len(back.violations) >= 1


def test_constructors_carry_code_reason_and_details():
    cases = {
        "MODEL_NOT_FOUND": (errors.model_not_found("m"), grpc.StatusCode.NOT_FOUND),
        "MODEL_EXISTS": (errors.model_exists("m"), grpc.StatusCode.ALREADY_EXISTS),
        "ID_REUSED": (errors.conflict("i"), grpc.StatusCode.ALREADY_EXISTS),
        "LOADING": (errors.unavailable("LOADING", "store is loading", 0.25), grpc.StatusCode.UNAVAILABLE),
        "FULL": (errors.exhausted("FULL", "queue is full", 0.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        "STALE": (errors.failed_precondition("STALE", "i", "old"), grpc.StatusCode.FAILED_PRECONDITION),
        "WRONG_MAP": (errors.wrong_map(pb.PartitionMap(version=3)), grpc.StatusCode.FAILED_PRECONDITION),
        "WRONG_SEQUENCE": (errors.wrong_sequence("p", 3, 2), grpc.StatusCode.ABORTED),
    }
    for reason, (refused, code) in cases.items():
        back = errors.from_status(refused.to_status())
        assert (back.reason, back.code, back.details) == (reason, code, refused.details)
        assert back.retry_seconds == refused.retry_seconds
    assert errors.from_status(cases["WRONG_MAP"][0].to_status()).detail(pb.PartitionMap).version == 3
    resource = cases["ID_REUSED"][0].detail(error_details_pb2.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("event", "i")


def test_details_too_large_for_trailers_are_left_out():
    partitions = [pb.Partition(model="m" * 50, address="a" * 50) for _ in range(1000)]
    status = errors.wrong_map(pb.PartitionMap(partitions=partitions)).to_status()
    assert len(status.SerializeToString()) < 8000
    assert errors.from_status(status).reason == "WRONG_MAP"


@given(
    st.sampled_from(["a", "%", "é", "ф", "😀", "\n"]),
    st.integers(0, 5000),
    st.integers(1, 3000),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_said_fits_trailers_as_they_travel(character, length, count):
    """Percent-encoded and as base64, with what gRPC adds."""
    violation = errors.Violation(character * length, character * length, character * length)
    refusals = [
        errors.invalid_fields([violation] * count, "INVALID_SPEC"),
        errors.model_not_found(character * length),
        errors.failed_precondition("X", character * length, character * length),
        errors.internal(ValueError(character * length)),
    ]
    for refused in refusals:
        status = refused.to_status()
        trailers = len(quote(refused.message)) + 4 * len(status.SerializeToString()) // 3
        assert trailers < 8000
        assert errors.from_status(status).reason == refused.reason
    assert errors.from_status(refusals[0].to_status()).violations
