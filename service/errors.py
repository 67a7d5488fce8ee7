"""What a request is refused with: one exception that carries a complete `google.rpc.Status`.

The server raises `Refused` and turns it into a status, in the trailers of a call (`abort`) or inside a reply
(`Refused.to_status`). The client turns either back into the same exception (`from_rpc_error`, `from_status`).

Every refusal has a stable `reason` in UPPER_SNAKE (an `ErrorInfo` under the domain `continual`); a refusal
for the content of a request names field, value and what is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from service.api import continual_v1_pb2 as pb

DOMAIN = "continual"
DETAILS_KEY = "grpc-status-details-bin"
MAX_VIOLATIONS = 16
MAX_TEXT = 200
MAX_MESSAGE = 1000
MAX_DETAILS_BYTES = 4096
MAX_MESSAGE_BYTES = 1500
"""gRPC peers refuse trailers beyond 8 KiB, and the status with them. Details may travel as base64, 4 bytes for 3, and a
message percent-encoded, 3 bytes for one."""

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ACCEPTED = "; accepted: "
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What gRPC writes into trailers as it is."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One field that does not fit.

    Attributes:
        field: path of the field in the request, such as `columns.x[3].price`.
        value: what was there, as text.
        accepted: what would have been accepted.
    """

    field: str
    value: str
    accepted: str

    def __str__(self) -> str:
        return f"{self.field}: got {self.value}{_ACCEPTED}{self.accepted}"


class Refused(Exception):  # noqa: N818 (it is an answer of the protocol more than a fault)
    """A request that was not carried out.

    Attributes:
        code: the gRPC status code.
        reason: stable UPPER_SNAKE name of the cause.
        message: one sentence for people.
        violations: the fields that do not fit, at most 16.
        retry_seconds: how long to wait before trying again; None where trying again is not suggested.
        details: further detail messages, such as a `PartitionMap` or a `ResourceInfo`.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        violations: Sequence[Violation] = (),
        retry_seconds: float | None = None,
        details: Sequence[Message] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = _within(shorten(message, MAX_MESSAGE), MAX_MESSAGE_BYTES)
        self.violations = tuple(violations[:MAX_VIOLATIONS])
        self.retry_seconds = retry_seconds
        self.details = tuple(details)

    def __str__(self) -> str:
        return f"{self.code.name} {self.reason}: {self.message}"

    def detail(self, kind: type[Message]) -> Any:
        """Returns the first detail message of type `kind`, None if there is none."""
        return next((detail for detail in self.details if isinstance(detail, kind)), None)

    def to_status(self) -> status_pb2.Status:
        """The refusal as a `google.rpc.Status`, small enough for trailers.

        Details that would not fit are left out, the last first; the reason always stays.
        """
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        packed: list[Message] = [error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)]
        if self.retry_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(int(self.retry_seconds * 1e9))
            packed.append(retry)
        if self.violations:
            packed.append(_bad_request(self.violations))
        packed.extend(self.details)
        room = MAX_DETAILS_BYTES - status.ByteSize()
        for message in packed:
            room -= message.ByteSize() + 64
            if room < 0:
                break
            status.details.add().Pack(message)
        return status


def _within(text: str, limit: int) -> str:
    """The beginning of a text that takes at most `limit` bytes percent-encoded."""
    if _encoded(text) <= limit:
        return text
    room = limit - 3
    kept = []
    for character in text:
        room -= _encoded(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + "..."


def _encoded(text: str) -> int:
    """Bytes of a text in trailers."""
    return len(quote(text, safe=_PLAIN, errors="replace"))


def shorten(value: object, limit: int = MAX_TEXT) -> str:
    """`value` as text of at most `limit` characters, for messages and violations."""
    text = str(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    """As many violations as keep the status within trailers."""
    message = error_details_pb2.BadRequest()
    for violation in violations:
        value = _within(shorten(violation.value), 800)
        description = f"got {value}{_ACCEPTED}{_within(shorten(violation.accepted, 2 * MAX_TEXT), 1000)}"
        field = _within(shorten(violation.field), 600)
        size = len(field.encode(errors="replace")) + len(description.encode(errors="replace"))
        if message.ByteSize() + size > MAX_DETAILS_BYTES // 2 and message.ByteSize():
            break
        message.field_violations.add(field=field, description=description)
    return message


async def abort(context: Any, refused: Refused) -> NoReturn:
    """Ends a call of a `grpc.aio` servicer with the refusal, details in the trailers.

    Args:
        context: the `grpc.aio.ServicerContext`.
        refused: what to answer.

    Raises:
        grpc.aio.AbortError: always; it must leave the handler.
    """
    trailers = ((DETAILS_KEY, refused.to_status().SerializeToString()),)
    await context.abort(refused.code, refused.message, trailers)
    raise AssertionError("abort returned")


def from_status(status: status_pb2.Status) -> Refused:
    """The refusal that a `google.rpc.Status` describes; details of unknown types are skipped."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, retry, violations, details = code.name, None, [], []
    for packed in status.details:
        message = _unpack(packed)
        if isinstance(message, error_details_pb2.ErrorInfo):
            reason = message.reason
        elif isinstance(message, error_details_pb2.RetryInfo):
            retry = message.retry_delay.ToNanoseconds() / 1e9
        elif isinstance(message, error_details_pb2.BadRequest):
            violations = [_violation(item) for item in message.field_violations]
        elif message is not None:
            details.append(message)
    return Refused(code, reason, status.message, violations, retry, details)


_KNOWN: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
    error_details_pb2.PreconditionFailure,
    pb.PartitionMap,
)


def _unpack(packed: AnyMessage) -> Message | None:
    """The detail as its own type; None for a type this version does not know, or one that does not parse."""
    for kind in _KNOWN:
        if packed.TypeName() == kind.DESCRIPTOR.full_name:
            message = kind()
            try:
                packed.Unpack(message)
            except DecodeError:
                return None
            return message
    return None


def _violation(item: error_details_pb2.BadRequest.FieldViolation) -> Violation:
    value, _, accepted = item.description.removeprefix("got ").rpartition(_ACCEPTED)
    return Violation(item.field, value, accepted)


def from_rpc_error(error: grpc.RpcError) -> Refused:
    """The refusal that a failed call carries; one without details keeps the name of its code as reason."""
    call: Any = error
    for key, value in call.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                return from_status(status_pb2.Status.FromString(value))
            except DecodeError:
                break
    return Refused(call.code(), call.code().name, call.details() or "")


def internal(error: Exception) -> Refused:
    """INTERNAL: a fault of the service, which its log tells more of."""
    return Refused(grpc.StatusCode.INTERNAL, "INTERNAL", f"{type(error).__name__}: {error}")


def invalid(field: str, value: object, accepted: str, reason: str = "INVALID_FIELD") -> Refused:
    """INVALID_ARGUMENT for one field: its path, its value and what is accepted."""
    violation = Violation(field, shorten(value), accepted)
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, reason, str(violation), [violation])


def invalid_fields(violations: Sequence[Violation], reason: str, count: int = 0) -> Refused:
    """INVALID_ARGUMENT for several fields at once; the message is the first violation and how many follow.

    Args:
        violations: the first of them.
        reason: of the refusal.
        count: how many there are, where that is more than are given.
    """
    count = max(count, len(violations))
    more = f" (and {count - 1} more)" if count > 1 else ""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, reason, f"{violations[0]}{more}", violations)


def model_not_found(name: str) -> Refused:
    """NOT_FOUND: no model of that name in the deployment."""
    resource = error_details_pb2.ResourceInfo(resource_type="model", resource_name=shorten(name))
    message = f"model {shorten(name)!r} does not exist"
    return Refused(grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", message, details=[resource])


def model_exists(name: str) -> Refused:
    """ALREADY_EXISTS: a model of that name is there (with another spec, where the same one is accepted)."""
    resource = error_details_pb2.ResourceInfo(resource_type="model", resource_name=shorten(name))
    message = f"model {shorten(name)!r} exists already"
    return Refused(grpc.StatusCode.ALREADY_EXISTS, "MODEL_EXISTS", message, details=[resource])


def conflict(id: str) -> Refused:
    """ALREADY_EXISTS: the event id was used before, with another payload."""
    resource = error_details_pb2.ResourceInfo(resource_type="event", resource_name=shorten(id))
    message = f"event id {shorten(id)!r} was used before with another payload"
    return Refused(grpc.StatusCode.ALREADY_EXISTS, "ID_REUSED", message, details=[resource])


def unavailable(reason: str, message: str, retry_seconds: float = 0.1) -> Refused:
    """UNAVAILABLE: nothing is wrong with the request, and the same one may be sent after `retry_seconds`."""
    return Refused(grpc.StatusCode.UNAVAILABLE, reason, message, retry_seconds=retry_seconds)


def exhausted(reason: str, message: str, retry_seconds: float = 0.1) -> Refused:
    """RESOURCE_EXHAUSTED: a bound is reached; the same request may be sent after `retry_seconds`."""
    return Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, reason, message, retry_seconds=retry_seconds)


def failed_precondition(reason: str, subject: str, message: str) -> Refused:
    """FAILED_PRECONDITION: `subject` (a model, a producer, an id) is not in a state that allows it."""
    failure = error_details_pb2.PreconditionFailure()
    failure.violations.add(type=reason, subject=shorten(subject), description=shorten(message, 2 * MAX_TEXT))
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, reason, message, details=[failure])


def model_failed(name: str, reason: str) -> Refused:
    """FAILED_PRECONDITION: the model cannot be served before somebody does something about the reason."""
    why = shorten(reason, 2 * MAX_TEXT)
    message = f"model {shorten(name)!r} cannot serve: {why}. Its log is kept; the next start of the shard tries again"
    return failed_precondition("MODEL_FAILED", name, message)


def wrong_map(current: pb.PartitionMap, message: str = "the partition map has changed") -> Refused:
    """FAILED_PRECONDITION with the current map: the caller's deployment, map version or owner is not right.

    A map too large for trailers is left out; the caller then asks for it.
    """
    return Refused(grpc.StatusCode.FAILED_PRECONDITION, "WRONG_MAP", message, details=[current])


def sequence_broken(reason: str, producer: str, first: int, end: int, expected: int) -> Refused:
    """FAILED_PRECONDITION: a batch that says where its numbers end cannot be taken whole (see `LearnRequest`)."""
    message = f"producer {shorten(producer)!r} sent the numbers {first} to {end}, expected {expected} next"
    if first > expected:
        message += ": those between are not in the log"
    return failed_precondition(reason, producer, message)


def wrong_sequence(producer: str, got: int, expected: int) -> Refused:
    """ABORTED: the producer has to resume at `expected` (also the reply's `next_sequence`)."""
    message = f"producer {shorten(producer)!r} sent sequence {got}, expected {expected}"
    return Refused(grpc.StatusCode.ABORTED, "WRONG_SEQUENCE", message)
